"""Problems below two bits: choices, exact budgets, ternary inputs, and networks twice as wide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from suite import load_problem
from suite.contract.per_mac import TERNARY
from suite.contract.probes import ProbeSettings
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.networks import build_network, save_checkpoint
from suite.problems import definitions
from suite.problems.vision import VisionProblem
from suite.quantize.steps import Grid

TINY = Fidelity(images=10, noise=8)
LOW = {"digits-blocks", "digits-low", "digits-low-four", "digits-low-ternary", "digits-wide2"}
LOW |= {"cifar10-resnet20-wide2"}


def vision(name: str, checkpoint: Path | None = None) -> VisionProblem:
    problem = load_problem(name, checkpoint=checkpoint)
    assert isinstance(problem, VisionProblem)
    return problem


def test_only_problems_named_so_go_below_two_bits() -> None:
    found = definitions()
    assert {name for name, definition in found.items() if min(definition.choices) < 2} == LOW
    others = [definition.choices for name, definition in found.items() if name not in LOW]
    few = {name for name, definition in found.items() if definition.choices in ((2, 3, 4, 5), (2, 3, 4, 5, 6))}
    assert few == {name for name in found if name.endswith("-linf") or name.startswith("spiking-")}, (
        "which lose nothing beyond"
    )
    assert set(others) == {tuple(range(2, 9)), (2, 3, 4, 5), (2, 3, 4, 5, 6)}
    assert {name for name, definition in found.items() if definition.per_mac is not None} == {"digits-low-ternary"}
    for name in LOW:
        assert found[name].choices == (1, 2, 3, 4)
        assert found[name].fidelity.finetune_steps >= 400, "without training, one bit loses most of the radius"


def test_budgets_of_low_problems_are_exact() -> None:
    free, pinned = 763_520 - 9216 - 640, 64 * (9216 + 640)
    low, ternary = vision("digits-low"), vision("digits-low-ternary")
    assert low.budget.limits[0].most == ternary.budget.limits[0].most == pinned + free * 9 // 4
    for bits in (1, 2, 3, 4):
        assert low.bops(low.space.uniform(bits)) == pinned + free * bits**2
        assert ternary.bops(ternary.space.uniform(bits)) == pinned + free * (2 if bits == 2 else bits**2)
    assert ternary.is_feasible(ternary.space.uniform(2))
    assert not low.is_feasible(low.space.uniform(2))
    assert ternary.space.per_mac == TERNARY
    for wide, narrow in (("digits-wide2", "digits"), ("cifar10-resnet20-wide2", "cifar10-resnet20")):
        assert vision(wide).budget.limits[0].most == load_problem(narrow, budget="w2a2").budget.limits[0].most
        assert vision(wide).is_feasible(vision(wide).space.uniform(1))


def test_ternary_inputs_reach_the_network_the_probes_and_the_record() -> None:
    problem, four = vision("digits-low-ternary"), vision("digits-low")
    calibration = problem.bench.calibration
    name = problem.space.layers[1].name
    assert calibration.input_grid(name, 2) == Grid(0, 2)
    metrics = problem.evaluate(problem.space.uniform(2), TINY)
    assert metrics.bops == problem.bops(problem.space.uniform(2))
    layer = problem.bench.executed.network.get_submodule(name)
    assert layer.grid == Grid(0, 2)
    assert (problem.provenance()["ternary_inputs"], "ternary_inputs" in four.provenance()) == (True, False)
    settings = ProbeSettings(images=4, noise=1, seed=0)
    changed, usual = (each.probes(settings).perturbations("activation") for each in (problem, four))
    assert (changed[1:, 1] > usual[1:, 1]).all(), "three levels miss more than four"
    assert np.array_equal(changed[:, [0, 2, 3]], usual[:, [0, 2, 3]])


def test_four_level_weights_reach_the_network_the_integers_and_the_record() -> None:
    problem, ternary = vision("digits-low-four"), vision("digits-low")
    policy, name = problem.space.uniform(2), problem.space.layers[1].name
    assert problem.bops(policy) == ternary.bops(policy), "two bits are two bits"
    levels = {}
    for each in (problem, ternary):
        network = each.bench.quantized(policy)
        found = {layer.name: layer for layer in each.bench.integer(network).layers()}
        levels[each.name] = set(found[name].weight.unique().tolist())
    assert levels == {"digits-low-four": {-2.0, -1.0, 0.0, 1.0}, "digits-low": {-1.0, 0.0, 1.0}}
    assert (problem.provenance()["four_level_weights"], "four_level_weights" in ternary.provenance()) == (True, False)
    settings = ProbeSettings(images=4, noise=1, seed=0)
    changed, usual = (each.probes(settings).perturbations("weight") for each in (problem, ternary))
    assert (changed[1:-1, 1] < usual[1:-1, 1]).all(), "four levels miss less than three"
    assert np.array_equal(changed[:, [0, 2, 3]], usual[:, [0, 2, 3]])


def test_finetuning_makes_binary_networks_far_more_robust() -> None:
    problem = vision("digits-low")
    before, after = (
        problem.evaluate(problem.space.uniform(1), Fidelity(images=40, noise=16, finetune_steps=steps)).acr
        for steps in (0, 30)
    )
    assert before is not None
    assert after is not None
    assert after > 1.5 * before


def test_weights_of_the_executed_network_are_binary() -> None:
    problem = vision("digits-low")
    problem.evaluate(problem.space.uniform(1), TINY)
    calibration = problem.bench.calibration
    for layer in problem.space.layers[1:-1]:
        weight, step = calibration.weights[layer.name], calibration.weight_step(layer.name, 1)
        assert set((calibration.quantized_weight(layer.name, 1) / step).unique().tolist()) == {-1.0, 1.0}
        assert float((step.flatten() - weight.flatten(1).abs().mean(dim=1)).abs().max()) == 0


def test_a_wide_network_is_brought_and_then_evaluated(tmp_path: Path) -> None:
    unknown = load_problem("digits-wide2", sigma=0.5)
    with pytest.raises(BitcertError, match="checkpoint"):
        unknown.evaluate(unknown.space.uniform(1), TINY)
    save_checkpoint(build_network("resnet8-wide2", 10, 1), tmp_path / "wide.safetensors", {})
    problem = vision("digits-wide2", tmp_path / "wide.safetensors")
    metrics = problem.evaluate(problem.space.uniform(1), TINY)
    assert metrics.bops == problem.bops(problem.space.uniform(1)) <= problem.budget.limits[0].most
