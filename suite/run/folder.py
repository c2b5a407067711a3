"""Folders of many files: one JSON file with a checksum says what a folder holds, so that runs are never mixed."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.errors import BitcertError
from suite.files import read_sealed, write_sealed
from suite.run.provenance import software

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """The file of that name in which a folder says ``what`` it holds (in words), in a content of that version."""

    name: str
    what: str
    version: int = 2

    def claim(self, folder: Path, wanted: Settings, but: Collection[str] = ()) -> None:
        """Write down what the folder is to hold, or check that it already holds just that.

        Args:
            folder: An empty or missing folder, or one that was claimed before.
            wanted: ``problem``, ``settings`` and whatever else is to be read back, JSON-ready but for tuples.
            but: Settings that may differ; the new values are kept.

        Raises:
            BitcertError: If the folder holds something else.
        """
        content = json.loads(json.dumps({"version": self.version, **wanted, "software": software()}))
        if (folder / self.name).exists():
            message = f"{folder} holds another {self.what}; choose another directory"
            check_same(self.read(folder), content, message, but)
        elif folder.exists() and any(folder.iterdir()):
            raise BitcertError(f"{folder} is not empty and holds no {self.what}; choose another directory")
        write_sealed(folder / self.name, content, indent=1)

    def read(self, folder: Path) -> Settings:
        """Read what was written down.

        Raises:
            BitcertError: If there is no such file, or it is damaged or of another version.
        """
        path = folder / self.name
        if not path.exists():
            raise BitcertError(f"{folder} holds no {self.what}: there is no {self.name} in it")
        content = read_sealed(path, f"the description of a {self.what}")
        found = content.get("version")
        if found != self.version:
            raise BitcertError(f"{path} is of version {found!r}, this bitcert reads version {self.version}")
        return content


def check_same(found: Settings, wanted: Settings, message: str, but: Collection[str] = ()) -> None:
    """Raise BitcertError with the message, and what differs, unless problem and settings are the same."""
    for part in ("problem", "settings"):
        different = [key for key in wanted[part] if key not in but and found[part].get(key) != wanted[part][key]]
        if different:
            raise BitcertError(f"{message}: it differs in {', '.join(different)}")
