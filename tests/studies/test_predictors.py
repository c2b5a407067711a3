"""Which cheap score predicts the deployed one: the policies that are drawn, the statistics, and the study as a whole."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from suite.cli import main
from suite.contract.cost import BOPs, Budget, Cost, Limit, ModelSize
from suite.contract.objective import parse_objective
from suite.contract.problem import Problem
from suite.contract.space import Layer, Policy, SearchSpace
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.studies.predictors import report
from suite.studies.predictors.correlations import correlations, partial_correlation, spreads
from suite.studies.predictors.design import WIDTH, Band, Stratum, design_policies
from suite.studies.predictors.figures import plot_correlations, plot_scatter
from suite.studies.predictors.reliability import crossed_reliability
from suite.studies.predictors.report import score_rows
from suite.studies.predictors.scores import FREE, AtBudget, Predictors, Score
from tests.strategies import spaces


def on(space: SearchSpace, limit: int, cost: Cost | None = None) -> Problem:
    """A problem with this space and budget."""
    problem = load_problem("separable")
    problem.space, problem.budget = space, Budget((Limit(limit, str(limit), cost or BOPs()),))
    return problem


def stratum_of(space: SearchSpace, policy: Policy) -> Stratum:
    """Spelled out with lists: mean bits of layers without a pin, rounded down to half a bit, the most bits to the last cell."""
    found = []
    for part in (policy.weights, policy.activations):
        bits = [b for b, layer in zip(part, space.layers, strict=True) if layer.name not in space.pinned]
        most = max(space.choices[-1] - WIDTH, space.choices[0])
        found.append(min(int(2 * sum(bits) / len(bits)) / 2, most))
    return found[0], found[1]


@settings(max_examples=15)
@given(spaces(), st.integers(0, 3), st.floats(0.05, 0.6), st.booleans())
def test_policies_are_in_the_band_in_their_strata_and_the_same_again(
    space: SearchSpace, seed: int, within: float, by_size: bool
) -> None:
    if not space.variables:
        return
    cost = ModelSize() if by_size else BOPs()
    limit = cost.total(space, space.random(np.random.default_rng(seed)))  # so that at least one policy is in the band
    problem = on(space, limit, cost)
    try:
        drawn = design_policies(problem, 4, within=within, seed=seed)
    except BitcertError as error:
        assert "4 policies asked for" in str(error)  # noqa: PT017 (small spaces may have fewer)
        return
    assert len(drawn) == 4
    assert list(design_policies(problem, 4, within=within, seed=seed).items()) == list(drawn.items())
    for policy, stratum in drawn.items():
        assert problem.is_feasible(policy)
        assert problem.budget.spent(problem.space, policy) >= (1 - within) * limit - 1e-6
        assert stratum == stratum_of(space, policy)


def small() -> Problem:
    layers = tuple(Layer(f"layer{macs}", "conv", macs=macs, parameters=1) for macs in (3, 5, 7))
    return on(SearchSpace(layers, (2, 3, 4, 6), pins={}), 200)


def test_every_stratum_that_has_policies_gives_equally_many() -> None:
    """Against all policies of a space of 4096."""
    problem = small()
    count, space = Counter[Stratum](), problem.space
    for bits in itertools.product(space.choices, repeat=6):
        policy = Policy.from_bits(bits[:3], bits[3:])
        if 190 <= problem.budget.spent(problem.space, policy) <= 200:
            count[stratum_of(space, policy)] += 1
    assert len(count) > 10
    for seed in range(2):
        drawn = Counter(design_policies(problem, 2 * len(count), within=0.05, seed=seed).values())
        assert all(drawn[stratum] <= count[stratum] for stratum in drawn)
        # Walkers may miss one or two policies among 4096.
        assert {drawn[stratum] for stratum in count if count[stratum] > 2} <= {2, 3}
    most = Counter(design_policies(problem, sum(count.values()) * 9 // 10, within=0.05).values())
    assert all(most[stratum] <= count[stratum] for stratum in most)


def test_policies_of_a_stratum_are_drawn_equally_often() -> None:
    """Chi-squared at level 0.001, over all policies of one stratum of a small space."""
    layers = tuple(Layer(f"layer{macs}", "conv", macs=macs, parameters=1) for macs in (3, 4))
    problem = on(SearchSpace(layers, (2, 3, 4), pins={}), 80)
    possible = [
        policy
        for bits in itertools.product((2, 3, 4), repeat=4)
        if 40 <= problem.budget.spent(problem.space, policy := Policy.from_bits(bits[:2], bits[2:])) <= 80
    ]
    stratum, size = Counter(stratum_of(problem.space, policy) for policy in possible).most_common(1)[0]
    assert size >= 4
    arrived = Band(problem, 0.5).walk([stratum] * 2_000, np.random.default_rng(0))
    drawn = Counter(policy for policy, _ in arrived)
    assert len(drawn) == size
    assert stats.chisquare(list(drawn.values())).pvalue > 0.001


def test_a_band_with_too_few_policies_is_refused() -> None:
    problem = load_problem("digits", budget="w2a2")
    assert list(design_policies(problem, 1)) == [problem.space.uniform(2)]
    with pytest.raises(BitcertError, match="2 policies asked for, but only 1 different ones were found within 1 %"):
        design_policies(problem, 2)
    for count, within in ((0, 0.01), (1, 1.0), (1, -0.1)):
        with pytest.raises(BitcertError, match="a design needs"):
            design_policies(problem, count, within=within)


@pytest.mark.parametrize(("seeds", "training"), [(1, 0.0), (2, 1.0), (4, 1.5)])
def test_reliability_is_the_share_of_variance_that_new_images_and_seeds_show_again(seeds: int, training: float) -> None:
    """Normal scores with known components: policies 1, training, image by policy 6, and image by policy and seed 8."""
    rng, policies, images = np.random.default_rng(seeds), 400, 40
    scores = rng.normal(size=(policies, 1, 1)) + training * rng.normal(size=(policies, seeds, 1))
    scores = scores + 6 * rng.normal(size=(policies, 1, images)) + 8 * rng.normal(size=(policies, seeds, images))
    scores = scores + 50 * rng.normal(size=(1, 1, images))  # how hard an image is does not matter
    expected = 1 / (1 + training**2 / seeds + 36 / images + 64 / (seeds * images))
    assert crossed_reliability(scores) == pytest.approx(expected, abs=0.08)


def test_equal_policies_have_no_reliability_and_random_ones_none() -> None:
    assert np.isnan(crossed_reliability(np.ones((5, 2, 10))))
    seldom = np.zeros((4, 1, 20))
    seldom[:, 0, 0] = range(4)  # one of any two halves has equal policies
    assert crossed_reliability(seldom) == 0
    random = crossed_reliability(np.random.default_rng(0).normal(size=(300, 2, 20)))
    assert 0 <= random < 0.2


def test_a_partial_correlation_is_that_of_residuals_of_ranks() -> None:
    rng = np.random.default_rng(0)
    fixed = rng.normal(size=60)
    first, second = fixed + rng.normal(size=60), np.exp(fixed + rng.normal(size=60))
    ranks = [stats.rankdata(values) for values in (first, second, fixed)]
    residuals = [values - np.polyval(np.polyfit(ranks[2], values, 1), ranks[2]) for values in ranks[:2]]
    assert partial_correlation(first, second, fixed) == pytest.approx(np.corrcoef(np.array(residuals))[0, 1])
    assert np.isnan(partial_correlation(fixed, second, fixed))
    assert np.isnan(partial_correlation(first, second, np.ones(60)))


def fabricated(policies: int = 12) -> Predictors:
    """Scores of which the first measured one is the deployed one with noise, the other one noise alone."""
    rng = np.random.default_rng(1)
    quality, layers = rng.normal(size=policies), 6
    drawn = {Policy.from_bits([2 + i % 3] * layers, [2 + i // 3 % 5] * layers): (2.0, 2.5) for i in range(policies)}

    def measured(name: str, level: float, seeds: tuple[int, ...]) -> Score:
        images = level * quality[:, None, None] + rng.normal(size=(policies, max(1, len(seeds)), 40))
        return Score(name, "measured", images.mean(axis=2), seeds, images, 100, 1_000)

    free = [Score(name, "free", rng.normal(size=(policies, 1))) for name in FREE]
    hawq = Score("hawq-v3", "predicted", quality[:, None] + rng.normal(size=(policies, 2)), (0, 2))
    known = {"problem": "made-up", "budget": "w3a3", "sigma": 0.25, "seeds": [0, 1]}
    known |= {"exam": {"split": "exam"}, "cheap_exam": {"split": "search"}}
    cheap = (*free, hawq, measured("none", 2.0, ()), measured("qat", 0.0, (0, 2)))
    part = AtBudget("w3a3", drawn, cheap, (measured("sqwa", 1.0, (1, 3)),))
    return Predictors((part,), parse_objective("acr"), known, {"hawq-v3": 10})


def test_correlations_are_kendalls_and_spearmans_of_means_over_seeds() -> None:
    found = fabricated()
    frame = correlations(found).set_index("score")
    for score in found.budgets[0].cheap:
        pair = score.values.mean(axis=1), found.budgets[0].truth.values.mean(axis=1)
        row = frame.loc[score.name]
        assert row["rho"] == pytest.approx(stats.spearmanr(*pair).statistic)
        assert row["tau"] == pytest.approx(stats.kendalltau(*pair).statistic)
        assert row["rho_low"] < row["rho"] < row["rho_high"]
        assert row["tau_low"] < row["tau"] < row["tau_high"]
        assert row["visible"] == pytest.approx(np.sqrt(row["reliability"] * row["deployed_reliability"]))
    assert (frame.loc[list(FREE), "reliability"] == 1).all()
    assert frame["rho"]["none"] > 0.8 > abs(frame["rho"]["qat"])
    assert np.isnan(frame["partial"]["BOPs"])
    assert (frame["policies"] == 12).all()


def test_spreads_tell_policies_from_training() -> None:
    found = fabricated()
    frame = spreads(found).set_index("score")
    assert list(frame.index) == ["none", "qat", "sqwa"]
    deployed = found.budgets[0].truth.values
    assert frame["sd"]["sqwa"] == pytest.approx(deployed.mean(axis=1).std(ddof=1))
    assert frame["sd_training"]["sqwa"] ** 2 == pytest.approx(deployed.var(axis=1, ddof=1).mean())
    assert frame["deployed"].tolist() == [False, False, True]
    assert np.isnan(frame["sd_training"]["none"])
    assert frame["training_low"]["sqwa"] <= frame["training_reliability"]["sqwa"] <= 1


def test_a_constant_score_correlates_with_nothing_and_can_be_drawn() -> None:
    found = fabricated()
    part = found.budgets[0]
    constant = replace(part.cheap[0], values=np.ones((12, 1)))
    found = found.at(replace(part, cheap=(constant, *part.cheap[1:])))
    assert np.isnan(correlations(found)["rho"][0])
    assert correlations(found)["partial"].isna().all()  # nothing is held fixed where nothing varies
    assert len(plot_correlations(found).get_yticks()) == len(found.names)
    scattered = plot_scatter(found, name="none")
    assert scattered.get_title(loc="left").startswith("BOPs")


def test_rows_are_tidy() -> None:
    found = fabricated()
    rows = score_rows(found)
    assert len(rows) == 12 * (len(FREE) + 2 + 1 + 2 + 2)
    mean = rows[rows["deployed"]].groupby("policy")["value"].mean()
    assert mean.to_numpy() == pytest.approx(found.budgets[0].truth.means)
    assert rows["seed"].isna().sum() == 12 * (len(FREE) + 1)


def command(folder: Path) -> list[str]:
    words = "predictors digits --budget w2.5a2.5 --policies 4 --scores none,qat:steps=2,qat:steps=3 --seeds 0,1"
    return [*words.split(), *["--exam-images", "20", "--exam-n0", "5", "--exam-n", "20", "--directory"], str(folder)]


def test_the_command_scores_reports_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    assert main([*command(folder), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["score"] for row in content["correlations"]] == [*FREE, "none", "qat:steps=2"]
    assert content["deployed"] == "qat:steps=3"
    rows = pd.read_csv(folder / "report" / "scores.csv")
    by_score = {name: sorted(set(part["seed"].dropna())) for name, part in rows.groupby("score")}
    assert (by_score["none"], by_score["qat:steps=2"], by_score["qat:steps=3"]) == ([], [0, 2], [1, 3])
    exams = {part: sorted((folder / part / "exams").rglob("*.json")) for part in ("cheap", "deployed")}
    assert [len(files) for files in exams.values()] == [1 + 4 + 8, 1 + 8]
    splits = {part: json.loads(files[0].read_text())["images"]["id"] for part, files in exams.items()}
    assert not set(splits["cheap"]) & set(splits["deployed"])
    for figure in ("scatter", "correlations"):
        with Image.open(folder / "report" / f"{figure}.png") as picture:
            assert picture.width > 1000
    written = {path: path.stat().st_mtime_ns for files in exams.values() for path in files[1:]}
    exams["deployed"][0].unlink()
    monkeypatch.setattr(report, "write_predictors", lambda *_: [])  # the same again, and figures take longest
    assert main(command(folder)) == 0
    assert "tau" in capsys.readouterr().out
    assert exams["deployed"][0].exists()
    assert written == {path: path.stat().st_mtime_ns for path in written}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scores", "none"], "name at least one score besides the deployed one, none"),
        (["--scores", "none,none,qat"], "needs post_steps without repetition"),
        (["--predictors", "random"], "unknown sensitivity method 'random'"),
        (["--within", "1"], "a band of 0 up to 1"),
        (["--exam-images", "5000"], "5000"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    assert main(["predictors", "digits", "--policies", "4", *options, "--directory", str(folder)]) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


def test_the_plan_counts_every_exam(tmp_path: Path) -> None:
    from suite.studies.experiment import Document, read_experiments

    content = {
        "study": "predictors",
        "problem": {"name": "digits", "budget": "w3a3"},
        "scores": ["none", "qat:steps=100", "qat:steps=50"],
        "policies": 3,
        "seeds": [0, 1],
        "exam": {"images": 20, "n0": 5, "n": 15},
    }
    (run,) = read_experiments(content, Document({}, {}))
    exams = (1 + 3 + 6) + (1 + 6)  # the float network, then policies and seeds
    recalibrated = 3 * 250  # images through which each policy that is not trained recomputes its batch norms
    assert run.study.plan().passes["exam"] == exams * 20 * (1 + 5 + 15) + recalibrated
