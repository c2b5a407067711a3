"""An integer network as a QONNX graph, which states bit widths for which ONNX has no types.

Every value is a 32-bit float that holds an integer code, as in :mod:`.operations`. ``IntQuant`` nodes with scale 1 round and clip,
and say how many bits a value has; ``BipolarQuant`` nodes say so of -1 and 1. Scales are nodes of their own.

References:
    Pappalardo et al., QONNX: Representing Arbitrary-Precision Quantized Neural Networks, arXiv 2206.07527; the operators are
    specified at https://github.com/fastmachinelearning/qonnx, version 1 of ``qonnx.custom_op.general``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from suite.quantize.integer.codes import Coding
from suite.quantize.integer.network import IntegerNetwork
from suite.quantize.integer.onnx_nodes import Nodes, array, assemble, window_of, write_steps
from suite.quantize.integer.operations import (
    EXACT_IN_FLOAT32,
    Accumulate,
    Add,
    Clip,
    Decode,
    Encode,
    LookUp,
    Multiply,
    Operation,
    Pool,
    Real,
    Rearrange,
    Recode,
)

if TYPE_CHECKING:
    import onnx

QONNX_OPSET = 13
"""Standard operator set of the nodes that are no quantizers."""
_DOMAIN, _DOMAIN_VERSION, _IR_VERSION = "qonnx.custom_op.general", 1, 8


def qonnx_model(
    network: IntegerNetwork, image_shape: tuple[int, int, int], classes: int, *, metadata: Mapping[str, str] = {}
) -> onnx.ModelProto:
    """Write an integer network as a QONNX model; input and output as for :func:`.onnx_graph.onnx_model`.

    It gives the logits of the integer network to the last bit, in any program whose 32-bit floating-point operations round
    correctly, as long as no sum leaves the integers that 32-bit floats hold; :func:`inexact_layers` names layers where one may.

    Raises:
        BitcertError: If a layer pads with anything but zeros.
    """
    writer = _Writer()
    write_steps(network, writer.write)
    return assemble(
        writer.nodes, image_shape, classes, {"": QONNX_OPSET, _DOMAIN: _DOMAIN_VERSION}, _IR_VERSION, metadata
    )


def inexact_layers(network: IntegerNetwork) -> list[str]:
    """Layers whose sums may exceed 24 bits, so that 32-bit floats round them."""
    return [layer.name for layer in network.layers() if layer.accumulator_bound >= EXACT_IN_FLOAT32]


class _Writer:
    """Writes operations one by one."""

    def __init__(self) -> None:
        self.nodes = Nodes()
        self.node, self.constant, self.scale = self.nodes.node, self.nodes.constant, self.nodes.scale

    def write(self, operation: Operation, inputs: list[str], output: str) -> None:
        """Append an operation."""
        _WRITERS[type(operation)](self, operation, inputs, output)

    def quantize(self, name: str, coding: Coding, output: str) -> None:
        """Round to the codes of a coding."""
        bits, signed, narrow = _bits(coding.low, coding.high)
        if (coding.low, coding.high) != _range(bits, signed, narrow):
            limits = [self.scale(limit) for limit in (coding.low, coding.high)]
            name = self.node("Clip", [name, *limits], f"{output}_limited")
        self._int_quant(name, bits, signed, narrow, output)

    def state(self, name: str, integers: np.ndarray[Any, Any], output: str) -> str:
        """Say how many bits integers have that are known."""
        if set(np.unique(integers)) <= {-1, 1}:
            return self.node("BipolarQuant", [name, self.scale(1.0)], output, domain=_DOMAIN)
        bits, signed, narrow = _bits(int(integers.min()), int(integers.max()))
        return self._int_quant(name, bits, signed, narrow, output)

    def accumulate(self, operation: Accumulate, inputs: list[str], output: str) -> None:
        """A layer."""
        integers = array(operation.weight).astype(np.float32)
        bias = array(operation.bias).astype(np.float32)
        convolution = isinstance(operation.layer, nn.Conv2d)
        weight = self.state(self.constant(integers, "float32"), integers, f"{output}_weight")
        if convolution:
            product = self.node("Conv", [inputs[0], weight], f"{output}_product", **window_of(operation))
        else:
            turned = self.node("Transpose", [weight], f"{output}_turned", perm=[1, 0])
            product = self.node("MatMul", [inputs[0], turned], f"{output}_product")
        shape = (1, -1, 1, 1) if convolution else (-1,)
        total = self.node("Add", [product, self.constant(bias.reshape(shape), "float32")], f"{output}_sum")
        self.scaled(total, self.constant(array(operation.multiplier), "float32"), operation.coding, output)

    def scaled(self, name: str, factor: str, coding: Coding | None, output: str) -> None:
        """Multiply, and round to a coding if there is one."""
        if coding is None:
            self.node("Mul", [name, factor], output)
        else:
            self.quantize(self.node("Mul", [name, factor], f"{output}_scaled"), coding, output)

    def _int_quant(self, name: str, bits: int, signed: bool, narrow: bool, output: str) -> str:
        numbers = [self.scale(1.0), self.scale(0.0), self.scale(bits)]
        how = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND"}
        return self.node("IntQuant", [name, *numbers], output, domain=_DOMAIN, **how)


def _range(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Least and greatest integer of an ``IntQuant``."""
    if signed:
        return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - narrow


def _bits(low: int, high: int) -> tuple[int, bool, bool]:
    """The smallest ``IntQuant`` that holds integers: bits, signed, narrow.

    At least 2 bits where there is a sign: the operator excludes bipolar numbers.
    """
    if low >= 0:
        bits = max(1, high.bit_length())
        return bits, False, bits > 1 and high <= 2**bits - 2
    bits = max(2, high.bit_length() + 1, (-low - 1).bit_length() + 1)
    return bits, True, -low < 2 ** (bits - 1)


def _write_real(writer: _Writer, operation: Real, inputs: list[str], output: str) -> None:
    writer.node(operation.name, [inputs[0], writer.constant(array(operation.constant), "float32")], output)


def _write_encode(writer: _Writer, operation: Encode, inputs: list[str], output: str) -> None:
    divided = writer.node("Div", [inputs[0], writer.scale(operation.coding.scale)], f"{output}_divided")
    writer.quantize(divided, operation.coding, output)


def _write_recode(writer: _Writer, operation: Recode, inputs: list[str], output: str) -> None:
    number = writer.node("Mul", [inputs[0], writer.scale(operation.given.scale)], f"{output}_number")
    divided = writer.node("Div", [number, writer.scale(operation.coding.scale)], f"{output}_divided")
    writer.quantize(divided, operation.coding, output)


def _write_decode(writer: _Writer, operation: Decode, inputs: list[str], output: str) -> None:
    writer.node("Mul", [inputs[0], writer.scale(operation.given.scale)], output)


def _write_add(writer: _Writer, operation: Add, inputs: list[str], output: str) -> None:
    terms = [
        writer.node("Mul", [name, writer.scale(given.scale)], f"{output}_term{place}")
        for place, (name, given) in enumerate(zip(inputs, operation.given, strict=True))
    ]
    total = writer.node("Add", terms, f"{output}_sum")
    divided = writer.node("Div", [total, writer.scale(operation.coding.scale)], f"{output}_divided")
    writer.quantize(divided, operation.coding, output)


def _write_multiply(writer: _Writer, operation: Multiply, inputs: list[str], output: str) -> None:
    product = writer.node("Mul", inputs, f"{output}_product")
    writer.scaled(product, writer.scale(float(operation.multiplier)), operation.coding, output)


def _write_pool(writer: _Writer, operation: Pool, inputs: list[str], output: str) -> None:
    axes = writer.constant(operation.axes, "int64")
    total = writer.node("ReduceSum", [inputs[0], axes], f"{output}_total", keepdims=int(operation.keep))
    writer.scaled(total, writer.scale(float(operation.multiplier)), operation.coding, output)


def _write_look_up(writer: _Writer, operation: LookUp, inputs: list[str], output: str) -> None:
    index = writer.node("Sub", [inputs[0], writer.scale(operation.given.low)], f"{output}_offset")
    index = writer.node("Cast", [index], f"{output}_index", to=7)
    table = array(operation.table)
    found = writer.node("Gather", [writer.constant(table, "float32"), index], f"{output}_found")
    writer.state(found, table, output)


def _write_clip(writer: _Writer, operation: Clip, inputs: list[str], output: str) -> None:
    writer.quantize(inputs[0], operation.coding, output)


def _write_rearrange(writer: _Writer, operation: Rearrange, inputs: list[str], output: str) -> None:
    writer.nodes.rearrange(operation, inputs, output, 0, "float32")


_WRITERS: dict[type[Operation], Callable[..., None]] = {
    Real: _write_real,
    Encode: _write_encode,
    Recode: _write_recode,
    Decode: _write_decode,
    Accumulate: _Writer.accumulate,
    Add: _write_add,
    Multiply: _write_multiply,
    Pool: _write_pool,
    LookUp: _write_look_up,
    Clip: _write_clip,
    Rearrange: _write_rearrange,
}
