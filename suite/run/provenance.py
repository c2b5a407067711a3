"""Where a number comes from: versions, commit, hardware."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suite.versions import package_versions


@functools.cache
def software() -> dict[str, Any]:
    """Versions of Python and of the packages that can change a result, and the commit when run from a checkout."""
    return {"versions": package_versions(), "commit": _commit()}


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def processor() -> dict[str, str]:
    """What the operating system says about the first processor; empty where it says nothing."""
    source, found = Path("/proc/cpuinfo"), dict[str, str]()
    if source.exists():
        for line in source.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    return found


def processor_name(found: Mapping[str, str]) -> str:
    """The model of a processor that :func:`processor` found, or else its architecture."""
    return found.get("model name") or platform.processor() or platform.machine()


def hardware() -> str:
    """The processors, and the GPU if there is one, in words."""
    import torch

    names = [f"{os.cpu_count()} x {processor_name(processor())}"]
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return ", ".join(names)
