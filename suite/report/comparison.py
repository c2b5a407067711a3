"""A finished comparison in memory: searches and the exams of their winners, checked, and laid out as tidy rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from suite.contract.objective import Objective
from suite.errors import BitcertError
from suite.report.exams import check_same_exam, exam_score, find, flatten
from suite.run.records import Entry, Outcome, Run

FLOAT = "float"
"""Name of the row of the float network, in place of a searcher's."""

CHEAPEST = "cheapest"
"""Name of the trivial method that lies far below all others, and would decide scales and correlations alone."""

_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything a leaderboard is made from.

    Attributes:
        directory: Where it was read from.
        entries: One for each (searcher, seed), in the order they were asked for.
        reference: The exam of the float network on the same images and noise.
        layer_names: Names of the layers, in execution order.
        limits: The limits of the budget in whole units, by the names of the costs; the one limit on another cost than BOPs
            is left out.
        float_bops: BOPs of the float network.
        provenance: Problem, fidelity, exam, versions and commit, JSON-ready.
        own_references: Exams of the float networks by seed, where seeds have networks of their own; ``reference`` is one of them.
    """

    directory: Path
    entries: tuple[Entry, ...]
    reference: Outcome
    layer_names: tuple[str, ...]
    limits: Mapping[str, int]
    float_bops: int
    provenance: Mapping[str, Any]
    own_references: Mapping[int, Outcome] = field(default_factory=dict)

    @property
    def budget_bops(self) -> int | None:
        """The limit on BOPs; None where the budget limits other costs alone."""
        return self.limits.get("bops")

    @property
    def objective(self) -> Objective:
        """What all searches maximized."""
        return self.entries[0].run.objective

    @property
    def references(self) -> list[Outcome]:
        """The exams of all float networks, one per seed where seeds have their own."""
        return list(self.own_references.values()) or [self.reference]

    def reference_of(self, seed: int) -> Outcome:
        """The exam of the float network that a seed has searched."""
        return self.own_references.get(seed, self.reference)

    @property
    def outcomes(self) -> list[Outcome]:
        """The exams of the float networks and of all winners."""
        return [*self.references, *(entry.outcome for entry in self.entries)]

    @property
    def radii(self) -> list[float]:
        """Radii at which any exam reported certified accuracy, ascending."""
        return sorted({float(radius) for outcome in self.outcomes for radius in outcome.metrics.certified})

    @property
    def rows(self) -> pd.DataFrame:
        """One row per search, in the order of the entries, and a last one for the float network, the mean of all seeds' own.

        Columns:
            problem, budget, budget_bops, sigma, objective: What was searched; no ``budget_bops`` if another cost is limited.
            searcher, seed: Who searched; ``float`` and missing for the float network.
            evaluations: As they count towards the limit: trials that are no repeats, and second measurements of the best.
            failed, repeats: Trials that failed; those answered by an earlier trial at no spend.
            forward_passes, search_seconds: Spend and time of the search, second measurements of the best included.
            probe_passes: The part of the spend that the searcher's own probes made.
            search_estimate: What the *search* measured for its winner: optimistic, since the winner was chosen by it.
            exam_score_before: The objective on the exam before the post-step; missing if there was none.
            ``after NAME``: The same after another post-step, one column for each control.
            exam_score: The objective on the exam; exam_acr, exam_clean_accuracy and ``certified@r`` are its parts.
            bops, bops_share: Cost of the winner; its share of the float network's.
            ``cost.NAME``: Every other cost of the winner that is minimized, or one of several limits, in whole units.
            policy, post_step: The winner as JSON; the finetuning before the exam.
            exam_images, exam_n0, exam_n, exam_alpha, exam_method: How the exam certified.
            run.*, exam.*: Provenance of the search and of the exam, as far as recorded.

        Raises:
            BitcertError: If the comparison does not compare like with like.
        """
        check_comparison(self)
        records = [*(_describe_entry(entry, self) for entry in self.entries), _describe_float(self)]
        frame = pd.DataFrame(records)
        given = {name: [row[name] for row in records if row.get(name) is not None] for name in map(str, frame)}
        integers = [name for name, values in given.items() if values and all(type(value) is int for value in values)]
        return frame.astype(dict.fromkeys(integers, "Int64"))  # a missing value makes floats of a column's integers

    def by_searcher(self) -> dict[str, list[Entry]]:
        """Group the entries of each searcher, both in the order of the comparison."""
        grouped: dict[str, list[Entry]] = {}
        for entry in self.entries:
            grouped.setdefault(entry.run.searcher, []).append(entry)
        return grouped

    def by_rank(self) -> dict[str, list[Entry]]:
        """Group the entries likewise, searchers in the order of the leaderboard: the best mean exam score first."""

        def score(group: tuple[str, list[Entry]]) -> float:
            return float(np.mean([exam_score(entry.outcome, self.objective) for entry in group[1]]))

        return dict(sorted(self.by_searcher().items(), key=score, reverse=True))

    def recorded(self, name: str, provenance: Mapping[str, Any] | None = None) -> Any:
        """Look up what ``provenance``, else that of the comparison, else of its first run, says of ``name``; or None."""
        sources = (provenance or {}, self.provenance, self.entries[0].run.provenance)
        found = (find(source, key) for source in sources for key in (name, f"{name}.name"))
        return next((value for value in found if value is not None), None)


def check_comparison(comparison: Comparison) -> None:
    """Check that all exams of a comparison can stand in one table.

    Raises:
        BitcertError: If there is no entry, a (searcher, seed) occurs twice, objectives or post-steps differ, exams are
            not the same (see :func:`.exams.check_same_exam`), a winner is over budget or is not the best of its search, or
            averages do not follow from the certificates.
    """
    if not comparison.entries:
        raise BitcertError(f"the comparison in {comparison.directory} has no entries; run at least one searcher")
    counts = Counter((entry.run.searcher, entry.run.seed) for entry in comparison.entries)
    (searcher, seed), count = counts.most_common(1)[0]
    if count > 1:
        raise BitcertError(f"searcher {searcher!r} with seed {seed} occurs {count} times; keep one run of each seed")
    if len(objectives := sorted({entry.run.objective.text for entry in comparison.entries})) > 1:
        raise BitcertError(f"the runs have different objectives: {', '.join(objectives)}; compare runs of one")
    if len(post_steps := sorted({entry.outcome.post_step for entry in comparison.entries})) > 1:
        raise BitcertError(f"the winners had different post-steps: {', '.join(post_steps)}; examine all with one")
    for reference in comparison.references:
        _check_averages(FLOAT, reference)
        check_same_exam(reference, comparison.reference, same_network=False)
    for entry in comparison.entries:
        _check_entry(entry, comparison)


def _check_entry(entry: Entry, comparison: Comparison) -> None:
    who, outcome, best = f"{entry.run.searcher} (seed {entry.run.seed})", entry.outcome, entry.run.best
    if entry.run.searcher == FLOAT:
        raise BitcertError(f"{FLOAT!r} stands for the float network; give the searcher another name")
    if outcome.policy is None or best is None or outcome.policy != best.policy:
        raise BitcertError(f"the exam of {who} is not of the best policy of its search; examine run.best.policy")
    given, expected = len(outcome.policy.precisions), len(comparison.layer_names)
    if given != expected:
        raise BitcertError(
            f"the winner of {who} has {given} layers, the network {expected}; compare one problem's runs"
        )
    for name, limit in comparison.limits.items():
        if (cost := outcome.metrics.cost(name)) > limit:
            raise BitcertError(
                f"the winner of {who} costs {cost} {name}, over the budget of {limit}; compare one budget's runs"
            )
    _check_averages(who, outcome)
    check_same_exam(outcome, comparison.reference_of(entry.run.seed))


def _check_averages(who: str, outcome: Outcome) -> None:
    given, computed = outcome.metrics.measured("acr"), outcome.certificates.acr(outcome.labels)
    if abs(given - computed) > _TOLERANCE:
        raise BitcertError(f"the exam of {who} records ACR {given}, its certificates give {computed}; repeat the exam")


COST = "cost."
"""What the columns of costs other than BOPs start with: ``cost.bytes``."""


def front_frame(comparison: Comparison) -> pd.DataFrame:
    """The Pareto front of every search: what no other trial of it beats in the score and in every cost.

    Columns:
        searcher, seed, trial: Which trial of which search.
        search_score: The objective as the search measured it: an estimate on search images, and no exam score.
        bops, ``cost.NAME``: What the policy costs; see :attr:`Comparison.rows`.
        policy: As JSON.
    """
    return pd.DataFrame(
        [
            {
                "searcher": entry.run.searcher,
                "seed": entry.run.seed,
                "trial": trial.number,
                "search_score": entry.run.score(trial),
                "bops": trial.metrics.bops,
                **{COST + name: cost for name, cost in trial.metrics.costs.items()},
                "policy": trial.policy.to_json(),
            }
            for entry in comparison.entries
            for trial in entry.run.front
            if trial.metrics is not None
        ]
    )


AFTER = "after "
"""What the columns of controls start with: ``after recalibrate``."""


def without_cheapest(searchers: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    """All but the cheapest policy, if there is anything else."""
    return {name: entries for name, entries in searchers.items() if name != CHEAPEST} or searchers


def certified_column(radius: float) -> str:
    """Name of the column of the certified accuracy at a radius."""
    return f"certified@{radius:g}"


def set_bounds(outcomes: Sequence[Outcome], radii: Sequence[float]) -> dict[str, float]:
    """Columns of the bounds on the set, averaged over exams; none if the exams have no such bounds."""
    found = [outcome.set_certificate for outcome in outcomes if outcome.set_certificate is not None]
    if len(found) < len(outcomes):
        return {}
    columns = {"set_acr": [bounds.acr for bounds in found]}
    for radius in radii:
        columns[f"set_{certified_column(radius)}"] = [bounds.certified_accuracy[radius] for bounds in found]
    return {name: float(np.mean(values)) for name, values in columns.items()}


def search_seconds(run: Run) -> float:
    """Wall time of all that :attr:`Run.forward_passes` counts: the searcher's own, and that of evaluations; repeats take none."""
    measured = [trial for trial in (*run.trials, *run.finals) if trial.repeat_of is None]
    return run.searcher_seconds + sum(trial.metrics.seconds for trial in measured if trial.metrics is not None)


def _describe_entry(entry: Entry, comparison: Comparison) -> dict[str, Any]:
    run, outcome = entry.run, entry.outcome
    assert run.best is not None
    return {
        **_describe_problem(run.provenance, comparison),
        "searcher": run.searcher,
        "seed": run.seed,
        "evaluations": run.evaluations,
        "failed": sum(trial.failure is not None for trial in run.trials),
        "repeats": sum(trial.repeat_of is not None for trial in run.trials),
        "forward_passes": run.forward_passes,
        "probe_passes": run.probe_spend,
        "search_seconds": search_seconds(run),
        "search_estimate": run.score(run.best),
        **({} if entry.before is None else {"exam_score_before": exam_score(entry.before, run.objective)}),
        **{AFTER + name: exam_score(control, run.objective) for name, control in entry.controls.items()},
        **_describe_exam(outcome, outcome.metrics.bops, comparison),
        **flatten(run.provenance, "run."),
        **flatten(outcome.provenance, "exam."),
    }


def _describe_float(comparison: Comparison) -> dict[str, Any]:
    described = [_describe_exam(reference, comparison.float_bops, comparison) for reference in comparison.references]
    mean = {
        name: value if type(value) is not float else _mean_of(name, described) for name, value in described[0].items()
    }
    return {
        **_describe_problem(comparison.provenance, comparison),
        "searcher": FLOAT,
        **mean,
        **flatten(comparison.reference.provenance, "exam."),
    }


def _mean_of(name: str, described: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([each[name] for each in described]))


def _describe_problem(provenance: Mapping[str, Any], comparison: Comparison) -> dict[str, Any]:
    known = {name: comparison.recorded(name, provenance) for name in ("problem", "budget", "budget_bops", "sigma")}
    return known | {"budget_bops": comparison.budget_bops, "objective": comparison.objective.text}


def _describe_exam(outcome: Outcome, bops: int, comparison: Comparison) -> dict[str, Any]:
    certified = outcome.certificates.certified_accuracy(outcome.labels, comparison.radii)
    return {
        "exam_score": exam_score(outcome, comparison.objective),
        "exam_acr": outcome.metrics.acr,
        "exam_clean_accuracy": outcome.metrics.clean_accuracy,
        **{certified_column(radius): share for radius, share in certified.items()},
        **set_bounds([outcome], comparison.radii),
        "bops": bops,
        "bops_share": bops / comparison.float_bops,
        **{COST + name: cost for name, cost in outcome.metrics.costs.items()},
        "policy": None if outcome.policy is None else outcome.policy.to_json(),
        "post_step": outcome.post_step,
        "exam_images": len(outcome.labels),
        "exam_n0": find(outcome.provenance, "n0"),
        "exam_n": find(outcome.provenance, "n"),
        "exam_alpha": outcome.metrics.alpha,
        "exam_method": outcome.metrics.method,
    }
