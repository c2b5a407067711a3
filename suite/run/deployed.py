"""Networks as files: an ONNX model that says what it is, and its weights as packed integers."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from suite.data import ImageSplit
from suite.errors import BitcertError
from suite.files import write_bytes, write_text
from suite.quantize.integer import (
    OPSETS,
    QONNX_OPSET,
    IntegerNetwork,
    OnnxNetwork,
    inexact_layers,
    onnx_model,
    pack,
    qonnx_model,
)

if TYPE_CHECKING:
    import onnx

ARITHMETIC = (
    "Integers only. A layer adds integer products and an integer bias; the sum is multiplied by one 32-bit floating-point number "
    "for each channel (input scale x weight scale / output scale), rounded half to even and clipped. Terms of sums have scales "
    "that are powers of two; means divide once; other functions are tables. No result depends on the order of a sum."
)
FORMS: dict[str, tuple[int, ...]] = {"integer": tuple(OPSETS), "qonnx": (QONNX_OPSET,)}
"""What an integer network is written as, with the operator sets of each form; the last one is the default."""
_DESCRIPTION, _CHECKSUM = "bitcert", "bitcert_sha256"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a deployed network.

    Attributes:
        model: The ONNX file.
        packed: Weights at their bits, scales and biases, in the safetensors file.
        weights: The weights alone, each layer rounded up to whole bytes.
    """

    model: int
    packed: int
    weights: int


def write_deployed(
    path: Path,
    network: IntegerNetwork,
    image_shape: tuple[int, int, int],
    description: Mapping[str, Any],
    *,
    form: str = "integer",
    opset: int | None = None,
) -> Sizes:
    """Write an integer network as ``path`` (ONNX), ``.safetensors`` (packed integers) and ``.json`` (the description) beside it.

    The model carries the description and a checksum over both. The JSON has the checksum of the file, for programs that do not
    parse it.

    Args:
        path: The ONNX file.
        network: What is written.
        image_shape: Channels, height and width.
        description: What the network is, JSON-ready.
        form: A key of :data:`FORMS`.
        opset: One of its operator sets; None for its default.

    Raises:
        BitcertError: If the network cannot be written in this form.
        OSError: If the folder cannot be written to.
    """
    from onnx import helper

    if path.suffix != ".onnx":
        raise BitcertError(f"a model is written to a file that ends in .onnx, got {path.name!r}")
    classes = count_logits(network, image_shape)
    opset = FORMS[form][-1] if opset is None else opset
    about: dict[str, Any] = {**description, "arithmetic": ARITHMETIC, "format": form, "opset": opset}
    if form == "qonnx":
        model = qonnx_model(network, image_shape, classes)
        about["rounds_sums_of"] = inexact_layers(network)
    else:
        model = onnx_model(network, image_shape, classes, opset=opset)
    text = json.dumps(about, sort_keys=True, allow_nan=False)
    helper.set_model_props(model, {_DESCRIPTION: text, _CHECKSUM: _checksum(model, text)})
    content = model.SerializeToString(deterministic=True)
    packed, weights = _packed(network)
    sizes = Sizes(len(content), len(packed), weights)
    write_bytes(path, content)
    write_bytes(path.with_suffix(".safetensors"), packed)
    about |= {
        "file": path.name,
        "file_sha256": hashlib.sha256(content).hexdigest(),
        "input": {"name": "images", "shape": ["batch", *image_shape], "unit": "images in [0, 1], noise added"},
        "output": {"name": "logits", "shape": ["batch", classes]},
        "bytes": {"model": sizes.model, "packed": sizes.packed, "weights": sizes.weights},
    }
    write_text(path.with_suffix(".json"), json.dumps(about, indent=2, allow_nan=False) + "\n")
    return sizes


def write_samples(path: Path, split: ImageSplit, count: int) -> None:
    """Write the first images of a split beside a model, as ``.npz`` with ``images`` (in [0, 1]), ``labels`` and ``ids``.

    Raises:
        BitcertError: If the split has fewer images.
    """
    if count > len(split):
        raise BitcertError(f"{count} held-out images asked for, but there are {len(split)}")
    some, stream = split.subset(np.arange(count)), io.BytesIO()
    np.savez_compressed(stream, images=some.images().numpy(), labels=some.labels, ids=some.ids)
    write_bytes(path.with_suffix(".npz"), stream.getvalue())


def read_deployed(path: Path, threads: int = 1) -> tuple[OnnxNetwork, dict[str, Any]]:
    """Read what :func:`write_deployed` wrote: the network, run by ONNX Runtime, and its description.

    Raises:
        BitcertError: If it is not such a model, or was changed since.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise BitcertError(f"no ONNX model can be read from {str(path)!r}: {error}") from None
    properties = {entry.key: entry.value for entry in model.metadata_props}
    if not properties.keys() >= {_DESCRIPTION, _CHECKSUM}:
        raise BitcertError(f"{str(path)!r} is no model that bitcert exported: it does not say what it is")
    if properties[_CHECKSUM] != _checksum(model, properties[_DESCRIPTION]):
        raise BitcertError(f"{str(path)!r} was changed after it was exported: its checksum is wrong; export it again")
    description: dict[str, Any] = json.loads(properties[_DESCRIPTION])
    if description["format"] != "integer":
        raise BitcertError(
            f"{str(path)!r} is a {description['format']} graph, which ONNX Runtime does not execute; export the same policy "
            "with --format integer, which computes the same logits, and certify that"
        )
    return OnnxNetwork(model, threads), description


def count_logits(network: IntegerNetwork, image_shape: tuple[int, int, int]) -> int:
    """Number of logits of a network."""
    device = next(network.buffers()).device
    return int(network(torch.zeros(1, *image_shape, device=device)).shape[1])


def _checksum(model: onnx.ModelProto, text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8"))
    digest.update(repr(sorted((found.domain, found.version) for found in model.opset_import)).encode())
    digest.update(model.graph.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _packed(network: IntegerNetwork) -> tuple[bytes, int]:
    """All layers as safetensors, and the bytes of the weights alone."""
    from safetensors.torch import save

    tensors, about, total = {}, {}, 0
    for layer in {layer.name: layer for layer in network.layers()}.values():  # once, however often it is called
        integers = layer.weight.cpu().numpy().astype(np.int64)
        bits = bits_of(integers)
        codes = pack(integers, bits)
        total += len(codes)
        tensors[f"{layer.name}.weight"] = torch.from_numpy(codes)
        tensors[f"{layer.name}.scale"] = layer.weight_scale.cpu().contiguous()
        tensors[f"{layer.name}.bias"] = layer.bias.cpu().to(torch.int32)
        about[f"{layer.name}.weight"] = json.dumps({"bits": bits, "shape": list(integers.shape)})
    return save(tensors, about), total


def bits_of(integers: NDArray[np.int64]) -> int:
    """Fewest bits of a two's complement that hold all integers."""
    return max(int(integers.max()), -int(integers.min()) - 1).bit_length() + 1
