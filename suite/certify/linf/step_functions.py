"""Integer networks as functions of an image's pixels: states over a few time steps, spikes and sums included.

Between roundings such a network computes sums. So every value is a *step function* of one *root*: a pixel's code, or an integer
sum ``t`` of values. Operations on one value, and sums of values with the same root, compose: leak, spike and reset of a neuron are
step functions of its stored potential. Only sums over several roots make a new root::

    t = constant + sum of coefficients times values;   value = operation(t), tabulated where it changes

Where it changes is found by bisection of the operation itself, which is monotone in ``t``, so that all rounding is the network's.
Intervals of roots follow from those of their terms and hold for every image of a box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suite.certify.linf.query import Integers
from suite.errors import BitcertError
from suite.quantize.integer.network import IntegerNetwork
from suite.quantize.integer.operations import (
    EXACT_IN_FLOAT32,
    Accumulate,
    Add,
    Clip,
    Encode,
    LookUp,
    Operation,
    Real,
    Rearrange,
    Recode,
)

CONSTANT = -1
"""In place of the number of a root."""
_EVERYWHERE = -(2**62)
_MOST_LISTED = 64


class Steps(NamedTuple):
    """A step function of a root: ``values[i]`` from ``starts[i]`` to before ``starts[i + 1]``."""

    root: int
    starts: Integers
    values: Integers


class Sum(NamedTuple):
    """Coefficients and values, none of which is constant; the constant; the interval that follows; what multiplies it at first."""

    terms: tuple[tuple[int, Steps], ...]
    constant: int
    low: int
    high: int
    slope: float = 0.0

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, Steps]], constant: int) -> Sum:
        """The sum of coefficients times values, and of a constant."""
        constant += sum(factor * int(value.values[0]) for factor, value in pairs if value.root == CONSTANT)
        terms = tuple((factor, value) for factor, value in pairs if value.root != CONSTANT)
        ends = [(factor * int(value.values.min()), factor * int(value.values.max())) for factor, value in terms]
        return cls(terms, constant, constant + sum(map(min, ends)), constant + sum(map(max, ends)))

    def listed(self) -> Integers | None:
        """All that it may be, ascending, if its terms were independent; None if that is long."""
        totals = np.array([self.constant])
        for factor, value in self.terms:
            totals = np.unique(totals[:, None] + factor * np.unique(value.values))
            if len(totals) > _MOST_LISTED:
                return None
        return totals


class Unrolled:
    """An integer network on all images of a box.

    Args:
        network: Its steps are arithmetic of real numbers and one encoding at the images, then linear layers, sums, tables,
            recodings, clips and flattenings; the last one is a linear layer.
        low, high: Least and largest level of every pixel, shape ``(C, H, W)``.
        levels: The level of white: pixels are levels divided by this.

    Attributes:
        roots: First the pixels, each with all codes that it may have, then sums, each after those that it is made of.
        pixels: Of every pixel, a level for each of its codes.
        values: Results of all steps but the first, on real numbers, and the last.
        logits: The sums that ``output`` scales.
        output: The last operation.

    Raises:
        BitcertError: If the network computes something else.
    """

    def __init__(self, network: IntegerNetwork, low: Tensor, high: Tensor, levels: int) -> None:
        self.roots: list[Integers | Sum] = []
        self.pixels: list[Integers] = []
        self.values: dict[str, list[Steps]] = {}
        every = (torch.arange(levels + 1) / levels).reshape(-1, 1, 1, 1).expand(-1, *low.shape)
        real = {network.images: every}
        for step in network.steps[:-1]:
            operation = step.operation
            assert operation is not None
            flattens = isinstance(operation, Rearrange) and operation.kind == "flatten"
            if step.inputs[0] in real and (isinstance(operation, Real) or flattens):
                real[step.output] = operation(real[step.inputs[0]])
            elif step.inputs[0] in real and isinstance(operation, Encode) and not self.roots:
                codes = operation(real[step.inputs[0]]).flatten(1).numpy()
                self.values[step.output] = self._encoded(codes, low.flatten().tolist(), high.flatten().tolist())
            elif isinstance(operation, Add | LookUp | Recode | Clip):
                self.values[step.output] = self._elementwise(
                    operation, [self.values[name] for name in step.inputs], step.output
                )
            elif flattens:
                self.values[step.output] = self.values[step.inputs[0]]
            else:
                layer, sums = self._sums(operation, step.inputs[0], step.output)
                if layer.coding is None:
                    raise _refused(layer, step.output)
                self.values[step.output] = self._rounded(sums, layer.finish, layer.multiplier.tolist())
        last = network.steps[-1]
        self.output, self.logits = self._sums(last.operation, last.inputs[0], last.output)
        if self.output.coding is not None:
            raise _refused(self.output, last.output)

    def _encoded(self, codes: NDArray[np.float32], low: list[int], high: list[int]) -> list[Steps]:
        """Pixels; ``codes`` are those of every level, shape ``(levels + 1, pixels)``."""
        made = []
        for pixel, (least, most) in enumerate(zip(low, high, strict=True)):
            found, places = np.unique(codes[least : most + 1, pixel].astype(np.int64), return_index=True)
            self.roots.append(found)
            self.pixels.append(least + places)
            made.append(_merged(pixel, found, found))
        return made

    def _sums(self, operation: Operation | None, given: str, output: str) -> tuple[Accumulate, list[Sum]]:
        """The sums of a linear layer."""
        inputs = self.values.get(given, [])
        linear = isinstance(operation, Accumulate) and isinstance(operation.layer, nn.Linear)
        if not linear or not isinstance(operation, Accumulate) or operation.weight.shape[1] != len(inputs):
            raise _refused(operation, output)
        sums = []
        for row, bias in zip(operation.weight.numpy().astype(np.int64), operation.bias.tolist(), strict=True):
            sums.append(Sum.of([(int(row[place]), inputs[place]) for place in np.flatnonzero(row)], int(bias)))
        return operation, sums

    def _elementwise(self, operation: Operation, inputs: list[list[Steps]], output: str) -> list[Steps]:
        """A function of each value, or a sum of two in the same place."""
        if len(set(map(len, inputs))) > 1:
            raise _refused(operation, output)
        joined = [_joined(found) for found in zip(*inputs, strict=True)]
        points = [found.matrix if found else np.zeros((len(inputs), 0), np.int64) for found in joined]
        results = operation(*torch.from_numpy(np.concatenate(points, axis=1)).float()).numpy().astype(np.int64)
        values = np.split(results, np.cumsum([found.shape[1] for found in points])[:-1])
        made = [_merged(f.root, f.starts, v) if f else None for f, v in zip(joined, values, strict=True)]
        open_ = [place for place, found in enumerate(joined) if found is None]
        if open_:
            assert isinstance(operation, Add)
            left, right = (given.scale for given in operation.given)
            unit = min(left, right)
            factors = round(left / unit), round(right / unit)
            sums = [Sum.of(list(zip(factors, (inputs[0][place], inputs[1][place]), strict=True)), 0) for place in open_]
            if max(max(-one.low, one.high) for one in sums) >= EXACT_IN_FLOAT32:
                raise BitcertError("a sum of codes whose scales are too far apart for 24 bits cannot be verified")
            none = torch.zeros(())
            slopes = [unit / operation.coding.scale] * len(sums)
            added = self._rounded(sums, lambda totals: operation(totals.float() * (unit / left), none), slopes)
            for place, found in zip(open_, added, strict=True):
                made[place] = found
        return [found for found in made if found is not None]

    def _rounded(self, sums: Sequence[Sum], finish: Callable[[Tensor], Tensor], slopes: Sequence[float]) -> list[Steps]:
        """Sums times slopes, rounded, which ``finish`` computes for a row of all; sums over several roots become roots."""

        def codes(rows: Integers) -> Integers:
            return np.asarray(finish(torch.from_numpy(rows).double()).numpy().astype(np.int64))

        joined = [_joined([value for _, value in one.terms]) for one in sums]
        listed = [one.listed() if found is None else None for one, found in zip(sums, joined, strict=True)]
        points = []
        for one, found, totals in zip(sums, joined, listed, strict=True):
            factors = np.array([factor for factor, _ in one.terms], np.int64)
            ends = np.array([one.low, one.high]) if totals is None else totals
            points.append(ends if found is None else one.constant + factors @ found.matrix)
        rows = np.zeros((max(2, *map(len, points)), len(sums)), np.int64)
        for place, given in enumerate(points):
            rows[: len(given), place] = given
        known = codes(rows)
        many = [found is None and totals is None for found, totals in zip(joined, listed, strict=True)]
        first, last = np.where(many, known[0], 0), np.where(many, known[1], 0)
        # the least sum that reaches each code after the first, by bisection
        wanted = first + np.arange(1, (last - first).max() + 1)[:, None]
        below, reached = np.broadcast_to(rows[0], wanted.shape), np.broadcast_to(rows[1], wanted.shape)
        while ((reached - below > 1) & (wanted <= last)).any():
            middle = (below + reached) // 2
            enough = codes(middle) >= wanted
            below, reached = np.where(enough, below, middle), np.where(enough, middle, reached)
        made = []
        for place, (one, found, totals) in enumerate(zip(sums, joined, listed, strict=True)):
            if found is not None:
                made.append(_merged(found.root, found.starts, known[: len(found.starts), place]))
                continue
            self.roots.append(one._replace(slope=slopes[place]))
            if totals is not None:
                starts, values = totals, known[: len(totals), place]
            else:
                changes = reached[: last[place] - first[place], place]
                starts = np.unique(np.append(changes, one.low))
                values = first[place] + np.searchsorted(changes, starts, side="right")
            made.append(_merged(len(self.roots) - 1, starts, values))
        return made


class _Joined(NamedTuple):
    """Step functions of the same root, with the same starts; ``matrix`` has a row of values for each."""

    root: int
    starts: Integers
    matrix: Integers


def _joined(functions: Sequence[Steps]) -> _Joined | None:
    """None if they have several roots."""
    roots = {function.root for function in functions} - {CONSTANT}
    if len(roots) > 1:
        return None
    varying = [function.starts for function in functions if function.root != CONSTANT]
    starts = np.unique(np.concatenate(varying)) if varying else np.array([_EVERYWHERE])
    rows = [function.values[np.searchsorted(function.starts, starts, side="right") - 1] for function in functions]
    return _Joined(roots.pop() if roots else CONSTANT, starts, np.array(rows, np.int64).reshape(len(rows), len(starts)))


def _merged(root: int, starts: Integers, values: Integers) -> Steps:
    """A step function without steps that change nothing."""
    kept = np.append(True, np.diff(values) != 0)
    if kept.sum() == 1:
        return Steps(CONSTANT, np.array([_EVERYWHERE]), values[:1])
    return Steps(root, starts[kept], values[kept])


def _refused(operation: Operation | None, output: str) -> BitcertError:
    what = operation.layer if isinstance(operation, Accumulate) else operation
    return BitcertError(
        f"{type(what).__name__} ({output}) cannot be verified over time steps; linear layers, sums, tables, recodings, clips, "
        "flattenings and one encoding of the images can"
    )
