"""A query about one target as an integer program: its solutions are the counterexamples, one for one.

Variables are pixels, and for each unit ``r``, its rounded accumulator, and ``o``, its output::

    2^s r <= w x + b + 2^(s-1) <= 2^s r + 2^s - 1        (floor, as two linear rows)
    o = min(max(r, low), high)                           (left out where bounds say that nothing is clamped)

Units whose bounds agree are constants. The target j wins: ``out_j - out_y >= 1`` if j comes after y, ``>= 0`` if before. One
program for each target has a far tighter relaxation than one for all of them with a disjunction.
The encoding follows Zhang et al., QVIP, ASE 2022 (arXiv 2212.11138).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from suite.certify.interval import propagate
from suite.certify.linf.query import Integers, Query
from suite.quantize.fixed_point import Step

_CHUNK = 256


class Row(NamedTuple):
    """``low <= sum of coefficients times variables <= high``, all integers; None is no limit."""

    variables: list[int]
    coefficients: list[int]
    low: int
    high: int | None = None


class Clip(NamedTuple):
    """``result = min(source, limit)`` if ``above``, else ``max(source, limit)``."""

    result: int
    source: int
    limit: int
    above: bool


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Integer variables with limits, of which the first are the pixels; rows and clips, which all must hold."""

    low: list[int] = field(default_factory=list)
    high: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)

    def variable(self, low: int, high: int) -> int:
        """Add a variable."""
        self.low.append(low)
        self.high.append(high)
        return len(self.low) - 1

    def clip(self, source: int, limit: int, *, above: bool) -> int:
        """Add a variable that is another one, limited on one side."""
        low, high = self.low[source], self.high[source]
        result = self.variable(min(low, limit), min(high, limit)) if above else self.variable(max(low, limit), high)
        self.clips.append(Clip(result, source, limit, above))
        return result


class _Values(NamedTuple):
    """Values of a layer: a variable each, or -1 and a constant."""

    variable: Integers
    constant: Integers

    def row(self, weights: Integers) -> tuple[list[int], list[int], int]:
        """A weighted sum as variables, coefficients, and a constant."""
        used = (weights != 0) & (self.variable >= 0)
        rest = int((weights * self.constant)[self.variable < 0].sum())
        return self.variable[used].tolist(), weights[used].tolist(), rest


def encode(query: Query, target: int) -> Program:
    """The program of a query and one of its targets."""
    program, network = Program(), query.network
    bounds = propagate(network, query.low[None], query.high[None])
    pixels = [program.variable(int(low), int(high)) for low, high in zip(query.low, query.high, strict=True)]
    values = _Values(np.array(pixels), np.zeros(len(pixels), dtype=np.int64))
    shape: tuple[int, ...] = network.image_shape
    for step, found in zip(network.steps, bounds, strict=True):
        weight, offset = _matrix(step, shape)
        if step.low is None:
            variables, coefficients, rest = values.row(weight[target] - weight[query.label])
            rest += int(offset[target] - offset[query.label])
            break
        needed = {query.label, target} if step is network.steps[-1] else set(range(len(offset)))
        sides = (found.rounded_low, found.rounded_high, found.low, found.high)
        limits = np.stack([side.flatten().numpy().astype(np.int64) for side in sides], axis=1)
        values = _encode_step(program, step, values, weight, offset, limits, needed)
        shape = step.shape
    else:
        pair = np.zeros(network.classes, dtype=np.int64)
        pair[target], pair[query.label] = 1, -1
        variables, coefficients, rest = values.row(pair)
    program.rows.append(Row(variables, coefficients, int(target > query.label) - rest))
    return program


def _encode_step(
    program: Program,
    step: Step,
    values: _Values,
    weight: Integers,
    offset: Integers,
    limits: Integers,
    needed: set[int],
) -> _Values:
    """Units of one layer; ``limits`` are bounds before and after clamping, shape ``(units, 4)``."""
    assert step.low is not None
    assert step.high is not None
    made = _Values(np.full(len(offset), -1, dtype=np.int64), limits[:, 2].copy())
    size = 1 << step.shift
    for unit, (rounded_low, rounded_high, low, high) in enumerate(limits.tolist()):
        if low == high or unit not in needed:
            continue
        variables, coefficients, rest = values.row(weight[unit])
        rest += int(offset[unit])
        variable = program.variable(rounded_low, rounded_high)
        program.rows.append(Row([*variables, variable], [*coefficients, -size], -rest, size - 1 - rest))
        if rounded_low < step.low:
            variable = program.clip(variable, step.low, above=False)
        if rounded_high > step.high:
            variable = program.clip(variable, step.high, above=True)
        made.variable[unit] = variable
    return made


def _matrix(step: Step, inputs: tuple[int, ...]) -> tuple[Integers, Integers]:
    """Weights of a layer, also of a convolution, as a matrix, shape ``(units, inputs)``, and the offset of every unit."""
    offset = step.offset.numpy().astype(np.int64)
    if not step.layer.is_convolution:
        return step.weight.numpy().astype(np.int64), offset
    count = int(np.prod(inputs))
    columns = []
    for start in range(0, count, _CHUNK):
        unit_vectors = torch.eye(count)[start : start + _CHUNK].reshape(-1, *inputs)
        columns.append(step.multiply(step.weight, unit_vectors).flatten(1).numpy().astype(np.int64))
    matrix = np.concatenate(columns).T
    return matrix, np.repeat(offset, len(matrix) // len(offset))
