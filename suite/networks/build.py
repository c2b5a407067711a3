"""Networks by name, with weights initialized from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import nn

from suite.contract.space import Layer
from suite.errors import BitcertError, unknown_name
from suite.networks.feedforward import FEEDFORWARD
from suite.networks.layers import trace_layers
from suite.networks.orthogonal import ConstrainedLinear
from suite.networks.own import build_own, is_own
from suite.networks.recurrent import RECURRENT
from suite.networks.residual import ResidualNetwork, Shortcut
from suite.networks.spiking import SPIKING

Statistics = Sequence[float]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_GRAY = ((0.5,), (0.5,))


_SMALL: Mapping[str, tuple[int, Shortcut, int]] = {
    "resnet8": (1, "projection", 1),
    "resnet8-wide2": (1, "projection", 2),
    "resnet20": (3, "padding", 1),
    "resnet20-wide2": (3, "padding", 2),
    "resnet32": (5, "padding", 1),
    "resnet56": (9, "padding", 1),
}
"""Blocks per stage, the shortcut, and the width of the blocks."""

_LARGE = ("resnet18", "resnet50", "mobilenet_v2")
_SEQUENTIAL = {**RECURRENT, **SPIKING}
GRAYSCALE = (*FEEDFORWARD, *_SEQUENTIAL)
NETWORKS = (*_SMALL, *GRAYSCALE, "mobilenet_v2-half", *_LARGE)


def build_network(
    name: str,
    classes: int,
    channels: int = 3,
    *,
    mean: Statistics | None = None,
    std: Statistics | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> nn.Module:
    """Build a network from images in [0, 1] to logits, in eval mode, with normalization inside.

    No module works in place, so that hooks can keep references to tensors.

    Args:
        name: ``"resnet8"`` (the digits network: 1x1 shortcuts), ``"resnet20"``, ``"resnet32"``, ``"resnet56"`` (CIFAR,
            padding shortcuts), ``"resnet8-wide2"`` and ``"resnet20-wide2"`` (twice the channels in all blocks),
            ``"mlp-digits"`` and ``"convnet-mnist"`` (see :mod:`.feedforward`; they do not normalize), ``"rnn-digits-permuted"``,
            ``"hadamard-digits-permuted"`` and ``"rnn-mnist-rows"`` (see :mod:`.recurrent`),
            ``"spiking-digits"``, ``"spiking-digits-traces"`` and ``"spiking-mnist"`` (see :mod:`.spiking`),
            ``"mobilenet_v2-half"`` (CIFAR, width 0.5), torchvision's ``"resnet18"``, ``"resnet50"``, ``"mobilenet_v2"``, or
            your own function, ``"my_module:build"``, for which the other arguments are ignored.
        classes: Number of classes.
        channels: Channels of an image, 1 or 3; MobileNetV2 and torchvision's networks take 3, feed-forward and
            recurrent ones 1.
        mean: Normalization, one number per channel. The default is ImageNet's statistics for torchvision's networks,
            CIFAR-10's for the others, and 0.5 for grayscale images.
        std: Standard deviations, likewise.
        seed: Seed of the weights.
        device: Device of the network; on ``"meta"`` it has shapes but no weights and takes no memory.

    Raises:
        BitcertError: If the name is unknown, the network does not take such channels, or the normalization does not match them.
    """
    if is_own(name):
        return build_own(name).to(device)
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS)
    taken = (1, 3) if name in _SMALL else (1,) if name in GRAYSCALE else (3,)
    if channels not in taken:
        raise BitcertError(f"{name} takes images with {' or '.join(map(str, taken))} channels, got {channels}")
    if name in FEEDFORWARD and (mean or std):
        raise BitcertError(f"{name} does not normalize images; leave mean and std out")
    usual_mean, usual_std = _IMAGENET if name in _LARGE else _CIFAR if channels == 3 else _GRAY
    mean, std = mean or usual_mean, std or usual_std
    if len(mean) != channels:
        raise BitcertError(
            f"{name} with {channels} channels needs as many means and standard deviations, got {list(mean)}"
        )
    with torch.random.fork_rng(devices=[]), torch.device(device):
        if name in _SMALL:
            blocks, shortcut, width = _SMALL[name]
            network: nn.Module = ResidualNetwork(blocks, classes, mean, std, shortcut, width)
        elif name in FEEDFORWARD:
            network = FEEDFORWARD[name](classes)
        elif name in _SEQUENTIAL:
            network = _SEQUENTIAL[name](classes, mean, std)
        else:
            from suite.networks.from_torchvision import build_from_torchvision

            network = build_from_torchvision(name, classes, mean, std)
    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False
    if device != "meta":
        initialize(network, seed)
    return network.eval()


def network_layers(name: str, classes: int, shape: tuple[int, int, int]) -> tuple[Layer, ...]:
    """Layers of a network by name, in execution order; large networks are traced without weights.

    The arguments are those of :func:`build_network`, with channels, height and width of an image as ``shape``.

    Raises:
        BitcertError: If the name is unknown, or the network does not accept such an image.
    """
    if is_own(name):  # its code may change
        return trace_layers(build_own(name), shape)
    return _included_layers(name, classes, shape)


@cache
def _included_layers(name: str, classes: int, shape: tuple[int, int, int]) -> tuple[Layer, ...]:
    """Torchvision's networks are traced on the meta device.

    The small ones are not: the first convolution on that device makes PyTorch import so much code that it takes a hundred
    times longer than running them.
    """
    return trace_layers(build_network(name, classes, shape[0], device="meta" if name in _LARGE else "cpu"), shape)


def initialize(network: nn.Module, seed: int) -> None:
    """Reinitialize all weights, as a function of the seed alone.

    Convolutions are normal with variance 2 / fan-out, the last linear layer normal with standard deviation 0.01, biases zero (He
    et al., ICCV 2015; torchvision's defaults); batch norms start at the identity. Linear layers before the last one have variance
    2 / fan-in: with 0.01, nothing would reach the end of a network without batch norm. Constrained weights are drawn from
    their set.

    Raises:
        BitcertError: If another kind of module has parameters, whose weights would not come from the seed.
    """
    generator = torch.Generator().manual_seed(seed)
    last = next((module for module in reversed(list(network.modules())) if isinstance(module, nn.Linear)), None)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, ConstrainedLinear):
            module.initialize(generator)
        elif isinstance(module, nn.Linear) and module is not last:
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
        elif next(module.parameters(recurse=False), None) is not None:
            kind = type(module).__name__
            raise BitcertError(
                f"{name or 'the network'} is a {kind}; only Conv2d, Linear and batch norm can be initialized from a seed"
            )
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
