"""The part of an exported graph that executes one layer, as a model of its own, and what a runtime makes of it."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from suite.errors import BitcertError

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_PRODUCTS = ("QLinearConv", "ConvInteger", "MatMulInteger")
_BEFORE = ("Cast", "Gather", "DequantizeLinear", "QuantizeLinear", "Clip")
_AFTER = ("Add", "Cast", "Mul", "QuantizeLinear")


def layer_pieces(model: onnx.ModelProto, products: Sequence[str], layers: Sequence[str]) -> dict[str, onnx.ModelProto]:
    """Cut the layers out of the graph of an integer network.

    A layer owns its product, what scales and rounds the result, and what unpacks, converts or clips on the way to layers alone:
    codes are limited to the bits of the layer that reads them, so that all of its operations depend on its own precision. Layers
    that share a conversion because their bits agree own it both, as they do where bits differ. Residual sums, pooling and other
    operations belong to no layer.

    Images enter and leave a piece with channels last, as they pass from layer to layer in ONNX Runtime.

    Args:
        model: As :func:`.onnx_graph.onnx_model` makes it.
        products: What owns each product, in execution order: the names of ``IntegerNetwork.layers()``.
        layers: The layers to cut out; one that is called more than once is one piece.

    Raises:
        BitcertError: If a layer is not in the graph.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    owners = _owners(graph, products)
    for layer in layers:
        if layer not in products:
            raise BitcertError(f"layer {layer!r} executes no product in the exported graph, so it has no latency")
    kinds = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return {
        layer: _model([node for node in graph.node if layer in owners.get(node.name, ())], graph, kinds, model)
        for layer in layers
    }


def _owners(graph: onnx.GraphProto, products: Sequence[str]) -> dict[str, set[str]]:
    """Owners of each node, by the node's name."""
    cores = [node for node in graph.node if node.op_type in _PRODUCTS]
    owners = {node.name: {owner} for node, owner in zip(cores, products, strict=True)}
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {value.name: [] for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    open_ends = {node.name for node in cores}
    for node in graph.node:  # in execution order: from a product to what scales and rounds it
        sources = [producers[name].name for name in node.input if name in producers]
        if node.op_type in _AFTER and len(sources) == 1 and sources[0] in open_ends:
            owners[node.name] = owners[sources[0]]
            if node.op_type != "QuantizeLinear":
                open_ends.add(node.name)
    for node in reversed(graph.node):  # from a product back to what prepares its inputs
        source = producers.get(node.input[0])
        rounds_codes = source is not None and source.op_type == "DequantizeLinear"  # else the end of a sum or a mean
        if node.op_type in _BEFORE and node.name not in owners and (node.op_type != "QuantizeLinear" or rounds_codes):
            found = [owners.get(reader.name, set()) for reader in readers[node.output[0]]]
            if found and all(found):
                owners[node.name] = set().union(*found)
    return owners


def _model(
    nodes: list[onnx.NodeProto], graph: onnx.GraphProto, kinds: Mapping[str, Any], whole: onnx.ModelProto
) -> onnx.ModelProto:
    """Some nodes of a graph as a model, whose inputs and results are what passes between them and the rest."""
    from onnx import helper

    made, used = _names(node.output for node in nodes), _names(node.input for node in nodes)
    constants = [constant for constant in graph.initializer if constant.name in used]
    inside = {node.name for node in nodes}
    known = {*made, *(constant.name for constant in constants)}
    elsewhere = _names(node.input for node in graph.node if node.name not in inside)
    elsewhere |= {value.name: None for value in graph.output}
    ends: dict[bool, list[onnx.ValueInfoProto]] = {False: [], True: []}
    turns: dict[bool, list[onnx.NodeProto]] = {False: [], True: []}
    crossing = [(name, False) for name in used if name and name not in known]
    for name, leaves in crossing + [(name, True) for name in made if name in elsewhere]:
        shape, outer = [dim.dim_param or dim.dim_value for dim in kinds[name].shape.dim], name
        if len(shape) == 4:
            shape, outer = [shape[0], *shape[2:], shape[1]], f"{name}_channels_last"
            source, target, order = (name, outer, (0, 2, 3, 1)) if leaves else (outer, name, (0, 3, 1, 2))
            turns[leaves].append(helper.make_node("Transpose", [source], [target], name=outer, perm=order))
        ends[leaves].append(helper.make_tensor_value_info(outer, kinds[name].elem_type, shape))
    piece = helper.make_graph([*turns[False], *nodes, *turns[True]], "piece", ends[False], ends[True], constants)
    return helper.make_model(piece, opset_imports=list(whole.opset_import), ir_version=whole.ir_version)


def _names(lists: Iterable[Iterable[str]]) -> dict[str, None]:
    """All names, each once, in order."""
    return {name: None for names in lists for name in names}


def example_inputs(model: onnx.ModelProto, batch: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random inputs of a model: codes below 16, which are within those of 4 bits and more, or numbers in [0, 1]."""
    from onnx import helper

    rng, inputs = np.random.default_rng(seed), {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [batch if dim.dim_param else dim.dim_value for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        numbers = rng.random(shape, np.float32)
        inputs[value.name] = numbers if dtype == np.float32 else (numbers * 16).astype(dtype)
    return inputs


def open_session(model: onnx.ModelProto, executed: Path | None = None) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one thread of the CPU, in memory that all these sessions share: many may be open at the same time.

    Args:
        model: What is executed.
        executed: File that gets what the runtime makes of it; None for none.
    """
    import onnxruntime

    _share_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.use_env_allocators", "1")
    if executed is not None:
        options.optimized_model_filepath = str(executed)
        options.log_severity_level = 3  # it warns that the file is for this machine only
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@functools.cache
def _share_memory() -> None:
    """Register the arena that sessions with the option above share; others keep their own."""
    import onnxruntime

    kinds = (onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", *kinds), None)


def executed_graph(model: onnx.ModelProto) -> str:
    """What ONNX Runtime executes for a model on this machine, as :func:`graph_text`: weights unpacked, operations fused."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "executed.onnx"
        open_session(model, path)
        return graph_text(onnx.load(str(path)))


def graph_text(model: onnx.ModelProto) -> str:
    """A graph without names and the values of constants: two graphs with the same text differ in numbers only."""
    from onnx import helper

    graph = model.graph
    about = {constant.name: f"{constant.data_type}{list(constant.dims)}" for constant in graph.initializer}
    for value in graph.input:
        kind = value.type.tensor_type
        about[value.name] = f"input {kind.elem_type}{[dim.dim_param or dim.dim_value for dim in kind.shape.dim]}"
    lines: list[str] = []
    for node in graph.node:
        attributes = sorted(helper.printable_attribute(attribute) for attribute in node.attribute)
        lines.append(f"{node.domain}.{node.op_type} {[about.get(name, '') for name in node.input]} {attributes}")
        about |= {name: f"result {len(lines)}.{place}" for place, name in enumerate(node.output)}
    return "\n".join(lines)
