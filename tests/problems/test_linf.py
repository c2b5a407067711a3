"""Problems whose certificates are without noise: searches, probes, exams, and both guarantees of one policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from suite.certify.exam import ExamSettings
from suite.certify.interval import certified
from suite.contract.probes import ProbeSettings
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.execute.inline import InlineExecutor
from suite.problems import load_problem
from suite.problems.interval_probes import IntervalProbes
from suite.problems.vision import VisionProblem
from suite.quantize.fixed_point import FixedPointNetwork
from suite.run.exam import examine
from suite.run.limits import Limits
from suite.run.loop import SearchLoop
from suite.run.records import Outcome
from suite.run.registry import make_searcher
from suite.run.state import load_run

FEW = Fidelity(images=60, noise=1)


def digits(**settings: object) -> VisionProblem:
    problem = load_problem("digits-linf", **settings)  # type: ignore[arg-type]
    assert isinstance(problem, VisionProblem)
    return problem


def deployed(problem: VisionProblem, bits: int) -> FixedPointNetwork:
    network = problem.bench.executed_by_engine(problem.bench.quantized(problem.space.uniform(bits)))
    assert isinstance(network, FixedPointNetwork)
    return network


def test_an_evaluation_is_the_share_of_images_that_bounds_certify() -> None:
    problem = digits(budget="w4a4")
    metrics = problem.evaluate(problem.space.uniform(3), FEW)
    split = problem.bench.dataset.splits["search"].subset(np.arange(60))
    codes = np.rint(split.images().numpy() * 16).astype(np.int64)
    network = deployed(problem, 3)
    shares = [float(certified(network, codes, split.labels, level).mean()) for level in range(5)]
    assert list(metrics.certified.values()) == shares
    assert metrics.acr == pytest.approx(sum(shares[1:]) / 16)
    assert metrics.clean_accuracy == shares[0] > 0.9
    assert shares[1] > 0.6, "the network that comes with bitcert was trained for this radius"
    assert (metrics.alpha, metrics.norm, metrics.method) == (0.0, "linf", "interval")


def test_seeds_change_nothing_and_noise_is_refused() -> None:
    problem = digits(budget="w4a4")
    first, second = (problem.evaluate(problem.space.uniform(2), FEW, seed=seed) for seed in (0, 1))
    assert first.certified == second.certified
    with pytest.raises(BitcertError, match="interval draws no noise: give 1 sample of it, not 64"):
        problem.check_fidelity(Fidelity(images=60, noise=64))


def test_the_default_noise_is_that_of_the_certifier() -> None:
    """One sample would be a coin toss for a certifier that estimates from it."""
    assert digits().fidelity.noise == digits(certify="verify").fidelity.noise == 1
    assert digits(certify="ranking").fidelity.noise == Fidelity().noise
    assert load_problem("digits").fidelity.noise == 64
    assert load_problem("digits", certify="interval").fidelity.noise == 1


def test_a_constant_classifier_does_not_win_by_being_robust_everywhere() -> None:
    problem = digits(budget="w4a4")
    constant = problem.constant_score(FEW)
    assert 0 < constant < problem.objective.score(problem.evaluate(problem.space.uniform(4), FEW))
    assert constant <= problem.radii[-1]


def test_the_float_network_is_measured_in_sixteen_bits() -> None:
    problem = digits(budget="w4a4")
    metrics = problem.evaluate_float(FEW)
    split = problem.bench.dataset.splits["search"].subset(np.arange(60))
    right = problem.network(split.images()).argmax(dim=1).numpy() == split.labels
    assert metrics.clean_accuracy == float(right.mean())
    assert metrics.certified[1 / 16] > 0.6


def test_probes_see_boxes_around_clean_images() -> None:
    problem = digits(budget="w4a4")
    probes = problem.probes(ProbeSettings(images=32, noise=4))
    assert isinstance(probes, IntervalProbes)
    spent = problem.meter.forward_passes
    qualities = [probes.measure(problem.space.uniform(bits)) for bits in (2, 5)]
    assert problem.meter.forward_passes - spent == 2 * 32 * (1 + 2 * 4)
    assert qualities[1].radius > qualities[0].radius > 0
    assert all(0 < quality.radius < problem.radii[-1] for quality in qualities)


@pytest.mark.parametrize("searcher", ["tpe", "evolution", "arq", "interval-ilp", "certified-ilp", "fit", "fracbits"])
def test_searchers_run_unchanged(searcher: str, tmp_path: Path) -> None:
    problem = digits(budget="w3a3")
    options = {"episodes": 4} if searcher == "arq" else {}
    problem.fidelity = FEW
    loop = SearchLoop(problem, make_searcher(searcher, problem, 0, **options), tmp_path, Limits(4))
    InlineExecutor().run([loop])
    loop.close()
    found = load_run(tmp_path)
    assert found.best is not None
    assert problem.is_feasible(found.best.policy)
    assert found.best.metrics is not None
    assert found.best.metrics.norm == "linf"


def test_interval_ilp_needs_certificates_without_noise() -> None:
    problem = load_problem("digits", budget="w3a3")
    searcher = make_searcher("interval-ilp", problem, seed=0)
    with pytest.raises(BitcertError, match=r"interval-ilp plans for certificates without noise.*certified-ilp"):
        searcher.ask()


def test_one_policy_has_both_guarantees_and_the_exam_of_bounds_is_below_that_of_a_solver() -> None:
    problem = digits(budget="w4a4")
    policy = problem.space.uniform(4)
    bounds = examine(problem, policy, exam=ExamSettings(images=30, method="interval"))
    solved = examine(problem, policy, exam=ExamSettings(images=30, method="verify:solver=branch:work=0.05"))
    smoothed = examine(problem, policy, exam=ExamSettings(images=30, n0=16, n=200))
    assert [outcome.metrics.norm for outcome in (bounds, solved, smoothed)] == ["linf", "linf", "l2"]
    for radius, share in bounds.metrics.certified.items():
        assert share <= solved.metrics.certified[radius]
    assert smoothed.metrics.certified[0.25] > 0.3
    assert bounds.metrics.clean_accuracy == solved.metrics.clean_accuracy == smoothed.metrics.clean_accuracy


def test_a_network_for_smoothing_is_refused_by_name() -> None:
    problem = load_problem("digits", budget="w3a3", certify="interval")
    with pytest.raises(BitcertError, match="choose the engine fixed-point"):
        problem.evaluate(problem.space.uniform(3), FEW)
    fixed = load_problem("digits", budget="w3a3", certify="interval", engine="fixed-point")
    with pytest.raises(BitcertError, match="a fixed-point network consists of layers"):
        fixed.evaluate(fixed.space.uniform(3), FEW)


def test_noisy_images_are_clamped_to_the_levels() -> None:
    network = deployed(digits(budget="w4a4"), 4)
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(images), network(images.clamp(0, 1)))


def test_what_a_solver_leaves_open_is_not_certified_and_is_said() -> None:
    """A branching solver that may not work, and no attack: nothing is decided but by bounds."""
    problem = digits(budget="w4a4")
    policy = problem.space.uniform(4)
    hasty = "verify:solver=branch:work=1e-9:restarts=0"
    bounds, left = (
        examine(problem, policy, exam=ExamSettings(images=40, method=method)) for method in ("interval", hasty)
    )
    assert left.metrics.certified == bounds.metrics.certified
    assert left.metrics.values["undecided"] > 0.5


@pytest.mark.parametrize("limited", ["branch:work=0.01", "cp-sat:work=0.002"])
def test_little_work_leaves_some_images_undecided_and_the_same_ones_again(limited: str) -> None:
    """What was decided within little work has the same verdict within more."""

    def hold(method: str) -> Outcome:
        problem = digits(budget="w4a4")
        exam = ExamSettings(images=12, method=f"verify:restarts=0:solver={method}")
        return examine(problem, problem.space.uniform(3), exam=exam)

    first, second = hold(limited), hold(limited)
    more = hold(limited.partition("=")[0] + "=0.03")
    assert 0 < first.metrics.values["undecided"] <= 1
    assert (first.certificates.radius == second.certificates.radius).all()
    assert first.metrics.values == second.metrics.values
    assert (first.certificates.radius <= more.certificates.radius).all()
    assert first.metrics.values["undecided"] >= more.metrics.values["undecided"]
