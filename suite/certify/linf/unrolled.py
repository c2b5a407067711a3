"""Verdicts about integer networks with a state: is one robust around an image, over all of its time steps?

In this order: the network itself; bounds of the differences between logits; a random attack; CP-SAT. A step function of a root
``t`` with steps at ``s_1 < ... < s_k`` in ``[low, high]`` becomes one boolean for each step, ``b_i`` for ``t >= s_i``, and ::

    value = v_0 + sum_i (v_i - v_(i-1)) b_i
    low + sum_i (s_i - s_(i-1)) b_i <= t <= s_1 - 1 + sum_i (s_(i+1) - s_i) b_i        (s_0 = low, s_(k+1) = high + 1)

so that steps at the same place, such as those of a spike and of a reset, share a boolean. A rounded sum has many steps and is
encoded as a division or a narrow band instead, where that gives the same integers. Logits are compared as
the network does, in 32-bit floating point and the first of equals winning: see :func:`_rival`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from suite.certify.linf.query import Integers, Limit
from suite.certify.linf.solvers import check_installed, cp_sat_solver
from suite.certify.linf.step_functions import Steps, Sum, Unrolled
from suite.certify.linf.verify import Status
from suite.errors import BitcertError
from suite.quantize.integer.network import IntegerNetwork
from suite.quantize.integer.operations import EXACT_IN_FLOAT32

_POINTS, _ROUNDS = 64, 30
"""Images of the attack in a round, and rounds."""
_COARSE, _FINEST = 12, 30
"""Bits of integers that stand for real numbers: at first, and at most."""
_MANY = 6
"""Steps from which a boolean for each is too many."""


@dataclass(frozen=True, slots=True)
class UnrolledVerdict:
    """About one image and radius.

    Attributes:
        status: What is known; ``"robust"`` is a proof.
        by: What decided it, or was tried last: ``"network"``, ``"bounds"``, ``"attack"`` or ``"cp-sat"``.
        work: That of CP-SAT, in units of its deterministic time.
        counterexample: Levels of an image within the radius that the network gives another class; None unless not robust.
    """

    status: Status
    by: str
    work: float = 0.0
    counterexample: tuple[int, ...] | None = None


def verify_integer(
    network: IntegerNetwork, image: Tensor, label: int, radius_levels: int, levels: int, *, work: float
) -> UnrolledVerdict:
    """Decide whether an integer network predicts the label on all images whose pixels are at most a radius away.

    Args:
        network: As :class:`.Unrolled` takes them, such as spiking and recurrent networks of few time steps.
        image: Levels of pixels, integers from 0 to ``levels``, shape ``(C, H, W)``; pixels are levels divided by ``levels``.
        label: The class that must be predicted; an image that gets another one is not robust at any radius.
        radius_levels: L-infinity radius in levels; levels stay between 0 and ``levels``.
        levels: The level of white.
        work: Limit of CP-SAT's work, of all classes together, as in :class:`.Effort`; the verdict is a function of it.

    Raises:
        BitcertError: If the network cannot be verified, an argument is out of range, or OR-tools is missing.
        RuntimeError: If a solution of CP-SAT is no counterexample: the solver or the encoding is wrong.
    """
    image = image.long().cpu()
    if radius_levels < 0 or not work > 0 or image.min() < 0 or image.max() > levels:
        raise BitcertError(
            "expected a radius of at least 0, a limit of work above 0, and levels of pixels in their range"
        )
    low, high = (image - radius_levels).clamp(min=0), (image + radius_levels).clamp(max=levels)

    def broken(point: Tensor, by: str, spent: float = 0.0) -> UnrolledVerdict:
        return UnrolledVerdict("not robust", by, spent, tuple(point.flatten().tolist()))

    def is_wrong(point: Tensor) -> bool:
        return int(network(point[None] / levels).argmax()) != label

    if is_wrong(image):
        return broken(image, "network")
    unrolled = Unrolled(network, low, high, levels)
    targets = [target for target in range(len(unrolled.logits)) if target != label]
    rivals = [_rival(unrolled, label, target, _COARSE) for target in targets]
    left = sorted((rival for rival in rivals if rival is not None), key=lambda rival: rival.total.high - rival.least)
    if not left:
        return UnrolledVerdict("robust", "bounds")
    found = _attack(network, image, low, high, label, levels)
    if found is not None:
        assert is_wrong(found)
        return broken(found, "attack")
    check_installed()
    spent, undecided = 0.0, False
    while left:
        if spent >= work:
            return UnrolledVerdict("unknown", "cp-sat", spent)
        rival = left.pop(0)
        solved = _Program(unrolled).solve(rival, image, work - spent)
        spent += solved.work
        if solved.point is not None and is_wrong(solved.point):
            return broken(solved.point, "cp-sat", spent)
        if solved.point is not None and rival.exact:
            raise RuntimeError(
                "CP-SAT gave a counterexample that the network does not confirm; no verdict of it counts"
            )
        if solved.point is not None and rival.bits == _COARSE:
            finer = _rival(unrolled, label, rival.target, _FINEST)
            left = left if finer is None else [finer, *left]
        else:
            undecided |= not solved.excluded
    return UnrolledVerdict("unknown" if undecided else "robust", "cp-sat", spent)


class _Rival(NamedTuple):
    """A class that may win: only where ``total``, a weighted difference of its sum and the label's, is at least ``least``.

    Attributes:
        target: The class.
        total, least: As said.
        bits: Of the weights.
        exact: Whether it does win wherever that holds.
    """

    target: int
    total: Sum
    least: int
    bits: int
    exact: bool


def _rival(unrolled: Unrolled, label: int, target: int, bits: int) -> _Rival | None:
    """None if bounds exclude that the target wins.

    For every sum of the target, the sums of the label that it beats are found from the logits as they are computed. The least
    weighted difference of such a pair is a bound for all of them, whatever the weights are; they are the scales, in so many bits.
    """
    theirs, ours = unrolled.logits[target], unrolled.logits[label]
    if max(theirs.high - theirs.low, ours.high - ours.low) >= EXACT_IN_FLOAT32:
        raise BitcertError("logits whose sums do not fit 24 bits cannot be verified")
    sums = np.arange(theirs.low, theirs.high + 1), np.arange(ours.low, ours.high + 1)
    scales = [float(unrolled.output.multiplier[place]) for place in (target, label)]
    logits = [(torch.from_numpy(one).float() * scale).numpy() for one, scale in zip(sums, scales, strict=True)]
    beaten = np.searchsorted(logits[1], logits[0], side="left" if target > label else "right")
    wins, loses = beaten > 0, beaten < len(sums[1])
    if not wins.any():
        return None
    one, other = (round(scale / max(scales) * 2**bits) for scale in scales)
    differences = one * sums[0] - other * (ours.low + beaten)  # to the smallest sum that the target does not beat
    least = int(differences[wins].min()) + other
    exact = not loses.any() or int(differences[loses].max()) < least
    factors: dict[int, int] = {}
    values: dict[int, Steps] = {}
    for times, logit in ((one, theirs), (-other, ours)):
        for factor, value in logit.terms:
            values[id(value)] = value
            factors[id(value)] = factors.get(id(value), 0) + times * factor
    pairs = [(factor, values[key]) for key, factor in factors.items() if factor]
    total = Sum.of(pairs, one * theirs.constant - other * ours.constant)
    return _Rival(target, total, least, bits, exact) if total.high >= least else None


class _Solved(NamedTuple):
    """An image in levels, or proof that there is none, or neither; and the work."""

    point: Tensor | None
    excluded: bool
    work: float


class _Program:
    """Roots and their steps as variables of CP-SAT, each made when it is first used."""

    def __init__(self, unrolled: Unrolled) -> None:
        from ortools.sat.python import cp_model

        self._cp, self._model, self._unrolled = cp_model, cp_model.CpModel(), unrolled
        self._roots: dict[int, Any] = {}
        self._steps: dict[tuple[int, int], Any] = {}
        self._values: dict[tuple[int, bytes, bytes], Any] = {}

    def solve(self, rival: _Rival, image: Tensor, work: float) -> _Solved:
        """Look for an image on which a rival wins; pixels that nothing depends on stay."""
        self._model.add(self._sum(rival.total) >= rival.least)
        solver = cp_sat_solver(Limit(work=work), workers=1)
        status = solver.solve(self._model)
        spent = float(solver.response_proto.deterministic_time)
        if status == self._cp.MODEL_INVALID:
            raise RuntimeError(f"CP-SAT refuses the program of an image: {self._model.validate()}")
        if status not in (self._cp.OPTIMAL, self._cp.FEASIBLE):
            return _Solved(None, status == self._cp.INFEASIBLE, spent)
        point = image.clone().flatten()
        for pixel, levels in enumerate(self._unrolled.pixels):
            codes = self._unrolled.roots[pixel]
            if pixel in self._roots and not isinstance(codes, Sum):
                point[pixel] = int(levels[np.searchsorted(codes, solver.value(self._roots[pixel]))])
        return _Solved(point.reshape(image.shape), False, spent)

    def _sum(self, total: Sum) -> Any:
        terms = [self._value(value) for _, value in total.terms]
        return self._cp.LinearExpr.weighted_sum(terms, [factor for factor, _ in total.terms]) + total.constant

    def _root(self, place: int) -> Any:
        if place not in self._roots:
            root = self._unrolled.roots[place]
            if isinstance(root, Sum):
                variable = self._model.new_int_var(root.low, root.high, "")
                self._model.add(variable == self._sum(root))
            else:
                domain = self._cp.Domain.from_values(root.tolist())
                variable = self._model.new_int_var_from_domain(domain, "")
            self._roots[place] = variable
        return self._roots[place]

    def _step(self, root: int, start: int) -> Any:
        """Whether a root is at least this."""
        if (root, start) not in self._steps:
            made = self._model.new_bool_var("")
            self._model.add(self._root(root) >= start).only_enforce_if(made)
            self._model.add(self._root(root) < start).only_enforce_if(~made)
            self._steps[root, start] = made
        return self._steps[root, start]

    def _value(self, function: Steps) -> Any:
        place, starts, values = function
        key = (place, starts.tobytes(), values.tobytes())
        if key not in self._values:
            self._values[key] = self._made(function)
        return self._values[key]

    def _made(self, function: Steps) -> Any:
        place, starts, values = function
        root, variable = self._unrolled.roots[place], self._root(place)
        points = root.high - root.low + 1 if isinstance(root, Sum) else len(root)
        if len(starts) == points and len(set((values - starts).tolist())) == 1:
            return variable + int(values[0] - starts[0])
        if len(starts) > _MANY and isinstance(root, Sum):
            for compact in (self._divided, self._banded):
                found = compact(root, function, variable)
                if found is not None:
                    return found
        steps = [self._step(place, start) for start in starts[1:].tolist()]
        for before, after in pairwise(steps):
            self._model.add_implication(after, before)
        high = int(root.high if isinstance(root, Sum) else root[-1])
        widths = np.diff(np.append(starts, high + 1)).tolist()
        weighted = self._cp.LinearExpr.weighted_sum
        self._model.add(variable >= int(starts[0]) + weighted(steps, widths[:-1]))
        self._model.add(variable < int(starts[1]) + weighted(steps, widths[1:]))
        result = int(values[0]) + weighted(steps, np.diff(values).tolist())
        if len(steps) == 1:
            return result
        named = self._model.new_int_var(int(values.min()), int(values.max()), "")
        self._model.add(named == result)
        return named

    def _divided(self, root: Sum, function: Steps, variable: Any) -> Any:
        """A sum ``t = 4 h w + r`` divided by ``2 h``, halves to even: ``2 w + (r > h) + (r >= 3 h)``; None if it is not that."""
        half = round(0.5 / root.slope)
        if half < 1:
            return None
        points, values = _ends(root, function)
        whole, rest = np.divmod(points, 4 * half)
        if not np.array_equal(2 * whole + (rest > half) + (rest >= 3 * half), values):
            return None
        times = self._model.new_int_var(int(whole[0]), int(whole[-1]), "")
        left = self._model.new_int_var(0, 4 * half - 1, "")
        self._model.add(variable == 4 * half * times + left)
        above = [self._model.new_bool_var("") for _ in range(2)]
        first, second = half + 1, 3 * half
        self._model.add(left >= first * above[0] + (second - first) * above[1])
        self._model.add(left <= first - 1 + (second - first) * above[0] + (4 * half - second) * above[1])
        self._model.add_implication(above[1], above[0])
        return 2 * times + above[0] + above[1]

    def _banded(self, root: Sum, function: Steps, variable: Any) -> Any:
        """A sum times its slope, rounded, as the only integer of a band around that; None if it is not that."""
        points, values = _ends(root, function)
        for bits in range(_FINEST + 1):
            times, size = round(root.slope * 2**bits), 2**bits
            off = size * values - times * points
            least, most = int(off.min()), int(off.max())
            if most - least < size:
                named = self._model.new_int_var(int(values.min()), int(values.max()), "")
                self._model.add_linear_constraint(size * named - times * variable, least, most)
                return named
        return None


def _ends(root: Sum, function: Steps) -> tuple[Integers, Integers]:
    """Both ends of every step, and the values there."""
    last = np.append(function.starts[1:] - 1, root.high)
    return np.stack([function.starts, last], axis=1).flatten(), np.repeat(function.values, 2)


def _attack(
    network: IntegerNetwork, image: Tensor, low: Tensor, high: Tensor, label: int, levels: int
) -> Tensor | None:
    """Random moves of pixels to the ends of their intervals, kept where another logit comes closer to the label's."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.linspace(0.05, 1, _POINTS).reshape(-1, *[1] * image.dim())
    best, at = -math.inf, image
    for _ in range(_ROUNDS):
        draws = torch.rand((2, _POINTS, *image.shape), generator=generator)
        points = torch.where(draws[0] < shares, torch.where(draws[1] < 0.5, low, high), at)
        logits = network(points / levels)
        others = logits.clone()
        others[:, label] = -math.inf
        margins, first = (others.amax(dim=1) - logits[:, label]).max(dim=0)
        wrong = points[logits.argmax(dim=1) != label]
        if len(wrong):
            return wrong[0]
        if float(margins) > best:
            best, at = float(margins), points[first]
    return None
