"""Problems, certifiers and protocols from anywhere: named as ``module:Thing``, checked, and measured like bitcert's own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from suite.certify import Certifier, Measurement, Setup, Task
from suite.cli import main
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.problems import definitions, load_problem, problem_names
from suite.problems.catalog import DIGITS
from suite.problems.separable import SeparableProblem
from suite.problems.vision import VisionProblem
from suite.protocols import Prepared, Protocol, Request
from suite.workbench import Workbench, workbench_of

HERE = f"{__name__}:"
LARGE_BATCHES = replace(DIGITS, name="large-batches", batch=500, trained_as="digits")
NO_PROBLEM = 7


def twenty_layers(seed: int = 0) -> Problem:
    return SeparableProblem(layers=20, seed=seed)


def a_number(seed: int = 0) -> int:
    return seed


@dataclass(frozen=True)
class Margin(Certifier):
    """A certifier that needs no noise: it looks at the network's logits on the plain images."""

    scale: float = 1.0

    def measure(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        with torch.inference_mode():
            best = network(task.noisy.pixels).topk(2, dim=1).values
        margin = float((best[:, 0] - best[:, 1]).mean()) * self.scale
        return Measurement(None, None, len(task.labels), alpha=0.0, values={"margin": margin}, norm=None)


@dataclass(frozen=True)
class Unquantized(Protocol):
    """A protocol that leaves the network as it is."""

    default_steps = 0

    def prepare(self, bench: Workbench, policy: Policy, request: Request) -> Prepared:
        return Prepared(bench.network, forward_passes=11)

    def forward_passes(self, bench: Workbench, steps: int) -> int:
        return 11


def test_a_certifier_without_noise_measures_values_of_its_own() -> None:
    fidelity = Fidelity(images=10, noise=1)
    found = [
        (problem := load_problem("digits", certify=f"{HERE}Margin:scale={scale}")).evaluate(
            problem.space.uniform(3), fidelity
        )
        for scale in (1, 2)
    ]
    assert [metrics.acr for metrics in found] == [None, None]
    assert found[1].values["margin"] == pytest.approx(2 * found[0].values["margin"])
    assert found[0].forward_passes == 20 + 250
    assert type(found[0]).from_dict(found[0].to_dict()) == found[0]


def test_a_protocol_from_elsewhere_prepares_every_policy() -> None:
    problem = load_problem("digits", protocol=f"{HERE}Unquantized")
    fidelity = Fidelity(images=10, noise=8)
    policy, reference = problem.evaluate(problem.space.uniform(2), fidelity), problem.evaluate_float(fidelity)
    assert (policy.acr, policy.forward_passes) == (reference.acr, reference.forward_passes + 11)
    assert problem.provenance()["protocol"] == f"{HERE}Unquantized"


def test_a_protocol_from_elsewhere_is_used_by_searches_and_by_exams_of_their_winners(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol, folder = f"{HERE}Unquantized", str(tmp_path / "run")
    search = ["search", "--problem", "digits", "--searcher", "cheapest", "--images", "10", "--noise", "8", "--json"]
    assert main([*search, "--finalists", "0", "--directory", folder, "--protocol", protocol]) == 0
    assert json.loads(capsys.readouterr().out)["best"]["metrics"]["forward_passes"] == 10 * 9 + 11
    exam = ["--exam-images", "10", "--exam-n0", "5", "--exam-n", "20", "--json"]
    assert main(["examine", "--run", folder, *exam]) == 0
    examined = json.loads(capsys.readouterr().out)
    assert examined["provenance"]["protocol"] == protocol
    assert main(["examine", "--problem", "digits", "--float", *exam]) == 0
    assert examined["metrics"]["acr"] == json.loads(capsys.readouterr().out)["metrics"]["acr"]


def test_a_definition_from_elsewhere_is_a_problem_like_the_named_ones() -> None:
    problem = load_problem(f"{HERE}LARGE_BATCHES", budget="w4a4")
    assert isinstance(problem, VisionProblem)
    assert (problem.name, problem.definition.batch, problem.budget.text) == ("large-batches", 500, "w4a4")


def test_classes_and_functions_make_problems_with_the_settings_they_take() -> None:
    assert len(load_problem(f"{HERE}twenty_layers", seed=3).space.layers) == 20
    assert load_problem("separable:choices=[2,3]").space.choices == (2, 3)
    small = load_problem("separable:layers=6", sigma=0.5)
    assert (len(small.space.layers), small.sigma) == (6, 0.5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("separable", {"device": "cuda"}, "separable does not take device; it takes layers, choices, budget"),
        ("separable", {"alpha": 0.1, "device": "cuda"}, "separable does not take alpha, device"),
        ("separable:depth=3", {}, "unknown option of separable 'depth'"),
        ("separable:layers=no", {}, "layers of problem separable must be a valid integer, got 'no'"),
        ("separable:layers=-2", {}, "layers must lie in 1..10,000, got -2"),
        ("separable:choices=3", {}, "choices of problem separable must be a valid array, got 3"),
        ("digits:batch=3", {}, "the problem 'digits' takes no options, got batch"),
        ("folder", {}, "bring your network"),
        ("digit", {}, "unknown problem 'digit'; known: digits"),
        (f"{HERE}NO_PROBLEM", {}, "is neither a definition nor a class"),
        (f"{HERE}a_number", {}, "is not a problem: it makes something of type int"),
        (f"{HERE}missing", {}, "cannot be loaded"),
        ("digits", {"sigma": 1e300}, "at most 100"),
        ("separable", {"sigma": 1e300}, "at most 100"),
        ("digits", {"seed": 1.5}, "a seed must be an integer and not negative, got 1.5"),
        ("separable", {"seed": -1}, "a seed must be an integer and not negative, got -1"),
        ("digits", {"protocol": "sqwa"}, "unknown protocol 'sqwa'; known: .*ptq"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        load_problem(name, **settings)


def test_definitions_are_registered_under_their_own_names() -> None:
    found = definitions()
    assert [definition.name for definition in found.values()] == list(found)
    assert set(problem_names()) - set(found) == {
        "separable",
        "table",
        "surrogate",
        "digits-table",
        "digits-table-low",
        "digits-linf-table",
    }


def test_only_problems_with_a_network_have_a_workbench() -> None:
    assert workbench_of(load_problem("digits"), "network to finetune").dataset.name == "digits"
    with pytest.raises(
        BitcertError,
        match="separable has no network to finetune: its scores do not come from a network that bitcert quantizes",
    ):
        workbench_of(load_problem("separable"), "network to finetune")
    assert not load_problem("separable").estimates
