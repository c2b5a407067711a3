"""Tidy rows hold what was recorded, and name search estimates for what they are."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from suite.contract.space import Policy
from suite.report.comparison import Comparison
from suite.report.exams import find, flatten


@pytest.fixture(scope="module")
def rows(small: Comparison) -> pd.DataFrame:
    return small.rows


def test_one_row_for_each_search_and_one_for_the_float_network(small: Comparison, rows: pd.DataFrame) -> None:
    found = list(zip(rows["searcher"], rows["seed"].fillna(-1), strict=True))
    assert found == [*((entry.run.searcher, entry.run.seed) for entry in small.entries), ("float", -1)]


def test_spend_and_counts_follow_from_the_trials(small: Comparison, rows: pd.DataFrame) -> None:
    for entry, (_, row) in zip(small.entries, rows.iterrows(), strict=False):
        trials = entry.run.trials
        assert row["evaluations"] == sum(trial.repeat_of is None for trial in (*trials, *entry.run.finals))
        assert row["failed"] == sum(trial.failure is not None for trial in trials)
        assert row["repeats"] == sum(trial.repeat_of is not None for trial in trials)
        assert row["forward_passes"] == entry.run.forward_passes
        assert row["search_seconds"] == pytest.approx(1.5 * (len(trials) - row["failed"] - row["repeats"]))
    assert rows["failed"].sum() == 2  # one for each seed of haq
    assert rows["repeats"].sum() > 0


def test_search_estimate_and_exam_score_are_kept_apart(small: Comparison, rows: pd.DataFrame) -> None:
    for entry, (_, row) in zip(small.entries, rows.iterrows(), strict=False):
        best = max(trial.metrics.measured("acr") for trial in entry.run.trials if trial.metrics is not None)
        assert row["search_estimate"] == best
        right = entry.outcome.certificates.prediction == entry.outcome.labels
        assert row["exam_acr"] == pytest.approx(np.mean(entry.outcome.certificates.radius * right))
        assert row["exam_score"] == pytest.approx(row["exam_acr"])
    assert pd.isna(rows["search_estimate"].iloc[-1])


def test_certified_accuracy_has_a_column_for_each_radius(small: Comparison, rows: pd.DataFrame) -> None:
    assert [name for name in rows.columns if name.startswith("certified@")] == [
        "certified@0",
        "certified@0.25",
        "certified@0.5",
    ]
    for outcome, share in zip([entry.outcome for entry in small.entries], rows["certified@0.25"], strict=False):
        assert share == pytest.approx(outcome.metrics.certified[0.25])


def test_policies_bops_and_exam_settings(small: Comparison, rows: pd.DataFrame) -> None:
    for entry, (_, row) in zip(small.entries, rows.iterrows(), strict=False):
        assert Policy.from_json(row["policy"]) == entry.outcome.policy
        assert row["bops_share"] == entry.outcome.metrics.bops / small.float_bops
    last = rows.iloc[-1]
    assert (last["bops"], last["bops_share"]) == (small.float_bops, 1.0)
    assert set(rows["exam_images"]) == {80}
    assert (last["exam_n0"], last["exam_n"], last["exam_alpha"]) == (100, 1000, 0.001)


def test_every_row_says_what_was_searched_and_where_it_came_from(rows: pd.DataFrame) -> None:
    assert set(rows["problem"]) == {"separable"}
    assert set(rows["budget"]) == {"w3a3"}
    assert set(rows["sigma"]) == {0.25}
    assert set(rows["exam.network_sha256"]) == {"ab" * 32}
    assert set(rows["run.commit"].iloc[:-1]) == {"0" * 40}
    assert not [name for name in rows.columns if rows[name].isna().all()]


def test_integers_stay_integers_next_to_missing_values(rows: pd.DataFrame) -> None:
    assert all(rows[name].dtype == "Int64" for name in ("seed", "forward_passes", "bops", "exam_n", "run.problem.seed"))


def test_provenance_is_optional(small: Comparison) -> None:
    def bare(comparison: Comparison) -> Comparison:
        entries = tuple(
            replace(entry, run=replace(entry.run, provenance={}), outcome=replace(entry.outcome, provenance={}))
            for entry in comparison.entries
        )
        return replace(
            comparison, entries=entries, reference=replace(comparison.reference, provenance={}), provenance={}
        )

    rows = bare(small).rows
    assert rows["problem"].isna().all()
    assert not [name for name in rows.columns if name.startswith(("run.", "exam."))]


def test_flatten_joins_keys_and_keeps_lists_as_json() -> None:
    nested = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}}
    flat = flatten(nested, "run.")
    assert flat == {"run.a": 1, "run.b.c": "[1, 2]", "run.b.d.e": None}
    assert json.loads(flat["run.b.c"]) == [1, 2]


def test_find_prefers_the_shallowest_key() -> None:
    nested = {"exam": {"n": 5, "deep": {"n": 6}}, "width": 7}
    assert find(nested, "n") == 5
    assert find(nested, "deep.n") == 6
    assert find(nested, "m") is None
