"""One tidy row for each (searcher, seed) and one for the float network: all that was measured, nothing averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from suite.report.checks import FLOAT, check_comparison
from suite.report.provenance import find, flatten
from suite.report.scores import exam_score
from suite.run.records import Comparison, Entry, Outcome, Run


def tidy_rows(comparison: Comparison) -> pd.DataFrame:
    """Lay out a comparison as one row a search, in the order of its entries, and a last one for the float network.

    Columns:
        problem, budget, budget_bops, sigma, objective: What was searched.
        searcher, seed: Who searched; ``float`` and missing for the float network.
        evaluations, failed, repeats: All trials; those that failed; those answered by an earlier trial at no spend.
        forward_passes, search_seconds: Spend of the search and its time, second measurements of the best included.
        probe_passes: The part of it that the searcher's own probes made.
        search_estimate: What the *search* measured for its winner: optimistic, since the winner was chosen by it.
        exam_score_before: The objective on the exam before the post-step; missing if there was none.
        exam_score: The objective on the exam; exam_acr, exam_clean_accuracy and ``certified@r`` are its parts.
        bops, bops_share: Cost of the winner; its share of the float network's.
        policy, post_step: The winner as JSON; the finetuning before the exam.
        exam_images, exam_n0, exam_n, exam_alpha, exam_method: How the exam certified.
        run.*, exam.*: Provenance of the search and of the exam, as far as recorded.

    Raises:
        BitcertError: If the comparison does not compare like with like.
    """
    check_comparison(comparison)
    rows = [*(_describe_entry(entry, comparison) for entry in comparison.entries), _describe_reference(comparison)]
    given: dict[str, list[Any]] = {}
    for row in rows:
        for column, value in row.items():
            given.setdefault(column, []).extend([] if value is None else [value])
    integers = [column for column, values in given.items() if values and all(type(value) is int for value in values)]
    # A missing value would turn the integers of its column into floats.
    return pd.DataFrame(rows).astype(dict.fromkeys(integers, "Int64"))


def _describe_entry(entry: Entry, comparison: Comparison) -> dict[str, Any]:
    run, outcome = entry.run, entry.outcome
    assert run.best is not None
    return {
        **_describe_problem(run.provenance, comparison),
        "searcher": run.searcher,
        "seed": run.seed,
        "evaluations": len(run.trials),
        "failed": sum(trial.failure is not None for trial in run.trials),
        "repeats": sum(trial.repeat_of is not None for trial in run.trials),
        "forward_passes": run.forward_passes,
        "probe_passes": run.probe_spend,
        "search_seconds": search_seconds(run),
        "search_estimate": run.score(run.best),
        **({} if entry.before is None else {"exam_score_before": exam_score(entry.before, run.objective)}),
        **_describe_exam(outcome, outcome.metrics.bops, comparison),
        **flatten(run.provenance, "run."),
        **flatten(outcome.provenance, "exam."),
    }


def _describe_reference(comparison: Comparison) -> dict[str, Any]:
    return {
        **_describe_problem(comparison.provenance, comparison),
        "searcher": FLOAT,
        **_describe_exam(comparison.reference, comparison.float_bops, comparison),
        **flatten(comparison.reference.provenance, "exam."),
    }


def _describe_problem(provenance: Mapping[str, Any], comparison: Comparison) -> dict[str, Any]:
    given = {name: recorded(comparison, name, provenance) for name in ("problem", "budget", "sigma")}
    return {
        "problem": given["problem"],
        "budget": given["budget"],
        "budget_bops": comparison.budget_bops,
        "sigma": given["sigma"],
        "objective": comparison.entries[0].run.objective.text,
    }


def _describe_exam(outcome: Outcome, bops: int, comparison: Comparison) -> dict[str, Any]:
    radii = certified_radii(comparison)
    certified = outcome.certificates.certified_accuracy(outcome.labels, radii)
    return {
        "exam_score": exam_score(outcome, comparison.entries[0].run.objective),
        "exam_acr": outcome.metrics.acr,
        "exam_clean_accuracy": outcome.metrics.clean_accuracy,
        **{certified_column(radius): share for radius, share in certified.items()},
        **set_bounds([outcome], radii),
        "bops": bops,
        "bops_share": bops / comparison.float_bops,
        "policy": None if outcome.policy is None else outcome.policy.to_json(),
        "post_step": outcome.post_step,
        "exam_images": len(outcome.labels),
        "exam_n0": find(outcome.provenance, "n0"),
        "exam_n": find(outcome.provenance, "n"),
        "exam_alpha": outcome.metrics.alpha,
        "exam_method": outcome.metrics.method,
    }


def recorded(comparison: Comparison, name: str, provenance: Mapping[str, Any] | None = None) -> Any:
    """Look up what ``provenance``, else that of the comparison, else of its first run, says of ``name``; or None."""
    sources = (provenance or {}, comparison.provenance, comparison.entries[0].run.provenance)
    found = (find(source, key) for source in sources for key in (name, f"{name}.name"))
    return next((value for value in found if value is not None), None)


def certified_radii(comparison: Comparison) -> list[float]:
    """Radii at which any exam of the comparison reported certified accuracy, ascending."""
    outcomes = [comparison.reference, *(entry.outcome for entry in comparison.entries)]
    return sorted({float(radius) for outcome in outcomes for radius in outcome.metrics.certified_accuracy})


def certified_column(radius: float) -> str:
    """Name of the column of the certified accuracy at a radius."""
    return f"certified@{radius:g}"


def set_bounds(outcomes: Sequence[Outcome], radii: Sequence[float]) -> dict[str, float]:
    """Columns of the bounds on the set, averaged over exams; none if the exams have no such bounds."""
    found = [outcome.set_certificate for outcome in outcomes if outcome.set_certificate is not None]
    if len(found) < len(outcomes):
        return {}
    shares = {
        f"set_{certified_column(radius)}": float(np.mean([bounds.certified_accuracy[radius] for bounds in found]))
        for radius in radii
    }
    return {"set_acr": float(np.mean([bounds.acr for bounds in found])), **shares}


def search_seconds(run: Run) -> float:
    """Wall time of all that :attr:`Run.forward_passes` counts: the searcher's own, and that of evaluations; a repeat took none."""
    evaluations = (
        trial.metrics.seconds
        for trial in (*run.trials, *run.finals)
        if trial.metrics is not None and trial.repeat_of is None
    )
    return run.searcher_seconds + sum(evaluations)
