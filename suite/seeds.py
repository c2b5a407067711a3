"""Seeds for independent purposes, derived from one root seed."""

from __future__ import annotations

import hashlib
import json


def derive_seed(root: int, *parts: int | str) -> int:
    """Derive a seed in 0..2^63 - 1 from a root and any names and numbers: 63 bits of the SHA-256 of their list.

    Different lists give different, independent seeds: order, length, and whether a part is a name or a number all count.
    """
    digest = hashlib.sha256(json.dumps([root, *parts], default=int).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
