"""Certificates without noise: integer interval bounds of a fixed-point network around an image.

**Setting.** An image is a vector x of integers in 0..L, and an adversary may change every pixel by at most k levels: the L-infinity
ball of radius k / L. The network, executed exactly, predicts the first class with the largest output; it is robust at k if it
predicts the label y on every image of the ball.

**Bounds.** If ``l <= x <= u`` coordinate by coordinate, then ``W+ l + W- u + B <= W x + B <= W+ u + W- l + B`` with W+ and W- the
positive and negative parts of W. Rounding and clamping are monotone, so the same holds for a layer's outputs, and by induction for
all of them. Everything is an integer, computed exactly: nothing is lost to rounding, and no probability is involved.

**Specification.** Class j wins against y only if ``out_j >= out_y`` (j before y) or ``out_j > out_y`` (j after y). The last layer
is fused with this: with rows ``W_y - W_j`` the bound on ``acc_y - acc_j >= d`` is tighter than that on each of them. If outputs are
rounded and clamped, ``e = floor(d / 2^s)`` bounds the difference of what is clamped, and clamping

* keeps e if it is not positive, for it brings no two numbers further apart;
* keeps e if y is never clamped above and j never below;
* keeps at least 1 of ``e >= 1`` if y is above the lower limit and j below the upper one: then at each limit only one of them can be
  moved, and they never meet.

Otherwise both may sit at the same limit, where the first class wins, and only the bounds of each alone count.

References:
    Gowal et al., Scalable Verified Training for Provably Robust Image Classification, ICCV 2019; Lechner, Zikelic, Chatterjee,
    Henzinger, Rus, Quantization-aware Interval Bound Propagation for Training Certifiably Robust Quantized Neural Networks, AAAI
    2023 (arXiv 2211.16187); Zhang et al., QVIP: An ILP-based Formal Verification Approach for Quantized Neural Networks, ASE 2022
    (arXiv 2212.11138).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suite.errors import BitcertError
from suite.quantize.fixed_point import FixedPointNetwork, Output, Step

Integers = NDArray[np.int64]
OWN = 2**60
"""What stands for the margin of a label against itself."""
_BATCH = 512
MISCLASSIFIED = -1
"""Radius of an image that the network gets wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class StepBounds:
    """Bounds of one layer, integers in floating point, each of shape ``(images, *outputs)``.

    Attributes:
        rounded_low: Before clamping, from below; accumulators where nothing is rounded.
        rounded_high: The same from above.
        low: Of the outputs.
        high: Of the outputs.
    """

    rounded_low: Tensor
    rounded_high: Tensor
    low: Tensor
    high: Tensor


def ball(network: FixedPointNetwork, codes: Integers, radius: int | Integers) -> tuple[Integers, Integers]:
    """Least and largest code of every pixel within a radius.

    Args:
        network: Whose images they are.
        codes: Integer images, shape ``(images, ...)``.
        radius: In levels, for all images or one for each.

    Raises:
        BitcertError: If a radius is negative.
    """
    given = np.broadcast_to(np.asarray(radius, dtype=np.int64), (len(codes),))
    if (given < 0).any():
        raise BitcertError(f"a radius is a number of levels >= 0, got {int(given.min())}")
    each = given.reshape(-1, *[1] * (codes.ndim - 1))
    return np.maximum(codes - each, 0), np.minimum(codes + each, network.levels)


def propagate(network: FixedPointNetwork, low: Integers, high: Integers) -> list[StepBounds]:
    """Bounds of every layer, the last one not fused, for all images between ``low`` and ``high``, shape ``(images, ...)``."""
    bounds: list[StepBounds] = []
    least, largest = network.as_images(low), network.as_images(high)
    for step in network.steps:
        bounds.append(_step_bounds(step, least, largest))
        least, largest = bounds[-1].low, bounds[-1].high
    return bounds


def _step_bounds(step: Step, low: Tensor, high: Tensor) -> StepBounds:
    both, swapped = torch.cat([low, high]), torch.cat([high, low])
    sums = step.multiply(step.weight.clamp(min=0), both) + step.multiply(step.weight.clamp(max=0), swapped)
    rounded = step.rounded(step.shifted(sums))
    return StepBounds(*rounded.chunk(2), *step.clamped(rounded).chunk(2))


def margins_between(network: FixedPointNetwork, low: Integers, high: Integers, labels: Integers) -> Integers:
    """Lower bounds on ``out_y - out_j`` over all images between ``low`` and ``high``, in units of the outputs.

    Args:
        network: The network.
        low: Integer images, shape ``(images, ...)``.
        high: The same, not below ``low``.
        labels: Classes y, shape ``(images,)``.

    Returns:
        int64, shape ``(images, classes)``; :data:`OWN` where j is y. Where ``low`` is ``high``, the difference itself.
    """
    found = [
        _margins(network, low[start : start + _BATCH], high[start : start + _BATCH], labels[start : start + _BATCH])
        for start in range(0, len(low), _BATCH)
    ]
    return np.concatenate(found) if found else np.zeros((0, network.classes), dtype=np.int64)


def _margins(network: FixedPointNetwork, low: Integers, high: Integers, labels: Integers) -> Integers:
    bounds, step = propagate(network, low, high), network.steps[-1]
    given = (bounds[-2].low, bounds[-2].high) if len(bounds) > 1 else (network.as_images(low), network.as_images(high))
    least, largest = (side.flatten(1).double() for side in given)
    weight, offset, own = step.weight.double(), step.offset.double(), torch.from_numpy(labels)
    fused = torch.zeros(len(labels), network.classes, dtype=torch.float64)
    for label in own.unique():
        rows, chosen = weight[label] - weight, own == label
        sums = least[chosen] @ rows.clamp(min=0).T + largest[chosen] @ rows.clamp(max=0).T
        fused[chosen] = sums + (offset[label] - offset)
    if step.layer.output is not None:
        fused = _after_clamping(fused, step, step.layer.output, bounds[-1], own)
    margins = np.asarray(fused.numpy(), dtype=np.int64)
    margins[np.arange(len(labels)), labels] = OWN
    return margins


def _after_clamping(fused: Tensor, step: Step, limits: Output, bounds: StepBounds, own: Tensor) -> Tensor:
    """Differences of outputs from those of accumulators, as explained above."""
    difference = (fused * 2.0**-step.shift).floor()
    low, high = bounds.rounded_low.double(), bounds.rounded_high.double()
    own_low, own_high = (side.gather(1, own[:, None]) for side in (low, high))
    kept = (own_high <= limits.high) & (low >= limits.low)
    apart = (own_low > limits.low) & (high < limits.high)
    clamped = torch.where(kept, difference, torch.where(apart, difference.clamp(max=1), difference.clamp(max=0)))
    alone = step.clamped(own_low) - step.clamped(high)
    return torch.maximum(clamped, alone)


def margins(network: FixedPointNetwork, codes: Integers, labels: Integers, radius: int | Integers) -> Integers:
    """:func:`margins_between` for all images within a radius, in levels; at radius 0 those of the network itself."""
    return margins_between(network, *ball(network, codes, radius), labels)


def excluded(found: Integers, labels: Integers) -> NDArray[np.bool_]:
    """Which classes cannot win against the label, shape ``(images, classes)``: ties go to the first class."""
    return found >= (np.arange(found.shape[1]) < labels[:, None])


def certified(
    network: FixedPointNetwork, codes: Integers, labels: Integers, radius: int | Integers
) -> NDArray[np.bool_]:
    """Whether the label is proven to be predicted within a radius, shape ``(images,)``; at radius 0 whether it is predicted."""
    return np.asarray(excluded(margins(network, codes, labels, radius), labels).all(axis=1))


def certified_radius(
    network: FixedPointNetwork, codes: Integers, labels: Integers, most: int | None = None
) -> Integers:
    """The largest radius, in levels, at which bounds prove the label, shape ``(images,)``; :data:`MISCLASSIFIED` if none does.

    Boxes are nested and bounds monotone, so it is found by bisection, for all images at once.

    Args:
        network: The network.
        codes: Integer images, shape ``(images, ...)``.
        labels: True classes, shape ``(images,)``.
        most: Largest radius of interest; the number of levels if None.
    """
    low = np.full(len(codes), MISCLASSIFIED, dtype=np.int64)
    high = np.full(len(codes), network.levels if most is None else most, dtype=np.int64)
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low[open_] + high[open_] + 1) // 2
        proven = certified(network, codes[open_], labels[open_], middle)
        low[open_[proven]] = middle[proven]
        high[open_[~proven]] = middle[~proven] - 1
    return low


def bisections(most: int) -> int:
    """Most boxes that :func:`certified_radius` propagates for an image."""
    return (most + 1).bit_length()


def certified_accuracy(radius: Integers, radii: Sequence[int]) -> dict[int, float]:
    """Radius in levels -> share of images whose certified radius is at least that."""
    return {wanted: float(np.mean(radius >= wanted)) if len(radius) else 0.0 for wanted in radii}
