"""Grids, rounding, and least-squares steps against an exhaustive search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from suite.quantize import steps as module
from suite.quantize.steps import Grid, activation_grid, fit_steps, quantize, weight_grid

BITS = range(2, 9)
GRIDS: dict[str, Callable[[int], Grid]] = {
    "symmetric": weight_grid,
    "four levels": lambda bits: weight_grid(bits, four_levels=True),
    "unsigned": lambda bits: activation_grid(bits, signed=False),
    "signed": lambda bits: activation_grid(bits, signed=True),
}
each_grid = pytest.mark.parametrize("kind", GRIDS)


@pytest.mark.parametrize("bits", BITS)
def test_grids_have_the_levels_of_their_bits(bits: int) -> None:
    levels = {kind: range(grid(bits).low, grid(bits).high + 1) for kind, grid in GRIDS.items()}
    assert len(levels["symmetric"]) == 2**bits - 1
    assert sum(levels["symmetric"]) == 0
    assert len(levels["unsigned"]) == len(levels["signed"]) == 2**bits
    assert levels["unsigned"][0] == 0
    assert levels["signed"][0] == -(2 ** (bits - 1))


def test_halves_are_rounded_to_even_and_ends_clipped() -> None:
    values = torch.tensor([-9.0, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 9.0]) * 0.25
    rounded = [-4, -2, -2, 0, 0, 2, 2, 3, 3]
    assert (quantize(values, 0.25, Grid(-4, 3)) / 0.25).tolist() == rounded
    assert (quantize(values, 0.25, Grid(0, 3)) / 0.25).tolist() == [max(0, level) for level in rounded]


@given(st.lists(st.floats(-100, 100, width=32), min_size=1), st.sampled_from([0.25, 1.0, 4.0]), st.sampled_from(BITS))
def test_quantizing_is_that_of_numpy_and_leaves_its_argument(values: list[float], step: float, bits: int) -> None:
    given_values = torch.tensor(values)
    for grid in (make(bits) for make in GRIDS.values()):
        expected = np.clip(np.rint(np.array(values) / step), grid.low, grid.high) * step
        assert quantize(given_values, step, grid).tolist() == expected.tolist()
        assert (
            quantize(given_values[:, None], torch.full((len(values), 1), step), grid)[:, 0].tolist()
            == expected.tolist()
        )
    assert given_values.tolist() == values


# Least squares


def _draw(kind: str, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(len(kind))
    normal = torch.randn(count, generator=generator)
    uniform = torch.rand(count, generator=generator)
    return {
        "normal": normal,
        "uniform": 2 * uniform - 1,
        "laplace": normal.sign() * -(1 - uniform).log(),
        "skewed": normal.exp(),
        "outlier": torch.cat([normal[1:], torch.tensor([25.0])]),
        "negative": -normal.exp(),
    }[kind]


def _error(row: Tensor, steps: Tensor, grid: Grid) -> Tensor:
    levels = torch.div(row, steps[:, None]).round().clamp(grid.low, grid.high)
    return (row - levels * steps[:, None]).square().sum(dim=1)


def _least_error(row: Tensor, grid: Grid) -> float:
    """The least error over 20,000 steps, from a hundredth of the one that covers the row to a little above it."""
    covering = max(float(row.max()) / grid.high, float(row.min()) / grid.low if grid.low else 0.0)
    steps = torch.logspace(-2, 0.1, 20_000) * covering
    best = steps[torch.cat([_error(row, part, grid) for part in steps.split(4000)]).argmin()]
    return float(_error(row.double(), best.double()[None], grid))


@each_grid
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("values", ["normal", "uniform", "laplace", "skewed", "outlier", "negative"])
def test_steps_are_as_good_as_the_best_of_20_000(values: str, bits: int, kind: str) -> None:
    row, grid = _draw(values, 256), GRIDS[kind](bits)
    if kind == "unsigned":
        row = row.abs()
    step = fit_steps(row[None], grid)
    assert float(_error(row.double(), step.double(), grid)) <= 1.001 * _least_error(row, grid)


@pytest.mark.parametrize("bits", [2, 3])
def test_one_outlier_among_many_values_is_clipped(bits: int) -> None:
    row = torch.cat([_draw("normal", 30_000), torch.tensor([60.0])])
    grid = weight_grid(bits)
    step = fit_steps(row[None], grid)
    alone = fit_steps(row[None, :-1], grid)
    assert float(step) == pytest.approx(float(alone), rel=0.05)
    assert step * grid.high < 5


@each_grid
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("row", [[0.7], [3.0, 3.0, 0.0, 3.0], [1e-6], [1e6, 0.0]])
def test_a_single_value_is_met_exactly(row: list[float], bits: int, kind: str) -> None:
    values, grid = torch.tensor([row]), GRIDS[kind](bits)
    found = quantize(values, fit_steps(values, grid)[:, None], grid)
    torch.testing.assert_close(found, values, rtol=1e-5, atol=0)
    if kind != "unsigned":
        torch.testing.assert_close(
            quantize(-values, fit_steps(-values, grid)[:, None], grid), -values, rtol=1e-5, atol=0
        )


@each_grid
def test_rows_of_zeros_get_the_step_one_and_disturb_no_other(kind: str) -> None:
    rows = torch.stack([torch.zeros(64), _draw("normal", 64).abs(), torch.zeros(64)])
    steps = fit_steps(rows, GRIDS[kind](4))
    assert steps[[0, 2]].tolist() == [1.0, 1.0]
    assert steps[1] == fit_steps(rows[1:2], GRIDS[kind](4))[0]


def test_negative_values_on_an_unsigned_grid_still_give_a_positive_step() -> None:
    assert (fit_steps(-torch.rand(3, 10, generator=torch.Generator().manual_seed(0)), Grid(0, 15)) > 0).all()


@each_grid
def test_each_row_gets_its_own_step_however_many_there_are(kind: str) -> None:
    rows = torch.randn(300, 500, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 300)[:, None]
    grid = GRIDS[kind](3)
    steps = fit_steps(rows, grid)
    assert steps.shape == (300,)
    for position in (0, 130, 131, 299):
        torch.testing.assert_close(steps[position], fit_steps(rows[position : position + 1], grid)[0])


@each_grid
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("power", [-20, 3, 20])
def test_steps_scale_with_the_values(power: int, kind: str, bits: int) -> None:
    rows, grid = _draw("normal", 40).abs()[None], GRIDS[kind](bits)
    assert fit_steps(rows * 2.0**power, grid) == fit_steps(rows, grid) * 2.0**power


@each_grid
@pytest.mark.parametrize("shape", [(1, 3000), (16, 9), (3, 1)])
def test_comparing_many_steps_at_once_changes_no_bit(
    kind: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.stack([_draw("normal", shape[1]) * 2**row for row in range(shape[0])])
    rows[0, ::2] = 0
    grids = [GRIDS[kind](bits) for bits in (2, 5, 8)]
    found = [fit_steps(rows, grid) for grid in grids]
    monkeypatch.setattr(module, "_TOGETHER", 1)
    for steps, grid in zip(found, grids, strict=True):
        assert torch.equal(steps, fit_steps(rows, grid))
