"""Traces and top eigenvalues of the Hessian, layer by layer, from products with vectors alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite.contract.probes import Derivatives
from suite.errors import BitcertError

_TOGETHER = 8  # random vectors of a layer that share a gradient


@dataclass(frozen=True, slots=True, eq=False)
class Traces:
    """Estimated traces of the diagonal blocks of a Hessian, one per layer.

    Attributes:
        trace: Shape ``(layers,)``; where every row has its own Hessian, the mean of their traces.
        standard_error: Of the estimates, over the random vectors, shape ``(layers,)``.
        numbers: Rows and columns of each block, shape ``(layers,)``.
        vectors: Vectors drawn, shape ``(layers,)``.
    """

    trace: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    numbers: NDArray[np.int64]
    vectors: NDArray[np.int64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Traces divided by the size of their blocks: mean eigenvalues (HAWQ-v2's average trace)."""
        return self.trace / self.numbers

    @property
    def relative_error(self) -> NDArray[np.float64]:
        """Standard errors by the absolute estimates; infinite for an estimate of 0 that is uncertain."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.standard_error > 0, self.standard_error / np.abs(self.trace), 0.0)


def estimate_traces(
    derivatives: Derivatives, rng: np.random.Generator, *, tolerance: float = 0.1, least: int = 8, most: int = 64
) -> Traces:
    """Estimate the trace of every layer's block by Hutchinson's method, with vectors of random signs.

    Every vector belongs to one layer: a vector over all layers would serve them all, but what the others add to a layer's
    estimate, though of mean zero, costs more vectors than it saves. Drawing for a layer stops when the standard error is
    within ``tolerance`` of the absolute estimate, so that neither a negative estimate nor one that happens to repeat itself
    ends it.

    Args:
        derivatives: Of the loss.
        rng: Draws the signs.
        tolerance: Relative standard error that is small enough.
        least: Fewest vectors of a layer, at least 2.
        most: Most vectors of a layer.

    Raises:
        BitcertError: If a product is not finite; the error names the layer's position.

    References:
        Hutchinson, Communications in Statistics 18 (1989); Dong et al., HAWQ-V2, NeurIPS 2020, algorithm 1.
    """
    shapes = derivatives.shapes
    samples: list[list[float]] = [[] for _ in shapes]
    open_layers = list(range(len(shapes)))
    while open_layers:
        drawn = [
            (layer, _signs(rng, shapes[layer]))
            for layer in open_layers
            for _ in range(min(_TOGETHER, most - len(samples[layer])))
        ]
        products = derivatives.products([{layer: signs} for layer, signs in drawn])
        for (layer, signs), product in zip(drawn, products, strict=True):
            samples[layer].append(_along(signs, product[layer], layer) / shapes[layer][0])
        open_layers = [layer for layer in open_layers if not _known(samples[layer], tolerance, least, most)]
    return Traces(
        trace=np.array([np.mean(values) for values in samples]),
        standard_error=np.array([_standard_error(values) for values in samples]),
        numbers=np.array([shape[1] for shape in shapes], dtype=np.int64),
        vectors=np.array([len(values) for values in samples], dtype=np.int64),
    )


def _known(values: list[float], tolerance: float, least: int, most: int) -> bool:
    exact = bool(_standard_error(values) <= tolerance * abs(np.mean(values)))
    return len(values) >= most or (len(values) >= least and exact)


def _standard_error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


@dataclass(frozen=True, slots=True, eq=False)
class Eigenvalues:
    """Eigenvalues of largest absolute value of the diagonal blocks of a Hessian, one per layer.

    Attributes:
        value: Shape ``(layers,)``.
        residual: ``|H v - value v| / |value|`` of the unit vectors found, shape ``(layers,)``: an eigenvalue lies within this
            share of each value.
        products: Products with each block.
    """

    value: NDArray[np.float64]
    residual: NDArray[np.float64]
    products: int


def top_eigenvalues(
    derivatives: Derivatives, rng: np.random.Generator, *, tolerance: float = 1e-3, most: int = 30
) -> Eigenvalues:
    """Find each layer's eigenvalue of largest absolute value by power iteration.

    Stops when no layer's value has changed by more than ``tolerance`` of its absolute value in one step.

    Args:
        derivatives: Of the loss by the weights: one Hessian, not one per row.
        rng: Draws the first vectors.
        tolerance: Relative change that is small enough.
        most: Most products with a block.

    Raises:
        BitcertError: If a product is not finite, or every row has a Hessian of its own.

    References:
        Dong et al., HAWQ, ICCV 2019, algorithm 1.
    """
    shapes = derivatives.shapes
    if any(rows != 1 for rows, _ in shapes):
        raise BitcertError("top eigenvalues are those of one Hessian; these derivatives have one for every row")
    directions = [_unit(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]
    values, residuals = np.full(len(shapes), np.inf), np.full(len(shapes), np.inf)
    for products in range(1, most + 1):
        vectors = [{layer: direction} for layer, direction in enumerate(directions)]
        previous = values.copy()
        for layer, product in enumerate(derivatives.products(vectors)):
            values[layer] = _along(directions[layer], product[layer], layer)
            apart = np.linalg.norm(product[layer] - values[layer] * directions[layer])
            residuals[layer] = apart / abs(values[layer]) if values[layer] else float(apart > 0)
            directions[layer] = _unit(product[layer])
        if products > 1 and (np.abs(values - previous) <= tolerance * np.abs(values)).all():
            break
    return Eigenvalues(values, residuals, products)


def _signs(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    return rng.integers(2, size=shape, dtype=np.int8).astype(np.float32) * 2 - 1


def _along(vector: NDArray[np.float32], product: NDArray[np.float32], layer: int) -> float:
    value = float(np.vdot(vector, product))
    if not np.isfinite(value):
        raise BitcertError(f"the Hessian of layer {layer} is not finite; check the checkpoint and the images")
    return value


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vector)
    unit: NDArray[np.float32] = vector / length if length > 0 else vector
    return unit
