"""An integer network as an ONNX graph that every conforming runtime executes to the same integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from suite.errors import BitcertError
from suite.quantize.integer.codes import Coding
from suite.quantize.integer.network import IntegerNetwork
from suite.quantize.integer.onnx_nodes import Nodes, array, assemble, window_of, write_steps
from suite.quantize.integer.operations import (
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
from suite.quantize.integer.packing import pack

if TYPE_CHECKING:
    import onnx

OPSETS = {21: 10, 25: 13}
"""Operator sets that can be asked for, each with its version of the file format. From 21 on there are 4-bit integers, from 25 on
integers of 2 bits."""
_LARGEST_BYTE = 255
_SATURATES = 2**15


def onnx_model(
    network: IntegerNetwork,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    opset: int = 25,
    metadata: Mapping[str, str] = {},
) -> onnx.ModelProto:
    """Write an integer network as an ONNX model.

    Input ``images``: noisy images as 32-bit floats in the units of the data, shape ``(batch, C, H, W)``; output ``logits``, shape
    ``(batch, classes)``. Codes are unsigned bytes with a zero point; weights have the smallest integer type of the operator set.

    Args:
        network: What is written.
        image_shape: Channels, height and width.
        classes: Number of logits.
        opset: Version of the standard operator set, a key of :data:`OPSETS`.
        metadata: Text that the file carries.

    Raises:
        BitcertError: If the opset is unknown, or weights do not fit 8 bits.
    """
    if opset not in OPSETS:
        raise BitcertError(f"opset must be one of {', '.join(map(str, OPSETS))}, got {opset}")
    writer = _Writer(opset)
    writer.zero["images"] = 0
    write_steps(network, writer.write)
    return assemble(writer.nodes, image_shape, classes, {"": opset}, OPSETS[opset], metadata)


class _Writer:
    """Nodes and constants of a graph, and the zero point of every value."""

    def __init__(self, opset: int) -> None:
        from onnx import TensorProto

        self.nodes = Nodes()
        self.node, self.constant, self.scale = self.nodes.node, self.nodes.constant, self.nodes.scale
        self.zero: dict[str, int] = {}
        # Smallest first: bits of the type, and its number in the standard.
        self._weight_types = [(4, TensorProto.INT4), (8, TensorProto.INT8)]
        if opset >= 25:
            self._weight_types.insert(0, (2, TensorProto.INT2))

    def write(self, operation: Operation, inputs: list[str], output: str) -> None:
        """Append an operation."""
        _WRITERS[type(operation)](self, operation, inputs, output)

    def zero_point(self, coding: Coding) -> str:
        """The name of the byte that stands for 0 in a coding."""
        return self.constant(max(0, -coding.low), "uint8")

    def real(self, name: str, scale: float, output: str) -> str:
        """Codes to numbers."""
        return self.node("DequantizeLinear", [name, self.scale(scale), self.constant(self.zero[name], "uint8")], output)

    def codes(self, name: str, scale: float, coding: Coding, output: str) -> None:
        """Numbers to codes of a coding, whose scale may be another one."""
        full, inner = self._limits(coding, output)
        self.node("QuantizeLinear", [name, self.scale(scale), self.zero_point(coding)], inner)
        self._limit(full, coding, inner, output)

    def accumulate(self, operation: Accumulate, inputs: list[str], output: str) -> None:
        """A layer: with codes as its result by ``QLinearConv``, else an integer product and what follows it."""
        source, given, coding = inputs[0], operation.given, operation.coding
        zero = self.constant(self.zero[source], "uint8")
        weight, weight_zero = self._weight(operation, self.zero[source] + given.high, output)
        bias = array(operation.bias).astype(np.int64)
        layer = operation.layer
        window = window_of(operation)
        if coding is not None and isinstance(layer, nn.Conv2d):
            full, inner = self._limits(coding, output)
            channels = len(bias)
            scales = self.constant(array(operation.weight_scale), "float32")
            zeros = self.constant(np.full(channels, weight_zero), "uint8" if weight_zero else "int8")
            arguments = [source, self.scale(given.scale), zero, weight, scales, zeros]
            arguments += [self.scale(coding.scale), self.zero_point(coding), self.constant(bias, "int32")]
            self.node("QLinearConv", arguments, inner, **window)
            self._limit(full, coding, inner, output)
            return
        kind = "ConvInteger" if isinstance(layer, nn.Conv2d) else "MatMulInteger"
        shape = (1, -1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
        weight_zero_name = self.constant(weight_zero, "uint8" if weight_zero else "int8")
        product = self.node(kind, [source, weight, zero, weight_zero_name], f"{output}_product", **window)
        biased = self.node("Add", [product, self.constant(bias.reshape(shape), "int32")], f"{output}_sum")
        number = self.node("Cast", [biased], f"{output}_number", to=1)
        multiplier = self.constant(array(operation.multiplier), "float32")
        if coding is None:
            self.node("Mul", [number, multiplier], output)
        else:
            self.codes(self.node("Mul", [number, multiplier], f"{output}_scaled"), 1.0, coding, output)
            self.zero[output] = max(0, -coding.low)

    def _weight(self, operation: Accumulate, largest_input: int, output: str) -> tuple[str, int]:
        """A layer's weights as signed bytes, or unsigned ones with a zero point where signed ones may saturate."""
        from onnx import TensorProto, helper

        integers = array(operation.weight).astype(np.int64)
        if isinstance(operation.layer, nn.Linear):
            integers = integers.T
        lowest, highest = int(integers.min()), int(integers.max())
        bits = next(
            (bits for bits, _ in self._weight_types if -(2 ** (bits - 1)) <= lowest and highest < 2 ** (bits - 1)), None
        )
        if bits is None:
            raise BitcertError(f"layer {operation.name!r} has weights {lowest} to {highest}, which do not fit 8 bits")
        name = f"{output}_weight"
        if bits == 8:
            # Some processors add two products of a signed and an unsigned byte in 16 bits, and saturate.
            offset = 128 if 2 * largest_input * max(-lowest, highest) >= _SATURATES else 0
            return self.constant(integers + offset, "uint8" if offset else "int8"), offset
        kind = dict(self._weight_types)[bits]
        packed = pack(integers, bits).tobytes()
        self.nodes.constants.append(helper.make_tensor(f"{name}_packed", kind, integers.shape, packed, raw=True))
        return self.node("Cast", [f"{name}_packed"], name, to=TensorProto.INT8), 0

    def _limits(self, coding: Coding, output: str) -> tuple[bool, str]:
        """Whether all bytes are codes of a coding, and the name of what is yet to be limited to them."""
        zero = max(0, -coding.low)
        full = coding.low + zero == 0 and coding.high + zero == _LARGEST_BYTE
        self.zero[output] = zero
        return full, output if full else f"{output}_wide"

    def _limit(self, full: bool, coding: Coding, inner: str, output: str) -> None:
        if not full:
            zero = self.zero[output]
            self.node(
                "Clip", [inner, *(self.constant(limit + zero, "uint8") for limit in (coding.low, coding.high))], output
            )


def _write_real(writer: _Writer, operation: Real, inputs: list[str], output: str) -> None:
    writer.node(operation.name, [inputs[0], writer.constant(array(operation.constant), "float32")], output)


def _write_encode(writer: _Writer, operation: Encode, inputs: list[str], output: str) -> None:
    writer.codes(inputs[0], operation.coding.scale, operation.coding, output)


def _write_recode(writer: _Writer, operation: Recode, inputs: list[str], output: str) -> None:
    number = writer.real(inputs[0], operation.given.scale, f"{output}_number")
    writer.codes(number, operation.coding.scale, operation.coding, output)


def _write_decode(writer: _Writer, operation: Decode, inputs: list[str], output: str) -> None:
    writer.real(inputs[0], operation.given.scale, output)


def _write_add(writer: _Writer, operation: Add, inputs: list[str], output: str) -> None:
    terms = [
        writer.real(name, given.scale, f"{output}_term{place}")
        for place, (name, given) in enumerate(zip(inputs, operation.given, strict=True))
    ]
    writer.codes(writer.node("Add", terms, f"{output}_sum"), operation.coding.scale, operation.coding, output)


def _write_multiply(writer: _Writer, operation: Multiply, inputs: list[str], output: str) -> None:
    factors = [writer.real(name, 1.0, f"{output}_factor{place}") for place, name in enumerate(inputs)]
    product = writer.node("Mul", factors, f"{output}_product")
    scaled = writer.node("Mul", [product, writer.scale(float(operation.multiplier))], f"{output}_scaled")
    writer.codes(scaled, 1.0, operation.coding, output)


def _write_pool(writer: _Writer, operation: Pool, inputs: list[str], output: str) -> None:
    number = writer.real(inputs[0], 1.0, f"{output}_number")
    axes = writer.constant(operation.axes, "int64")
    total = writer.node("ReduceSum", [number, axes], f"{output}_total", keepdims=int(operation.keep))
    factor = writer.scale(float(operation.multiplier))
    if operation.coding is None:
        writer.node("Mul", [total, factor], output)
    else:
        writer.codes(writer.node("Mul", [total, factor], f"{output}_scaled"), 1.0, operation.coding, output)


def _write_look_up(writer: _Writer, operation: LookUp, inputs: list[str], output: str) -> None:
    zero, given = max(0, -operation.coding.low), operation.given
    first = writer.zero[inputs[0]] + given.low
    table = np.concatenate([np.full(first, zero), array(operation.table).astype(np.int64) + zero])
    index = writer.node("Cast", [inputs[0]], f"{output}_index", to=6)
    writer.node("Gather", [writer.constant(table, "uint8"), index], output)
    writer.zero[output] = zero


def _write_clip(writer: _Writer, operation: Clip, inputs: list[str], output: str) -> None:
    zero = writer.zero[inputs[0]]
    limits = [writer.constant(limit + zero, "uint8") for limit in (operation.coding.low, operation.coding.high)]
    writer.node("Clip", [inputs[0], *limits], output)
    writer.zero[output] = zero


def _write_rearrange(writer: _Writer, operation: Rearrange, inputs: list[str], output: str) -> None:
    zero, coding = writer.zero.get(inputs[0], 0), operation.coding
    if operation.kind == "concatenate":
        assert coding is not None
        zero = max(0, -coding.low)
        inputs = [
            name if writer.zero[name] == zero else _shift(writer, name, coding, f"{output}_part{place}")
            for place, name in enumerate(inputs)
        ]
    writer.nodes.rearrange(operation, inputs, output, zero, "float32" if coding is None else "uint8")
    writer.zero[output] = zero


def _shift(writer: _Writer, name: str, coding: Coding, output: str) -> str:
    """The same codes with another zero point."""
    writer.codes(writer.real(name, 1.0, f"{output}_number"), 1.0, coding, output)
    return output


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
