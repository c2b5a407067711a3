"""User networks: how their function is called, and which parts of them bitcert does not quantize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from suite.contract.space import Layer
from suite.errors import BitcertError
from suite.networks.layers import untraced_layers
from suite.networks.spiking import Leak
from suite.plugins import import_target

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
_COMPUTING = ("forward", "_conv_forward")
_FLOPS_PER_MAC = 2


def is_own(name: str) -> bool:
    """Whether the name of a network points to a function, such as ``my_module:build``."""
    return ":" in name


def build_own(name: str) -> nn.Module:
    """Call the function ``MODULE:FUNCTION``; the module may be in the current folder.

    Returns:
        The network in evaluation mode; no module works in place, so that hooks can keep references to tensors.

    Raises:
        BitcertError: If there is no such function, it fails, or it does not return a network.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name or module_name.endswith(".py"):
        raise BitcertError(f"{name!r} names no function; give MODULE:FUNCTION, with the module written without .py")
    try:
        network = import_target(name)()
    except Exception as error:  # a user's code may fail in any way
        raise BitcertError(
            f"the network {name} cannot be built ({type(error).__name__}: {error}); give MODULE:FUNCTION, where the function takes "
            "no arguments and returns a torch.nn.Module"
        ) from error
    if not isinstance(network, nn.Module):
        raise BitcertError(f"{name} returned {type(network).__name__}, not a torch.nn.Module")
    strange = [name for name, tensor in network.named_parameters() if tensor.dtype != torch.float32 or tensor.is_cuda]
    if strange:
        raise BitcertError(f"{name} has parameters that are not 32-bit floats on the CPU, such as {strange[0]}")
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    return network.eval()


def check_layers(network: nn.Module, layers: Sequence[Layer]) -> None:
    """Check that each layer is a plain Conv2d, Linear or Leak, because that is how it is executed once quantized.

    Raises:
        BitcertError: If a layer computes something else, such as weight standardization; such layers are named.
    """
    changed = []
    for layer in layers:
        module = network.get_submodule(layer.name)
        plain = next(kind for kind in (nn.Conv2d, nn.Linear, Leak) if isinstance(module, kind))
        same = all(getattr(type(module), name) is getattr(plain, name) for name in _COMPUTING if hasattr(plain, name))
        if not same or parametrize.is_parametrized(module):
            changed.append(f"{layer.name} ({type(module).__name__})")
    if changed:
        raise BitcertError(
            f"cannot quantize layers that are not plain Conv2d or Linear: {', '.join(changed)}; move what is special about them "
            "into separate modules, or fold it into the weights"
        )


def count_outputs(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Number of logits of a network.

    Raises:
        BitcertError: If it does not return one row of logits per image.
    """
    with torch.no_grad():
        logits = network(torch.zeros(1, *shape))
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 1:
        shown = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise BitcertError(
            f"a network must return logits of shape (images, classes); for one image this one returns {shown}"
        )
    return logits.shape[1]


@dataclass(frozen=True, slots=True)
class Unquantized:
    """What stays in floating point and is not counted in BOPs.

    Attributes:
        layers: Conv2d and Linear modules whose ``forward`` is never called, such as the projections of
            ``nn.MultiheadAttention``.
        parameters: Parameters that belong neither to quantized layers nor to normalization.
        macs: Multiply-accumulates per image outside the quantized layers, such as those of attention scores.
        macs_share: The same as a fraction of all.
    """

    layers: tuple[str, ...]
    parameters: tuple[str, ...]
    macs: int
    macs_share: float

    def __str__(self) -> str:
        """Text for a warning; empty if everything is quantized."""
        named = [*self.layers, *self.parameters]
        told = [f"not quantized and not counted in BOPs: {', '.join(named)}"] if named else []
        if self.macs:
            told.append(
                f"{self.macs_share:.1%} of the multiply-accumulates are outside Conv2d and Linear modules; they stay in floating "
                "point and are not counted in BOPs"
            )
        return "; ".join(told)


def find_unquantized(network: nn.Module, layers: Sequence[Layer], shape: tuple[int, int, int]) -> Unquantized:
    """Find the parts of a network that are not quantized layers, including their multiply-accumulates."""
    bypassed = untraced_layers(network, layers)
    listed = {*(layer.name for layer in layers), *bypassed}
    told = [module for name, module in network.named_modules() if name in listed or isinstance(module, _NORMS)]
    known = {id(parameter) for module in told for parameter in module.parameters(recurse=False)}
    others = tuple(name for name, parameter in network.named_parameters() if id(parameter) not in known)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape))
    every = counter.get_total_flops() // _FLOPS_PER_MAC
    outside = max(0, every - sum(layer.macs for layer in layers))
    return Unquantized(bypassed, others, outside, outside / every)
