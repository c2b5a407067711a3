"""Integer networks: the same logits to the last bit in torch, ONNX Runtime and the reference evaluator of ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional

from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.networks.residual import ResidualNetwork
from suite.quantize import QuantizedNetwork, Statistics, TrainableNetwork, calibrate, execute
from suite.quantize.integer import IntegerNetwork, OnnxNetwork, integer_network, onnx_model
from suite.quantize.integer.codes import Coding, coding_for, short
from suite.quantize.integer.operations import Accumulate
from suite.quantize.layer import QuantizedLayer
from suite.quantize.trainable import Scheme
from tests.quantize.test_quantized_networks import Awkward, prepared

SHAPE = (3, 8, 8)


class Mobile(nn.Module):
    """An inverted residual block with squeeze and excitation, and every activation that has a table."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.expand = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem((images - 0.5) / 0.25)
        inner = self.depthwise(self.expand(features))
        weights = functional.hardsigmoid(self.excite(functional.relu(self.squeeze(self.pool(inner)))))
        features = features + self.project(inner * weights)
        features = features * functional.relu6(features + 3) / 6
        logits: Tensor = self.head(torch.flatten(self.pool(features), 1))
        return logits


class Dense(nn.Module):
    """Batch norm before convolutions, concatenation, slices, padding, both kinds of pooling, a network without a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(10), nn.Conv2d(10, 5, 1)
        self.average = nn.AvgPool2d(2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.max_pool2d(self.stem(images), 3, 2, 1)
        more = self.conv1(functional.relu(self.norm1(features)))
        both = self.average(torch.cat([features, more], 1))
        padded = functional.pad(both[:, :, ::2, 1:], (1, 0, 0, 1))
        logits: Tensor = self.conv2(torch.sigmoid(self.norm2(padded))).mean(dim=(2, 3))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "padding": lambda: ResidualNetwork(1, 5, (0.5,) * 3, (0.2, 0.25, 0.3)),
    "projection": lambda: ResidualNetwork(1, 5, (0.5,) * 3, (0.25,) * 3, "projection"),
    "mobile": Mobile,
    "dense": Dense,
    "awkward": Awkward,
}
BITS = [(2, 2), (3, 4), (8, 3), (8, 8)]


def quantized(name: str, weight: int, activation: int) -> tuple[QuantizedNetwork, Tensor]:
    """A quantized network with recalibrated batch norms, and images under noise."""
    torch.manual_seed(0)
    network, layers, images = prepared(NETWORKS[name](), SHAPE)
    calibration = calibrate(network, [layer.name for layer in layers], [images])
    found = QuantizedNetwork(network, layers, calibration)
    found.set_policy(Policy.from_bits([weight] * len(layers), [activation] * len(layers)))
    found.update_statistics([images], Statistics())
    return found, images


def integer(name: str, weight: int, activation: int) -> tuple[IntegerNetwork, Tensor]:
    network, images = quantized(name, weight, activation)
    return integer_network(network, [images]), images


def noisy_and_extreme(count: int) -> Tensor:
    """Images under noise, some of them far outside of anything seen."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, *SHAPE, generator=generator) + 0.25 * torch.randn(count, *SHAPE, generator=generator)
    images[::10] *= torch.tensor([1e3, 1e30, -1e30]).repeat(-(-count // 30))[: len(images[::10])].reshape(-1, 1, 1, 1)
    images[1::10] = 0
    return images


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "awkward"])
def test_onnx_runtime_computes_the_same_logits_to_the_last_bit(name: str, bits: tuple[int, int]) -> None:
    network, _ = integer(name, *bits)
    images = noisy_and_extreme(10_000 if bits == (8, 8) else 1_000)
    expected = network(images)
    assert len(expected.unique(dim=0)) > 100
    for opset in (21, 25):
        assert torch.equal(OnnxNetwork(onnx_model(network, SHAPE, 5, opset=opset))(images), expected)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "awkward"])
def test_programs_that_fuse_nothing_compute_the_same_too(name: str) -> None:
    network, _ = integer(name, 3, 4)
    model, images = onnx_model(network, SHAPE, 5, opset=21), noisy_and_extreme(20)
    expected = network(images).numpy()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"images": images.numpy()})[0], expected)
    with np.errstate(all="ignore"):
        (found,) = ReferenceEvaluator(model).run(None, {"images": images.numpy()[2:8]})
    np.testing.assert_array_equal(found, expected[2:8])


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_depend_on_nothing_but_the_image(name: str) -> None:
    network, _ = integer(name, 4, 5)
    images = noisy_and_extreme(30)
    together = network(images)
    assert torch.equal(torch.cat([network(image[None]) for image in images]), together)
    assert torch.equal(network(images.flip(0)).flip(0), together)
    assert torch.equal(network(images.contiguous(memory_format=torch.channels_last)), together)
    double = network.double()(images.double())
    assert torch.equal(double.argmax(1), together.argmax(1))
    assert double.shape == together.shape


@pytest.mark.parametrize("name", NETWORKS)
def test_at_8_bits_it_is_close_to_the_quantized_network(name: str) -> None:
    network, images = quantized(name, 8, 8)
    found, wanted = integer_network(network, [images])(images), network(images)
    assert float((found - wanted).abs().mean()) < 0.15 * float((wanted - wanted.mean(0)).abs().mean())


@pytest.mark.parametrize("scheme", ["lsq", "fixed", "pact", "dorefa"])
def test_finetuned_networks_have_integer_forms(scheme: Scheme) -> None:
    network, layers, images = prepared(ResidualNetwork(1, 5, (0.5,) * 3, (0.25,) * 3), SHAPE)
    calibration = calibrate(network, [layer.name for layer in layers], [images])
    policy = Policy.from_bits([4] * len(layers), [6] * len(layers))
    frozen = TrainableNetwork(network, layers, policy, calibration, scheme).freeze()
    found = integer_network(frozen, [images])
    for layer in found.layers():
        assert torch.equal(layer.weight, layer.weight.round())
        assert int(layer.weight.abs().max()) <= (15 if scheme in ("pact", "dorefa") else 7)
    assert torch.equal(OnnxNetwork(onnx_model(found, SHAPE, 5))(images), found(images))
    spread = (frozen(images) - frozen(images).mean(0)).abs().mean()
    assert float((found(images) - frozen(images)).abs().mean()) < 0.3 * float(spread)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("scheme", ["lsq", "fatnn"])
def test_binary_and_ternary_layers_have_integer_forms(scheme: Scheme, signed: bool) -> None:
    network, layers, images = prepared(NETWORKS["padding"](), SHAPE)
    names = [layer.name for layer in layers]
    calibration = calibrate(network, names, [images], ternary_inputs=True)
    if signed:
        seen = {name: replace(found, signed=True) for name, found in calibration.inputs.items()}
        calibration = replace(calibration, inputs=seen)
    middle = [1, 2] * (len(layers) // 2 - 1)
    policy = Policy.from_bits([8, *middle, 8], [8, *middle[::-1], 8])
    frozen = TrainableNetwork(network, layers, policy, calibration, scheme).freeze()
    found = integer_network(frozen, [images])
    by_name = {layer.name: layer for layer in found.layers()}
    for name, precision in zip(names, policy.precisions, strict=True):
        if precision.weight == 1:
            assert set(by_name[name].weight.unique().tolist()) == {-1.0, 1.0}
        if precision.activation == 1:
            assert (by_name[name].given.low, by_name[name].given.high) == ((-1, 1) if signed else (0, 1))
    noisy = noisy_and_extreme(200)
    for opset in (21, 25):
        assert torch.equal(OnnxNetwork(onnx_model(found, SHAPE, 5, opset=opset))(noisy), found(noisy))
    spread = (frozen(images) - frozen(images).mean(0)).abs().mean()
    assert float((found(images) - frozen(images)).abs().mean()) < float(spread)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("scheme", ["lsq", "fatnn"])
def test_two_bits_with_four_levels_are_two_bits_in_the_file_unless_a_norm_flips_them(
    scheme: Scheme, flips: bool
) -> None:
    network, layers, images = prepared(NETWORKS["padding"](), SHAPE)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d) and not flips:
            norm.weight.abs_()
    calibration = calibrate(network, [layer.name for layer in layers], [images], four_level_weights=True)
    policy = Policy.from_bits([2] * len(layers), [4] * len(layers))
    frozen = TrainableNetwork(network, layers, policy, calibration, scheme).freeze()
    found = integer_network(frozen, [images])
    levels = set(torch.cat([layer.weight.flatten() for layer in found.layers()]).tolist())
    assert levels == {-2.0, -1.0, 0.0, 1.0} | ({2.0} if flips else set())
    model = onnx_model(found, SHAPE, 5)
    types = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    assert types == {onnx.TensorProto.INT4 if flips else onnx.TensorProto.INT2}
    noisy = noisy_and_extreme(100)
    assert torch.equal(OnnxNetwork(model)(noisy), found(noisy))


def layer_of(weight: Tensor, bias: Tensor, given: Coding, coding: Coding | None = None) -> Accumulate:
    channels, inputs = weight.shape
    return Accumulate(
        nn.Linear(inputs, channels), weight, torch.ones(channels), bias, given=given, coding=coding, name="layer"
    )


@given(st.lists(st.integers(-127, 127), min_size=3, max_size=300), st.integers(-(2**29), 2**29))
def test_accumulators_are_exact_beyond_24_bits(weights: list[int], bias: int) -> None:
    codes = [(7 * place + 255) % 256 for place in range(len(weights))]
    layer = layer_of(torch.tensor([weights]).float(), torch.tensor([float(bias)]), Coding(1.0, 0, 255))
    exact = sum(code * weight for code, weight in zip(codes, weights, strict=True)) + bias
    if abs(bias) < 2**24:
        layer = layer_of(torch.tensor([weights]).float(), torch.tensor([float(bias)]), Coding(1.0, 0, 255))
    assert float(layer(torch.tensor([codes]).float())) == float(np.float32(exact))


def test_an_accumulator_that_does_not_fit_is_refused() -> None:
    weight = torch.full((1, 70_000), 127.0)
    with pytest.raises(BitcertError, match="does not fit 32 bits"):
        layer_of(weight, torch.zeros(1), Coding(1.0, 0, 255))


@given(st.floats(1e-30, 1e30), st.floats(1e-30, 1e30), st.integers(-255, 255))
def test_products_of_short_scales_are_exact(left: float, right: float, code: int) -> None:
    first, second = short(left), short(right)
    assert first == pytest.approx(left, rel=2.0**-12)
    assert float(np.float32(first) * np.float32(code)) == first * code
    if 1e-35 < first * second < 1e35:
        assert float(np.float32(first) * np.float32(second)) == first * second


@given(st.floats(-1e10, 1e10), st.floats(0, 1e10), st.booleans())
def test_codings_cover_what_was_seen(low: float, width: float, power_of_two: bool) -> None:
    coding = coding_for(low, low + width, power_of_two=power_of_two)
    assert coding.low * coding.scale <= min(low, 0) or low >= 0
    assert coding.high * coding.scale >= low + width
    finest = max((low + width) / coding.high, low / coding.low if coding.low else 0, 2.0**-100)
    assert coding.scale <= finest * (2 if power_of_two else 1.001)
    assert not power_of_two or math.frexp(coding.scale)[0] == 0.5


def test_a_channel_without_slope_is_its_bias() -> None:
    network, images = quantized("padding", 3, 3)
    folded = [layer for layer in network.modules() if isinstance(layer, QuantizedLayer) and layer.folded]
    for layer in folded:
        layer._norms[0].weight[0] = 0
        layer._norms[0].weight[1] *= -1
        layer._fuse()
    found = integer_network(network, [images])
    assert folded
    for accumulated in found.layers()[: len(folded)]:
        assert not accumulated.weight[0].any()
        assert bool((accumulated.weight_scale > 0).all())
    spread = (network(images) - network(images).mean(0)).abs().mean()
    assert float((found(images) - network(images)).abs().mean()) < float(spread)


class _Layers(nn.Module):
    def __init__(
        self,
        between: Callable[[Tensor], Tensor],
        pool: Callable[[Tensor], Tensor] = lambda codes: codes.mean(dim=(2, 3)),
    ) -> None:
        super().__init__()
        self.first, self.last, self.between, self.pool = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), between, pool

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.pool(self.between(self.first(images))))
        return logits


def _lowered(network: nn.Module) -> IntegerNetwork:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    network, layers, images = prepared(network, SHAPE)
    calibration = calibrate(network, [layer.name for layer in layers], [images])
    found = QuantizedNetwork(network, layers, calibration)
    found.set_policy(Policy.from_bits([4, 4], [4, 4]))
    return integer_network(found, [images])


def _same(codes: Tensor) -> Tensor:
    return codes


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        (lambda codes: torch.clamp(codes, min=0), functional.relu),
        (lambda codes: codes.clamp(0.0, 6.0), functional.relu6),
        (lambda codes: functional.hardtanh(codes, min_val=0.0, max_val=6.0), functional.relu6),
        (lambda codes: functional.dropout(codes, 0.5, training=False), _same),
        (lambda codes: functional.pad(codes, pad=(1, 1)), lambda codes: functional.pad(codes, (1, 1), "constant", 0)),
        (lambda codes: codes / codes.size(2), lambda codes: codes / 6),
        (lambda codes: codes[:, :, : codes.shape[2] // 2, :], lambda codes: codes[:, :, :3, :]),
    ],
)
def test_other_ways_to_write_a_call_are_the_same_network(
    written: Callable[[Tensor], Tensor], usual: Callable[[Tensor], Tensor]
) -> None:
    images = noisy_and_extreme(50)
    assert torch.equal(_lowered(_Layers(written))(images), _lowered(_Layers(usual))(images))


@pytest.mark.parametrize(
    "pool",
    [
        lambda codes: functional.avg_pool2d(codes, codes.size()[2:]).view(codes.size(0), -1),
        lambda codes: functional.avg_pool2d(codes, codes.size(3), stride=1).squeeze(),
        lambda codes: functional.avg_pool2d(codes, kernel_size=6).reshape(-1, 4),
    ],
)
def test_other_ways_to_pool_are_the_same_network(pool: Callable[[Tensor], Tensor]) -> None:
    images = noisy_and_extreme(50)
    expected = _lowered(_Layers(_same, lambda codes: functional.avg_pool2d(codes, 6).flatten(1)))
    assert torch.equal(_lowered(_Layers(_same, pool))(images), expected(images))
    adaptive = _lowered(_Layers(_same, lambda codes: functional.adaptive_avg_pool2d(codes, output_size=1).flatten(1)))
    usual = _lowered(_Layers(_same, lambda codes: codes.mean(dim=(2, 3), keepdim=True).flatten(1)))
    assert torch.equal(adaptive(images), usual(images))


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (lambda codes: torch.softmax(codes, 1), "softmax"),
        (lambda codes: codes if codes.sum() > 0 else -codes, "cannot trace"),
        (lambda codes: codes - codes.flip(1), "cannot be executed in integers"),
        (lambda codes: codes / codes.size(0), "cannot be executed in integers"),
        (lambda codes: functional.pad(codes, (1, 1, 1, 1), mode="reflect"), "cannot be executed in integers"),
        (lambda codes: functional.avg_pool2d(codes, 3, 2, 1, False, False), "cannot be executed in integers"),
        (lambda codes: codes.reshape(-1, 4, 9, 4), "cannot be executed in integers"),
    ],
)
def test_what_has_no_integer_form_is_named(between: Callable[[Tensor], Tensor], message: str) -> None:
    network, layers, images = prepared(_Layers(between), SHAPE)
    calibration = calibrate(network, [layer.name for layer in layers], [images])
    found = QuantizedNetwork(network, layers, calibration)
    found.set_policy(Policy.from_bits([4, 4], [4, 4]))
    with pytest.raises(BitcertError, match=message):
        integer_network(found, [images])


@pytest.mark.parametrize(("weight", "activation"), [(32, 4), (4, 32)])
def test_a_layer_in_floating_point_is_refused(weight: int, activation: int) -> None:
    network, images = quantized("padding", 4, 4)
    others = [4] * (len(network.layers) - 1)
    network.set_policy(Policy.from_bits([*others, weight], [*others, activation]))
    with pytest.raises(BitcertError, match=r"layer linear is not quantized|inputs are not quantized"):
        integer_network(network, [images])


def test_no_images_and_unknown_operator_sets_are_refused() -> None:
    network, images = quantized("padding", 4, 4)
    with pytest.raises(BitcertError, match="at least one batch"):
        integer_network(network, [])
    with pytest.raises(BitcertError, match="opset must be one of 21, 25, got 9"):
        onnx_model(integer_network(network, [images]), SHAPE, 5, opset=9)


@pytest.mark.parametrize(
    ("bits", "opset", "kind"), [(2, 25, "INT2"), (2, 21, "INT4"), (4, 25, "INT4"), (5, 25, "INT8")]
)
def test_weights_have_the_smallest_type_of_the_operator_set(bits: int, opset: int, kind: str) -> None:
    network, _ = integer("padding", bits, 4)
    model = onnx_model(network, SHAPE, 5, opset=opset)
    types = {
        onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer if len(tensor.dims) == 4
    }
    assert kind in types
    assert types <= {"INT2", "INT4", "INT8"}
    assert model.opset_import[0].version == opset


def test_bytes_that_may_saturate_are_unsigned() -> None:
    """Two products of a signed and an unsigned byte are added in 16 bits on some processors."""
    at_risk = onnx_model(integer("padding", 8, 8)[0], SHAPE, 5)
    safe = onnx_model(integer("padding", 7, 8)[0], SHAPE, 5)
    kinds = [
        {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4} for model in (at_risk, safe)
    ]
    assert kinds == [{onnx.TensorProto.UINT8}, {onnx.TensorProto.INT8}]


def test_engines_agree_and_torch_changes_nothing() -> None:
    network, images = quantized("mobile", 4, 4)
    assert execute(network, "torch", [images], 1, None) is network
    logits = [execute(network, engine, [images], 1, None)(images) for engine in ("integer", "onnx")]
    assert torch.equal(*logits)
