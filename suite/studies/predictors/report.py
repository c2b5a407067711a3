"""The report on predictors: correlations with the deployed score and their ceilings, costs, spreads, and every score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from suite.report.figures import describe_problem
from suite.report.table import Column, Table, count, magnitude, number, span
from suite.report.write import write_files
from suite.studies.predictors.correlations import (
    by_budget,
    correlations,
    deployment_passes,
    pairs_across_budgets,
    spreads,
)
from suite.studies.predictors.figures import plot_correlations, plot_scatter
from suite.studies.predictors.scores import FREE, Predictors


def write_predictors(found: Predictors, directory: Path) -> list[Path]:
    """Write the tables, ``scores.csv`` (the :func:`score_rows`), figures, and all as JSON.

    Tables are ``correlations``, ``costs`` and ``spreads``.
    With several budgets, also ``pooled``, correlations over the policies of all budgets, and ``by_budget.csv``.
    """
    rows, frame = score_rows(found), correlations(found)
    tables = [
        ("correlations", correlation_table(found, frame)),
        ("costs", cost_table(found, frame)),
        ("spreads", spread_table(found)),
    ]
    content: dict[str, Any] = {
        "provenance": dict(found.provenance),
        "deployed": found.deployed,
        "correlations": frame,
        "spreads": tables[-1][1].frame,
        "scores": rows,
    }
    if len(found.budgets) > 1:
        tables.append(("pooled", pooled_table(found)))
        content |= {"pooled": tables[-1][1].frame, "by_budget": by_budget(found)}
    return write_files(
        directory,
        *tables,
        *([("by_budget", content["by_budget"])] if "by_budget" in content else []),
        ("scores", rows),
        ("correlations", content),
        ("correlations", plot_correlations(found, frame=frame)),
        ("scatter", plot_scatter(found, frame=frame)),
    )


def score_rows(found: Predictors) -> pd.DataFrame:
    """One row per budget, policy, score and training seed; ``seed`` is missing where nothing is trained."""
    rows = []
    for part in found.budgets:
        for score in (*part.cheap, *part.deployed):
            for position, (policy, (weight, activation)) in enumerate(part.policies.items()):
                for seed, value in zip(score.seeds or (None,), score.values[position], strict=True):
                    rows.append(
                        {
                            "budget": part.budget,
                            "policy": position,
                            "weight_bits_from": weight,
                            "input_bits_from": activation,
                            "score": score.name,
                            "kind": score.kind,
                            "deployed": score in part.deployed,
                            "seed": seed,
                            "value": float(value),
                            "bits": policy.to_json(),
                        }
                    )
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def describe(found: Predictors) -> str:
    """The problem, its budgets and sigma, in one line."""
    known, names = found.provenance, [part.budget for part in found.budgets]
    if len(names) == 1:
        return describe_problem({**known, "budget": names[0]}, "sigma")
    return describe_problem(
        {**known, "problem": f"{known['problem']}, budgets {', '.join(names)}", "budget": None}, "sigma"
    )


def correlation_table(found: Predictors, frame: pd.DataFrame | None = None) -> Table:
    """Lay out the :func:`correlations` within budgets for people, from a frame that was computed before, if given."""
    frame = correlations(found) if frame is None else frame
    several, known, ceiling = len(found.budgets) > 1, found.provenance, frame["deployed_reliability"][0]
    notes = [
        *_best_note(frame),
        f"tau is Kendall's tau-b and rho is Spearman's correlation with the deployed score: {found.objective.label} after "
        f"{found.deployed}{', averaged over post-steps and training seeds' * (len(found.budgets[0].deployed) > 1)}. They are taken "
        f"over {_policies(found)}{f', within each of {len(found.budgets)} budgets, and averaged' * several}. "
        "The 95 % intervals are from a bootstrap over policies.",
        "Reliability is 1 for a score without noise from training and images. Visible is the largest tau that one could see "
        f"through the noise of both scores, given that the deployed one has reliability {number(ceiling, '.2f')}. Corrected is an "
        "estimate of what tau and rho would be without noise.",
        "Cost: forward passes per policy, without its exams, relative to those of one deployment. BOPs fixed: "
        f"rho among policies of equal BOPs. Cheap scores are measured on {known['cheap_exam']['split']} images, the deployed one "
        f"on {known['exam']['split']} images and with other training seeds ({len(known['seeds'])} each).",
    ]
    return Table(frame, _columns(), describe(found), [*notes, *_recorded_note(found)])


def _best_note(frame: pd.DataFrame) -> list[str]:
    """Which score predicts best, with its interval and cost, and which free one does."""

    def words(row: Any) -> str:
        return f"{row['score']}, with tau {number(row['tau'], '+.2f')} {span(row['tau_low'], row['tau_high'], '+.2f')}"

    known = frame.dropna(subset="tau")
    free, other = known[known["kind"] == "free"], known[known["kind"] != "free"]
    found = []
    if len(other):
        best = other.iloc[int(other["tau"].argmax())]
        once = f", after {magnitude(best['setup_passes'])} passes once" if best["setup_passes"] > 0 else ""
        found.append(f"Best predictor: {words(best)}, at {_share(best)} of the passes of a deployment{once}.")
    if len(free):
        found.append(f"Best free score, whatever its sign: {words(free.iloc[int(free['tau'].abs().argmax())])}.")
    return [" ".join(found)] if found else []


def pooled_table(found: Predictors) -> Table:
    """Lay out the correlations over the policies of all budgets for people."""
    frame = correlations(found, "pooled")
    free = frame.set_index("score").loc[FREE[0]]
    note = (
        f"All {found.policies} policies are compared with each other; {100 * pairs_across_budgets(found):.0f} % of the pairs "
        f"are of different budgets. BOPs, which are free, have tau {number(free['tau'], '+.2f')} and rho "
        f"{number(free['rho'], '+.2f')}, since they tell budgets apart; BOPs fixed shows what a score adds to that. A search "
        "chooses within one budget, so judge a score for search by the table within budgets."
    )
    return Table(frame, _columns(partial=0), f"{describe(found)}, pooled", [note])


def _columns(partial: float = 2) -> list[Column]:
    def of(key: str, form: str) -> Callable[..., str]:
        return lambda row: number(row[key], form)

    def between(key: str) -> Callable[..., str]:
        return lambda row: span(row[f"{key}_low"], row[f"{key}_high"], "+.2f")

    return [
        Column("score", lambda row: str(row["score"]), "left"),
        Column("tau", of("tau", "+.2f")),
        Column("95 %", between("tau")),
        Column("cost", _share),
        Column("corrected", of("tau_corrected", "+.2f"), priority=1),
        Column("visible", of("tau_visible", ".2f"), priority=2),
        Column("rho", of("rho", "+.2f")),
        Column("95 % rho", between("rho"), priority=3),
        Column("rho corrected", of("rho_corrected", "+.2f"), priority=4),
        Column("reliability", of("reliability", ".2f"), priority=2),
        Column("BOPs fixed", of("partial", "+.2f"), priority=partial),
        Column("kind", lambda row: str(row["kind"]), "left", priority=5),
    ]


def _share(row: Any) -> str:
    """A share, to two digits where it is small; what costs nothing is 0."""
    return number(row["of_deployed"], ".3f" if 0 < row["of_deployed"] < 0.1 else ".2f")


def cost_table(found: Predictors, frame: pd.DataFrame | None = None) -> Table:
    """Lay out what each score takes beside how well it predicts, from correlations computed before, if given."""
    frame = correlations(found) if frame is None else frame
    keys = ["score", "kind", "tau", "tau_low", "tau_high", *list(frame)[list(frame).index("passes") :]]
    columns = [
        Column("score", lambda row: str(row["score"]), "left"),
        Column("tau", lambda row: number(row["tau"], "+.2f")),
        Column("95 %", lambda row: span(row["tau_low"], row["tau_high"], "+.2f"), priority=1),
        Column("passes", lambda row: magnitude(row["passes"])),
        Column("with exams", lambda row: magnitude(row["total_passes"])),
        Column("cost", _share),
        Column("once", lambda row: magnitude(row["setup_passes"])),
        Column("break-even", lambda row: magnitude(row["break_even"])),
    ]
    notes = [
        "Passes: forward passes that make the networks of one policy, for all seeds of the score. With exams: the exams that "
        "score these networks are included. Cost: passes relative to one deployment "
        f"({found.deployed}: {magnitude(deployment_passes(found))} passes).",
        "Once: passes that do not depend on the number of policies, such as training a supernet. Break-even: the "
        "number of policies from which the score, these included, takes no more passes than deploying all of them.",
    ]
    return Table(frame[keys], columns, describe(found), notes)


def spread_table(found: Predictors) -> Table:
    """Lay out the :func:`spreads` for people."""
    several = len(found.budgets) > 1
    columns = [
        *([Column("budget", lambda row: str(row["budget"]), "left")] if several else []),
        Column("score", lambda row: f"{row['score']}{' (deployed)' * row['deployed']}", "left"),
        Column("mean", lambda row: f"{row['mean']:.4f}"),
        Column("sd, policies", lambda row: number(row["sd"], ".4f")),
        Column("sd, training", lambda row: number(row["sd_training"], ".4f")),
        Column("training reliability", lambda row: number(row["training_reliability"], ".2f")),
        Column("95 %", lambda row: span(row["training_low"], row["training_high"], ".2f"), priority=1),
        Column("reliability", lambda row: number(row["reliability"], ".2f"), priority=1),
        Column("passes", lambda row: magnitude(row["forward_passes"]), priority=2),
    ]
    notes = [
        f"Mean and sd, policies: {found.objective.label} over policies, each averaged over its training seeds. Sd, training: "
        "between the training seeds of a policy.",
        "Training reliability: would other training seeds order the policies alike, on these images? Reliability: would other "
        "seeds on other images? Passes: all policies, seeds and exams together.",
    ]
    return Table(spreads(found), columns, describe(found), notes)


def _policies(found: Predictors) -> str:
    policies = count(found.policies, "policy", "policies")
    strata = count(len({stratum for part in found.budgets for stratum in part.policies.values()}), "mix", "mixes")
    return f"{policies} that no method chose, from {strata} of weight and input bits"


def _recorded_note(found: Predictors) -> list[str]:
    """What is recorded, and what its reliability cannot say."""
    truths = [part.truth for part in found.budgets]
    if not any(truth.recorded for truth in truths):
        return []
    shares = sorted({f"{truth.recorded} of {truth.columns}" for truth in truths})
    unseen = any(truth.images is None for truth in truths)
    return [
        f"Earlier studies recorded {' or '.join(shares)} columns (post-steps by training seeds) of the deployed score, without "
        "single images. "
        + (
            "Where they recorded all, its reliability leaves out what other images would change, and is too high."
            if unseen
            else "What other images would change is estimated from the columns measured here."
        )
    ]
