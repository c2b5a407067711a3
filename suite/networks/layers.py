"""The layers of a network in execution order, found by tracing one image through it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from suite.contract.space import Layer
from suite.errors import BitcertError
from suite.networks.spiking import Leak

# PyTorch's fused transformer layers bypass their modules, which could then be neither traced nor quantized.
torch.backends.mha.set_fastpath_enabled(False)

_SHORTCUT, _FIRST_CONVOLUTION = ".downsample.0", ".conv1"


def trace_layers(network: nn.Module, shape: tuple[int, int, int]) -> tuple[Layer, ...]:
    """Find every Conv2d, Linear and Leak that a forward pass executes, in order of first execution, with its cost.

    MACs are counted from the outputs that the layer actually produces, so they are exact for strides, dilation, groups and any
    padding; repeated calls of a module add up. One image passes in eval mode without gradients, then the training flags are
    restored. The network may be on the meta device.

    Args:
        network: The network.
        shape: Channels, height and width of an image.

    Raises:
        BitcertError: If the network does not accept such an image, or executes no Conv2d or Linear.
    """
    calls: dict[nn.Module, list[tuple[torch.Size, torch.Size]]] = {}

    def record(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if not inputs:
            raise BitcertError(
                "a layer is called with its input as a keyword argument; pass it as the first positional argument"
            )
        calls.setdefault(module, []).append((inputs[0].shape, output.shape))

    training = {module: module.training for module in network.modules()}
    hooks = [module.register_forward_hook(record) for module in training if _is_layer(module)]
    some = next(network.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            network.eval()(torch.zeros((1, *shape), device=some.device, dtype=some.dtype))
    except BitcertError:
        raise
    except Exception as error:  # a user's network may fail in any way
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise BitcertError(f"the network cannot take an image of shape {shape}: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, flag in training.items():
            module.training = flag
    if not calls:
        raise BitcertError("the network executes no Conv2d or Linear module, and bitcert quantizes no others")
    names = {module: name for name, module in network.named_modules()}
    return tuple(_describe(names[module], module, seen) for module, seen in calls.items())


def untraced_layers(network: nn.Module, layers: Sequence[Layer]) -> tuple[str, ...]:
    """Names of the Conv2d and Linear modules that are not among the traced layers: the forward pass bypasses them."""
    traced = {layer.name for layer in layers}
    return tuple(name for name, module in network.named_modules() if _is_layer(module) and name not in traced)


def shortcut_ties(layers: Sequence[Layer]) -> tuple[tuple[str, ...], ...]:
    """Pair each block's first convolution with its 1x1 shortcut: both read the same input (HAWQ-v3, Yao et al. 2021).

    Relies on torchvision's names, ``BLOCK.conv1`` and ``BLOCK.downsample.0``. The result fits ``SearchSpace(ties=...)``.
    """
    names = {layer.name for layer in layers}
    blocks = [layer.name.removesuffix(_SHORTCUT) for layer in layers if layer.name.endswith(_SHORTCUT)]
    pairs = ((block + _FIRST_CONVOLUTION, block + _SHORTCUT) for block in blocks)
    return tuple(pair for pair in pairs if pair[0] in names)


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear | Leak)


def _describe(name: str, module: nn.Module, calls: Sequence[tuple[torch.Size, torch.Size]]) -> Layer:
    assert isinstance(module, nn.Conv2d | nn.Linear | Leak)
    macs = sum(output.numel() for _, output in calls) * module.weight[0].numel()
    parameters = module.weight.numel()
    biases = 0 if module.bias is None else module.bias.numel()
    if isinstance(module, Leak):
        return Layer(name, "state", macs, parameters, biases, parameters, parameters)
    if isinstance(module, nn.Linear):
        return Layer(name, "linear", macs, parameters, biases, module.in_features, module.out_features)
    return Layer(
        name=name,
        kind="conv",
        macs=macs,
        parameters=parameters,
        biases=biases,
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        kernel=(module.kernel_size[0], module.kernel_size[1]),
        stride=(module.stride[0], module.stride[1]),
        groups=module.groups,
        input_size=(calls[0][0][-2], calls[0][0][-1]),
    )
