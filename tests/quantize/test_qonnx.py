"""QONNX graphs: the integer network's logits, computed by operators that are written here from their specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import nn

from suite.contract.space import Policy
from suite.quantize import TrainableNetwork, calibrate
from suite.quantize.integer import inexact_layers, integer_network, qonnx_model
from suite.quantize.integer.codes import Coding
from suite.quantize.integer.network import IntegerNetwork, Step
from suite.quantize.integer.operations import Accumulate
from suite.quantize.integer.qonnx_graph import _bits, _range
from tests.quantize.test_integer import BITS, NETWORKS, SHAPE, integer, noisy_and_extreme
from tests.quantize.test_quantized_networks import prepared

DOMAIN = "qonnx.custom_op.general"
Array = np.ndarray[Any, Any]


class IntQuant(OpRun):
    """Scale and shift, clamp to the integers of the bit width, round half to even, and back."""

    op_domain = DOMAIN

    def _run(
        self, x: Array, scale: Array, zeropt: Array, bitwidth: Array, signed: int, narrow: int, rounding_mode: str
    ) -> tuple[Array]:
        assert rounding_mode == "ROUND"
        assert bitwidth == int(bitwidth) > (1 if signed else 0)
        count = 2 ** int(bitwidth)
        least, most = (-count // 2 + narrow, count // 2 - 1) if signed else (0, count - 1 - narrow)
        integers = np.rint(np.clip(x / scale + zeropt, np.float32(least), np.float32(most)))
        return (((integers - zeropt) * scale).astype(np.float32),)


class BipolarQuant(OpRun):
    """1 for what is not negative, -1 else, times the scale."""

    op_domain = DOMAIN

    def _run(self, x: Array, scale: Array) -> tuple[Array]:
        return (np.where(x >= 0, scale, -scale).astype(np.float32),)


def run(model: onnx.ModelProto, images: torch.Tensor) -> torch.Tensor:
    evaluator = ReferenceEvaluator(model, new_ops=[IntQuant, BipolarQuant])
    with np.errstate(all="ignore"):
        (logits,) = evaluator.run(None, {"images": images.numpy()})
    return torch.from_numpy(logits)


def kinds(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node if node.domain == DOMAIN}


def widths(model: onnx.ModelProto, weights: bool) -> set[float]:
    """Bit widths that the nodes state, of weights or of everything else."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "IntQuant"]
    return {float(constants[node.input[3]]) for node in nodes if (node.input[0] in constants) == weights}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "awkward"])
def test_logits_are_those_of_the_integer_network_to_the_last_bit(name: str, bits: tuple[int, int]) -> None:
    network, _ = integer(name, *bits)
    images = noisy_and_extreme(30)
    model = qonnx_model(network, SHAPE, 5)
    assert not inexact_layers(network)
    assert torch.equal(run(model, images), network(images))
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 13, DOMAIN: 1}
    assert kinds(model) >= {"IntQuant"}


def test_bit_widths_without_a_type_in_onnx_are_stated() -> None:
    network, _ = integer("padding", 3, 5)
    model = qonnx_model(network, SHAPE, 5)
    assert widths(model, weights=True) == {3}
    assert 5 in widths(model, weights=False) <= {5, 8}


@pytest.mark.parametrize("scheme", ["lsq", "fatnn"])
def test_binary_and_ternary_numbers_are_stated(scheme: Any) -> None:
    network, layers, images = prepared(NETWORKS["padding"](), SHAPE)
    calibration = calibrate(network, [layer.name for layer in layers], [images], ternary_inputs=True)
    middle = [1, 2] * (len(layers) // 2 - 1)
    policy = Policy.from_bits([8, *middle, 8], [8, *middle[::-1], 8])
    found = integer_network(TrainableNetwork(network, layers, policy, calibration, scheme).freeze(), [images])
    model, noisy = qonnx_model(found, SHAPE, 5), noisy_and_extreme(30)
    assert torch.equal(run(model, noisy), found(noisy))
    assert kinds(model) == {"IntQuant", "BipolarQuant"}
    assert widths(model, weights=True) == {2, 8}
    assert {1, 2} <= widths(model, weights=False)


@given(st.integers(-128, 255), st.integers(0, 255))
def test_the_smallest_range_that_holds_two_integers_is_chosen(first: int, width: int) -> None:
    low, high = min(first, 0), max(first + width, 0)
    bits, signed, narrow = _bits(low, high)
    least, most = _range(bits, signed, narrow)
    assert least <= low
    assert high <= most
    fewer = [_range(bits - 1, signed, False)] if bits > (2 if signed else 1) else []
    assert all(smaller[0] > low or smaller[1] < high for smaller in fewer)
    assert signed == (low < 0)
    assert not narrow or bits > 1


def test_layers_whose_sums_may_be_rounded_are_named() -> None:
    bounds: dict[str, Callable[[], float]] = {"small": lambda: 127.0, "large": lambda: 2.0**23}
    layers = {
        name: Accumulate(
            nn.Linear(1, 1),
            torch.ones(1, 1),
            torch.ones(1),
            torch.tensor([bound() * 2]),
            given=Coding(1.0, 0, 255),
            coding=None,
            name=name,
        )
        for name, bound in bounds.items()
    }
    steps = [Step(layer, ("images",), name) for name, layer in layers.items()]
    assert inexact_layers(IntegerNetwork(steps)) == ["large"]


def test_the_package_of_the_specification_computes_the_same() -> None:
    """Where it is installed."""
    execution = pytest.importorskip("qonnx.core.onnx_exec")
    wrapper = pytest.importorskip("qonnx.core.modelwrapper")
    shapes = pytest.importorskip("qonnx.transformation.infer_shapes")
    network, _ = integer("mobile", 3, 5)
    images = noisy_and_extreme(20)
    model = wrapper.ModelWrapper(qonnx_model(network, SHAPE, 5))
    model.set_tensor_shape("images", list(images.shape))
    found = execution.execute_onnx(model.transform(shapes.InferShapes()), {"images": images.numpy()})["logits"]
    assert torch.equal(torch.from_numpy(found), network(images))
