"""Nodes and constants of ONNX graphs, and what all forms of an integer network write alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from suite.errors import BitcertError
from suite.quantize.integer.network import IntegerNetwork
from suite.quantize.integer.operations import Accumulate, Operation, Rearrange

if TYPE_CHECKING:
    import onnx


class Nodes:
    """Nodes and constants of a graph that is being written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._shared: dict[tuple[str, Any], str] = {}

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, values: Any, dtype: str) -> str:
        """The name of a constant; equal small ones are shared."""
        from onnx import numpy_helper

        found = np.asarray(values, dtype=dtype)
        key = (dtype, (found.shape, found.tobytes()))
        if key not in self._shared:
            self._shared[key] = f"c{len(self._shared)}"
            self.constants.append(numpy_helper.from_array(found, self._shared[key]))
        return self._shared[key]

    def scale(self, value: float) -> str:
        """The name of a scale."""
        return self.constant(value, "float32")

    def rearrange(self, operation: Rearrange, inputs: list[str], output: str, zero: int, dtype: str) -> None:
        """Append what moves values; ``zero`` of type ``dtype`` stands for 0."""
        arguments = operation.arguments
        if operation.kind == "flatten":
            self.node("Flatten", inputs, output, axis=1)
        elif operation.kind == "permute":
            self.node("Transpose", inputs, output, perm=list(arguments["axes"]))
        elif operation.kind == "gather":
            self.node("Gather", [*inputs, self.constant(arguments["index"], "int64")], output, axis=1)
        elif operation.kind == "max_pool":
            names = {"kernel": "kernel_shape", "stride": "strides", "dilation": "dilations"}
            window = {names[name]: list(arguments[name]) for name in names}
            pads = [*arguments["padding"], *arguments["padding"]]
            self.node("MaxPool", inputs, output, pads=pads, ceil_mode=int(arguments["ceil_mode"]), **window)
        elif operation.kind == "slice":
            index = list(enumerate(arguments["index"]))
            starts = [part.start or 0 for _, part in index]
            stops = [2**31 - 1 if part.stop is None else part.stop for _, part in index]
            steps = [part.step or 1 for _, part in index]
            given = [self.constant(values, "int64") for values in (starts, stops, [axis for axis, _ in index], steps)]
            self.node("Slice", [*inputs, *given], output)
        elif operation.kind == "pad":
            pads = [*arguments["pads"], *[0] * (2 * arguments["rank"] - len(arguments["pads"]))]
            amounts = self.constant(pads[-2::-2] + pads[::-2], "int64")
            self.node(
                "Pad", [*inputs, amounts, self.constant(zero, dtype)], output
            )  # ONNX Runtime 1.32 mistakes chosen axes
        else:
            self.node("Concat", inputs, output, axis=arguments["dim"])


def write_steps(network: IntegerNetwork, write: Callable[[Operation, list[str], str], None]) -> None:
    """Write all operations of a network, from ``images`` to ``logits``, each by its inputs' names and its output's."""
    names = {network.images: "images"}
    for step in network.steps:
        names[step.output] = "logits" if step.output == network.logits else f"v{len(names)}_{step.output}"
        assert step.operation is not None
        write(step.operation, [names[name] for name in step.inputs], names[step.output])


def assemble(
    written: Nodes,
    image_shape: tuple[int, int, int],
    classes: int,
    opsets: Mapping[str, int],
    ir_version: int,
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    """A checked model of what was written; arguments as for :func:`.onnx_graph.onnx_model`, operator sets by their domains."""
    import onnx
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *image_shape])
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph(written.nodes, "bitcert", [given], [result], written.constants)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, producer_name="bitcert")
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def window_of(operation: Accumulate) -> dict[str, Any]:
    """Attributes of a convolution; none of a linear layer.

    Raises:
        BitcertError: If it pads with anything but a number of zeros.
    """
    layer = operation.layer
    if not isinstance(layer, nn.Conv2d):
        return {}
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise BitcertError(
            f"layer {operation.name!r} pads by {layer.padding_mode!r} or by name; only zeros are exported"
        )
    return {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "pads": [*layer.padding, *layer.padding],
        "group": layer.groups,
    }


def array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A tensor's values."""
    return tensor.detach().cpu().numpy()
