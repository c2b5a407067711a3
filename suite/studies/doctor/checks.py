"""What a check is and what it finds; one that raises is a finding too."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from suite.errors import BitcertError

Status = Literal["ok", "missing", "broken"]


class MissingError(BitcertError):
    """What is checked is not there."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that bitcert uses.

    Attributes:
        name: What it is.
        look: Use it, and say what is there; raises :class:`MissingError` if it is not there, anything else if it does not work.
        remedy: What to do unless it works.
        required: Whether nothing works without it.
    """

    name: str
    look: Callable[[], str]
    remedy: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        check: Its name.
        status: ``ok``, ``missing`` or ``broken``.
        required: Whether nothing works without it.
        found: What is there, or why it does not work, in words.
        remedy: What to do; empty if it works.
    """

    check: str
    status: Status
    required: bool
    found: str
    remedy: str

    @property
    def fails(self) -> bool:
        """Whether something required does not work."""
        return self.required and self.status != "ok"


def find(checks: Iterable[Check]) -> list[Finding]:
    """Carry out all checks, whatever happens in one of them."""
    return [_find(check) for check in checks]


def _find(check: Check) -> Finding:
    try:
        with warnings.catch_warnings(action="ignore"):  # they are about other things than what is checked
            return Finding(check.name, "ok", check.required, check.look(), "")
    except Exception as error:  # whatever a damaged installation raises
        missing = isinstance(error, MissingError | ModuleNotFoundError)
        reason = (str(error).splitlines() or [""])[0]
        told = reason if isinstance(error, BitcertError) else f"{type(error).__name__}: {reason}"
        return Finding(check.name, "missing" if missing else "broken", check.required, told, check.remedy)
