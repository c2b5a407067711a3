"""Writing files so that a reader, or a crash, never meets half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step, creating its folder if need be.

    The data goes to a temporary file in the same folder, is flushed to the disk, and is renamed: whoever opens ``path``
    at any time, also after a crash, finds the old content or the new one.

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
        partial.chmod(_mode_of_new_files(path))
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8 with line feeds as they are; see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def _mode_of_new_files(path: Path) -> int:
    """Keep the permissions ``path`` has; a new file others may read."""
    return path.stat().st_mode & 0o777 if path.exists() else 0o644
