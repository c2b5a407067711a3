"""Winners of searches, from a run, a comparison or the rows of a recorded one: what is known of them before they are certified."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from suite.board.schema import Fidelity, Spend
from suite.certify.exam import ExamSettings
from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.plugins import CERTIFIERS, with_options
from suite.protocols import NoPostStep, PostStep, parse_post_step
from suite.report.comparison import FLOAT, Comparison
from suite.run.records import Run

ROWS = "rows.csv"
_PROBLEM = (
    "problem",
    "budget",
    "sigma",
    "objective",
    "certify",
    "protocol",
    "replicate",
    "engine",
    "choices",
    "problem_seed",
)
"""What a record says about its problem that makes the problem again."""


@dataclass(frozen=True, slots=True)
class Winner:
    """The best policy of a search.

    Attributes:
        method: Searcher with its options.
        seed: Of the search.
        policy: What it found.
        problem: What the search recorded about its problem; enough to load it.
        spend: What the search cost.
        post_step: Finetuning before certification.
        post_step_seed: Of its order and noise.
        exam: How it is certified.
    """

    method: str
    seed: int
    policy: Policy
    problem: Mapping[str, Any]
    spend: Spend
    post_step: PostStep
    post_step_seed: int
    exam: ExamSettings


def winner_of(run: Run, post_step: PostStep, exam: ExamSettings, seed: int = 0) -> Winner:
    """The winner of a search; raises BitcertError if no trial succeeded."""
    best, record = run.best, run.provenance
    if best is None:
        raise BitcertError(f"the search of {run.searcher} with seed {run.seed} has no successful trial")
    finals = [trial for trial in run.finals if trial.repeat_of is None]
    promotion = record.get("promotion")
    spend = Spend(
        fidelity=Fidelity(**record["fidelity"]),
        second=Fidelity(**promotion["fidelity"]) if promotion and finals else None,
        evaluations=sum(trial.repeat_of is None and trial.failure is None for trial in (*run.trials, *run.finals)),
        finalists=len(finals),
        probe_passes=run.probe_spend,
        other_passes=0,
        forward_passes=run.forward_passes,
        seconds=run.searcher_seconds,
        score=run.score(best),
    )
    options = record.get("searcher_options") or {}
    method = run.searcher if ":" in run.searcher else with_options(run.searcher, options)
    return Winner(method, run.seed, best.policy, _described(record), spend, post_step, seed, exam)


def winners_of(comparison: Comparison) -> Iterator[Winner]:
    """All winners of a comparison, as it examined them."""
    for entry in comparison.entries:
        recorded = dict(entry.outcome.provenance)
        step, seed = _post_step(recorded["post_step"])
        yield winner_of(entry.run, step, ExamSettings(**recorded["exam"]), seed)


def recorded_winners(path: Path) -> Iterator[Winner]:
    """The winners of a report's rows; see :attr:`suite.report.comparison.Comparison.rows`.

    Raises:
        BitcertError: If it is no file of such rows.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BitcertError(f"no rows can be read from {path}: {error}") from None
    if not rows or not rows[0].keys() >= {"searcher", "seed", "policy", "run.problem"}:
        raise BitcertError(f"{path} holds no rows of a comparison")
    for row in rows:
        if row["searcher"] != FLOAT:
            try:
                yield _recorded(row)
            except (KeyError, TypeError, ValueError) as error:
                raise BitcertError(f"{path} has a row of {row['searcher']} that is not understood: {error!r}") from None


def _recorded(row: Mapping[str, str]) -> Winner:
    def group(prefix: str) -> dict[str, Any]:
        named = {name.removeprefix(prefix): text for name, text in row.items() if name.startswith(prefix) and text}
        return {name: _value(text) for name, text in named.items() if "." not in name}

    record = {name: value for name, value in group("run.").items() if name in _PROBLEM}
    fidelity, second = group("run.fidelity."), group("run.promotion.fidelity.")
    evaluations = int(row["evaluations"]) - int(row["failed"])
    spend = Spend(
        fidelity=Fidelity(**fidelity),
        second=Fidelity(**second) if second else None,
        evaluations=evaluations,
        finalists=min(int(row.get("run.promotion.finalists") or 0), evaluations),
        probe_passes=int(row["probe_passes"]),
        other_passes=0,
        forward_passes=int(row["forward_passes"]),
        seconds=float(row["search_seconds"]),
        score=float(row["search_estimate"]),
    )
    step, seed = _post_step(group("exam.post_step."))
    exam = {"images": None, **group("exam.exam.")}
    if CERTIFIERS.parse(str(exam["method"]))[0] == "verify":
        exam["method"] = "verify"  # whose limits were in seconds once
    method = (
        row["searcher"] if ":" in row["searcher"] else with_options(row["searcher"], group("run.searcher_options."))
    )
    policy = Policy.from_json(row["policy"])
    return Winner(method, int(row["seed"]), policy, record, spend, step, seed, ExamSettings(**exam))


def settle(winner: Winner, passes: int, second_passes: int) -> Winner:
    """The winner with a spend whose parts add up, where they can: rows do not say how many second measurements there were.

    What is left are the passes of failed trials and of lower rungs. Where certificates of the search are adaptive, evaluations
    cost less than planned, and the parts stay above the sum.

    Args:
        winner: Whose spend is settled.
        passes: Forward passes of an evaluation, at most.
        second_passes: Forward passes of a second measurement, at most.
    """
    spend = winner.spend
    known = spend.forward_passes - spend.probe_passes

    def planned(finals: int) -> int:
        return (spend.evaluations - finals) * passes + finals * second_passes

    exact = [finals for finals in range(spend.finalists, -1, -1) if planned(finals) == known]
    finals = exact[0] if exact else spend.finalists
    update = {"finalists": finals, "other_passes": max(0, known - planned(finals))}
    return replace(winner, spend=spend.model_copy(update=update if finals else {**update, "second": None}))


def _described(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in (*_PROBLEM, "network", "image_size", "based_on") if name in record}


def _post_step(recorded: Mapping[str, Any]) -> tuple[PostStep, int]:
    options = dict(recorded)
    name, seed = options.pop("name"), int(options.pop("seed", 0))
    step = parse_post_step(with_options(name, options))
    return (NoPostStep() if name == "none" else step), seed


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def post_step_options(step: PostStep) -> dict[str, Any]:
    """Options of a post-step, JSON-ready."""
    return json.loads(json.dumps(asdict(step)))  # type: ignore[no-any-return]
