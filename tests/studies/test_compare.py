"""Comparisons: searches, shared exams of distinct winners, resumption, equal results from both executors."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from suite.certify.exam import ExamSettings
from suite.cli import main
from suite.contract.trial import Fidelity, Trial
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.problems.vision import VisionProblem
from suite.protocols import NoPostStep
from suite.protocols.qat import QAT
from suite.protocols.sqwa import SQWA
from suite.report import leaderboard, leaderboard_table, write_report
from suite.report.comparison import Comparison, front_frame
from suite.run.exam import examine
from suite.run.limits import Limits
from suite.run.records import Outcome, Run
from suite.run.watcher import Watcher
from suite.studies.compare.run import Batch, ComparisonSettings, compare, load_comparison, run_batch

SETTINGS = ComparisonSettings(
    searchers=("random", "evolution", "uniform", "cheapest"),
    seeds=(0, 1),
    limits=Limits(5),
    fidelity=Fidelity(images=20, noise=16),
    post_step=NoPostStep(),
    exam=ExamSettings(images=30, n0=20, n=50),
)


def digits() -> VisionProblem:
    problem = load_problem("digits", budget="w3a3")
    assert isinstance(problem, VisionProblem)
    return problem


class Counting(Watcher):
    def __init__(self) -> None:
        self.trials = 0
        self.exam_files = 0

    def trial(self, searcher: str, seed: int, trial: Trial) -> None:
        self.trials += 1

    def exam(self, outcome: Outcome) -> None:
        self.exam_files += 1


def timeless(run: Run) -> Run:
    """The run without wall times."""

    def without(trials: tuple[Trial, ...]) -> tuple[Trial, ...]:
        return tuple(replace(trial, metrics=trial.metrics and replace(trial.metrics, seconds=0.0)) for trial in trials)

    return replace(run, trials=without(run.trials), finals=without(run.finals))


def assert_equal(first: Comparison, second: Comparison) -> None:
    assert len(first.entries) == len(second.entries)
    for one, other in zip(first.entries, second.entries, strict=True):
        assert timeless(one.run) == timeless(other.run)
        np.testing.assert_array_equal(one.outcome.scores, other.outcome.scores)
    np.testing.assert_array_equal(first.reference.scores, second.reference.scores)


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare(digits(), SETTINGS, tmp_path_factory.mktemp("inline") / "comparison", executor="inline")


def test_there_is_an_entry_for_every_searcher_and_seed(inline: Comparison) -> None:
    assert [(entry.run.searcher, entry.run.seed) for entry in inline.entries] == [
        (searcher, seed) for seed in SETTINGS.seeds for searcher in SETTINGS.searchers
    ]


def test_winners_are_feasible_and_examined_on_the_same_unseen_images(inline: Comparison) -> None:
    problem = digits()
    searched = set(problem.bench.dataset.splits["search"].ids.tolist())
    for entry in inline.entries:
        assert entry.run.best is not None
        assert entry.outcome.policy == entry.run.best.policy
        assert problem.is_feasible(entry.run.best.policy)
        np.testing.assert_array_equal(entry.outcome.image_ids, inline.reference.image_ids)
        assert not searched & set(entry.outcome.image_ids.tolist())


def test_identical_winners_of_a_seed_share_one_exam(inline: Comparison) -> None:
    distinct = {(entry.run.seed, entry.outcome.policy) for entry in inline.entries}
    assert len(list((inline.directory / "exams").iterdir())) == len(distinct) + len(SETTINGS.seeds)


def test_identical_winners_of_one_network_share_one_exam(tmp_path: Path) -> None:
    settings = replace(SETTINGS, searchers=("uniform", "cheapest"), same_network=True)
    found = compare(digits(), settings, tmp_path, executor="inline")
    distinct = {entry.outcome.policy for entry in found.entries}
    assert len(list((tmp_path / "exams").iterdir())) == len(distinct) + 1
    assert len(distinct) < len(found.entries)


def test_a_finished_comparison_is_read_back_without_work(inline: Comparison) -> None:
    counting = Counting()
    again = compare(digits(), SETTINGS, inline.directory, executor="inline", watcher=counting)
    assert_equal(again, inline)
    assert counting.exam_files == 0
    assert_equal(load_comparison(inline.directory), inline)


def test_a_lost_exam_and_a_cut_journal_are_made_up_for(inline: Comparison, tmp_path: Path) -> None:
    partial = Path(shutil.copytree(inline.directory, tmp_path / "partial"))
    (partial / "exams" / "float-0.json").unlink()
    journal = partial / "searches" / "evolution-1" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:4]))
    counting = Counting()
    assert_equal(compare(digits(), SETTINGS, partial, executor="inline", watcher=counting), inline)
    assert counting.exam_files == 1


def test_searchers_and_seeds_may_be_added(inline: Comparison, tmp_path: Path) -> None:
    fewer = replace(SETTINGS, searchers=SETTINGS.searchers[:1], seeds=SETTINGS.seeds[:1])
    first = compare(digits(), fewer, tmp_path, executor="inline")
    counting = Counting()
    extended = compare(digits(), SETTINGS, tmp_path, executor="inline", watcher=counting)
    assert_equal(extended, inline)
    assert (
        counting.exam_files == len(list((tmp_path / "exams").iterdir())) - 2
    )  # the float network's and the first winner's
    assert_equal(compare(digits(), fewer, tmp_path, executor="inline"), first)


def test_a_directory_with_another_comparison_is_refused(inline: Comparison) -> None:
    before = (inline.directory / "comparison.json").read_bytes()
    with pytest.raises(BitcertError, match="differs in finalists"):
        compare(digits(), replace(SETTINGS, finalists=1), inline.directory, executor="inline")
    problem = load_problem("digits", budget="w4a4")
    assert isinstance(problem, VisionProblem)
    with pytest.raises(BitcertError, match="differs in budget"):
        compare(problem, SETTINGS, inline.directory, executor="inline")
    assert (inline.directory / "comparison.json").read_bytes() == before


def test_limits_may_be_raised_and_not_lowered(inline: Comparison, tmp_path: Path) -> None:
    fewer = replace(SETTINGS, searchers=("random",), limits=Limits(3))
    compare(digits(), fewer, tmp_path, executor="inline")
    for lower in (Limits(2), Limits(None, 10_000)):
        with pytest.raises(BitcertError, match="limits may be raised, not lowered"):
            compare(digits(), replace(fewer, limits=lower), tmp_path, executor="inline")
    raised = compare(digits(), replace(fewer, limits=SETTINGS.limits), tmp_path, executor="inline")
    straight = [entry.run for entry in inline.entries if entry.run.searcher == "random"]
    for entry, run in zip(raised.entries, straight, strict=True):
        assert [trial.policy for trial in entry.run.trials] == [trial.policy for trial in run.trials]
        assert entry.run.best is not None
        assert run.best is not None
        assert entry.run.best.policy == run.best.policy


def test_every_seed_has_noise_of_its_own_that_all_searchers_share(inline: Comparison) -> None:
    seeds = {(entry.run.seed, trial.seed) for entry in inline.entries for trial in entry.run.trials}
    assert seeds == {(0, 0), (1, 2)}
    assert {(entry.run.seed, trial.seed) for entry in inline.entries for trial in entry.run.finals} <= {(0, 1), (1, 3)}
    scores = {
        entry.run.seed: entry.run.score(entry.run.trials[0])
        for entry in inline.entries
        if entry.run.searcher == "uniform"
    }
    assert scores[0] != scores[1]


def test_every_seed_has_a_post_step_of_its_own(tmp_path: Path) -> None:
    settings = replace(
        SETTINGS, searchers=("uniform", "cheapest"), limits=Limits(12), post_step=QAT(steps=4), same_network=True
    )
    comparison = compare(digits(), settings, tmp_path, executor="inline")
    uniform = [entry for entry in comparison.entries if entry.run.searcher == "uniform"]
    assert [entry.outcome.provenance["post_step"]["seed"] for entry in uniform] == [0, 1]
    assert uniform[0].outcome.scores.tolist() != uniform[1].outcome.scores.tolist()
    assert uniform[0].before is not None
    assert uniform[1].before is not None
    np.testing.assert_array_equal(uniform[0].before.scores, uniform[1].before.scores)


def test_what_was_searched_finetuned_is_examined_finetuned(tmp_path: Path) -> None:
    settings = replace(
        SETTINGS, searchers=("cheapest",), seeds=(0,), fidelity=Fidelity(images=20, noise=16, finetune_steps=20)
    )
    (entry,) = compare(digits(), settings, tmp_path / "none", executor="inline").entries
    problem = digits().replicate(0)
    policy = entry.outcome.policy
    assert policy is not None
    tuned = examine(problem, policy, exam=settings.exam, finetune_steps=20)
    np.testing.assert_array_equal(entry.outcome.scores, tuned.scores)
    plain = examine(problem, policy, exam=settings.exam)
    assert plain.scores.tolist() != tuned.scores.tolist()
    assert entry.outcome.metrics.forward_passes - (
        plain.metrics.forward_passes - problem.definition.statistics_images
    ) == problem.bench.finetuning.forward_passes(20)
    again = replace(settings, post_step=QAT(steps=4))
    (other,) = compare(digits(), again, tmp_path / "qat", executor="inline").entries
    assert other.before is not None
    np.testing.assert_array_equal(other.before.scores, tuned.scores)


def test_a_directory_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BitcertError, match="holds no comparison"):
        compare(digits(), SETTINGS, tmp_path, executor="inline")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("content", ["{broken", json.dumps({"version": 0})])
def test_a_damaged_or_foreign_comparison_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(BitcertError, match=r"comparison\.json"):
        load_comparison(tmp_path)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("budget", ["40KB", "bytes<=40000"])
def test_a_budget_on_another_cost_than_bops_is_reported(budget: str, tmp_path: Path) -> None:
    problem = load_problem("digits", budget=budget)
    settings = replace(SETTINGS, searchers=("uniform", "cheapest"), seeds=(0,))
    found = compare(problem, settings, tmp_path, executor="inline")
    assert found.budget_bops is None
    assert found.rows["budget_bops"].isna().all()
    assert found.rows["budget"].eq(budget).all()
    write_report(found, tmp_path / "report")
    assert all(problem.is_feasible(entry.outcome.policy) for entry in found.entries if entry.outcome.policy is not None)


def test_a_comparison_under_two_limits_keeps_both_and_shows_the_fronts_of_three_objectives(tmp_path: Path) -> None:
    problem = load_problem("digits", budget="w3a3+40KB", objective="certified@0.25+bops+bytes")
    settings = replace(SETTINGS, searchers=("random", "nsga2:population=3"), seeds=(0,))
    found = compare(problem, settings, tmp_path, executor="inline")
    bops, size = (limit.cost.units(limit.most) for limit in problem.budget.limits)
    assert found.limits == {"bops": bops, "bytes": size} == {"bops": bops, "bytes": 40_000}
    assert found.budget_bops == bops
    for entry in found.entries:
        assert entry.outcome.policy is not None
        assert problem.is_feasible(entry.outcome.policy)
        assert entry.outcome.metrics.costs == problem.costs(entry.outcome.policy)
        assert all(trial.metrics and trial.metrics.cost("bytes") <= 40_000 for trial in entry.run.trials)
    assert found.rows["cost.bytes"].iloc[:-1].le(40_000).all()
    assert set(front_frame(found)["searcher"]) == set(settings.searchers)
    assert load_comparison(tmp_path).rows.equals(found.rows)


def test_searchers_and_seeds_may_not_repeat() -> None:
    with pytest.raises(BitcertError, match="without repetition"):
        replace(SETTINGS, searchers=("random", "random"))


@pytest.mark.slow
def test_ray_gives_the_same_comparison_as_inline(inline: Comparison, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    try:
        assert_equal(compare(digits(), SETTINGS, tmp_path / "ray", executor="ray"), inline)
    finally:
        ray.shutdown()


def test_with_a_post_step_winners_are_examined_before_and_after_it(tmp_path: Path) -> None:
    settings = replace(SETTINGS, searchers=("uniform", "cheapest"), seeds=(0,), post_step=SQWA(steps=12, captures=2))
    watcher = Counting()
    found = compare(digits(), settings, tmp_path, executor="inline", watcher=watcher)
    assert watcher.exam_files == 1 + 2 * 2
    for entry in found.entries:
        assert entry.before is not None
        assert (entry.before.post_step, entry.outcome.post_step) == ("none", "sqwa")
        assert entry.before.policy == entry.outcome.policy
        assert len(entry.outcome.provenance["post_step_record"]["captures"]) == 2
    assert not list((tmp_path / "post_steps").glob("*"))
    rows = found.rows
    assert rows["exam_score_before"].notna().tolist() == [True, True, False]
    frame = leaderboard(found)
    assert frame["score_before"].iloc[0] == pytest.approx(
        next(entry.before.metrics.acr for entry in found.entries if entry.run.searcher == frame["searcher"].iloc[0])  # type: ignore[union-attr]
    )
    assert "before" in leaderboard_table(frame).to_markdown()


@pytest.mark.parametrize("count", [1, 3, 8, 9])
def test_batches_share_no_search_and_miss_none(count: int) -> None:
    parts = [Batch(number, count).of(SETTINGS) for number in range(1, count + 1)]
    assert sorted(run for part in parts for run in part) == sorted(
        (name, seed) for name in SETTINGS.searchers for seed in SETTINGS.seeds
    )
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["3", "0/2", "3/2", "a/b", "1/0", "-1/2", ""])
def test_bad_batches_are_refused(text: str) -> None:
    with pytest.raises(BitcertError, match="a batch is"):
        Batch.parse(text)


@pytest.mark.usefixtures("no_figures")
def test_batches_run_apart_make_the_same_comparison(
    inline: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / f"part{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, start=1):
        run_batch(digits(), SETTINGS, folder, Batch.parse(f"{number}/3"), executor="inline")
    assert_equal(load_comparison(*folders), inline)
    assert_equal(load_comparison(*folders[::-1]), inline)
    with pytest.raises(BitcertError, match="2 of 8 searches are missing, the first is uniform with seed 0"):
        load_comparison(*folders[:2])
    assert main(["report", *map(str, folders), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "leaderboard.csv").exists()
    other = tmp_path / "other"
    run_batch(digits(), replace(SETTINGS, limits=Limits(6)), other, Batch(3, 3), executor="inline")
    with pytest.raises(BitcertError, match=r"holds another comparison than .*: it differs in limits"):
        load_comparison(*folders[:2], other)
