"""Making entries: a winner, certified on held-out images, and everything that is known of it."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from suite.board.certificates import rows_of
from suite.board.rebuild import file_sha256, needs_weights, stored_network, train_and_store
from suite.board.schema import (
    VERSION,
    BoardEntry,
    Choice,
    Exam,
    Fidelity,
    Hashes,
    Method,
    Origin,
    PostStepRecord,
    Results,
    Task,
    read_entry,
    weights_of,
    write_checked,
)
from suite.board.winners import Winner, post_step_options, settle
from suite.certify.sampling import Progress
from suite.contract import trial
from suite.contract.cost import float_bops
from suite.errors import BitcertError
from suite.files import json_sha256
from suite.kept import KeptState, remove_kept
from suite.run.exam import exam_images, examine
from suite.run.provenance import software
from suite.run.records import Outcome
from suite.workbench import BenchProblem


@dataclass(frozen=True, slots=True)
class Submission:
    """What a submitter adds to what is known.

    Attributes:
        command: That makes the entry again.
        experiment: Experiment file of the search.
        authors, links, notes: As in :class:`suite.board.schema.Origin`.
    """

    command: str
    experiment: str | None = None
    authors: Sequence[str] = ()
    links: Sequence[str] = ()
    notes: str = ""


def write_entry(
    problem: BenchProblem,
    winner: Winner,
    folder: Path,
    submission: Submission,
    *,
    on_step: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Certify a winner on held-out images and write its entry, with its weights beside it where the policy alone is not enough.

    Certificates are of the network in the file: it is written first, and read again. An interrupted call resumes.

    Args:
        problem: What was searched.
        winner: What was found.
        folder: Where entries are.
        submission: What is not known from the record.
        on_step: Called with the number of finished optimizer steps.
        progress: Called with forward passes since the last call.

    Raises:
        BitcertError: If the policy is not feasible, the network cannot be stored, or the exam cannot be held.
    """
    problem.check_feasible(winner.policy)
    steps, weights, deployed, passes = winner.spend.fidelity.finetune_steps, None, None, 0
    key = submission_key(winner, problem)
    temporary = folder / f".{key}.submitting.safetensors"
    unfinished = folder.absolute() / f".{key}.unfinished"
    try:
        if needs_weights(problem, winner.post_step, steps):
            choices: dict[str, Any] = {"finetune_steps": steps, "seed": winner.post_step_seed, "on_step": on_step}
            choices["state"] = KeptState(unfinished, {"entry": key})
            passes = train_and_store(problem, winner.policy, winner.post_step, temporary, **choices)
            weights = file_sha256(temporary)
            deployed = stored_network(problem, winner.policy, temporary)
        exam = replace(winner.exam, images=len(exam_images(problem, winner.exam)))
        outcome = examine(
            problem,
            winner.policy,
            winner.post_step,
            exam=exam,
            finetune_steps=steps,
            state=unfinished,
            progress=progress,
            deployed=deployed,
        )
        entry = _entry(problem, settled(problem, winner), outcome, submission, passes, weights)
        path = folder / f"{entry.name}.json"
        if weights is not None:
            temporary.replace(weights_of(path))
        write_checked(entry, path)
        remove_kept(unfinished)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def settled(problem: BenchProblem, winner: Winner) -> Winner:
    """The winner with a spend whose parts add up."""
    spend = winner.spend
    passes, second = (
        planned_passes(problem, fidelity) for fidelity in (spend.fidelity, spend.second or spend.fidelity)
    )
    return settle(winner, passes, second)


def planned_passes(problem: BenchProblem, fidelity: Fidelity) -> int:
    """Forward passes of an evaluation, at most."""
    found = problem.forward_passes(trial.Fidelity(**fidelity.model_dump()))
    assert found is not None
    return found


def submission_key(winner: Winner, problem: BenchProblem) -> str:
    """What an entry is of; the same for two that only differ in date, time or authors."""
    exam = replace(winner.exam, images=len(exam_images(problem, winner.exam)))
    step = {
        "name": winner.post_step.name,
        "options": post_step_options(winner.post_step),
        "seed": winner.post_step_seed,
    }
    return _key(winner.method, winner.seed, described(problem), _exam(exam).model_dump(), step, winner.policy.to_dict())


def submitted_keys(folder: Path) -> dict[str, Path]:
    """The keys of the entries in a folder; files that are none are left out."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            entry = read_entry(path)
        except BitcertError:
            continue
        step = entry.post_step.model_dump(include={"name", "options", "seed"})
        task, policy = entry.problem.record, entry.policy.policy().to_dict()
        found[_key(entry.method.text, entry.method.seed, task, entry.exam.model_dump(), step, policy)] = path
    return found


def described(problem: BenchProblem) -> dict[str, Any]:
    """What a problem says of itself, as JSON gives it back."""
    return json.loads(json.dumps(problem.provenance()))  # type: ignore[no-any-return]


def protocol_name(problem: BenchProblem, finetune_steps: int) -> str:
    """The protocol of a search with its options."""
    return problem.protocol or ("finetune" if finetune_steps else "ptq")


def task_of(problem: BenchProblem, norm: str | None, alpha: float, finetune_steps: int) -> Task:
    """What was searched."""
    return Task(
        name=problem.name,
        budget=problem.budget.text,
        sigma=problem.bench.sigma,
        objective=problem.objective.text,
        protocol=protocol_name(problem, finetune_steps),
        norm="linf" if norm == "linf" else "l2",
        guarantee="probabilistic" if alpha else "deterministic",
        record=described(problem),
    )


def results_of(problem: BenchProblem, outcome: Outcome) -> Results:
    """Averages of an exam, as entries have them."""
    metrics, content = outcome.metrics, outcome.metrics.to_dict()
    return Results(
        acr=metrics.measured("acr"),
        clean_accuracy=metrics.measured("clean_accuracy"),
        certified_accuracy=content["certified_accuracy"],
        costs={"bops": metrics.bops, **metrics.costs},
        bops_share=metrics.bops / float_bops(problem.space),
        constant=outcome.constant,
        forward_passes=metrics.forward_passes,
    )


def _entry(
    problem: BenchProblem, winner: Winner, outcome: Outcome, submission: Submission, passes: int, weights: str | None
) -> BoardEntry:
    made, exam = software(), outcome.provenance["exam"]
    settings = replace(winner.exam, images=exam["images"])
    name = winner.method.partition(":")[0] or winner.method
    return BoardEntry(
        version=VERSION,
        method=Method(
            name=re.sub(r"[^A-Za-z0-9._+=-]", "_", name),
            text=winner.method,
            seed=winner.seed,
            version=f"bitcert {made['versions']['bitcert']}",
        ),
        problem=task_of(problem, outcome.metrics.norm, outcome.metrics.alpha, winner.spend.fidelity.finetune_steps),
        policy=Choice(**winner.policy.to_dict()),
        post_step=PostStepRecord(
            name=winner.post_step.name,
            options=post_step_options(winner.post_step),
            seed=winner.post_step_seed,
            forward_passes=passes,
        ),
        spend=winner.spend,
        exam=_exam(settings),
        results=results_of(problem, outcome),
        images=rows_of(outcome.certificates, outcome.labels.tolist(), outcome.image_ids.tolist(), settings),
        hashes=Hashes(network=problem.bench.network_sha256, data=problem.provenance()["data_sha256"], weights=weights),
        origin=Origin(
            command=submission.command,
            experiment=submission.experiment,
            software=made["versions"],
            commit=made["commit"],
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            authors=list(submission.authors),
            links=list(submission.links),
            notes=submission.notes,
        ),
    )


def _exam(exam: Any) -> Exam:
    return Exam(**{"arithmetic": "float", **exam.to_dict()})


def _key(*parts: Any) -> str:
    return json_sha256(json.loads(json.dumps(parts)))
