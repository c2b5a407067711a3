"""The descents' own arithmetic, on losses in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from suite.contract.bit_settings import AdaQATSettings, FracBitsSettings, NIPQSettings
from suite.contract.cost import BOPs, parse_budget
from suite.contract.space import Precision, SearchSpace
from suite.descent import BitTask, descend, passes
from suite.descent.descend import adaqat
from suite.descent.relaxed import InterpolatedCost, RelaxedSpace
from suite.testing.toys import SPACES, small_layers

SPACE = SearchSpace(small_layers(3), choices=tuple(range(1, 9)), pins={"layer1": Precision(8, 8)})
BUDGET = parse_budget("w3a3", SPACE)


class Formula(BitTask):
    """A loss of the bits of the first layer."""

    def __init__(self, space: SearchSpace, loss: Callable[[float, float], float]) -> None:
        self.space, self.loss, self.asked = space, loss, 0

    def losses(self, chosen: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        self.asked += len(chosen)
        return np.array([self.loss(*self.space.decode(vector).precisions[0]) for vector in chosen])

    def slopes(self, bits: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.zeros_like(bits)

    def noisy_slopes(self, bits: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.zeros_like(bits)


def trajectory(loss: Callable[[float, float], float], **chosen: object) -> NDArray[np.float64]:
    settings = AdaQATSettings(BUDGET, scope="network", **chosen)  # type: ignore[arg-type]
    relaxed = RelaxedSpace(SPACE, shared=True)
    return np.array(list(adaqat(settings, relaxed, Formula(SPACE, loss), np.random.default_rng(0))))


def test_a_constant_loss_lets_bits_fall_by_the_price_of_the_other_parts_integer() -> None:
    found = trajectory(lambda weight, activation: 1.0, price=0.15, rate=0.1, steps=3)
    expected = [8 - 0.1 * 0.15 * 8, 8 - 2 * 0.1 * 0.15 * 8, 8 - 3 * 0.1 * 0.15 * 8]
    assert np.allclose(found, np.array(expected)[:, None], rtol=1e-12)


def test_bits_settle_at_the_integer_between_whose_gains_the_price_lies_and_freeze_above_it() -> None:
    # 0.75 * 16 * 4^-(b - 1) > price * 8 = 0.6 > 0.75 * 16 * 4^-b holds for b = 3 alone, as inputs stay at 8 bits
    found = trajectory(
        lambda weight, activation: 16 * 4.0**-weight - 10.0 * activation, price=0.075, rate=0.2, steps=400
    )
    weights = found[:, 0]
    assert (found[:, 1] > 7).all(), "computes at 8 bits throughout"
    frozen = int(np.argmax(weights == 4.0))
    assert weights[frozen] == 4.0, "never fixed"
    assert (weights[frozen:] == 4.0).all(), "moved after it was fixed"
    crossings = np.count_nonzero(np.diff(weights[:frozen] > 3))
    assert crossings == 10, "one more crossing fixes it"
    around = weights[frozen - 10 : frozen]
    assert around.min() > 2
    assert around.max() < 4


def test_at_an_integer_the_price_alone_moves_bits_and_a_steep_loss_brings_them_back() -> None:
    found = trajectory(lambda weight, activation: -100.0 * (weight + activation), price=0.15, rate=0.1, steps=2)
    assert found[:, 0] == pytest.approx([8 - 0.1 * 0.15 * 8, 8])


def test_multipliers_bring_bits_down_to_about_the_budget() -> None:
    settings = AdaQATSettings(BUDGET, scope="network")
    bits = descend(settings, SPACE, Formula(SPACE, lambda weight, activation: 4.0**-weight + 4.0**-activation), 0)
    cost = sum(
        layer.macs * weight * activation for layer, (weight, activation) in zip(SPACE.layers, bits.T, strict=True)
    )
    assert cost == pytest.approx(BUDGET.limits[0].most, rel=0.3)  # of seven times as much at the start


def test_costs_between_choices_are_macs_times_real_bits() -> None:
    space = SearchSpace(small_layers(1), pins={})
    cost = InterpolatedCost(RelaxedSpace(space, shared=False), BOPs(), 1)
    assert cost.value(np.array([2.5, 3.5])) == pytest.approx(8.75 * space.layers[0].macs)
    assert cost.slopes(np.array([2.5, 3.5])) == pytest.approx(np.array([3.5, 2.5]) * space.layers[0].macs)


@pytest.mark.parametrize("name", SPACES)
def test_interpolated_costs_are_exact_at_policies_and_slopes_are_differences(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(1)
    relaxed = RelaxedSpace(space, shared=False)
    cost = InterpolatedCost(relaxed, BOPs(), 1)
    vector = rng.integers(len(space.choices), size=relaxed.numbers)
    assert cost.value(relaxed.choices[vector]) == BOPs().total(space, space.decode(vector))
    if len(space.choices) > 1 and relaxed.numbers:
        bits = rng.uniform(space.choices[0], space.choices[-1] - 0.01, relaxed.numbers)
        lower, _ = relaxed.cells(bits)
        assert (relaxed.choices[lower] <= bits).all()
        for number in range(relaxed.numbers):
            step = np.zeros(relaxed.numbers)
            step[number] = 1e-6
            measured = (cost.value(bits + step) - cost.value(bits - step)) / 2e-6
            assert measured == pytest.approx(cost.slopes(bits)[number], rel=1e-4)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("kind", [AdaQATSettings, FracBitsSettings, NIPQSettings])
def test_pins_are_kept_and_tied_bits_are_equal(name: str, kind: type) -> None:
    space = SPACES[name]
    found = descend(kind(parse_budget(str(10**12), space), steps=12), space, Formula(space, lambda w, a: 4.0**-w), 0)
    for position, layer in enumerate(space.layers):
        for bits, pinned in zip(found[:, position], space.pinned.get(layer.name, ()), strict=False):
            assert pinned in (bits, None)
    for slots in space.flat_variables:
        assert len(set(found.reshape(-1)[list(slots)])) == 1


def test_one_pair_is_charged_five_passes_an_image_and_nothing_where_nothing_is_chosen() -> None:
    settings = AdaQATSettings(BUDGET, steps=7, batch=16, scope="network")
    assert passes(settings, SPACE) == 5 * 16 * 7
    assert passes(AdaQATSettings(BUDGET, steps=7, batch=16, coordinates=2), SPACE) == 5 * 16 * 7
    assert passes(settings, SPACES["every layer pinned"]) == 0
    assert passes(FracBitsSettings(BUDGET, steps=7, batch=16), SPACE) == 5 * 16 * 7
