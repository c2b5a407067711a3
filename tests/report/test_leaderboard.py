"""The leaderboard ranks by exam scores alone and shows what does not beat trivial methods."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from suite.certify import SetCertificate
from suite.contract.objective import parse_objective
from suite.contract.trial import Trial
from suite.report.comparison import Comparison
from suite.report.intervals import crossed_interval
from suite.report.layout import leaderboard_table
from suite.report.ranking import leaderboard
from suite.run.records import Entry, Outcome, Run
from tests.report.fabricated import fabricate, make_comparison


def by_name(frame: pd.DataFrame) -> dict[str, pd.Series]:
    return {str(row["searcher"]): row for _, row in frame.iterrows()}


def test_searchers_are_ranked_by_mean_exam_score() -> None:
    frame = leaderboard(
        make_comparison({"random": [0.2, 0.3], "tpe": [0.5, 0.4], "uniform": [0.1, 0.1]}, reference=0.6)
    )
    assert list(frame["searcher"]) == ["tpe", "random", "uniform", "float"]
    assert list(frame["rank"].fillna(0)) == [1, 2, 3, 0]
    assert list(frame["score"]) == pytest.approx([0.45, 0.25, 0.1, 0.6])
    assert list(frame["score_sd"].iloc[:3]) == pytest.approx([np.std([0.5, 0.4], ddof=1)] * 2 + [0.0])


def test_equal_scores_share_a_rank() -> None:
    frame = leaderboard(make_comparison({"random": [0.2], "a": [0.4], "b": [0.4], "c": [0.3]}))
    assert dict(zip(frame["searcher"], frame["rank"].fillna(0), strict=True)) == {
        "a": 1,
        "b": 1,
        "c": 3,
        "random": 4,
        "float": 0,
    }


def test_search_scores_never_reach_the_leaderboard(small: Comparison, small_board: pd.DataFrame) -> None:
    def boast(trial: Trial) -> Trial:
        metrics = trial.metrics
        return (
            trial
            if metrics is None
            else replace(trial, metrics=replace(metrics, acr=100 * metrics.measured("acr") + 7))
        )

    def boasting(run: Run) -> Run:
        return replace(run, trials=tuple(boast(trial) for trial in run.trials))

    entries = tuple(Entry(boasting(entry.run), entry.outcome) for entry in small.entries)
    pd.testing.assert_frame_equal(leaderboard(replace(small, entries=entries)), small_board)


def test_averages_are_over_seeds(small: Comparison, small_board: pd.DataFrame) -> None:
    row = by_name(small_board)["tpe"]
    entries = [entry for entry in small.entries if entry.run.searcher == "tpe"]
    metrics = [entry.outcome.metrics for entry in entries]
    assert row["acr"] == row["score"] == pytest.approx(np.mean([m.acr for m in metrics]))
    assert row["certified@0.25"] == pytest.approx(np.mean([m.certified[0.25] for m in metrics]))
    assert row["clean_accuracy"] == pytest.approx(np.mean([m.clean_accuracy for m in metrics]))
    assert row["bops_share"] == pytest.approx(np.mean([m.bops for m in metrics]) / small.float_bops)
    assert row["forward_passes"] == round(np.mean([entry.run.forward_passes for entry in entries]))
    assert row["to_float"] == pytest.approx(row["score"] - small.reference.metrics.acr)
    assert row["to_float_low"] < row["to_float"] < row["to_float_high"] < 0


def test_float_network_is_a_row_without_rank_or_verdict(small: Comparison, small_board: pd.DataFrame) -> None:
    row = small_board.iloc[-1]
    assert row["searcher"] == "float"
    assert row["score"] == small.reference.metrics.acr
    assert row["image_low"] < row["score"] < row["image_high"]
    assert row[["rank", "seeds", "difference", "verdict", "beats_trivial"]].isna().all()


def test_scores_follow_the_objective_of_the_runs(small: Comparison) -> None:
    objective = parse_objective("certified@0.25,0.5")
    entries = tuple(
        Entry(replace(entry.run, objective=objective, trials=entry.run.trials), entry.outcome)
        for entry in small.entries
        if entry.run.searcher in ("uniform", "cheapest")
    )
    frame = leaderboard(replace(small, entries=entries))
    expected = (frame["certified@0.25"] + frame["certified@0.5"]) / 2
    assert list(frame["score"]) == pytest.approx(list(expected))
    assert set(frame["objective"]) == {"certified@0.25,0.5"}


def test_two_seeds_are_underpowered_never_a_tie(small_board: pd.DataFrame) -> None:
    verdicts = {name: row["verdict"] for name, row in by_name(small_board).items() if name not in ("random", "float")}
    assert set(verdicts.values()) == {"underpowered"}
    beats = {name: row["beats_trivial"] for name, row in by_name(small_board).items()}
    assert [beats[name] for name in ("tpe", "evolution", "haq")] == ["underpowered"] * 3
    assert [beats[name] for name in ("random", "uniform", "cheapest")] == ["trivial"] * 3


def test_learned_methods_that_do_not_beat_trivial_ones_are_shown() -> None:
    rng = np.random.default_rng(0)
    frame = leaderboard(
        make_comparison(
            {
                "random": rng.uniform(0.30, 0.31, 8),
                "uniform": [0.35] * 8,
                "cheapest": [0.1] * 8,
                "tpe": rng.uniform(0.40, 0.41, 8),
                "haq": rng.uniform(0.32, 0.34, 8),
                "arq": np.where(np.arange(8) % 2, 0.34, 0.36),
            }
        )
    )
    found = {name: (row["beats_trivial"], row["unbeaten"]) for name, row in by_name(frame).items()}
    assert found["tpe"] == ("yes", "")
    assert found["haq"] == ("no", "uniform (worse)")
    assert found["arq"] == ("no", "uniform (not distinguishable)")
    assert found["uniform"] == ("trivial", "")


def test_without_the_opponent_nothing_is_compared() -> None:
    frame = leaderboard(make_comparison({"tpe": [0.2, 0.3], "haq": [0.1, 0.1]}))
    assert set(frame["verdict"].iloc[:2]) == {"not compared"}
    assert set(frame["beats_trivial"].iloc[:2]) == {"not compared"}
    assert frame["difference"].isna().all()


def test_another_opponent_can_be_chosen(large: Comparison) -> None:
    frame = leaderboard(large, against="uniform")
    rows = by_name(frame)
    assert set(frame["against"].iloc[:-1]) == {"uniform"}
    assert rows["uniform"]["verdict"] == "not compared"
    assert rows["random"]["difference"] == pytest.approx(rows["random"]["score"] - rows["uniform"]["score"])


def test_bounds_on_the_set_have_columns_of_their_own() -> None:
    comparison = fabricate(("random", "tpe"))

    def bounded(outcome: Outcome, acr: float) -> Outcome:
        shares = {radius: 0.5 * share for radius, share in outcome.metrics.certified.items()}
        return replace(outcome, set_certificate=SetCertificate(acr, shares, 0.001, 100))

    entries = [
        replace(entry, outcome=bounded(entry.outcome, acr))
        for entry, acr in zip(comparison.entries, (0.1, 0.3, 0.5, 0.6), strict=True)
    ]
    with_bounds = replace(comparison, entries=tuple(entries), reference=bounded(comparison.reference, 0.7))
    frame = leaderboard(with_bounds).set_index("searcher")
    assert frame["set_acr"].to_dict() == pytest.approx({"tpe": 0.55, "random": 0.2, "float": 0.7})
    np.testing.assert_allclose(frame["set_certified@0.25"], 0.5 * frame["certified@0.25"])
    assert "set ACR ≥" in leaderboard_table(leaderboard(with_bounds)).to_markdown()
    assert "set ACR" not in leaderboard_table(leaderboard(comparison)).to_markdown()


def test_to_beat_every_trivial_method_takes_all_of_them_at_once() -> None:
    """Two methods barely beat one trivial method, two others barely the other: alone each passes, four such claims do not."""
    weak, clear = np.array([-0.02, 0.015, 0.015]), np.full(3, 0.1)
    first = np.full(9, 0.3)
    second = first + np.repeat([-0.03, 0.03, 0.0], 3)
    frame = leaderboard(
        make_comparison(
            {
                "random": first,
                "uniform": second,
                "tpe": first + np.concatenate([weak, clear, clear]),
                "haq": first + np.concatenate([weak, clear, clear + 0.01]),
                "arq": second + np.concatenate([clear, weak, clear]),
                "nsga2": second + np.concatenate([clear, weak, clear + 0.01]),
            }
        )
    )
    rows = by_name(frame)
    for name in ("tpe", "haq", "arq", "nsga2"):
        assert rows[name]["verdict"] == "better"
        assert (rows[name]["beats_trivial"], rows[name]["unbeaten"]) == ("no", "each alone, not all of them at once")


def test_limits_are_said_and_who_went_over_them_by_probes_alone() -> None:
    comparison = make_comparison({"random": [0.3], "certified-ilp": [0.35]})
    over = comparison.entries[1]
    entries = (comparison.entries[0], replace(over, run=replace(over.run, probe_spend=2_000_000)))
    limits = {"limits": {"evaluations": None, "forward_passes": 1_500_000, "seconds": None}}
    said = " ".join(leaderboard_table(leaderboard(replace(comparison, entries=entries, provenance=limits))).notes)
    assert "Limit of a search: 1,500,000 forward passes. OVER THE LIMIT by probes alone: certified-ilp (2M)." in said
    within = " ".join(leaderboard_table(leaderboard(replace(comparison, provenance=limits))).notes)
    assert "OVER" not in within


def test_what_the_exam_was_is_said() -> None:
    comparison = make_comparison({"random": [0.3], "tpe": [0.35]})
    assert "no search has seen" in leaderboard_table(leaderboard(comparison)).notes[0]
    chosen = leaderboard(
        replace(comparison, provenance={"exam": {"split": "search"}, "fidelity": {"finetune_steps": 100}})
    )
    assert "to choose settings by" in leaderboard_table(chosen).notes[0]
    assert "searched after 100 steps of finetuning" in leaderboard_table(chosen).title


def test_main_interval_is_over_seeds_and_images(small: Comparison, small_board: pd.DataFrame) -> None:
    rows, found = by_name(small_board), small.by_searcher()
    for name, entries in found.items():
        expected = crossed_interval([entry.outcome.scores for entry in entries])
        assert (rows[name]["low"], rows[name]["high"]) == (expected.low, expected.high)
    assert rows["random"]["high"] - rows["random"]["low"] > rows["random"]["image_high"] - rows["random"]["image_low"]
    for end in ("low", "high"):  # no seed changes the uniform policy
        assert rows["uniform"][end] == pytest.approx(rows["uniform"][f"image_{end}"])
    assert rows["float"]["low"] == rows["float"]["image_low"]
    cell = f"{rows['tpe']['low']:.3f}..{rows['tpe']['high']:.3f}"
    assert cell in leaderboard_table(small_board).to_markdown()


def test_every_row_has_the_paired_interval_of_its_difference(large: Comparison, large_board: pd.DataFrame) -> None:
    rows, found = by_name(large_board), large.by_searcher()
    for name, entries in found.items():
        if name == "random":
            assert np.isnan(rows[name]["difference_low"])
            continue
        pairs = zip(entries, found["random"], strict=True)
        expected = crossed_interval([one.outcome.scores - other.outcome.scores for one, other in pairs], paired=True)
        assert (rows[name]["difference_low"], rows[name]["difference_high"]) == (expected.low, expected.high)
        assert expected.low < rows[name]["difference"] < expected.high
    wide = rows["tpe"]["high"] - rows["tpe"]["low"]
    assert (
        rows["tpe"]["difference_high"] - rows["tpe"]["difference_low"] < wide
    )  # pairs cancel the difficulty of images


def test_differences_of_unequal_seeds_are_paired_before_they_have_an_interval(large: Comparison) -> None:
    """Seeds in another order, and one that only one searcher has, change nothing."""
    entries = [entry for entry in large.entries if entry.run.searcher in ("random", "tpe")]
    shuffled = [entry for entry in reversed(entries) if (entry.run.searcher, entry.run.seed) != ("random", 3)]
    fewer = [entry for entry in entries if entry.run.seed != 3]
    rows, expected = (
        by_name(leaderboard(replace(large, entries=tuple(chosen))))["tpe"] for chosen in (shuffled, fewer)
    )
    assert rows["seeds_paired"] == expected["seeds_paired"] == 9
    for column in ("difference", "difference_low", "difference_high"):
        assert rows[column] == pytest.approx(expected[column])


def test_single_seeds_have_no_interval_over_seeds() -> None:
    row = by_name(leaderboard(fabricate(("random", "tpe"), 1, layers=4, images=40, evaluations=4)))["tpe"]
    assert row[["low", "high", "difference_low"]].isna().all()
    assert row["image_low"] < row["score"] < row["image_high"]


def test_rows_at_the_level_of_a_constant_classifier_are_listed_without_a_rank() -> None:
    comparison = make_comparison({"random": [0.3, 0.1], "tpe": [0.5, 0.6], "cheapest": [0.1, 0.1]}, reference=0.6)

    def with_constant(constant: float) -> pd.DataFrame:
        entries = [replace(entry, outcome=replace(entry.outcome, constant=constant)) for entry in comparison.entries]
        return leaderboard(replace(comparison, entries=tuple(entries)))

    frame = with_constant(0.2)
    assert list(frame["searcher"]) == ["tpe", "random", "cheapest", "float"]
    assert list(frame["rank"].fillna(0)) == [1, 0, 0, 0]  # random is at the constant's score, cheapest below it
    assert list(frame["constant"].iloc[:3]) == [0.2] * 3
    table = leaderboard_table(frame)
    assert [row[1] for row in table.cells] == ["tpe‡", "random°§", "cheapest°§", "float"]
    assert "§ not above the score of the best constant classifier (0.2000), and not ranked." in table.notes
    assert r"random\textdegree{}\S{}" in table.to_latex()
    without = leaderboard(comparison)
    assert list(without["rank"].fillna(0)) == [1, 2, 3, 0]
    assert without["constant"].isna().all()
    assert "§" not in leaderboard_table(without).to_markdown()
    assert list(with_constant(0.05)["rank"].fillna(0)) == [1, 2, 3, 0]
