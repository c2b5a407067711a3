"""Fixed-point networks in files: JSON, or safetensors with the same description in its metadata.

A file states operations, integers, bits, fractions and rounding; ``docs/deterministic.md`` documents it. Nothing is unpickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from suite.errors import BitcertError, unknown_name
from suite.files import write_bytes, write_text
from suite.quantize.fixed_point.layer import ROUNDINGS, FixedPointLayer, Output, Rounding
from suite.quantize.fixed_point.network import FixedPointNetwork

FORMAT = "bitcert-fixed-point"
OPERATIONS = ("convolution", "linear")
_ENDINGS = (".json", ".safetensors")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Input(_Part):
    shape: list[int]
    levels: int
    fraction: int


class _Output(_Part):
    bits: int
    fraction: int
    signed: bool = False


class _Layer(_Part):
    name: str
    operation: str
    weight_bits: int
    weight_fraction: int
    bias_fraction: int
    output: _Output | None = None
    stride: list[int] = [1, 1]
    padding: list[int] = [0, 0]
    multiplier_fraction: int | None = None
    weight: list[Any] | None = None
    bias: list[Any] | None = None
    multiplier: list[Any] | None = None


class _Network(_Part):
    format: Literal["bitcert-fixed-point"]
    version: Literal[1]
    rounding: str
    input: _Input
    layers: list[_Layer]


def read_fixed_point(path: Path) -> FixedPointNetwork:
    """Read a network from a file that ends in ``.json`` or ``.safetensors``.

    Raises:
        BitcertError: If the file is missing or damaged, states an unknown operation, or holds no network that can be executed
            exactly; the message names the layer.
    """
    if path.suffix not in _ENDINGS:
        raise BitcertError(f"a fixed-point network is read from {' or '.join(_ENDINGS)}, not from {path.name}")
    tensors: dict[str, NDArray[Any]] = {}
    try:
        content: Any = path.read_bytes()
        if path.suffix == ".safetensors":
            tensors = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            content = header.get("__metadata__", {}).get("network", "null")
        description = json.loads(content)
    except FileNotFoundError:
        raise BitcertError(f"there is no network at {path}") from None
    except (SafetensorError, ValueError, RecursionError, AttributeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BitcertError(f"{path} is damaged or not a fixed-point network ({reason})") from error
    try:
        return _build(description, tensors)
    except BitcertError as error:
        raise BitcertError(f"{path}: {error}") from None


def write_fixed_point(network: FixedPointNetwork, path: Path) -> None:
    """Write a network to a file that ends in ``.json`` or ``.safetensors``; :func:`read_fixed_point` gives it back bit for bit.

    Raises:
        BitcertError: If the name has another ending.
        OSError: If the file cannot be written.
    """
    if path.suffix not in _ENDINGS:
        raise BitcertError(f"a fixed-point network is written as {' or '.join(_ENDINGS)}, not as {path.name}")
    inside = path.suffix == ".json"
    description = {
        "format": FORMAT,
        "version": 1,
        "rounding": network.rounding,
        "input": {
            "shape": list(network.image_shape),
            "levels": network.levels,
            "fraction": network.input_fraction,
        },
        "layers": [_describe(layer, inside) for layer in network.layers],
    }
    if inside:
        write_text(path, json.dumps(description) + "\n")
        return
    arrays = {f"{layer.name}.{part}": array for layer in network.layers for part, array in _arrays(layer).items()}
    narrow = {name: array.astype(np.min_scalar_type(-int(np.abs(array).max()) - 1)) for name, array in arrays.items()}
    write_bytes(path, save(narrow, {"network": json.dumps(description)}))


def _describe(layer: FixedPointLayer, inside: bool) -> dict[str, Any]:
    output = layer.output
    described: dict[str, Any] = {
        "name": layer.name,
        "operation": OPERATIONS[not layer.is_convolution],
        "weight_bits": layer.weight_bits,
        "weight_fraction": layer.weight_fraction,
        "bias_fraction": layer.bias_fraction,
        "output": None
        if output is None
        else {"bits": output.bits, "fraction": output.fraction, "signed": output.signed},
    }
    if layer.is_convolution:
        described |= {"stride": list(layer.stride), "padding": list(layer.padding)}
    if layer.multiplier is not None:
        described["multiplier_fraction"] = layer.multiplier_fraction
    return described | ({part: array.tolist() for part, array in _arrays(layer).items()} if inside else {})


def _arrays(layer: FixedPointLayer) -> dict[str, NDArray[np.int64]]:
    parts = {"weight": layer.weight, "bias": layer.bias, "multiplier": layer.multiplier}
    return {part: array for part, array in parts.items() if array is not None}


def _build(description: Any, tensors: dict[str, NDArray[Any]]) -> FixedPointNetwork:
    _check_operations(description)
    try:
        read = _Network.model_validate(description)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BitcertError(f"{where}: {first['msg']}, got {str(first['input'])[:60]!r}") from None
    rounding: Rounding | None = next((known for known in ROUNDINGS if known == read.rounding), None)
    if rounding is None:
        raise unknown_name("rounding", read.rounding, ROUNDINGS)
    names = [layer.name for layer in read.layers]
    if len(set(names)) < len(names):
        raise BitcertError("two layers have the same name")
    shape = read.input.shape
    if len(shape) != 3:
        raise BitcertError(f"the shape of the input is channels, height and width, got {shape}")
    return FixedPointNetwork(
        [_layer(layer, tensors) for layer in read.layers],
        (shape[0], shape[1], shape[2]),
        levels=read.input.levels,
        input_fraction=read.input.fraction,
        rounding=rounding,
    )


def _check_operations(description: Any) -> None:
    """Refuse unknown operations by name before anything else of them is read."""
    layers = description.get("layers") if isinstance(description, dict) else None
    for place, layer in enumerate(layers if isinstance(layers, list) else []):
        operation = layer.get("operation") if isinstance(layer, dict) else None
        if isinstance(operation, str) and operation not in OPERATIONS:
            raise unknown_name(f"operation of layer {layer.get('name', place)!r}", operation, OPERATIONS)


def _layer(read: _Layer, tensors: dict[str, NDArray[Any]]) -> FixedPointLayer:
    weight, bias = (
        _integers(given, tensors, f"{read.name}.{part}")
        for given, part in ((read.weight, "weight"), (read.bias, "bias"))
    )
    multiplier = None
    if read.multiplier_fraction is not None:
        multiplier = _integers(read.multiplier, tensors, f"{read.name}.multiplier")
    elif read.multiplier is not None:
        raise BitcertError(f"layer {read.name!r}: the multiplier_fraction of its multiplier is missing")
    dimensions = 4 if read.operation == "convolution" else 2
    if weight.ndim != dimensions:
        raise BitcertError(f"layer {read.name!r}: the weight of a {read.operation} has {dimensions} dimensions")
    if len(read.stride) != 2 or len(read.padding) != 2:
        raise BitcertError(f"layer {read.name!r}: stride and padding are two numbers each, vertical and horizontal")
    return FixedPointLayer(
        read.name,
        weight,
        bias,
        read.weight_bits,
        read.weight_fraction,
        read.bias_fraction,
        None if read.output is None else Output(read.output.bits, read.output.fraction, read.output.signed),
        (read.stride[0], read.stride[1]),
        (read.padding[0], read.padding[1]),
        multiplier,
        read.multiplier_fraction or 0,
    )


def _integers(given: list[Any] | None, tensors: dict[str, NDArray[Any]], name: str) -> NDArray[np.int64]:
    try:
        array = np.asarray(given) if given is not None else tensors[name]
    except KeyError:
        raise BitcertError(f"{name} is missing") from None
    except (ValueError, OverflowError):
        raise BitcertError(f"{name} is no array: its rows differ in length") from None
    if not np.issubdtype(array.dtype, np.integer) or array.dtype == np.uint64:
        raise BitcertError(f"{name} must hold integers of at most 64 bits, found {array.dtype}")
    return array.astype(np.int64)
