"""Tracing layers: published counts, brute force, and a network left as it was found."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from suite.contract import cost
from suite.contract.space import SearchSpace
from suite.errors import BitcertError
from suite.networks import build_network, network_layers, shortcut_ties, trace_layers, untraced_layers

_CIFAR, _IMAGENET = (3, 32, 32), (3, 224, 224)


# Exact rows; 'pins' are the first and the last layer at 8/8.
@pytest.mark.parametrize(
    ("name", "classes", "shape", "macs", "first_and_last", "float_gbops", "w8a8", "w4a4"),
    [
        ("resnet20", 10, _CIFAR, 40_551_040, 443_008, "41.524", "2.5953", "0.6701"),
        ("resnet18", 1000, _IMAGENET, 1_814_073_344, 118_525_952, "1857.61", "116.10", "34.71"),
        ("resnet50", 1000, _IMAGENET, 4_089_184_256, 120_061_952, "4187.32", "261.71", "71.19"),
    ],
)
def test_published_costs_are_reproduced(
    name: str,
    classes: int,
    shape: tuple[int, int, int],
    macs: int,
    first_and_last: int,
    float_gbops: str,
    w8a8: str,
    w4a4: str,
) -> None:
    layers = network_layers(name, classes, shape)
    space = SearchSpace(layers)
    assert sum(layer.macs for layer in layers) == macs
    assert layers[0].macs + layers[-1].macs == first_and_last
    for bops, published in (
        (cost.float_bops(space), float_gbops),
        (cost.bops(space, space.uniform(8)), w8a8),
        (cost.bops(space, space.uniform(4)), w4a4),
    ):
        decimals = len(published.split(".")[1])
        assert f"{bops / 1e9:.{decimals}f}" == published


def test_mobilenet_counts_grouped_convolutions_as_grouped() -> None:
    # 300.8 million MACs: Sandler et al., CVPR 2018, table 4 (300 M)
    layers = trace_layers(build_network("mobilenet_v2", 1000, device="meta"), _IMAGENET)
    assert sum(layer.macs for layer in layers) == 300_774_272
    depthwise = [layer for layer in layers if layer.groups > 1]
    assert len(depthwise) == 17
    assert all(layer.groups == layer.in_channels == layer.out_channels for layer in depthwise)
    assert depthwise[0].macs == 32 * 9 * 112 * 112


def test_meta_and_cpu_networks_give_the_same_layers() -> None:
    for name, channels, shape in (("resnet8", 1, (1, 8, 8)), ("resnet20", 3, _CIFAR)):
        on_meta = trace_layers(build_network(name, 10, channels, device="meta"), shape)
        assert on_meta == trace_layers(build_network(name, 10, channels), shape) == network_layers(name, 10, shape)


def test_layers_come_in_execution_order_with_all_fields() -> None:
    layers = trace_layers(build_network("resnet8", 10, 1), (1, 8, 8))
    assert [layer.name for layer in layers] == [
        "conv1",
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer2.0.conv1",
        "layer2.0.conv2",
        "layer2.0.downsample.0",
        "layer3.0.conv1",
        "layer3.0.conv2",
        "layer3.0.downsample.0",
        "linear",
    ]
    strided = layers[3]
    assert (strided.kind, strided.macs, strided.parameters, strided.biases) == (
        "conv",
        32 * 16 * 9 * 16,
        32 * 16 * 9,
        0,
    )
    assert (strided.in_channels, strided.out_channels, strided.groups) == (16, 32, 1)
    assert (strided.kernel, strided.stride, strided.input_size) == ((3, 3), (2, 2), (8, 8))
    last = layers[-1]
    assert (last.kind, last.macs, last.parameters, last.biases) == ("linear", 640, 640, 10)
    assert (last.in_channels, last.out_channels, last.kernel, last.input_size) == (64, 10, (1, 1), (1, 1))


def _macs_by_counting(convolution: nn.Conv2d, shape: tuple[int, int, int]) -> int:
    """Count MACs one window at a time: the sum of outputs of the all-ones kernel on an unpadded, all-ones image."""
    padding = convolution.padding
    assert isinstance(padding, tuple)
    channels, height, width = shape
    reach = [
        dilation * (kernel - 1) for dilation, kernel in zip(convolution.dilation, convolution.kernel_size, strict=True)
    ]
    windows = 0
    for row in range(-padding[0], height + padding[0] - reach[0], convolution.stride[0]):
        assert row + reach[0] < height + padding[0]
        windows += len(range(-padding[1], width + padding[1] - reach[1], convolution.stride[1]))
    kernel = convolution.kernel_size[0] * convolution.kernel_size[1]
    return windows * kernel * (channels // convolution.groups) * convolution.out_channels


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, (3, 5), stride=(2, 3), padding=(1, 2), bias=False),
        nn.Conv2d(4, 8, 3, groups=4, padding=1),
        nn.Conv2d(4, 8, 3, groups=2, stride=2, bias=False),
        nn.Conv2d(4, 4, 3, dilation=2, padding=2),
        nn.Conv2d(4, 4, (1, 3), dilation=(1, 3), stride=(3, 1)),
    ],
    ids=["plain", "rectangular", "depthwise", "grouped", "dilated", "dilated-strided"],
)
def test_convolutions_of_all_kinds_are_counted(convolution: nn.Conv2d) -> None:
    shape = (4, 11, 13)
    (layer,) = trace_layers(nn.Sequential(convolution), shape)
    assert layer.macs == _macs_by_counting(convolution, shape)
    assert layer.parameters == convolution.weight.numel()
    assert layer.biases == (0 if convolution.bias is None else convolution.out_channels)
    assert (layer.groups, layer.input_size) == (convolution.groups, (11, 13))


class _Shared(nn.Module):
    """Runs one convolution twice, one linear layer on many positions, and never runs another."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)
        self.head = nn.Linear(5, 2)
        self.twice = nn.Conv2d(2, 2, 3, padding=1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.twice(self.twice(images))
        result: torch.Tensor = self.head(self.dropout(features))
        return result


def test_calls_and_positions_add_up_and_idle_layers_are_told() -> None:
    network = _Shared()
    layers = trace_layers(network, (2, 4, 5))
    assert [(layer.name, layer.macs) for layer in layers] == [
        ("twice", 2 * (2 * 2 * 9 * 20)),
        ("head", 5 * 2 * (2 * 4)),
    ]
    assert untraced_layers(network, layers) == ("idle",)


def test_the_network_is_left_as_it_was() -> None:
    network = build_network("resnet8", 10, 1)
    network.train()
    network.get_submodule("layer2").eval()
    before = {name: module.training for name, module in network.named_modules()}
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trace_layers(network, (1, 8, 8))
    assert {name: module.training for name, module in network.named_modules()} == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_failure_removes_the_hooks_and_names_the_shape() -> None:
    network = build_network("resnet8", 10, 1).train()
    with pytest.raises(BitcertError, match=r"cannot take an image of shape \(3, 8, 8\)"):
        trace_layers(network, (3, 8, 8))
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(BitcertError, match="no Conv2d or Linear"):
        trace_layers(nn.Sequential(nn.Flatten(), nn.ReLU()), (1, 2, 2))


@pytest.mark.parametrize(
    ("name", "channels", "shape", "count"),
    [
        ("resnet8", 1, (1, 8, 8), 2),
        ("resnet20", 3, _CIFAR, 0),
        ("resnet18", 3, (3, 64, 64), 3),
        ("resnet50", 3, (3, 64, 64), 4),
    ],
)
def test_tied_layers_are_those_that_read_the_same_tensor(
    name: str, channels: int, shape: tuple[int, int, int], count: int
) -> None:
    network = build_network(name, 10, channels, device="meta")
    layers = trace_layers(network, shape)
    inputs: dict[str, torch.Tensor] = {}
    for layer in layers:

        def keep(module: nn.Module, args: tuple[torch.Tensor, ...], key: str = layer.name) -> None:
            inputs[key] = args[0]

        network.get_submodule(layer.name).register_forward_pre_hook(keep)
    network(torch.zeros((1, *shape), device="meta"))
    readers: dict[int, list[str]] = {}
    for key, tensor in inputs.items():
        readers.setdefault(id(tensor), []).append(key)
    ties = shortcut_ties(layers)
    assert sorted(ties) == sorted(tuple(group) for group in readers.values() if len(group) > 1)
    assert len(ties) == count


def test_ties_make_a_valid_space_with_fewer_variables() -> None:
    layers = trace_layers(build_network("resnet8", 10, 1), (1, 8, 8))
    free, tied = SearchSpace(layers), SearchSpace(layers, ties=shortcut_ties(layers))
    assert len(free.variables) - len(tied.variables) == 4
    assert all(len(group) == 2 for group in shortcut_ties(layers))
    assert all(first != second for first, second in pairwise(shortcut_ties(layers)))
