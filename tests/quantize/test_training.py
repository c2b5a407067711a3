"""Trainable networks: where they start, what is trained, and that a seed alone decides."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from suite.contract.space import SearchSpace
from suite.data import ImageSplit
from suite.data.images import PixelArray
from suite.errors import BitcertError
from suite.networks import build_network, trace_layers
from suite.quantize import QuantizedNetwork, Statistics, TrainableNetwork, calibrate, recalibrate_batch_norm
from suite.quantize.steps import Grid, quantize
from suite.quantize.trainable import FixedStep, LearnedClip, LearnedStep
from suite.train.finetune import FinetuneSettings, finetune

SHAPE = (1, 8, 8)


def _split() -> ImageSplit:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(64, *SHAPE)).astype(np.uint8)
    return ImageSplit(np.arange(64), pixels[:, 0, 0, 0].astype(np.int64) // 64, PixelArray(pixels, 255))


def _images() -> Tensor:
    return torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(0)).double()


def _float_network() -> nn.Module:
    network = build_network("resnet8", 4, 1).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network


def _trainable(network: nn.Module, bits: int = 3) -> tuple[TrainableNetwork, QuantizedNetwork]:
    layers = trace_layers(network, SHAPE)
    dtype = next(network.parameters()).dtype
    calibration = calibrate(network, [layer.name for layer in layers], [_images().to(dtype)])
    policy = SearchSpace(layers).uniform(bits)
    quantized = QuantizedNetwork(network, layers, calibration)
    quantized.set_policy(policy)
    return TrainableNetwork(network, layers, policy, calibration), quantized


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_without_a_step_lsq_is_post_training_quantization(bits: int) -> None:
    trainable, quantized = _trainable(_float_network(), bits)
    trainable.double().eval()
    with torch.no_grad():
        expected = quantized(_images())
        torch.testing.assert_close(trainable(_images()), expected, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(trainable.freeze()(_images()), expected, rtol=1e-6, atol=1e-9)


def test_everything_is_trained_although_the_float_network_is_not() -> None:
    network = _float_network().float()
    trainable, _ = _trainable(network)
    assert all(parameter.requires_grad for parameter in trainable.parameters())
    before = {name: tensor.clone() for name, tensor in trainable.state_dict().items()}
    finetune(trainable, _split(), steps=2, sigma=0.1, settings=FinetuneSettings(batch=32), seed=0)
    unchanged = {name for name, tensor in trainable.state_dict().items() if torch.equal(tensor, before[name])}
    assert unchanged <= {name for name in before if "normalization" in name}, (
        "weights, steps, biases and batch norms move"
    )
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in trainable.freeze().parameters())


@pytest.mark.parametrize("grid", [Grid(0, 7), Grid(-4, 3), Grid(-7, 7)])
@pytest.mark.parametrize("kind", ["lsq", "pact", "fixed"])
def test_training_rounds_inputs_as_inference_does(kind: str, grid: Grid) -> None:
    quantizers: dict[str, LearnedStep | LearnedClip | FixedStep] = {
        "lsq": LearnedStep(torch.tensor(0.3), grid, 10),
        "pact": LearnedClip(0.3 * grid.high, grid),
        "fixed": FixedStep(torch.tensor(0.3), grid),
    }
    quantizer = quantizers[kind]
    values = torch.linspace(-5, 5, 1001)
    with torch.no_grad():
        expected = quantize(values, float(quantizer.positive_step()), quantizer.grid)
        torch.testing.assert_close(quantizer(values), expected)


def test_a_signed_clip_has_gradients_at_both_ends() -> None:
    quantizer = LearnedClip(1.0, Grid(-4, 3))
    values = torch.tensor([-3.0, -2.0, -0.4, 0.3, 0.9, 5.0], requires_grad=True)
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0, 1e4, 1e5])
    (quantizer(values) * weights).sum().backward()
    assert quantizer.clip.grad is not None
    assert quantizer.clip.grad.item() == pytest.approx(-1 - 10 + 1e5)
    assert values.grad is not None
    assert values.grad.tolist() == [0, 0, 100, 1000, 1e4, 0]


def test_each_channel_has_its_own_learned_step_and_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 5, 2, 2, dtype=torch.float64, generator=generator)
    upstream = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    steps, grid = torch.tensor([0.2, 0.5, 1.3], dtype=torch.float64), Grid(-3, 3)
    quantizer = LearnedStep(steps.reshape(3, 1, 1, 1), grid, values_per_step=20)
    quantizer(weight).backward(upstream)
    assert quantizer.step.grad is not None
    for channel in range(3):
        expected = 0.0
        for value, gradient in zip(
            weight[channel].flatten().tolist(), upstream[channel].flatten().tolist(), strict=True
        ):
            scaled = value / float(steps[channel])
            if scaled <= grid.low:
                slope: float = grid.low
            elif scaled >= grid.high:
                slope = grid.high
            else:
                slope = round(scaled) - scaled  # Python rounds half to even, too
            expected += gradient * slope / math.sqrt(20 * grid.high)
        assert quantizer.step.grad[channel].item() == pytest.approx(expected, rel=1e-9)


def test_steps_of_a_network_are_scaled_by_the_numbers_that_share_them() -> None:
    trainable, _ = _trainable(_float_network(), bits=3)
    scales = {
        name: module._gradient_scale for name, module in trainable.named_modules() if isinstance(module, LearnedStep)
    }
    conv = next(name for name in scales if name.endswith("layer2.0.conv2.quantize_weights"))
    module = trainable.get_submodule(conv.removesuffix(".quantize_weights"))
    weight = module.weight
    assert isinstance(weight, Tensor)
    assert scales[conv] == pytest.approx(1 / math.sqrt(weight[0].numel() * 3))  # 3 bits: Q_p = 3
    inputs = conv.replace("quantize_weights", "quantize_inputs")
    assert scales[inputs] == pytest.approx(
        1 / math.sqrt(weight.shape[1] * 4 * 4 * 7)
    )  # 4x4 positions, unsigned: Q_p = 7


class _Dropout(nn.Module):
    """A network that draws random numbers of its own while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(nn.functional.dropout(images.flatten(1), 0.5, self.training))
        return logits


def test_finetuning_follows_its_seed_and_leaves_the_global_generator() -> None:
    network = _Dropout()
    network.head.weight.data[:, 0] = 0.1
    results = []
    for disturbance in (1, 2):
        trainable, _ = _trainable(network.eval())
        torch.manual_seed(disturbance)
        state = torch.random.get_rng_state()
        finetune(trainable, _split(), steps=3, sigma=0.1, settings=FinetuneSettings(batch=16), seed=5)
        assert torch.equal(torch.random.get_rng_state(), state)
        results.append(trainable.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


# Batch-norm recalibration


@pytest.mark.parametrize("bias_correction", [False, True])
def test_folded_batch_norms_are_recalibrated_like_those_that_run_as_modules(bias_correction: bool) -> None:
    network = _float_network()
    layers = trace_layers(network, SHAPE)
    calibration = calibrate(network, [layer.name for layer in layers], [_images()])
    folded, plain = (QuantizedNetwork(network, layers, calibration, fold=fold) for fold in (True, False))
    batches, statistics = [_images()[:5], _images()[5:]], Statistics(bias_correction=bias_correction)
    for bits in (2, 3, 2):
        outputs = []
        for made in (folded, plain):
            made.set_policy(SearchSpace(layers).uniform(bits))
            stale = made(_images())
            made.update_statistics(batches, statistics)
            outputs.append(made(_images()))
            assert not torch.allclose(outputs[-1], stale, atol=1e-3)
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)


def test_bias_correction_restores_the_mean_outputs_of_the_float_network() -> None:
    network = _float_network()
    layers = trace_layers(network, SHAPE)
    calibration = calibrate(network, [layer.name for layer in layers], [_images()])
    quantized = QuantizedNetwork(network, layers, calibration)
    quantized.set_policy(SearchSpace(layers).uniform(2))
    off = (quantized(_images()).mean(dim=0) - network(_images()).mean(dim=0)).abs().max()
    quantized.update_statistics([_images()], Statistics(recalibrate=False, bias_correction=True))
    torch.testing.assert_close(quantized(_images()).mean(dim=0), network(_images()).mean(dim=0), rtol=0, atol=1e-4)
    assert off > 1e-2


def test_a_frozen_network_can_be_recalibrated() -> None:
    trainable, _ = _trainable(_float_network())
    frozen, reference = trainable.freeze(), copy.deepcopy(trainable)
    for network in (frozen, reference):
        recalibrate_batch_norm(network, [_images()])
    torch.testing.assert_close(frozen(_images()), reference.eval()(_images()), rtol=1e-3, atol=1e-4)


def test_recalibration_without_images_leaves_the_statistics() -> None:
    network = _float_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(BitcertError, match="at least one batch"):
        recalibrate_batch_norm(network, iter(()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_recalibration_of_a_quantized_network_measures_it_as_executed_and_not_the_float_one() -> None:
    network = _float_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    layers = trace_layers(network, SHAPE)
    calibration = calibrate(network, [layer.name for layer in layers], [_images()])
    quantized = QuantizedNetwork(network, layers, calibration, fold=False)
    quantized.set_policy(SearchSpace(layers).uniform(2))
    seen: list[Tensor] = []
    norm = quantized.network.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    momentum = norm.momentum
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    recalibrate_batch_norm(quantized, (part for part in (_images()[:5], _images()[5:])))
    handle.remove()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    by_channel = [outputs.transpose(0, 1).flatten(1) for outputs in seen]
    torch.testing.assert_close(norm.running_mean, sum(part.mean(dim=1) for part in by_channel) / len(by_channel))
    torch.testing.assert_close(norm.running_var, sum(part.var(dim=1) for part in by_channel) / len(by_channel))
    assert len(seen) == 2
    assert norm.momentum == momentum
    assert not any(module.training for module in quantized.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
