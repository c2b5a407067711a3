"""Atomic file writes, and JSON files with a checksum."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suite.errors import BitcertError

_CHECKSUM = "sha256"


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step, creating its folder if need be.

    The data goes to a temporary file in the same folder, is flushed to disk, and is renamed: whoever opens ``path`` at
    any time, even after a crash, finds either the old content or the new. An existing file keeps its permissions.

    Raises:
        OSError: If the folder cannot be written to; ``path`` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8 with line feeds as they are; see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_sealed(path: Path, content: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Replace ``path`` by a JSON object with a checksum over everything else in it; see :func:`read_sealed`.

    ``content`` is JSON-ready, of finite numbers, without a key ``"sha256"``; it goes on one line if ``indent`` is None.
    """
    plain = json.loads(json.dumps(content, allow_nan=False))
    sealed = {**plain, _CHECKSUM: json_sha256(plain)}
    write_text(path, json.dumps(sealed, indent=indent) + "\n")


def read_sealed(path: Path, what: str) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote, without the checksum.

    ``what`` says in messages what the file holds, with its article: ``"an exam"``.

    Raises:
        BitcertError: If there is no file, or anything in it has changed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BitcertError(f"{what} is missing: there is no file {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BitcertError(f"{path} is not {what}, or it is damaged: it is not JSON ({error})") from None
    if not isinstance(content, dict) or _CHECKSUM not in content:
        raise BitcertError(
            f"{path} is not {what} of this version of bitcert: it has no checksum; make it again, or remove it"
        )
    if content.pop(_CHECKSUM) != json_sha256(content):
        raise BitcertError(f"{path} is damaged: its content does not match its checksum; restore or remove it")
    return content


def json_sha256(content: Any) -> str:
    """SHA-256 of JSON content, the same for every order of keys; 1 and 1.0 differ."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
