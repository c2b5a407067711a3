"""Engines: what executes a quantized network, and what its certificates are therefore about."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from suite.errors import BitcertError
from suite.quantize.fixed_point import fixed_point_network, reference_network
from suite.quantize.float_graph import float_network
from suite.quantize.integer import OnnxNetwork, integer_network, onnx_model

Engine = Literal["torch", "integer", "onnx", "fixed-point"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
EXACT_ENGINES: tuple[Engine, ...] = ("integer", "onnx", "fixed-point")
"""Engines whose networks are functions of each image alone, to the last bit."""
RANGED_ENGINES: tuple[Engine, ...] = ("integer", "onnx")
"""Engines that measure ranges on images."""


def check_engine(engine: str, device: torch.device) -> Engine:
    """The engine of a name.

    Raises:
        BitcertError: If there is none, it does not run on the device, or what it needs is not installed.
    """
    for known in ENGINES:
        if engine == known:
            if engine in ("onnx", "fixed-point") and device.type != "cpu":
                raise BitcertError(
                    f"the engine {engine} runs on the CPU, not on {device}; the engine integer runs there"
                )
            if engine == "onnx" and missing_packages():
                raise BitcertError(
                    f"the engine onnx needs {' and '.join(missing_packages())}: pip install 'bitcert[onnx]'"
                )
            return known
    raise BitcertError(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}")


def missing_packages() -> list[str]:
    """What is needed for ONNX and not installed."""
    return [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]


def execute_float(
    network: nn.Module, engine: Engine, batches: Sequence[Tensor], threads: int, levels: int | None
) -> nn.Module:
    """The float network as an engine executes it: ONNX Runtime with ``"onnx"``, 16-bit integers with ``"fixed-point"``, else torch.

    Arguments and errors are those of :func:`execute`.
    """
    if engine == "fixed-point":
        return reference_network(network, batches, _known(levels))
    return float_network(network, batches[0][:2], threads) if engine == "onnx" else network


def execute(
    network: nn.Module, engine: Engine, batches: Sequence[Tensor], threads: int, levels: int | None
) -> nn.Module:
    """The network as an engine executes it.

    Args:
        network: A quantized network, ready for inference.
        engine: ``"torch"`` leaves it as it is: codes in floating point, sums and additions rounded as torch does;
            ``"integer"`` makes an integer network; ``"onnx"`` runs that in ONNX Runtime, with the same logits to the last bit;
            ``"fixed-point"`` makes a fixed-point network, for certificates without noise.
        batches: Noisy images, for the ranges of an integer network, shape ``(images, C, H, W)``.
        threads: Threads of ONNX Runtime; torch has its own setting.
        levels: Images are integers divided by it; None if they are on no such grid.

    Raises:
        BitcertError: If the network has no integer or fixed-point form, or the latter has no levels.
    """
    if engine == "torch":
        return network
    shape = batches[0].shape[1:]
    image_shape = shape[0], shape[1], shape[2]
    if engine == "fixed-point":
        return fixed_point_network(network, image_shape, _known(levels))
    integer = integer_network(network, batches)
    if engine == "integer":
        return integer
    with torch.no_grad():
        classes = integer(batches[0][:1]).shape[1]
    return OnnxNetwork(onnx_model(integer, image_shape, classes), threads)


def _known(levels: int | None) -> int:
    if levels is None:
        raise BitcertError(
            "the engine fixed-point needs images of integers divided by a number of levels, and these state none"
        )
    return levels
