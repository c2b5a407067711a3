"""Interval bounds against random points of their boxes and an independent propagation, and what networks they refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from suite.contract.space import Policy
from suite.data import load_dataset
from suite.errors import BitcertError
from suite.networks import build_network, trace_layers
from suite.quantize import QuantizedNetwork, Scheme, TrainableNetwork, calibrate
from suite.train.interval import Bounds, IntervalNetwork, box, certified_share

SHAPES = {"mlp-digits": (1, 8, 8), "convnet-mnist": (1, 28, 28), "resnet8": (1, 8, 8)}
POINTS = {"mlp-digits": 3000, "convnet-mnist": 250, "resnet8": 500}
MIXED = ([8, 3, 2, 4, 8], [8, 2, 4, 3, 8])
LOWEST = ([4, 1, 2, 1, 2], [2, 1, 3, 2, 2])


def lively(name: str, seed: int = 0) -> nn.Module:
    """A network whose logits differ, with biases and running statistics, in double precision."""
    network = build_network(name, 10, 1, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if key.endswith(("bias", "running_mean")):
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
            elif key.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.ndim == 2:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * tensor.shape[1] ** -0.5)
            elif tensor.ndim == 1 and key.endswith("weight"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return network.double()


def quantized(
    network: nn.Module, policy: tuple[Sequence[int], Sequence[int]], scheme: Scheme | None, name: str
) -> nn.Module:
    """As executed (None), or as finetuned by a scheme."""
    layers = trace_layers(network, SHAPES[name])
    images = torch.rand((64, *SHAPES[name]), generator=torch.Generator().manual_seed(1)).double()
    calibration = calibrate(network, [layer.name for layer in layers], [images])
    chosen = Policy.from_bits(*policy)
    if scheme is not None:
        return TrainableNetwork(network, layers, chosen, calibration, scheme).double().eval()
    executed = QuantizedNetwork(network, layers, calibration)
    executed.set_policy(chosen)
    return executed


def images_of(name: str, count: int = 4) -> Tensor:
    return torch.rand((count, *SHAPES[name]), generator=torch.Generator().manual_seed(2)).double()


def points_of(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Corners, points of the sides and points inside of each box, shape ``(count, boxes, C, H, W)``."""
    shares = torch.rand((count, *low.shape), generator=torch.Generator().manual_seed(3)).double()
    shares[: count // 3] = shares[: count // 3].round()
    shares[count // 3 : count // 2] = (2 * shares[count // 3 : count // 2] - 0.5).clamp(0, 1)
    points: Tensor = low + shares * (high - low)
    return points


@torch.no_grad()
def least_margins(network: nn.Module, low: Tensor, high: Tensor, labels: Tensor, count: int) -> Tensor:
    """Least differences of logits found in the boxes, infinite for the label itself."""
    logits = network(points_of(low, high, count).flatten(0, 1)).unflatten(0, (count, len(low)))
    differences = logits.gather(2, labels.expand(count, -1)[:, :, None]) - logits
    least: Tensor = differences.amin(dim=0).scatter(1, labels[:, None], torch.inf)
    return least


def bounds_of(network: nn.Module, images: Tensor, radius: float, labels: Tensor | None = None) -> Bounds:
    chosen = torch.arange(len(images)) if labels is None else labels
    with torch.no_grad():
        return IntervalNetwork(network)(*box(images, radius), chosen)


@pytest.mark.parametrize("radius", [0.02, 0.3])
@pytest.mark.parametrize("name", SHAPES)
def test_bounds_hold_for_thousands_of_points_of_float_networks(name: str, radius: float) -> None:
    network, images, labels = lively(name), images_of(name), torch.tensor([0, 3, 9, 3])
    found = least_margins(network, *box(images, radius), labels, POINTS[name])
    assert (bounds_of(network, images, radius, labels).margins <= found + 1e-9).all()


def test_bounds_of_a_single_layer_are_attained_at_a_corner() -> None:
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double(), torch.rand(1, 1, 2, 2).double()
    low, high = box(images, 0.2)
    corners = torch.cartesian_prod(*torch.stack([low, high]).flatten(1).T).reshape(-1, 1, 1, 2, 2)
    with torch.no_grad():
        logits = network(corners.flatten(0, 1))
    expected = (logits[:, [1]] - logits).amin(dim=0)
    found = bounds_of(network, images, 0.2, torch.tensor([1])).margins[0]
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("scheme", [None, "lsq", "pact", "dorefa", "fixed", "fatnn"])
@pytest.mark.parametrize("policy", [MIXED, LOWEST])
def test_bounds_hold_for_points_of_quantized_networks(
    policy: tuple[list[int], list[int]], scheme: Scheme | None
) -> None:
    images, labels = images_of("mlp-digits"), torch.tensor([0, 3, 9, 3])
    network = quantized(lively("mlp-digits"), policy, scheme, "mlp-digits")
    for radius in (0.01, 0.1):
        found = least_margins(network, *box(images, radius), labels, 1000)
        assert (bounds_of(network, images, radius, labels).margins <= found + 1e-9).all()


def test_bounds_hold_for_convolutions_that_are_quantized() -> None:
    images, labels = images_of("convnet-mnist"), torch.tensor([0, 3, 9, 3])
    network = quantized(lively("convnet-mnist"), MIXED, None, "convnet-mnist")
    found = least_margins(network, *box(images, 0.03), labels, 500)
    assert (bounds_of(network, images, 0.03, labels).margins <= found + 1e-9).all()


def by_signs(
    network: nn.Module, low: np.ndarray, high: np.ndarray, labels: Sequence[int], mixed_up: int | None = None
) -> np.ndarray:
    """``W+ l + W- u`` for a multilayer perceptron, in numpy; in one of the layers, the two parts may be mixed up."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    low, high = low.reshape(len(low), -1), high.reshape(len(high), -1)

    def lower(weight: np.ndarray, least: np.ndarray, largest: np.ndarray) -> np.ndarray:
        return np.asarray(least @ np.maximum(weight, 0).T + largest @ np.minimum(weight, 0).T)

    for number, layer in enumerate(layers[:-1]):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        low, high = (high, low) if number == mixed_up else (low, high)
        low, high = lower(weight, low, high) + bias, -lower(-weight, low, high) + bias
        low, high = np.maximum(low, 0), np.maximum(high, 0)
    weight, bias = layers[-1].weight.detach().numpy(), layers[-1].bias.detach().numpy()
    low, high = (high, low) if mixed_up == len(layers) - 1 else (low, high)
    rows = [lower(weight[y] - weight, low[[i]], high[[i]])[0] + bias[y] - bias for i, y in enumerate(labels)]
    margins = np.array(rows)
    margins[np.arange(len(labels)), labels] = np.inf
    return margins


def test_bounds_are_those_of_positive_and_negative_weights_and_mixing_them_up_shows() -> None:
    network, images, labels = lively("mlp-digits"), images_of("mlp-digits"), torch.tensor([0, 3, 9, 3])
    low, high = box(images, 0.05)
    expected = by_signs(network, low.numpy(), high.numpy(), labels.tolist())
    np.testing.assert_allclose(bounds_of(network, images, 0.05, labels).margins, expected, atol=1e-9)
    found = least_margins(network, low, high, labels, 500).numpy()
    assert (expected <= found).all()
    for layer in range(4):
        assert not (by_signs(network, low.numpy(), high.numpy(), labels.tolist(), layer) <= found).all()


@pytest.mark.parametrize("scheme", [None, "lsq"])
def test_without_radius_they_are_the_network_itself(scheme: Scheme | None) -> None:
    name, labels = "mlp-digits", torch.tensor([0, 3, 9, 3])
    for network in (lively(name), quantized(lively(name), MIXED, scheme, name)):
        found = bounds_of(network, images_of(name), 0.0, labels)
        with torch.no_grad():
            logits = network(images_of(name))
        expected = (logits.gather(1, labels[:, None]) - logits).scatter(1, labels[:, None], torch.inf)
        torch.testing.assert_close(found.margins, expected, rtol=0, atol=1e-9)
        assert float(found.width) == 0


@pytest.mark.parametrize("policy", [None, MIXED])
def test_larger_boxes_have_wider_layers_and_smaller_margins(policy: tuple[list[int], list[int]] | None) -> None:
    network = lively("mlp-digits")
    network = network if policy is None else quantized(network, policy, "lsq", "mlp-digits")
    bounds = [bounds_of(network, images_of("mlp-digits"), radius) for radius in (0.0, 0.01, 0.05, 0.1, 0.3, 1.0)]
    widths = [float(found.width) for found in bounds]
    assert widths == sorted(widths)
    assert widths[0] < widths[2] < widths[4]
    for smaller, larger in pairwise(bounds):
        assert (larger.margins <= smaller.margins + 1e-9).all()


def test_gradients_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(4)
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    images, labels = torch.rand(3, 4, generator=generator).double(), torch.tensor([0, 2, 1])
    others = torch.nn.functional.one_hot(labels, 3) == 0

    def outcome(*parameters: Tensor) -> Tensor:
        for module, (weight, bias) in zip((network[0], network[2]), (parameters[:2], parameters[2:]), strict=True):
            del module.weight, module.bias
            module.weight, module.bias = weight, bias
        found = IntervalNetwork(network)(*box(images, 0.1), labels)
        return torch.cat([found.margins[others], found.width[None]])

    shapes = [parameter.shape for parameter in network.parameters()]
    drawn = [torch.randn(shape, generator=generator).double().requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(outcome, drawn, eps=1e-6, atol=1e-6)


def test_gradients_reach_masters_and_steps_of_a_quantized_network() -> None:
    network = quantized(lively("mlp-digits"), MIXED, "lsq", "mlp-digits")
    found = IntervalNetwork(network)(*box(images_of("mlp-digits"), 0.01), torch.arange(4))
    (found.margins[found.margins.isfinite()].mean() + found.width).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name.endswith("bias"), name


class Branching(nn.Module):
    """Depends on its input in a way that cannot be traced."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)), r"cannot pass 1 \(Sigmoid\)"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "ends in a linear layer"),
        (lambda: nn.Sequential(Branching(), nn.Linear(4, 2)), "cannot trace"),
        (lambda: build_network("resnet20", 10), "cannot pass "),
    ],
)
def test_networks_without_bounds_are_refused_by_name(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        IntervalNetwork(make())


def test_what_is_random_or_depends_on_other_images_is_refused_in_training() -> None:
    images, labels = images_of("resnet8").float(), torch.arange(4)
    bounds = IntervalNetwork(build_network("resnet8", 10, 1).train())
    with pytest.raises(BitcertError, match=r"cannot pass bn1 \(BatchNorm2d in training mode\).*mlp-digits"):
        bounds(*box(images, 0.1), labels)
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    with pytest.raises(BitcertError, match=r"cannot pass 1 \(Dropout in training mode\)"):
        IntervalNetwork(dropping.train())(*box(images, 0.1), labels)
    assert IntervalNetwork(dropping.eval())(*box(images, 0.1), labels).margins.shape == (4, 10)


def test_without_radius_the_certified_share_is_the_accuracy() -> None:
    split, network = load_dataset("digits").splits["search"].subset(range(60)), build_network("mlp-digits", 10, 1)
    with torch.no_grad():
        accuracy = (network(split.images()).argmax(dim=1).numpy() == split.labels).mean()
    assert certified_share(network, split, 0.0, batch=13) == pytest.approx(accuracy)
    assert certified_share(network, split, 1.0) <= accuracy
