"""Versions of what can change a result."""

from __future__ import annotations

import functools
import platform
from importlib import metadata

_PACKAGES = ("bitcert", "numpy", "scipy", "torch", "torchvision", "optuna", "ray")


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
