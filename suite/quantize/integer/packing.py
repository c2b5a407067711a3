"""Integers of a few bits, packed: as ONNX stores its types of 2 and 4 bits, and so for any number of bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pack(integers: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """Integers in two's complement of ``bits`` bits each, in C order, the least significant bit of the first one first."""
    codes = integers.flatten() & (2**bits - 1)
    each = (codes[:, None] >> np.arange(bits)) & 1
    return np.packbits(each.astype(np.uint8).flatten(), bitorder="little")


def unpack(packed: NDArray[np.uint8], bits: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """What :func:`pack` packed."""
    count = int(np.prod(shape))
    each = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits).astype(np.int64)
    codes = each @ (1 << np.arange(bits))
    return np.where(codes >= 2 ** (bits - 1), codes - 2**bits, codes).reshape(shape)
