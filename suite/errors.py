"""The one exception for user errors; the command line shows it as one line and exits with 2."""

import difflib
from collections.abc import Iterable


class BitcertError(ValueError):
    """A user error: the message says what was given, what was expected, and what to do."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> BitcertError:
    """Build the error for an unknown name; the known ones are listed, nearest first."""
    names = sorted(known)
    nearest = difflib.get_close_matches(given, names, n=max(1, len(names)), cutoff=0.4)
    listed = nearest + [name for name in names if name not in nearest]
    return BitcertError(f"unknown {kind} {given!r}; known: {', '.join(listed) or 'none'}")
