"""Engines: what executes a quantized network, and what its certificates are therefore about."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from suite.errors import BitcertError
from suite.quantize.float_graph import float_network
from suite.quantize.integer import OnnxNetwork, integer_network, onnx_model

Engine = Literal["torch", "integer", "onnx"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


def check_engine(engine: str, device: torch.device) -> Engine:
    """The engine of a name.

    Raises:
        BitcertError: If there is none, it does not run on the device, or what it needs is not installed.
    """
    for known in ENGINES:
        if engine == known:
            if engine == "onnx" and device.type != "cpu":
                raise BitcertError(
                    f"the engine onnx runs on the CPU, not on {device}; the engine integer gives the same logits"
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


def execute_float(network: nn.Module, engine: Engine, images: Tensor, threads: int) -> nn.Module:
    """The float network as an engine executes it: ONNX Runtime with ``"onnx"``, else torch.

    Arguments and errors are those of :func:`.float_graph.float_network`.
    """
    return float_network(network, images, threads) if engine == "onnx" else network


def execute(
    network: nn.Module, engine: Engine, batches: Sequence[Tensor] | Iterable[Tensor], threads: int
) -> nn.Module:
    """The network as an engine executes it.

    Args:
        network: A quantized network, ready for inference.
        engine: ``"torch"`` leaves it as it is: codes in floating point, sums and additions rounded as torch does;
            ``"integer"`` makes an integer network; ``"onnx"`` runs that in ONNX Runtime, with the same logits to the last bit.
        batches: Noisy images, for the ranges of an integer network.
        threads: Threads of ONNX Runtime; torch has its own setting.

    Raises:
        BitcertError: If the network has no integer form.
    """
    if engine == "torch":
        return network
    kept = list(batches)
    integer = integer_network(network, kept)
    if engine == "integer":
        return integer
    with torch.no_grad():
        classes = integer(kept[0][:1]).shape[1]
    shape = kept[0].shape
    return OnnxNetwork(onnx_model(integer, (shape[1], shape[2], shape[3]), classes), threads)
