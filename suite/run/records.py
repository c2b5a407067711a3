"""What runs and exams leave behind, read back into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from suite.certify.certificates import Certificates, SetCertificate
from suite.contract.objective import Objective, nondominated
from suite.contract.space import Policy
from suite.contract.trial import Metrics, Trial, radius_text

if TYPE_CHECKING:
    import pandas


def measured_best(trials: Sequence[Trial]) -> list[Trial]:
    """The successful trials at the highest fidelity that any of them has: the only ones that can be compared."""
    finished = [trial for trial in trials if trial.metrics is not None]
    highest = max((astuple(trial.fidelity) for trial in finished), default=None)
    return [trial for trial in finished if astuple(trial.fidelity) == highest]


def leaders(trials: Sequence[Trial], objective: Objective, count: int) -> list[Trial]:
    """The first trials of the best policies at the highest fidelity, best first, the earliest among equals first."""
    first: dict[Policy, Trial] = {}
    for trial in measured_best(trials):
        first.setdefault(trial.policy, trial)
    return sorted(
        first.values(),
        key=lambda trial: (-objective.score(trial.metrics), trial.number),  # type: ignore[arg-type]
    )[:count]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished search.

    Attributes:
        searcher: Registered name of the method.
        seed: Seed of the searcher.
        trials: All trials of the search in order of their numbers, failed ones included.
        probe_spend: Forward passes the searcher itself spent, beside its trials.
        objective: What was maximized.
        provenance: Problem, fidelity, seeds, versions and commit, JSON-ready.
        stopped: Why the run ended: ``"evaluations"``, ``"forward_passes"``, ``"seconds"``, ``"exhausted"`` or ``"stalled"``;
            None if it goes on.
        finals: Second measurements of the best policies, with other noise; empty if there were none.
        failed_spend: Forward passes that failed trials spent on the rungs below the one they failed on, and those of failed
            tries that were followed by another.
        searcher_seconds: Wall time of the searcher itself, probes included; no part of what makes two runs equal.
    """

    searcher: str
    seed: int
    trials: tuple[Trial, ...]
    probe_spend: int
    objective: Objective
    provenance: Mapping[str, Any]
    stopped: str | None
    finals: tuple[Trial, ...] = ()
    failed_spend: int = 0
    searcher_seconds: float = field(default=0.0, compare=False)

    @property
    def best(self) -> Trial | None:
        """The trial with the highest score, the earliest among equals; None if no trial succeeded.

        Where the best policies were measured again, the second measurements decide; else those at the highest fidelity. A
        search that was taken further may have measured again what is among its best no longer: that does not count.
        """
        promotion = self.provenance.get("promotion")
        best = {
            trial.policy for trial in leaders(self.trials, self.objective, promotion["finalists"] if promotion else 0)
        }
        finals = [trial for trial in self.finals if trial.policy in best]
        finished = measured_best(finals) or measured_best(self.trials)
        return max(finished, key=lambda trial: (self.score(trial), -trial.number), default=None)

    @property
    def front(self) -> list[Trial]:
        """The trials at the highest fidelity that no other one beats in both score and BOPs, by ascending BOPs."""
        return nondominated(measured_best(self.trials), self.objective)

    @property
    def search_passes(self) -> int:
        """What counts against a limit on forward passes: evaluations and probes."""
        return self.probe_spend + self.failed_spend + sum(trial.spend for trial in self.trials)

    @property
    def forward_passes(self) -> int:
        """Everything the run spent: evaluations, probes, and second measurements."""
        return self.search_passes + sum(trial.spend for trial in self.finals)

    def score(self, trial: Trial) -> float:
        """The trial's objective; raises ValueError if it failed."""
        if trial.metrics is None:
            raise ValueError(f"trial {trial.number} has no metrics: {trial.failure}")
        return self.objective.score(trial.metrics)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per trial, second measurements last.

        Columns: ``number``, ``policy`` (JSON), ``images``, ``noise``, ``finetune_steps``, ``seed``, one for each metric
        (``certified@0.25`` and so on for certified accuracies; missing where the trial failed), ``failure``, ``repeat_of``,
        ``spend`` (forward passes) and ``is_final`` (whether it is a second measurement).
        """
        import pandas

        rows = [
            {
                "number": trial.number,
                "policy": trial.policy.to_json(),
                **asdict(trial.fidelity),
                "seed": trial.seed,
                **({} if trial.metrics is None else _flat(trial.metrics)),
                "failure": trial.failure,
                "repeat_of": trial.repeat_of,
                "spend": trial.spend,
                "is_final": is_final,
            }
            for is_final, trials in ((False, self.trials), (True, self.finals))
            for trial in trials
        ]
        columns = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
        return pandas.DataFrame(rows, columns=columns).astype({"repeat_of": "Int64"} if rows else {})


def _flat(metrics: Metrics) -> dict[str, Any]:
    """Metrics as columns; values by radius become one column each, values by name keep their names."""
    columns: dict[str, Any] = {}
    for field_ in fields(metrics):
        value = getattr(metrics, field_.name)
        if field_.name == "certified_accuracy" and value is not None:
            columns |= {f"certified@{radius_text(radius)}": share for radius, share in value.items()}
        elif isinstance(value, Mapping):
            columns |= value
        else:
            columns[field_.name] = value
    return columns


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One exam: a policy, or the float network, certified on images and noise that no search has seen.

    Attributes:
        policy: What was examined; None for the float network.
        post_step: The finetuning before the exam.
        metrics: Averages over the exam images.
        certificates: One row an exam image.
        labels: True classes, shape ``(images,)``.
        image_ids: Ids of the exam images in their dataset, shape ``(images,)``.
        provenance: Problem, n0, n, alpha, seeds, hashes, versions and commit, JSON-ready.
        set_certificate: Bounds on the set of images, if the exam has them: true with probability 1 - alpha for this one policy.
    """

    policy: Policy | None
    post_step: str
    metrics: Metrics
    certificates: Certificates
    labels: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    provenance: Mapping[str, Any]
    set_certificate: SetCertificate | None = None

    @property
    def scores(self) -> NDArray[np.float64]:
        """Certified radius where the prediction is right, else 0, shape ``(images,)``."""
        return self.certificates.scores(self.labels)


@dataclass(frozen=True, slots=True)
class Entry:
    """One search and the exam of its winner.

    Attributes:
        run: The search.
        outcome: The exam, after the post-step.
        before: The exam before the post-step; None if there was no post-step.
    """

    run: Run
    outcome: Outcome
    before: Outcome | None = None
