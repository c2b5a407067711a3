"""Seeds for independent purposes, derived from one root seed."""

from __future__ import annotations

import zlib

import numpy as np


def derive_seed(root: int, *parts: int | str) -> int:
    """Derive a seed in 0..2^63 - 1 from a non-negative root and any names or non-negative numbers.

    Different parts give different, independent seeds, with one exception: zeros at the end do not count, so a purpose
    must always be followed by equally many numbers.
    """
    entropy = [root, *(zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts)]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
