"""Checks of the options that searchers are built with."""

from __future__ import annotations

import math

from suite.errors import BitcertError


def check_count(name: str, value: int, least: int) -> int:
    """Return an option that counts something; raise BitcertError unless it is an integer of at least ``least``."""
    if type(value) is not int or value < least:
        raise BitcertError(f"{name} must be an integer >= {least}, got {value!r}")
    return value


def check_probability(name: str, value: float) -> float:
    """Return an option that is a probability; raise BitcertError unless it lies in 0..1."""
    if not 0 <= value <= 1:
        raise BitcertError(f"{name} must lie in 0..1, got {value!r}")
    return value


def check_flag(name: str, value: bool) -> bool:
    """Return an option that is on or off; raise BitcertError unless it is true or false."""
    if type(value) is not bool:
        raise BitcertError(f"{name} must be true or false, got {value!r}")
    return value


def check_positive(name: str, value: float) -> float:
    """Return an option that is a positive number; raise BitcertError unless it is one, and finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise BitcertError(f"{name} must be a positive number, got {value!r}")
    return float(value)
