"""Noise as a pure function of (seed, purpose, image, sample index)."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

BLOCK = 32  # noise samples of an image drawn together; a constant, so that the batch size cannot change the noise


class NoiseStream:
    """Standard normal float32 noise for images, or the random bits of other noise, addressed by image id and sample index.

    Samples ``BLOCK * b`` to ``BLOCK * (b + 1) - 1`` of image ``i`` are one draw of a counter-based generator (Philox,
    Salmon et al., SC 2011) whose key holds the seed and ``i`` and whose counter starts at ``b * 2^64`` (random bits: plus
    ``2^128``), so that streams of different seeds, purposes, images and blocks never overlap.

    Args:
        seed: Non-negative root seed.
        purpose: What the noise is for; different purposes give independent streams ("select" and "count" of a
            certificate, "search" and "exam" of a problem).
    """

    def __init__(self, seed: int, purpose: str) -> None:
        entropy = [seed, zlib.crc32(purpose.encode())]
        self._key = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
        self._philox = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._philox)

    def block(self, image_id: int, block: int, shape: tuple[int, ...], samples: int = BLOCK) -> NDArray[np.float32]:
        """Draw the first samples of a block of the image with a non-negative id, shape ``(samples, *shape)``."""
        self._seek(image_id, block, 0)
        return self._generator.standard_normal((samples, *shape), dtype=np.float32)

    def bits(self, image_id: int, block: int) -> np.random.Philox:
        """The source of a block's random bits, none of which :meth:`block` uses; valid until the next call."""
        self._seek(image_id, block, 1)
        return self._philox

    def block_seed(self, image_id: int, block: int) -> int:
        """A seed below 2^63 for other generators of a block's noise, a hash of what addresses it."""
        state = np.random.SeedSequence([self._key, image_id, block]).generate_state(1, np.uint64)
        return int(state[0] >> np.uint64(1))

    def draw(self, image_id: int, start: int, stop: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw samples ``start`` to ``stop - 1`` of one image, shape ``(stop - start, *shape)``."""
        first, last = start // BLOCK, -(-stop // BLOCK)
        blocks = [self.block(image_id, block, shape, min(BLOCK, stop - block * BLOCK)) for block in range(first, last)]
        drawn = np.concatenate(blocks) if blocks else np.empty((0, *shape), dtype=np.float32)
        return drawn[start - first * BLOCK : stop - first * BLOCK]

    def _seek(self, image_id: int, block: int, part: int) -> None:
        self._philox.state = {
            "bit_generator": "Philox",
            "state": {
                "counter": np.array([0, block, part, 0], dtype=np.uint64),
                "key": np.array([self._key, image_id], dtype=np.uint64),
            },
            "buffer": np.zeros(4, dtype=np.uint64),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
