"""Provenance mappings as flat columns: nested keys joined by dots, only those that exist."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def flatten(provenance: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a JSON-ready mapping; ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``, lists become JSON text."""
    flat: dict[str, Any] = {}
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, (list, tuple)) else value
    return flat


def find(provenance: Mapping[str, Any], name: str) -> Any:
    """Look up the key ``name``, which may hold dots, at whatever depth, the shallowest first; None if there is none."""
    return find_in(flatten(provenance), name)


def find_in(flat: Mapping[str, Any], name: str) -> Any:
    """Look up ``name`` like :func:`find` in what :func:`flatten` made."""
    named = [key for key in flat if key == name or key.endswith(f".{name}")]
    return flat[min(named, key=lambda key: key.count("."))] if named else None
