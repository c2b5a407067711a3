"""Linear layers whose weights are kept in a set of orthogonal matrices while they are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

import torch
from torch import Tensor, nn

from suite.errors import BitcertError

TOLERANCE = 1e-5
"""Largest entry of ``|W^T W - I|`` of what passes for orthogonal."""

_ITERATIONS = 40

_shared: ContextVar[dict[int, tuple[Tensor, Tensor]] | None] = ContextVar("constrained weights", default=None)


class ConstrainedLinear(nn.Linear, ABC):
    """A Linear without bias that computes, while it is trained, with its weight mapped onto a set of square matrices.

    In evaluation mode the weight is in the set, and the layer is a plain Linear.

    Args:
        size: Inputs, and outputs.
        device: Of the weight.
    """

    def __init__(self, size: int, device: Any = None) -> None:
        super().__init__(size, size, bias=False, device=device)

    @abstractmethod
    def constrained(self, weight: Tensor) -> Tensor:
        """A weight mapped onto the set, differentiable; what is in the set stays as it is, bit for bit."""

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw a weight from the set."""
        nn.init.orthogonal_(self.weight, generator=generator)
        self.weight.copy_(self.constrained(self.weight))

    def forward(self, inputs: Tensor) -> Tensor:
        """As a Linear."""
        return nn.functional.linear(inputs, constrained(self, self.weight) if self.training else self.weight)

    @torch.no_grad()
    def train(self, mode: bool = True) -> Self:
        """Set the mode; for evaluation the weight is mapped onto the set."""
        if not mode and not self.weight.is_meta:
            self.weight.copy_(self.constrained(self.weight))
        return super().train(mode)


class OrthogonalLinear(ConstrainedLinear):
    """A Linear with an orthogonal weight; see :func:`orthogonalize`."""

    def constrained(self, weight: Tensor) -> Tensor:
        """The orthogonal matrix next to the weight."""
        return orthogonalize(weight)


class HadamardLinear(ConstrainedLinear):
    """A Linear with the weight ``diag(s) H / sqrt(n)``, s of -1 and 1, H the Walsh-Hadamard matrix: orthogonal, of one magnitude.

    The signs are those of ``u``, the products of the weight's rows with those of ``H / sqrt(n)``; their gradient passes to u as if
    the sign were not there.

    Raises:
        BitcertError: If the size is not a power of two.

    References:
        HadamRNN, of the authors of: Foucault, Mamalet and Malgouyres, Quantized approximately orthogonal recurrent neural networks,
        arXiv 2402.04012.
    """

    def __init__(self, size: int, device: Any = None) -> None:
        super().__init__(size, device)
        self.register_buffer("basis", hadamard(size).to(self.weight) / size**0.5, persistent=False)
        self.basis: Tensor

    def constrained(self, weight: Tensor) -> Tensor:
        """The signs that fit the weight best, in front of the rows."""
        along = (weight * self.basis).sum(dim=1, keepdim=True)
        signs = torch.where(along >= 0, 1.0, -1.0)
        return (signs + (along - along.detach())) * self.basis


def constrained(layer: nn.Module, weight: Tensor) -> Tensor:
    """What a layer computes with in place of a weight of its shape: the weight itself, unless the layer constrains it."""
    if not isinstance(layer, ConstrainedLinear):
        return weight
    known = _shared.get()
    if known is None:
        return layer.constrained(weight)
    if id(weight) not in known:
        known[id(weight)] = weight, layer.constrained(weight)  # the weight too: while it is alive, so is its id
    return known[id(weight)][1]


@contextmanager
def constrained_once() -> Iterator[None]:
    """Within the block, one forward pass, every weight is mapped onto its set once, however often its layer is called."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def orthogonalize(weight: Tensor) -> Tensor:
    """The orthogonal matrix next to a square matrix, its polar factor, by Björck's iteration.

    The matrix is first divided by a bound of its spectral norm, the root of the largest absolute row sum of ``W^T W``; a singular
    value s then goes to ``1.5 s - 0.5 s^3`` in each iteration, towards 1. What is orthogonal up to :data:`TOLERANCE` is
    returned as it is. Gradients pass through all iterations, but not through the bound, on which the polar factor does not depend.

    Args:
        weight: Shape ``(size, size)``; after 40 iterations singular values below a millionth of the bound are not yet at 1.

    References:
        Björck and Bowie, An iterative algorithm for computing the best estimate of an orthogonal matrix, SIAM J. Numer. Anal. 8,
        1971; Anil, Lucas and Grosse, Sorting out Lipschitz function approximation, ICML 2019.
    """
    identity = torch.eye(len(weight), device=weight.device, dtype=weight.dtype)
    gram = weight.mT @ weight
    if _is_identity(gram, identity):
        return weight
    bound = gram.detach().abs().sum(dim=1).max()
    weight = weight * bound.rsqrt()
    for _ in range(_ITERATIONS):
        is_near = _is_identity(weight.mT @ weight, identity)
        weight = bjorck(weight)  # errors are squared: once more, and what is left is rounding
        if is_near:
            break
    return weight


def bjorck(weight: Tensor) -> Tensor:
    """One iteration, ``1.5 W - 0.5 W W^T W``."""
    return 1.5 * weight - 0.5 * weight @ (weight.mT @ weight)


def hadamard(size: int) -> Tensor:
    """The Walsh-Hadamard matrix in Sylvester's order, entries -1 and 1; raises BitcertError if the size is no power of two."""
    if size < 1 or size & (size - 1):
        raise BitcertError(f"a Walsh-Hadamard matrix needs a power of two as its size, got {size}")
    matrix, block = torch.ones(1, 1), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    while len(matrix) < size:
        matrix = torch.kron(block, matrix)
    return matrix


def _is_identity(gram: Tensor, identity: Tensor) -> bool:
    return bool((gram.detach() - identity).abs().max() <= TOLERANCE)
