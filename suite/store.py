"""Tensor files with an identity: written in one step, verified when read, never unpickled.

A store is a safetensors file. Its metadata hold an identity (what the tensors depend on), a record (what else is to be
read back), both JSON, and the SHA-256 of the whole file with that hash blanked out, which detects a change of any byte.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from suite.errors import BitcertError
from suite.files import write_bytes

_BLANK = "0" * 64
_PREPARE: dict[str, Callable[[Any], Any]] = {
    "torch": lambda tensor: tensor.detach().cpu().clone().contiguous(),
    "numpy": lambda array: array.copy(order="C"),
}


@dataclass(frozen=True, slots=True)
class Stored:
    """What was read from a store, as it was written: torch tensors are on the CPU, empty groups are missing."""

    groups: Mapping[str, Mapping[str, Any]]
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Store:
    """One file of tensors with an identity.

    Attributes:
        path: Where it is, or will be.
        what: What the tensors belong to, in words: ``"training"``.
        identity: Everything the tensors depend on, JSON-ready.
        framework: Which library's tensors go in and come out.
        remedy: What the error about an unusable file says at the end.
    """

    path: Path
    what: str
    identity: Mapping[str, Any]
    framework: Literal["torch", "numpy"] = "torch"
    remedy: str = "remove it to start over"

    def write(self, groups: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any] | None = None) -> None:
        """Replace the file in one step.

        Args:
            groups: Name of a group, without a slash -> name -> tensor of the framework, on any device.
            record: What else is to be read back, JSON-ready.

        Raises:
            OSError: If it cannot be written; a file that was there stays as it was.
        """
        prepare = _PREPARE[self.framework]
        tensors = {
            f"{group}/{name}": prepare(tensor) for group, named in groups.items() for name, tensor in named.items()
        }
        metadata = {"identity": _as_json(self.identity), "record": _as_json(record or {}), "sha256": _BLANK}
        content = self._codec().save(tensors, metadata)
        digest = hashlib.sha256(content).hexdigest()
        write_bytes(self.path, content.replace(_hash_entry(_BLANK), _hash_entry(digest), 1))

    def read(self) -> Stored:
        """Read what :meth:`write` wrote.

        Raises:
            BitcertError: If there is no file, or it is damaged or has another identity.
        """
        try:
            content = self.path.read_bytes()
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            metadata = {name: str(header["__metadata__"][name]) for name in ("identity", "record", "sha256")}
            blanked = content.replace(_hash_entry(metadata["sha256"]), _hash_entry(_BLANK), 1)
            if hashlib.sha256(blanked).hexdigest() != metadata["sha256"]:
                raise ValueError("its content has changed")
            identity, record = json.loads(metadata["identity"]), json.loads(metadata["record"])
            groups: dict[str, dict[str, Any]] = {}
            for key, tensor in self._codec().load(content).items():
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = tensor
        except FileNotFoundError:
            raise BitcertError(f"there is no {self.what} stored at {self.path}") from None
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise BitcertError(f"{self.path} is damaged ({type(error).__name__}: {error}); {self.remedy}") from error
        if metadata["identity"] != (wanted := _as_json(self.identity)):
            expected = json.loads(wanted)
            names, missing = sorted(expected | identity), object()
            different = [name for name in names if expected.get(name, missing) != identity.get(name, missing)]
            raise BitcertError(
                f"{self.path} belongs to another {self.what}: it differs in {', '.join(different)}; {self.remedy}"
            )
        return Stored(groups, record)

    def _codec(self) -> Any:
        return importlib.import_module(f"safetensors.{self.framework}")


def _hash_entry(digest: str) -> bytes:
    return f'"sha256":"{digest}"'.encode()


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)
