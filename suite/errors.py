"""The one exception for mistakes of the caller; the command line shows it as one line and exits with 2."""

import difflib
from collections.abc import Iterable


class BitcertError(ValueError):
    """A mistake in what was asked for: the message says what was given, what was expected, and what to do."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> BitcertError:
    """Build the error for a name nobody registered; known names are listed, the nearest first."""
    names = sorted(known)
    nearest = difflib.get_close_matches(given, names, n=max(1, len(names)), cutoff=0.4)
    listed = nearest + [name for name in names if name not in nearest]
    return BitcertError(f"unknown {kind} {given!r}; known: {', '.join(listed) or 'none'}")
