"""Predictors over several budgets, with several post-steps that deploy and with recorded scores."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from baselines.planned import PlannedSearcher
from suite.cli import main
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.run.exam import default_exam
from suite.studies.post_steps.run import PostStepSettings
from suite.studies.predictors.correlations import correlations, costs, pairs_across_budgets
from suite.studies.predictors.design import design_policies
from suite.studies.predictors.recorded import Recorded, read_recorded
from suite.studies.predictors.reliability import crossed_reliability, pooled_reliability, total_reliability
from suite.studies.predictors.report import correlation_table, cost_table, pooled_table, spread_table
from suite.studies.predictors.run import Case, unrecorded, with_recorded
from suite.studies.predictors.scores import FREE, Predictors, Score, combine
from suite.studies.sensitivity.run import make_methods
from tests.studies.test_predictors import fabricated

RESULTS = Path(__file__).parents[2] / "results"


def two_budgets() -> Predictors:
    """The second budget has every measured score of the first, one higher."""
    found = fabricated()
    first = found.budgets[0]

    def raised(score: Score) -> Score:
        return replace(score, values=score.values + 10.0)

    second = replace(
        first, budget="w4a4", cheap=tuple(map(raised, first.cheap)), deployed=tuple(map(raised, first.deployed))
    )
    return replace(found, budgets=(first, second))


def test_within_budgets_is_the_mean_of_the_budgets_and_pooled_compares_all_policies() -> None:
    found = two_budgets()
    within, pooled = (correlations(found, scope).set_index("score") for scope in ("within", "pooled"))
    alone = correlations(fabricated()).set_index("score")
    assert within["tau"].to_numpy() == pytest.approx(alone["tau"].to_numpy())
    assert within["reliability"].to_numpy() == pytest.approx(alone["reliability"].to_numpy())
    for name in found.names:
        first = np.concatenate([score.means for score in found.cheap(name)])
        second = np.concatenate([part.truth.means for part in found.budgets])
        assert pooled["tau"][name] == pytest.approx(stats.kendalltau(first, second).statistic)
    assert pairs_across_budgets(found) == pytest.approx(12 * 12 / (24 * 23 / 2))
    assert "52 % of the pairs are of different budgets" in pooled_table(found).notes[0]
    assert "BOPs, which are free, have tau +" in pooled_table(found).notes[0]


def test_costs_are_shares_of_one_deployment_and_say_from_when_a_set_up_pays() -> None:
    found = replace(two_budgets(), setup={"none": 1_001, "hawq-v3": 10})
    cheaper = [
        replace(part, cheap=(*part.cheap[:-2], replace(part.cheap[-2], preparation=50), part.cheap[-1]))
        for part in found.budgets
    ]
    frame = costs(replace(found, budgets=tuple(cheaper))).set_index("score")
    assert frame["passes"][["BOPs", "hawq-v3", "none", "qat"]].tolist() == [0, 0, 50, 200]  # qat has two seeds
    assert frame["total_passes"][["none", "qat"]].tolist() == [1_050, 2_200]
    assert frame["of_deployed"][["BOPs", "none", "qat"]].tolist() == [0, 0.5, 2]
    assert frame["break_even"][["none", "hawq-v3"]].tolist() == [21, 1]
    assert frame["break_even"][["BOPs", "qat"]].isna().all()


def scores(
    rng: np.random.Generator, columns: int, images: int, training: float, level: float = 0.0
) -> tuple[Score, float]:
    """Normal scores of 400 policies with known components, and the reliability of their mean."""
    parts = rng.normal(size=(400, 1, 1)) + training * rng.normal(size=(400, columns, 1))
    values = level + parts + 4 * rng.normal(size=(400, 1, images))
    expected = 1 / (1 + training**2 / columns + 16 / images)
    return Score("qat", "measured", values.mean(axis=2), tuple(range(columns)), values), expected


def test_several_post_steps_are_averaged_over_columns_and_keep_the_mean_of_their_levels() -> None:
    rng = np.random.default_rng(0)
    first, second = scores(rng, 2, 20, 1.0)[0], scores(rng, 1, 20, 1.0, level=5.0)[0]
    truth = combine((first, second))
    centred = np.hstack([first.values - first.values.mean(), second.values - second.values.mean()])
    level = (first.values.mean() + second.values.mean()) / 2
    assert truth.means == pytest.approx(centred.mean(axis=1) + level)
    equal = combine((first, replace(first, values=first.values + 3)))
    assert equal.means == pytest.approx(first.means + 1.5)
    assert combine((first,)) is first


@pytest.mark.parametrize("known", [1, 2, 4])
def test_recorded_columns_count_in_the_reliability_without_their_images(known: int) -> None:
    whole, expected = scores(np.random.default_rng(known), 4, 20, 1.0)
    assert whole.images is not None
    partly = replace(whole, images=whole.images[:, :known], recorded=4 - known)
    assert total_reliability(partly) == pytest.approx(expected, abs=0.08)


def test_without_images_a_reliability_takes_them_as_they_are() -> None:
    whole, expected = scores(np.random.default_rng(5), 4, 20, 1.0)
    found = total_reliability(replace(whole, images=None, recorded=4))
    assert found == pytest.approx((1 + 16 / 20) / (1 + 16 / 20 + 1 / 4), abs=0.05)
    assert found > expected + 0.1


def test_pooled_reliability_is_that_of_crossed_halves_of_all_policies() -> None:
    rng = np.random.default_rng(6)
    parts = [scores(rng, 2, 20, 1.0, level)[0] for level in (0.0, 1.5, 3.0)]
    images = np.concatenate([part.images for part in parts if part.images is not None])
    assert pooled_reliability(parts) == pytest.approx(crossed_reliability(images), abs=0.05)
    assert pooled_reliability(parts) > total_reliability(parts[0]) + 0.1
    unknown = replace(parts[0], values=parts[0].values[:, :1], images=None, recorded=1)
    assert np.isnan(pooled_reliability([unknown, *parts[1:]]))


@pytest.mark.parametrize(
    "name",
    [
        "fit:images=2",
        "output-fisher:images=2",
        "hawq-v2:images=2:tolerance=0.5",
        "hawq-v3:images=2:tolerance=0.5",
        "limpq:images=64:epochs=1",
        "sensitivity-ilp:images=2:around=budget",
    ],
)
def test_predictions_depend_on_the_budget_only_where_the_method_says_so(name: str) -> None:
    made = [make_methods(load_problem("digits", budget=budget), [name], 0)[name] for budget in ("w2.5a2.5", "w4a4")]
    assert all(isinstance(searcher, PlannedSearcher) for searcher in made)
    policies = [made[0].problem.space.random(np.random.default_rng(seed)) for seed in range(3)]
    losses = [[searcher.prediction.loss(policy) for policy in policies] for searcher in made]
    assert (losses[0] == losses[1]) == (not made[0].depends_on_budget)


def command(folder: Path, *more: str) -> list[str]:
    words = (
        "predictors digits --policies 3 --scores none --deployed qat:steps=2 --exam-images 10 --exam-n0 5 --exam-n 20"
    )
    return [*words.split(), "--directory", str(folder), *more]


@pytest.mark.usefixtures("no_figures")
def test_a_study_of_one_budget_is_resumed_with_more_budgets_once_its_exams_are_in_a_folder_of_that_budget(
    tmp_path: Path,
) -> None:
    one, both = tmp_path / "one", tmp_path / "both"
    assert main(command(one, "--budget", "w2.5a2.5", "--seeds", "0")) == 0
    (both / "w2.5a2.5").mkdir(parents=True)
    for part in ("cheap", "deployed"):
        (one / part).rename(both / "w2.5a2.5" / part)
    moved = {path: path.stat().st_mtime_ns for path in both.rglob("exams/**/*.json")}
    assert len(moved) == 2 * (1 + 3)
    more = ("--budgets", "w2.5a2.5,w4a4", "--predictors", "fit:images=8")
    assert main(command(both, *more, "--seeds", "0")) == 0
    assert moved == {path: path.stat().st_mtime_ns for path in moved}
    rows = pd.read_csv(both / "report" / "scores.csv")
    assert rows.groupby("budget")["bits"].nunique().to_dict() == {"w2.5a2.5": 3, "w4a4": 3}
    content = json.loads((both / "report" / "correlations.json").read_text(encoding="utf-8"))
    assert [row["score"] for row in content["pooled"]] == [*FREE, "fit:images=8", "none"]
    fit = next(row for row in content["correlations"] if row["score"] == "fit:images=8")
    assert (fit["passes"], fit["setup_passes"] > 0) == (0, True)


@pytest.mark.usefixtures("no_figures")
def test_recorded_seeds_are_not_measured_again_and_others_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    assert main(command(old, "--budget", "w2.5a2.5", "--seeds", "0")) == 0
    options = ("--budget", "w2.5a2.5", "--seeds", "0,1", "--recorded", str(old / "report" / "scores.csv"))
    assert main(command(new, *options)) == 0
    assert len(list((new / "deployed").rglob("exams/**/*.json"))) == 1 + 3  # the float network, and one seed of two
    recorded, both = (pd.read_csv(folder / "report" / "scores.csv").query("deployed") for folder in (old, new))
    assert sorted(set(both["seed"])) == [1, 3]
    assert both[both["seed"] == 1]["value"].tolist() == recorded["value"].tolist()
    assert "recorded 1 of 2 columns" in (new / "report" / "correlations.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(command(new, *options, "--sigma", "0.5")) == 2
    assert "sigma is 0.25 there and 0.5 here" in " ".join(capsys.readouterr().err.split())


def test_post_steps_are_measured_with_the_seeds_that_none_has_recorded() -> None:
    problem = load_problem("digits", budget="w3a3")
    policies = design_policies(problem, 2)
    settings = PostStepSettings(("none", "qat", "sqwa"), tuple(policies), (1, 3), default_exam(problem))
    column = np.zeros(2)
    recorded = {"none": Recorded({None: column}), "qat": Recorded({1: column, 5: column})}
    case = Case(problem, policies, settings, settings, Path("unused"), recorded)
    assert {part.post_steps: part.seeds for part in unrecorded(case)} == {("qat",): (3,), ("sqwa",): (1, 3)}
    alone = with_recorded("qat", None, Recorded({1: column, 5: column + 1}, 7.0))
    assert (alone.seeds, alone.recorded, alone.preparation, alone.images) == ((1, 5), 2, 7.0, None)
    assert alone.values.tolist() == [[0, 1], [0, 1]]


def test_recorded_results_are_read_by_policy_and_refused_if_they_are_of_others() -> None:
    problem = load_problem("digits", budget="w3a3")
    policies = design_policies(problem, 48)
    exam = replace(default_exam(problem), n0=20, n=200)
    file = RESULTS / "predictors-w3a3" / "scores.csv"
    (found,) = read_recorded([file], [problem], [list(policies)[::-1]], ["qat:steps=800", "sqwa"], exam)
    assert list(found) == ["qat:steps=800"]
    rows = pd.read_csv(file)
    values = rows[rows["deployed"] & (rows["seed"] == 3)]["value"].to_numpy()
    assert found["qat:steps=800"].columns[3] == pytest.approx(values[::-1])
    assert found["qat:steps=800"].preparation == 800 * 64 * 3  # a training pass counts as three
    others = design_policies(problem, 48, seed=1)
    for problems, drawn, name, settings, message in (
        ([problem], [others], "qat:steps=800", exam, "policies of this study have no recorded score"),
        ([problem], [policies], "sqwa", exam, "holds nothing that this study asks for"),
        ([problem], [policies], "qat:steps=800", replace(exam, n=300), "exam.n is 200 there and 300 here"),
        ([load_problem("digits", budget="w4a4")], [policies], "qat:steps=800", exam, "its budgets are w3a3"),
    ):
        with pytest.raises(BitcertError, match=message):
            read_recorded([file], problems, drawn, [name], settings)
    with pytest.raises(BitcertError, match="recorded twice"):
        read_recorded([file, file], [problem], [policies], ["qat:steps=800"], exam)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "w3a3", "--budgets", "w3a3,w4a4"], "both given"),
        (["--budgets", "w3a3,w3a3"], "budgets must differ"),
        (["--budgets", "w3a3,nonsense"], "nonsense"),
        (["--recorded", "nowhere/scores.csv"], "no recorded scores can be read"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    assert main(command(folder, *options)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not folder.exists()


def test_tables_name_what_is_recorded() -> None:
    found = two_budgets()
    parts = [replace(part, deployed=(replace(part.deployed[0], images=None, recorded=2),)) for part in found.budgets]
    assert "recorded 2 of 2 columns" in correlation_table(replace(found, budgets=tuple(parts))).notes[-1]
    assert not any("recorded" in note for note in correlation_table(found).notes)


def test_the_first_note_names_the_best_score_with_its_interval_and_cost_and_all_notes_are_short() -> None:
    found = two_budgets()
    tables = [correlation_table(found), pooled_table(found), cost_table(found), spread_table(found)]
    row = tables[0].frame.set_index("score").loc["none"]
    interval = f"tau {row['tau']:+.2f} [{row['tau_low']:+.2f}, {row['tau_high']:+.2f}]"
    assert f"none, with {interval}, at 1.00 of the passes of a deployment." in tables[0].notes[0]
    probed = correlation_table(replace(found, setup={"none": 1_000})).notes[0]
    assert "at 1.00 of the passes of a deployment, after 1k passes once." in probed
    free = correlations(found).query("kind == 'free'").set_index("score")["tau"].abs().idxmax()
    assert f"Best free score, whatever its sign: {free}, with tau" in tables[0].notes[0]
    for note in (note for table in tables for note in table.notes):
        assert len(re.findall(r"[.?](?= |$)", note)) <= 3
