"""SPEQ: what the teacher is, what its draws depend on, and where the loss is that of plain training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.quantize import TrainableNetwork
from suite.quantize.steps import Grid, activation_grid, quantize
from suite.quantize.trainable import LearnedClip, LearnedStep
from suite.train.finetune import FinetuneSettings
from suite.train.loss import TrainingBatch, as_teacher
from suite.train.speq import SPEQLoss, cosine_distance, raise_precision, raised_inputs
from suite.workbench import Workbench, workbench_of


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return workbench_of(load_problem("digits", budget="w2a2", finetuning=FinetuneSettings(batch=16)), "network")


def batch_of(bench: Workbench, step: int = 0, seed: int = 0, size: int = 8) -> TrainingBatch:
    split = bench.dataset.splits["train"].subset(np.arange(size))
    images = split.images()
    return TrainingBatch(step, seed, bench.sigma, torch.arange(size), images, images + 0.1, torch.tensor(split.labels))


def layer_of(step: float, grid: Grid) -> torch.nn.Module:
    from suite.quantize.trainable import TrainableLayer

    return TrainableLayer(torch.nn.Linear(4, 3), torch.nn.Identity(), LearnedStep(torch.tensor(step), grid, 4))


def test_all_raised_the_teacher_is_the_policy_with_eight_bit_inputs_and_the_clip_of_the_policy(
    bench: Workbench,
) -> None:
    space, policy = bench.space, bench.space.uniform(2)
    free = [layer.name for layer in space.layers if layer.name not in space.pinned]
    inputs = [8 if layer.name in free else bits for layer, bits in zip(space.layers, policy.activations, strict=True)]
    network, eight = bench.trainable(policy), bench.trainable(Policy.from_bits(policy.weights, inputs))
    for name, layer in eight.layers().items():
        quantizer, present = layer.quantize_inputs, network.layers()[name].quantize_inputs
        if name in free and isinstance(quantizer, LearnedStep) and isinstance(present, LearnedStep):
            with torch.no_grad():
                quantizer.step.copy_(present.step * (3 / 255))
    images = batch_of(bench).inputs
    with as_teacher(network), raised_inputs(network, free, 8):
        taught = network(images)
    with as_teacher(eight):
        assert torch.equal(taught, eight(images))


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
@pytest.mark.parametrize("signed", [False, True])
def test_raising_keeps_both_ends_of_the_clip(bits: int, signed: bool) -> None:
    grid = activation_grid(bits, signed)
    finer = raise_precision(layer_of(0.3, grid), 8)  # type: ignore[arg-type]
    step = float(finer.positive_step().detach())
    ends = torch.tensor([1e3, -1e3])
    found, expected = quantize(ends, step, finer.grid), quantize(ends, 0.3, grid)
    assert torch.allclose(found, expected, atol=0.5 * step + 1e-6)
    assert found[0] == pytest.approx(float(expected[0]), rel=1e-6)
    assert signed or finer.grid == activation_grid(8, False)


def test_the_clip_of_pact_is_raised_alike() -> None:
    layer = layer_of(1.0, activation_grid(2, False))
    layer.quantize_inputs = LearnedClip(0.9, activation_grid(2, False))
    finer = raise_precision(layer, 8)  # type: ignore[arg-type]
    assert float(finer.positive_step().detach()) * finer.grid.high == pytest.approx(0.9)
    layer.quantize_inputs = torch.nn.Identity()
    with pytest.raises(BitcertError, match="no precision to raise"):
        raise_precision(layer, 8)  # type: ignore[arg-type]


def test_a_pass_of_the_teacher_leaves_the_network_as_it_was(bench: Workbench) -> None:
    network = bench.trainable(bench.space.uniform(2)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    identities = [id(module) for module in network.modules()]
    with as_teacher(network), raised_inputs(network, list(network.layers()), 8):
        network(batch_of(bench).inputs)
    assert [id(module) for module in network.modules()] == identities
    assert all(module.training for module in network.modules())
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_draws_have_the_share_of_u_and_depend_on_seed_and_step_alone(bench: Workbench) -> None:
    loss = SPEQLoss(tuple("abcd"), u=0.3)
    small, large = batch_of(bench, size=2), batch_of(bench, size=8)
    assert loss.draw(small) == loss.draw(large)
    draws = [loss.draw(batch_of(bench, step, size=1)) for step in range(2_500)]
    for name in "abcd":
        raised = sum(name in draw for draw in draws)
        assert stats.binomtest(raised, 2_500, 0.7).pvalue > 1e-4
    together = sum("a" in draw and "b" in draw for draw in draws)
    assert stats.binomtest(together, 2_500, 0.49).pvalue > 1e-4
    other = [loss.draw(batch_of(bench, step, seed=1, size=1)) for step in range(50)]
    assert other != draws[:50]


def test_the_distance_is_that_of_numpy_and_zero_only_for_equal_votes() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))

    def softmax(logits: np.ndarray) -> np.ndarray:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]

    first, second = softmax(student.numpy() / 2), softmax(teacher.numpy() / 2)
    cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    assert float(cosine_distance(student, teacher, 2.0)) == pytest.approx(4 * (1 - cosine).mean())
    assert float(cosine_distance(student, student + 7, 2.0)) == pytest.approx(0, abs=1e-12)
    assert float(cosine_distance(student, 2 * student, 2.0)) > 1e-3
    uniform = float(cosine_distance(student[:1], torch.zeros(1, 4, dtype=torch.float64), 1.0))
    own = softmax(student[:1].numpy())
    assert uniform == pytest.approx(1 - 1 / (math.sqrt(4) * np.linalg.norm(own)))


def test_the_teacher_gets_no_gradient(bench: Workbench) -> None:
    """The gradient is that of the distance from constants: the teacher's logits computed apart."""
    names = tuple(layer.name for layer in bench.space.layers if layer.name not in bench.space.pinned)
    batch = batch_of(bench)

    def gradients(taught: torch.Tensor | None) -> list[torch.Tensor]:
        network = bench.trainable(bench.space.uniform(2)).train()
        if taught is None:
            SPEQLoss(names, u=0.0)(network, batch).backward()
        else:
            logits = network(batch.inputs)
            (torch.nn.functional.cross_entropy(logits, batch.labels) + cosine_distance(logits, taught, 2.0)).backward()
        return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]

    network: TrainableNetwork = bench.trainable(bench.space.uniform(2)).train()
    network(batch.inputs)  # the student's pass comes first: the teacher sees its running statistics
    with as_teacher(network), raised_inputs(network, names, 8):
        taught = network(batch.inputs)
    found, expected = gradients(None), gradients(taught)
    assert len(found) == len(expected) > 10
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"u": 1.5}, "u is a probability"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"weight": -1.0}, "weight >= 0"),
        ({"high": 1}, "2 to 16 bits"),
        ({"noise": "other"}, "unknown noise of the teacher 'other'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        SPEQLoss((), **options)  # type: ignore[arg-type]
