"""The noise: a pure function of its address, standard normal, and of nothing else."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from suite.certify import NoiseStream
from suite.certify.noise import BLOCK

FALSE_ALARM = 1e-6
"""Probability that a statistical test of this file fails on correct code; the seeds are fixed."""
SHAPE = (3, 8, 8)


@given(st.integers(0, 200), st.integers(0, 100))
def test_any_range_is_a_slice_of_the_same_noise(start: int, length: int) -> None:
    whole = NoiseStream(3, "count").draw(7, 0, 320, (2, 3))
    stream = NoiseStream(3, "count")
    assert np.array_equal(stream.draw(7, start, start + length, (2, 3)), whole[start : start + length])


@pytest.mark.parametrize("shape", [(5,), SHAPE])
def test_the_first_samples_of_a_block_are_the_same_without_the_others(shape: tuple[int, ...]) -> None:
    stream = NoiseStream(3, "count")
    whole = stream.block(5, 1, shape)
    for samples in range(BLOCK + 1):
        assert np.array_equal(stream.block(5, 1, shape, samples), whole[:samples])


def test_a_block_is_what_is_drawn() -> None:
    stream = NoiseStream(3, "count")
    blocks = [stream.block(5, block, SHAPE) for block in (2, 0, 1)]
    assert all(block.shape == (BLOCK, *SHAPE) and block.dtype == np.float32 for block in blocks)
    assert np.array_equal(np.concatenate([blocks[1], blocks[2], blocks[0]]), stream.draw(5, 0, 3 * BLOCK, SHAPE))


def test_noise_does_not_depend_on_what_was_asked_before() -> None:
    keys = list(itertools.product((0, 1, 99, 2**40), (0, 3)))
    stream = NoiseStream(1, "search")
    forward = {
        key: stream.block(*key, (5,)) for key in keys
    }  # an odd number of values, so that a half may be left over
    backward = {key: stream.block(*key, (5,)) for key in reversed(keys)}
    for key in keys:
        assert np.array_equal(forward[key], backward[key])
        assert np.array_equal(forward[key], NoiseStream(1, "search").block(*key, (5,)))


def _addresses() -> list[tuple[int, str, int, int]]:
    """Seed, purpose, image and block: all combinations of a few neighbours and large numbers."""
    return list(itertools.product((0, 1, 2**62), ("select", "count"), (0, 1, 2**40), (0, 1, 1000)))


def test_different_addresses_give_uncorrelated_noise() -> None:
    rows = np.stack(
        [NoiseStream(seed, purpose).block(image, block, SHAPE) for seed, purpose, image, block in _addresses()]
    )
    rows = rows.reshape(len(rows), -1)
    assert len(np.unique(rows)) > 0.9 * rows.size, "no values are shared"
    correlations = np.asarray(np.corrcoef(rows))[np.triu_indices(len(rows), 1)]
    limit = stats.norm.isf(FALSE_ALARM / 2 / len(correlations)) / np.sqrt(rows.shape[1])
    assert np.abs(correlations).max() < limit
    # Nor does a block repeat another one shifted by whole samples or by single values.
    first, rest = rows[0], rows[1:]
    for shift in (1, 2, 4, 192):
        shifted = [np.corrcoef(first[shift:], row[:-shift])[0, 1] for row in rest]
        assert np.abs(shifted).max() < stats.norm.isf(FALSE_ALARM / 8 / len(shifted)) / np.sqrt(len(first) - shift)


def test_noise_is_standard_normal_and_independent_within_an_image() -> None:
    draws = np.concatenate([NoiseStream(0, "count").draw(image, 0, 64, SHAPE) for image in range(20)])
    assert stats.kstest(draws.ravel(), "norm").pvalue > FALSE_ALARM
    assert stats.kstest(1.03 * draws.ravel(), "norm").pvalue < FALSE_ALARM, "the test sees a deviation 3 % too large"
    values = draws.reshape(len(draws), -1)
    correlations = np.asarray(np.corrcoef(values.T))[np.triu_indices(values.shape[1], 1)]
    assert np.abs(correlations).max() < stats.norm.isf(FALSE_ALARM / 2 / len(correlations)) / np.sqrt(len(values))
    extreme = np.abs(draws).max()
    assert 4 < extreme < 7


def test_noise_neither_feels_nor_moves_the_global_generators() -> None:
    np.random.seed(1)  # noqa: NPY002  # the global generator is what this is about
    torch.manual_seed(1)
    before = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    torch_before = torch.random.get_rng_state()
    first = NoiseStream(0, "count").draw(0, 0, 40, SHAPE)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], before)  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(NoiseStream(0, "count").draw(0, 0, 40, SHAPE), first)


PROGRAM = """
import hashlib
from suite.certify.noise import NoiseStream
print(hashlib.sha256(NoiseStream(5, "exam").draw(11, 10, 90, (3, 4)).tobytes()).hexdigest())
"""


def test_another_process_sees_the_same_noise() -> None:
    other = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    here = hashlib.sha256(NoiseStream(5, "exam").draw(11, 10, 90, (3, 4)).tobytes()).hexdigest()
    assert other.stdout.strip() == here


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        NoiseStream(-1, "count")
