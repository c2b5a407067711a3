"""Traces and top eigenvalues on matrices that are known; products with the Hessians of networks that are known otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from baselines.hessian import estimate_traces, top_eigenvalues
from suite.contract.probes import Derivatives, product_passes
from suite.contract.problem import Meter
from suite.contract.space import Part, SearchSpace
from suite.errors import BitcertError
from suite.networks import trace_layers
from suite.problems.network_probes import NetworkDerivatives
from suite.workbench import Workbench

# What torch imports for forward derivatives, and curvlinops with it, warns of its own age.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")


class Quadratic(Derivatives):
    """The loss ``x' H x / 2``, whose Hessian is known: one matrix, with a block for each layer."""

    def __init__(self, matrix: NDArray[np.float64], sizes: Sequence[int]) -> None:
        self.matrix = matrix
        self.shapes = tuple((1, size) for size in sizes)
        self.ends = np.cumsum([0, *sizes])

    def gradient(self) -> list[NDArray[np.float32]]:
        raise NotImplementedError

    def products(self, vectors: Sequence[Mapping[int, NDArray[np.float32]]]) -> list[dict[int, NDArray[np.float32]]]:
        return [{layer: self.product(vector)[self.rows(layer)][None] for layer in vector} for vector in vectors]

    def product(self, vector: Mapping[int, NDArray[np.float32]]) -> NDArray[np.float32]:
        whole = np.zeros(len(self.matrix))
        for layer, values in vector.items():
            whole[self.rows(layer)] = values[0]
        return (self.matrix @ whole).astype(np.float32)

    def rows(self, layer: int) -> slice:
        return slice(self.ends[layer], self.ends[layer + 1])

    def blocks(self) -> list[NDArray[np.float64]]:
        return [self.matrix[self.rows(layer), self.rows(layer)] for layer in range(len(self.shapes))]


def symmetric(size: int, seed: int, shift: float = 0.0) -> NDArray[np.float64]:
    drawn = np.random.default_rng(seed).standard_normal((size, size))
    return (drawn + drawn.T) / 2 + shift * np.eye(size)


def test_traces_of_a_diagonal_matrix_are_exact_after_the_fewest_vectors() -> None:
    diagonal = np.array([3.0, -1.0, 2.5, 0.5, -4.0])
    found = estimate_traces(Quadratic(np.diag(diagonal), [2, 3]), np.random.default_rng(0), least=8)
    assert found.trace == pytest.approx([2.0, -1.0])
    assert found.mean == pytest.approx([1.0, -1 / 3])
    assert found.standard_error == pytest.approx([0, 0])
    assert found.vectors.tolist() == [8, 8]


def test_estimates_lie_within_their_standard_errors_of_the_trace() -> None:
    """Standardized errors of 200 estimates: mean 0 and deviation 1, each within four of its own standard errors."""
    quadratic = Quadratic(symmetric(60, seed=1, shift=2.0), [20, 40])
    truth = np.array([np.trace(block) for block in quadratic.blocks()])
    errors = []
    for seed in range(200):
        found = estimate_traces(quadratic, np.random.default_rng(seed), tolerance=1e-9, most=64)
        errors.append((found.trace - truth) / found.standard_error)
    assert np.abs(np.mean(errors, axis=0)).max() < 4 / 200**0.5
    assert np.abs(np.std(errors, axis=0) - 1).max() < 4 / 400**0.5 + 0.02


def test_stops_when_every_relative_standard_error_is_small_enough() -> None:
    quadratic = Quadratic(symmetric(50, seed=2, shift=3.0), [10, 40])
    found = estimate_traces(quadratic, np.random.default_rng(0), tolerance=0.05, most=10_000)
    assert (found.relative_error <= 0.05).all()
    assert (found.vectors < 10_000).all()
    assert (found.standard_error > 0).all()


def test_a_negative_estimate_does_not_end_the_drawing() -> None:
    """The trace is negative and hard to know: HAWQ's published rule, a relative change without absolute values, ends at once."""
    quadratic = Quadratic(symmetric(50, seed=3, shift=-0.2), [50])
    found = estimate_traces(quadratic, np.random.default_rng(0), tolerance=0.05, most=40)
    assert found.trace[0] < 0
    assert found.vectors.tolist() == [40]
    assert found.relative_error[0] > 0.05


def test_a_trace_of_zero_that_is_uncertain_has_an_infinite_relative_error() -> None:
    found = estimate_traces(Quadratic(np.array([[0.0, 1.0], [1.0, 0.0]]), [2]), np.random.default_rng(0), most=9)
    assert found.relative_error[0] > 0.1


def test_top_eigenvalues_are_those_of_the_blocks() -> None:
    quadratic = Quadratic(symmetric(60, seed=4, shift=1.0), [20, 40])
    found = top_eigenvalues(quadratic, np.random.default_rng(0), tolerance=1e-7, most=2000)
    for layer, block in enumerate(quadratic.blocks()):
        eigenvalues = np.linalg.eigvalsh(block)
        assert found.value[layer] == pytest.approx(eigenvalues[np.abs(eigenvalues).argmax()], rel=1e-3)
    assert found.residual.max() < 0.05


def test_a_top_eigenvalue_may_be_negative() -> None:
    found = top_eigenvalues(Quadratic(np.diag([1.0, -5.0, 2.0]), [3]), np.random.default_rng(0), most=100)
    assert found.value == pytest.approx([-5.0], rel=1e-3)


def test_products_that_are_not_finite_are_an_error_that_names_the_layer() -> None:
    matrix = np.eye(4)
    matrix[3, 3] = np.nan
    for estimate in (estimate_traces, top_eigenvalues):
        with pytest.raises(BitcertError, match="layer 1"):
            estimate(Quadratic(matrix, [2, 2]), np.random.default_rng(0))


class TwoLayers(nn.Module):
    """A convolution and a linear layer, with a smooth nonlinearity in between so that all second derivatives exist."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.second = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.second(torch.tanh(self.norm(self.first(images))).flatten(1))
        return logits


@pytest.fixture
def network() -> TwoLayers:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TwoLayers()
        nn.init.uniform_(network.norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    return network.eval().requires_grad_(False)


@pytest.fixture
def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(7, 1, 4, 4, generator=generator), torch.randint(3, (7,), generator=generator)
    return list(zip(images.split(4), labels.split(4), strict=True))


def derivatives(network: nn.Module, data: Any, part: Part, meter: Meter | None = None) -> NetworkDerivatives:
    space = SearchSpace(trace_layers(network, (1, 4, 4)), pins={})
    problem = SimpleNamespace(network=network, space=space, meter=meter or Meter(), fixed_threads=nullcontext)
    return NetworkDerivatives(cast(Workbench, problem), ["first", "second"], data, part)


def explicit(network: TwoLayers, data: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gradient and Hessian of the mean loss by both weights, in double precision, by torch.func."""
    double = TwoLayers().double().eval().requires_grad_(False)
    double.load_state_dict(network.state_dict())
    images = torch.cat([inputs for inputs, _ in data]).double()
    labels = torch.cat([chosen for _, chosen in data])
    start = torch.cat([double.first.weight.flatten(), double.second.weight.flatten()]).detach()

    def loss(weights: torch.Tensor) -> torch.Tensor:
        values = {"first.weight": weights[:18].reshape(2, 1, 3, 3), "second.weight": weights[18:].reshape(3, 8)}
        logits = torch.func.functional_call(double, values, (images,))
        return nn.functional.cross_entropy(logits, labels)

    return torch.func.grad(loss)(start).numpy(), torch.func.hessian(loss)(start).numpy()


def test_products_and_gradient_equal_the_explicit_ones(network: TwoLayers, data: Any) -> None:
    gradient, hessian = explicit(network, data)
    found = derivatives(network, data, "weight")
    assert np.concatenate(found.gradient(), axis=1)[0] == pytest.approx(gradient, abs=1e-6)
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(42).astype(np.float32)
    both = {0: vector[None, :18], 1: vector[None, 18:]}
    whole, first, second = found.products([both, {0: both[0]}, {1: both[1]}])
    assert np.concatenate([whole[0], whole[1]], axis=1)[0] == pytest.approx(hessian @ vector, abs=1e-5)
    assert first[0][0] == pytest.approx(hessian[:18, :18] @ vector[:18], abs=1e-5)
    assert second[1][0] == pytest.approx(hessian[18:, 18:] @ vector[18:], abs=1e-5)
    assert list(first) == [0]


def test_traces_and_eigenvalues_of_a_network_are_those_of_the_explicit_hessian(network: TwoLayers, data: Any) -> None:
    _, hessian = explicit(network, data)
    blocks = hessian[:18, :18], hessian[18:, 18:]
    found = estimate_traces(derivatives(network, data, "weight"), np.random.default_rng(0), tolerance=0.02, most=1000)
    for layer, block in enumerate(blocks):
        assert abs(found.trace[layer] - np.trace(block)) < 4 * found.standard_error[layer] + 1e-6
    top = top_eigenvalues(derivatives(network, data, "weight"), np.random.default_rng(0), tolerance=1e-6, most=500)
    for layer, block in enumerate(blocks):
        eigenvalues = np.linalg.eigvalsh(block)
        assert top.value[layer] == pytest.approx(eigenvalues[np.abs(eigenvalues).argmax()], rel=1e-3)


def test_products_by_inputs_are_those_of_every_row_alone(network: TwoLayers, data: Any) -> None:
    found = derivatives(network, data, "activation")
    assert found.shapes == ((7, 16), (7, 8))
    vectors = [
        np.random.default_rng(layer).standard_normal(shape).astype(np.float32)
        for layer, shape in enumerate(found.shapes)
    ]
    of_images, of_features = found.products([{0: vectors[0]}, {1: vectors[1]}])
    gradients = found.gradient()
    images, labels = torch.cat([inputs for inputs, _ in data]), torch.cat([chosen for _, chosen in data])
    for row in range(7):

        def by_image(pixels: torch.Tensor, row: int = row) -> torch.Tensor:
            return nn.functional.cross_entropy(network(pixels.reshape(1, 1, 4, 4)), labels[row : row + 1])

        def by_features(features: torch.Tensor, row: int = row) -> torch.Tensor:
            return nn.functional.cross_entropy(network.second(features[None]), labels[row : row + 1])

        pixels = images[row].flatten()
        features = torch.tanh(network.norm(network.first(images[row : row + 1]))).flatten()
        for layer, (loss, point, product) in enumerate(
            [(by_image, pixels, of_images[0]), (by_features, features, of_features[1])]
        ):
            expected = torch.func.hessian(loss)(point) @ torch.from_numpy(vectors[layer][row])
            assert product[row] == pytest.approx(expected.numpy(), abs=1e-5)
            assert gradients[layer][row] == pytest.approx(torch.func.grad(loss)(point).numpy(), abs=1e-6)


def test_products_equal_those_of_curvlinops(network: TwoLayers, data: Any) -> None:
    import curvlinops

    weights = [network.first.weight.requires_grad_(), network.second.weight.requires_grad_()]
    operator = curvlinops.HessianLinearOperator(network, nn.CrossEntropyLoss(), weights, data)
    vector = np.random.default_rng(2).standard_normal(42).astype(np.float32)
    expected = (operator @ torch.from_numpy(vector)).detach().numpy()
    found = derivatives(network, data, "weight").products([{0: vector[None, :18], 1: vector[None, 18:]}])[0]
    assert np.concatenate([found[0], found[1]], axis=1)[0] == pytest.approx(expected, abs=1e-5)


def test_charges_by_what_a_product_goes_back_through(network: TwoLayers, data: Any) -> None:
    meter = Meter()
    found = derivatives(network, data, "weight", meter)
    found.gradient()
    assert meter.forward_passes == 3 * 7
    vectors = [np.ones(shape, dtype=np.float32) for shape in found.shapes]
    found.products([{0: vectors[0], 1: vectors[1]}])
    assert meter.forward_passes == 3 * 7 + (3 + 6) * 7
    space = SearchSpace(trace_layers(network, (1, 4, 4)), pins={})
    share = space.layers[1].macs / sum(layer.macs for layer in space.layers)
    assert product_passes(space, [{1: vectors[1]}]) == pytest.approx(6 * share)
    assert product_passes(space, [{0: vectors[0]}]) == pytest.approx(4 + 2 * (1 - share))


def test_a_layer_executed_twice_has_no_derivative_by_its_inputs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(16, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.second(self.first(self.first(images)).flatten(1))
            return logits

    network = Twice().eval().requires_grad_(False)
    with pytest.raises(BitcertError, match="'first' is executed more than once"):
        derivatives(network, [(torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))], "activation")
