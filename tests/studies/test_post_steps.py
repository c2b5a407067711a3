"""Post-steps compared on the same policies: what is run, resumed and refused, and what the report makes of it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy import stats

from benchmarks.coverage import SPREADS, coverage, joint_interval, paired_by_seed
from suite.certify.exam import ExamSettings
from suite.cli import EXIT_SLICE_OVER, main
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.problems.vision import VisionProblem
from suite.protocols import PostStep, parse_post_step
from suite.report.exams import exam_score
from suite.run import exam
from suite.run.exam import examine
from suite.run.records import Outcome
from suite.studies.noninferiority.measure import judge, read_points
from suite.studies.post_steps.policies import plot_policies, policy_table
from suite.studies.post_steps.report import differences, training_interval
from suite.studies.post_steps.run import (
    PostStepComparison,
    PostStepSettings,
    compare_post_steps,
    name_policies,
    sample_policies,
)
from suite.studies.slices import SliceOver
from tests.interruptions import interrupt_every_second_write

NAMES = ("sqwa:captures=2", "qat", "none")
EXAM = ExamSettings(images=30, n0=5, n=40)


@pytest.fixture(scope="module")
def problem() -> VisionProblem:
    loaded = load_problem("digits", budget="w2.5a2.5")
    assert isinstance(loaded, VisionProblem)
    return loaded


@pytest.fixture(scope="module")
def settings(problem: VisionProblem) -> PostStepSettings:
    return PostStepSettings(NAMES, sample_policies(problem, 2), (0, 1), EXAM, steps=4)


@pytest.fixture(scope="module")
def folder(problem: VisionProblem, settings: PostStepSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("post-steps") / "here"
    compare_post_steps(problem, settings, made)
    return made


@pytest.fixture(scope="module")
def comparison(problem: VisionProblem, settings: PostStepSettings, folder: Path) -> PostStepComparison:
    return compare_post_steps(problem, settings, folder)


def test_the_first_policy_is_the_largest_uniform_one_and_none_comes_twice(problem: VisionProblem) -> None:
    policies = sample_policies(problem, 6)
    assert policies[0] == problem.space.uniform(2)
    assert len(set(policies)) == 6
    assert all(problem.is_feasible(policy) for policy in policies)
    assert policies[:3] == sample_policies(problem, 3)


def test_a_budget_with_a_single_policy_cannot_give_two() -> None:
    tight = load_problem("digits", budget="w2a2")
    assert isinstance(tight, VisionProblem)
    assert len(sample_policies(tight, 1)) == 1
    with pytest.raises(BitcertError, match="there are only 1 within the budget w2a2"):
        sample_policies(tight, 2)


def test_every_policy_and_seed_is_examined_after_every_post_step(
    comparison: PostStepComparison, settings: PostStepSettings
) -> None:
    shapes = {name: (len(rows), len(rows[0])) for name, rows in comparison.exams.items()}
    assert shapes == {"sqwa:captures=2": (2, 2), "qat": (2, 2), "none": (2, 1)}
    for rows in comparison.exams.values():
        assert [row[0].policy for row in rows] == list(settings.policies)
    seeds = {
        outcome.provenance["post_step"]["seed"]
        for name in NAMES[:2]
        for row in comparison.exams[name]
        for outcome in row
    }
    assert len(seeds) == 4  # one for each policy and seed, the same for both post-steps


def test_an_exam_is_what_examine_gives(problem: VisionProblem, comparison: PostStepComparison) -> None:
    outcome = comparison.exams["qat"][1][0]
    step, seed = parse_post_step("qat", 4), outcome.provenance["post_step"]["seed"]
    assert examine(problem, outcome.policy, step, exam=EXAM, seed=seed).scores.tolist() == outcome.scores.tolist()


def test_a_finished_exam_is_not_held_again(
    problem: VisionProblem, settings: PostStepSettings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = sorted((folder / "exams" / "qat").iterdir())[0]
    content = json.loads(removed.read_text())
    removed.unlink()
    held: list[str] = []

    def counted(problem: VisionProblem, *, post_step: PostStep, **options: Any) -> Outcome:
        held.append(post_step.name)
        return examine(problem, post_step=post_step, **options)

    monkeypatch.setattr(exam, "examine", counted)
    counts: list[int] = []
    compare_post_steps(problem, settings, folder, on_start=counts.append)
    assert (held, counts) == (["qat"], [1])
    assert json.loads(removed.read_text())["images"] == content["images"]


def test_a_folder_with_something_else_is_refused(
    problem: VisionProblem, settings: PostStepSettings, folder: Path, tmp_path: Path
) -> None:
    other = PostStepSettings(NAMES, settings.policies, (0, 1), EXAM, steps=5)
    with pytest.raises(BitcertError, match="differs in steps"):
        compare_post_steps(problem, other, folder)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BitcertError, match="is not empty"):
        compare_post_steps(problem, settings, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("names", [(), ("qat", "qat"), ("nonsense",), ("sqwa:steps=3",)])
def test_bad_post_steps_are_refused(settings: PostStepSettings, names: tuple[str, ...]) -> None:
    with pytest.raises(BitcertError):
        PostStepSettings(names, settings.policies, (0,), EXAM)


def test_settings_are_chosen_on_search_images(problem: VisionProblem, settings: PostStepSettings) -> None:
    search = examine(problem, settings.policies[0], exam=ExamSettings(images=30, n0=5, n=40, split="search"))
    assert set(search.image_ids) <= set(problem.bench.dataset.splits["search"].ids)
    assert not set(search.image_ids) & set(problem.bench.dataset.splits["exam"].ids)


def test_the_interval_of_one_policy_is_the_paired_t_interval() -> None:
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.05])
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    found = training_interval(differences)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    simultaneous = stats.ttest_1samp(differences, 0).confidence_interval(1 - 0.05 / 4)
    assert training_interval(differences, 4).high == pytest.approx(simultaneous.high)
    assert np.isnan(training_interval([[0.1], [0.2]]).low)


@pytest.mark.parametrize(
    ("spreads", "post_steps"), [("equal", 1), ("tenfold", 1), ("tenfold", 6), ("one policy tenfold", 1)]
)
def test_the_interval_over_training_covers_the_mean_however_spreads_differ(spreads: str, post_steps: int) -> None:
    """One variance pooled over policies covers 81 to 91 % where spreads differ, and 66 % jointly."""
    rng, repetitions = np.random.default_rng(0), 1000 // post_steps
    draw = partial(paired_by_seed, spreads=SPREADS[spreads], post_steps=post_steps)
    covered, _ = coverage(joint_interval, draw, 0.0, repetitions, rng)
    # Intervals that cover 95 % fail this once in a million repetitions.
    assert covered >= stats.binom.ppf(1e-6, repetitions, 0.95)


def test_differences_between_policies_do_not_widen_the_interval() -> None:
    """Policies are fixed: where their spreads are equal, all seeds count towards the degrees of freedom."""
    noise, effects = np.random.default_rng(1).normal(size=(4, 3)), np.array([-1.0, 0.0, 2.0, 5.0])
    alike = (noise - noise.mean(axis=1, keepdims=True)) / noise.std(axis=1, ddof=1, keepdims=True)
    found = training_interval(effects[:, None] + alike)
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 8) / np.sqrt(12))
    assert (found.low + found.high) / 2 == pytest.approx(effects.mean())


def test_two_policies_have_the_interval_of_welch() -> None:
    first, second = np.array([0.3, -0.1, 0.4, 0.2, 0.05]), np.array([4.0, -2.0, 7.0, 1.0, 0.0])
    expected = stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.95)
    found = training_interval([first, second])
    assert (2 * found.low, 2 * found.high) == pytest.approx((expected.low, expected.high))
    assert np.isnan(training_interval(np.ones((3, 4))).low)


def test_differences_are_paired_by_policy_and_seed(comparison: PostStepComparison) -> None:
    frame = differences(comparison).set_index("post_step")
    assert frame.index[0] == "sqwa:captures=2"
    assert frame["difference"].isna().tolist() == [True, False, False]
    means = {
        name: np.array([[outcome.metrics.acr for outcome in row] for row in rows])
        for name, rows in comparison.exams.items()
    }
    paired = means["none"] - means["sqwa:captures=2"]  # one exam without training for two seeds
    row = frame.loc["none"]
    assert row["difference"] == pytest.approx(paired.mean())
    assert (row["least"], row["most"]) == pytest.approx((paired.mean(axis=1).min(), paired.mean(axis=1).max()))
    assert row["low"] < row["difference"] < row["high"]
    assert row["image_low"] < row["difference"] < row["image_high"]


def test_the_report_says_the_steps_and_the_passes_of_each_post_step(comparison: PostStepComparison) -> None:
    frame = differences(comparison).set_index("post_step")
    assert frame["steps"].to_dict() == {"sqwa:captures=2": 4, "qat": 4, "none": 0}
    passes, gradients = frame["passes"].to_dict(), 3 * 64 * 4
    assert passes["qat"] == gradients
    assert passes["sqwa:captures=2"] > gradients
    assert 0 < passes["none"] < gradients, "batch norm is recalibrated"


def test_the_command_writes_a_report_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["post-steps", "digits", "--budget", "w3a3", "--policies", "2", "--seeds", "0,1", "--steps", "3"]
    command += ["--post-steps", "qat,sqwa:captures=1,none", "--split", "search", "--exam-images", "12"]
    command += ["--exam-n0", "4", "--exam-n", "30", "--directory", str(tmp_path / "run")]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "12 search images" in shown.out.replace("\n", " ")
    assert main([*command, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["post_steps"][0]["post_step"] == "qat"
    report = tmp_path / "run" / "report"
    names = {file.name for file in report.iterdir()}
    kinds = ("csv", "md", "tex", "html", "png", "svg")
    assert names == {f"{name}.{kind}" for name in ("post_steps", "policies") for kind in kinds} | {
        "post_steps.json",
        "rows.csv",
    }
    assert len(pd.read_csv(report / "rows.csv")) == 2 * 2 + 2 * 2 + 2
    with Image.open(report / "post_steps.png") as picture:
        assert picture.width > 1000


def test_a_formula_has_nothing_to_finetune(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["post-steps", "separable"]) == 2
    assert "has no network to finetune" in capsys.readouterr().err


def test_the_table_of_policies_says_what_its_spread_is_worth(
    problem: VisionProblem, comparison: PostStepComparison
) -> None:
    table = policy_table(comparison)
    frame = table.frame
    assert comparison.names == ("w2a2", "policy 2")
    assert len(frame) == 2 * len(NAMES)
    assert frame["bops"].is_monotonic_increasing
    first = frame[(frame["policy"] == "w2a2") & (frame["post_step"] == "qat")].iloc[0]
    own = [exam_score(outcome, comparison.objective) for outcome in comparison.exams["qat"][0]]
    assert (first["score"], first["sd"]) == (pytest.approx(np.mean(own)), pytest.approx(np.std(own, ddof=1)))
    assert first["bops"] == problem.bops(problem.space.uniform(2))
    assert frame[frame["post_step"] == "none"]["sd"].isna().all()
    means = np.array([[exam_score(o, comparison.objective) for o in row] for row in comparison.exams["qat"]]).mean(
        axis=1
    )
    assert f"between the means of 2 policies, {means.std(ddof=1):.4f}" in table.notes[2]


def test_uniform_policies_are_called_by_their_bits(problem: VisionProblem) -> None:
    space = problem.space
    mixed = sample_policies(problem, 2)[1]
    assert name_policies(space, (space.uniform(2, 4), mixed, space.uniform(3))) == ("w2a4", "policy 2", "w3a3")


def test_policies_are_drawn_at_their_bops_with_the_range_over_seeds(comparison: PostStepComparison) -> None:
    axes = plot_policies(comparison)
    drawn = {container.get_label(): container for container in axes.containers}
    assert set(drawn) == set(NAMES)
    line = drawn["qat"].lines[0]  # type: ignore[attr-defined]
    frame = policy_table(comparison).frame.query("post_step == 'qat'")
    assert sorted(line.get_ydata()) == pytest.approx(sorted(frame["score"]))
    assert sorted(line.get_xdata()) == pytest.approx(sorted(100 * frame["of_float"]))


def test_every_policy_is_a_point_of_a_test_for_non_inferiority(folder: Path, comparison: PostStepComparison) -> None:
    points = read_points(f"finetuned={folder}@qat", None)
    assert [(point.name, len(point.outcomes)) for point in points] == [("w2a2", 2), ("policy 2", 2)]
    assert [point.outcomes[0].policy for point in points] == list(comparison.policies)
    assert judge(points, (0.0, 0.25), 0.01).judged[0].point.references[0].policy is None
    with pytest.raises(BitcertError, match=r"unknown post-step of this comparison 'swa'; known: .*qat"):
        read_points(f"finetuned={folder}@swa", None)


def test_slices_shorter_than_any_exam_get_through_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slices end after two writes, however long these take; each of three exams makes three, each of two trainings four."""
    experiment = {
        "study": "post-steps",
        "problem": {"name": "digits", "budget": "w2a2"},
        "policies": 1,
        "seeds": [0],
        "post_steps": ["qat", "sqwa:captures=2"],
        "steps": 4,
        "exam": {"images": 10, "n0": 200, "n": 600},
    }
    files = {}
    for name in ("whole", "sliced"):
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump(experiment | {"directory": str(tmp_path / name)}))
    assert main(["run", str(files["whole"]), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    interrupt_every_second_write(monkeypatch, SliceOver)
    slices = 0
    while (status := main(["run", str(files["sliced"]), "--slice", "10h", "--json"])) == EXIT_SLICE_OVER:
        slices += 1
    assert status == 0
    assert slices == (3 * 3 + 2 * 4) // 2
    sliced = json.loads(capsys.readouterr().out)
    assert sliced["post_steps"] == whole["post_steps"]
    assert not list((tmp_path / "sliced").rglob("*.unfinished"))
