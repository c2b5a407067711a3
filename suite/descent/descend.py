"""Descents of real-valued bit widths by AdaQAT, FracBits and NIPQ, on any task."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from suite.contract.bit_settings import AdaQATSettings, BitSettings, FracBitsSettings, NIPQSettings
from suite.contract.cost import BOPs
from suite.contract.per_mac import MAX_BITS
from suite.contract.space import SearchSpace
from suite.descent.relaxed import InterpolatedCost, RelaxedSpace
from suite.descent.task import BitTask
from suite.errors import BitcertError

_MOMENTUM = 0.9
_PATIENCE = 10  # steps between updates of the multipliers


def descend(settings: BitSettings, space: SearchSpace, task: BitTask, seed: int) -> NDArray[np.float64]:
    """Learn real bit widths by the descent that the settings are for.

    Args:
        settings: Those of AdaQAT, FracBits or NIPQ.
        space: The policies; variables that it ties share a number.
        task: The loss.
        seed: Seed of the descent's own draws.

    Returns:
        Bits, shape ``(2, layers)``, weights first, from the least choice to the greatest; those of pinned layers are their pins.

    Raises:
        BitcertError: If the loss stops being finite.
    """
    relaxed, rng = _relaxed(settings, space), np.random.default_rng(seed)
    bits = np.full(relaxed.numbers, relaxed.choices[-1])
    if _learns(relaxed):
        for bits in _descent(settings, relaxed, task, rng):
            if not np.isfinite(bits).all():
                raise BitcertError("learning the bits diverged: the loss is not finite; lower the rate")
    return relaxed.real_bits(bits)


def passes(settings: BitSettings, space: SearchSpace) -> int:
    """Forward passes that :func:`descend` is charged for: none where nothing is to be chosen."""
    relaxed = _relaxed(settings, space)
    return settings.steps * settings.batch * settings.passes(relaxed.numbers) if _learns(relaxed) else 0


def _relaxed(settings: BitSettings, space: SearchSpace) -> RelaxedSpace:
    return RelaxedSpace(space, shared=isinstance(settings, AdaQATSettings) and settings.scope == "network")


def _learns(relaxed: RelaxedSpace) -> bool:
    return relaxed.numbers > 0 and len(relaxed.choices) > 1


def _descent(
    settings: BitSettings, relaxed: RelaxedSpace, task: BitTask, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """The numbers after every step."""
    match settings:
        case AdaQATSettings():
            return adaqat(settings, relaxed, task, rng)
        case FracBitsSettings():
            return fracbits(settings, relaxed, task)
        case NIPQSettings():
            return nipq(settings, relaxed, task, rng)
    raise BitcertError(f"no descent is known for {type(settings).__name__}")


def adaqat(
    settings: AdaQATSettings, relaxed: RelaxedSpace, task: BitTask, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """AdaQAT: everything computes at the choices above the numbers; a difference to the choice below moves a number.

    A number ``N`` between neighbouring choices falls by ``rate * ((L(above) - L(below)) / gap + cost)``. ``L`` is the loss of a
    mini-batch with all other numbers at the choices above, and the cost that of one more bit there: ``price`` times bit operations
    per MAC, or multipliers times the shares of the limits. With a price, a number that has crossed a choice more than
    ``crossings`` times is fixed at the choice above it. Multipliers, which are bitcert's own, move every 10 steps by the relative
    excess over their limits; ``damping`` times the excess of the moment is added to them, and they never turn negative. As
    crossings are their doing, these fix nothing: instead all rates fall to zero along a half cosine.

    Yields:
        The numbers after every step.

    References:
        Gernigon et al., AdaQAT: Adaptive bit-width quantization-aware training, AICAS 2024 (arXiv 2404.16876).
    """
    space, choices = relaxed.space, relaxed.choices
    if settings.price is None:
        costs = [InterpolatedCost(relaxed, limit.cost, max(1, limit.most)) for limit in settings.budget.limits]
        prices = np.zeros(len(costs))
    else:
        macs = sum(space.layers[layer].macs for layer in space.free_layers)
        costs = [InterpolatedCost(relaxed, BOPs(space.per_mac), macs, pins=False)]
        prices = np.array([settings.price])
    bits = np.full(relaxed.numbers, choices[-1])
    open_numbers = np.ones(relaxed.numbers, dtype=bool)
    crossings = np.zeros((relaxed.numbers, len(choices)), dtype=int)
    moving = min(settings.coordinates, relaxed.numbers)
    rate = settings.rate * max(1.0, relaxed.numbers / 2) * relaxed.numbers / moving
    for step in range(settings.steps):
        above, below = relaxed.ceil(bits), relaxed.floor(bits)
        movable = np.flatnonzero(open_numbers)
        moved = np.sort(rng.permutation(movable)[:moving])
        policies = [above[relaxed.members]]
        for number in moved:
            lowered = above.copy()
            lowered[number] = below[number]
            policies.append(lowered[relaxed.members])
        losses = task.losses(policies)
        gaps = np.where(above > below, choices[above] - choices[below], 1.0)[moved]
        excess = np.array([cost.value(bits) for cost in costs]) - 1
        damped = prices if settings.price is not None else np.maximum(0, prices + settings.damping * excess)
        price = sum(
            rate_of * cost.slopes(choices[above], below=True) for rate_of, cost in zip(damped, costs, strict=True)
        )
        slopes = (losses[0] - losses[1:]) / gaps + np.broadcast_to(price, bits.shape)[moved]
        before, bits = bits, bits.copy()
        fall = 1.0 if settings.price is not None else (1 + math.cos(math.pi * step / settings.steps)) / 2
        bits[moved] = np.clip(bits[moved] - fall * rate * slopes, choices[0], choices[-1])
        if settings.price is not None:
            crossings += _crossed(choices, before, bits)
            for number, choice in zip(*np.nonzero(crossings > settings.crossings), strict=True):
                if open_numbers[number]:
                    open_numbers[number] = False
                    bits[number] = choices[min(choice + 1, len(choices) - 1)]
        elif (step + 1) % _PATIENCE == 0:
            prices = np.maximum(0, prices + fall * settings.multiplier_rate * excess)
        yield bits


def _crossed(
    choices: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which choices each number has crossed: they are below it now and were not, or the other way round."""
    return np.asarray((before[:, None] > choices) != (after[:, None] > choices))


def fracbits(settings: FracBitsSettings, relaxed: RelaxedSpace, task: BitTask) -> Iterator[NDArray[np.float64]]:
    """FracBits: descent of the loss at interpolated values plus the relative distance from the tightest limit.

    Yields:
        The numbers after every step.

    References:
        Yang and Jin, FracBits: Mixed precision quantization via fractional bit-widths, AAAI 2021 (arXiv 2007.02017).
    """
    costs = [InterpolatedCost(relaxed, limit.cost, max(1, limit.most)) for limit in settings.budget.limits]
    least, most = relaxed.choices[0], relaxed.choices[-1]
    bits = np.full(relaxed.numbers, min(max(settings.start, least), most))
    descent = _Nesterov(settings.rate, settings.steps, relaxed.numbers)
    for _ in range(settings.steps):
        slopes = relaxed.gather(task.slopes(bits[relaxed.members]))
        tightest = max(costs, key=lambda cost: cost.value(bits))
        slopes += settings.penalty * np.sign(tightest.value(bits) - 1) * tightest.slopes(bits)
        bits = np.clip(bits + descent.step(slopes), least, most)
        yield bits


def nipq(
    settings: NIPQSettings, relaxed: RelaxedSpace, task: BitTask, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """NIPQ: descent under noise, of logits between the fewest bits and the most, at bits rounded at random.

    In every step the bits are shifted by up to half a bit and rounded to the nearest choice, through which gradients pass as if
    nothing had been rounded. The distance of the rounded bits from the tightest limit is a smooth absolute value.

    Yields:
        The bits after every step, neither shifted nor rounded.

    References:
        Shin et al., NIPQ: Noise proxy-based integrated pseudo-quantization, CVPR 2023 (arXiv 2206.00820).
    """
    space = relaxed.space
    if min(space.choices[0], *(pin.weight or MAX_BITS for pin in space.pinned.values()), MAX_BITS) < 2:
        raise BitcertError("nipq has no noise for 1 bit, which its authors do not use; choose among 2 bits or more")
    costs = [InterpolatedCost(relaxed, limit.cost, max(1, limit.most)) for limit in settings.budget.limits]
    least, span = relaxed.choices[0], relaxed.choices[-1] - relaxed.choices[0]
    logits = np.zeros(relaxed.numbers)
    descent = _Nesterov(settings.rate, settings.steps, relaxed.numbers)
    for _ in range(settings.steps):
        gate = 1 / (1 + np.exp(-logits))
        bits = least + span * gate
        shifted = relaxed.choices[relaxed.nearest(bits + rng.uniform(-0.5, 0.5, relaxed.numbers))]
        slopes = relaxed.gather(task.noisy_slopes(shifted[relaxed.members]))
        rounded = relaxed.choices[relaxed.nearest(bits)]
        tightest = max(costs, key=lambda cost: cost.value(rounded))
        distance = np.clip(settings.unit * (tightest.value(rounded) - 1), -1, 1)
        slopes += settings.scale * settings.unit * distance * tightest.slopes(rounded)
        logits = logits + descent.step(slopes * span * gate * (1 - gate))
        yield least + span / (1 + np.exp(-logits))


class _Nesterov:
    """Steps of stochastic gradient descent with Nesterov momentum, the rate falling to zero along a half cosine."""

    def __init__(self, rate: float, steps: int, size: int) -> None:
        self._rate, self._steps, self._taken = rate, steps, 0
        self._velocity = np.zeros(size)

    def step(self, slopes: NDArray[np.float64]) -> NDArray[np.float64]:
        rate = self._rate * (1 + math.cos(math.pi * self._taken / self._steps)) / 2
        self._taken += 1
        self._velocity = _MOMENTUM * self._velocity + slopes
        change: NDArray[np.float64] = -rate * (slopes + _MOMENTUM * self._velocity)
        return change
