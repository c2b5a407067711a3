"""Certificates without a floating-point gap between the theorem of randomized smoothing and the program.

The theorem is about real numbers. A program that adds floating-point noise to floating-point images samples another
distribution, whose support depends on the image: a classifier that reads the low-order bits gets certificates that are wrong
(Voracek and Hein; Jin, Ohrimenko and Rubinstein). Here the program computes exactly what the theorem says.

**Setting.** An image is a vector k of d integers, shown to the network as ``float32(k) / float32(L)``, one correctly rounded
division; L is the number of levels, 255 for bytes. The network, an integer network, is a function f of k alone: neither
batch, threads nor program change a logit. Extend it to all real z, in levels, by ``h(z) = f(round(z))`` with ``round(z) =
floor(z + 1/2)`` in each coordinate. h is measurable, so smoothing it with ``g ~ N(0, s^2 I)``, ``s = sigma * L``, is the
setting of Cohen et al.: if

    P(h(k + g) = c) >= p > 1/2,

then c is the likeliest class of h under this noise at every real ``k + t`` with ``|t| < s * Phi^-1(p)``; in the units of
images, ``sigma * Phi^-1(p)``. Among these are all other images.

**Noise.** k is an integer vector, so ``round(k + g) = k + round(g)`` for every g, and ``P(h(k + g) = c) = P(f(k + E) = c)``
with ``E = round(g)``. Only integers are drawn and added: ``|k + E| < 2^24`` is exact in float32.

**Sampler.** The coordinates of E are independent. What is drawn differs from E by a total variation of at most tau in each
(:mod:`.rounded_gaussian`), so that n samples of d coordinates differ by at most ``n d tau``. An event that has probability
at most ``alpha - n d tau`` under E has probability at most ``alpha`` in the program. The samples that choose c are
independent of those that count it and may have any distribution.

**Bound.** Let K of n samples give c. Every reported p satisfies ``P(Binomial(n, p) >= K) <= alpha - n d tau``, and every
reported radius r ``Phi(r / sigma) < p``, both proven with directed rounding (:mod:`.directed`). If the true probability is
below p, then ``P(Binomial(n, true) >= K) <= alpha - n d tau``, which happens with at most that probability; hence each
certificate is wrong with probability at most alpha.

What remains to be assumed: the generator's bits are independent fair coins, and processor and libraries do what their
specifications say.

References:
    Cohen, Rosenfeld, Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML 2019; Voracek and Hein, Sound
    Randomized Smoothing in Floating-Point Arithmetic, ICLR 2023, whose discretized noise this is; Jin, Ohrimenko,
    Rubinstein, Getting a-Round Guarantees: Floating-Point Attacks on Certified Robustness, AISec 2024; Lin et al.,
    Integer-Arithmetic-Only Certified Robustness for Quantized Neural Networks, ICCV 2021.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from suite.certify.certificates import ABSTAIN, Certificates
from suite.certify.directed import DOWN, UP, sound_lower, sound_radius
from suite.errors import BitcertError, unknown_name
from suite.quantize import EXACT_ENGINES
from suite.quantize.fixed_point import FixedPointNetwork
from suite.quantize.integer import IntegerNetwork, OnnxNetwork

Arithmetic = Literal["float", "exact"]
ARITHMETICS: tuple[Arithmetic, ...] = get_args(Arithmetic)
LARGEST = 2**24
"""Integers of float32 below it are exact."""


class Reproducible(nn.Module):
    """A classifier that promises to be a function of each image alone: the same logits in every batch.

    Integer and fixed-point networks are; subclass it for a classifier of your own whose rounding never depends on the batch, the
    threads or the order of a sum.
    """


def check_arithmetic(arithmetic: str) -> None:
    """Raise BitcertError unless this is the name of an arithmetic."""
    if arithmetic not in ARITHMETICS:
        raise unknown_name("arithmetic", arithmetic, ARITHMETICS)


def check_reproducible(network: nn.Module) -> None:
    """Raise BitcertError unless a network is a function of each image alone."""
    known = isinstance(network, IntegerNetwork | OnnxNetwork | FixedPointNetwork | Reproducible)
    if not known or (isinstance(network, OnnxNetwork) and not network.integer):
        raise BitcertError(
            "exact arithmetic certifies integer networks, whose logits depend on no batch and no thread, not a "
            f"{type(network).__name__}; choose the engine {' or '.join(EXACT_ENGINES)}"
        )


def to_levels(pixels: Tensor, levels: int) -> Tensor:
    """Images as integers in float32: ``k`` where a pixel is ``float32(k) / float32(levels)``.

    Raises:
        BitcertError: If a pixel is between two levels, or there are fewer than 1 or too many levels.
    """
    if not 1 <= levels < LARGEST // 2:
        raise BitcertError(f"images have between 1 and {LARGEST // 2 - 1} levels above 0, got {levels}")
    given = pixels.cpu().numpy()
    integers = np.rint(given.astype(np.float64) * levels).astype(np.float32)
    off = (np.abs(integers) >= LARGEST // 2) | (integers / np.float32(levels) != given)
    if off.any():
        image = int(np.argmax(off.reshape(len(given), -1).any(axis=1)))
        raise BitcertError(
            f"exact arithmetic needs images on a grid of integers divided by {levels}, but the pixel {float(given[off][0]):.9g} of "
            f"image {image} is not one of them; give the number of levels of your images"
        )
    return torch.from_numpy(integers).to(pixels.device)


def remaining_alpha(alpha: float, n: int, dimension: int, total_variation: Decimal) -> Decimal:
    """What the sampler leaves of alpha: ``alpha - n * dimension * total_variation``, rounded down.

    Raises:
        BitcertError: If nothing is left.
    """
    spent = UP.multiply(Decimal(n * dimension), total_variation)
    left = DOWN.subtract(Decimal(alpha), spent)
    if left <= 0:
        raise BitcertError(
            f"alpha = {alpha:g} is used up by {n} samples of {dimension} values, whose distribution may be off by "
            f"{float(spent):.3g}; raise alpha or lower the number of samples"
        )
    return left


def bound_exactly(
    chosen: NDArray[np.int64], successes: NDArray[np.int64], *, sigma: float, n0: int, n: int, alpha: Decimal
) -> Certificates:
    """Certificates of chosen classes and their counts among ``n`` fresh samples, shape ``(images,)`` each, as proven above."""
    p_lower = sound_lower(successes, n, alpha)
    return Certificates(
        prediction=np.where(p_lower > 0.5, chosen, ABSTAIN),
        radius=sound_radius(p_lower, sigma),
        p_lower=p_lower,
        forward_passes=np.full(len(chosen), n0 + n, dtype=np.int64),
    )
