"""What runs and exams leave behind, read back into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from suite.certify.certificates import Certificates, SetCertificate
from suite.contract.objective import Objective, nondominated
from suite.contract.space import Policy
from suite.contract.trial import Metrics, Trial

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
    ranked = sorted(first.values(), key=lambda trial: (-objective.score(trial.metrics), trial.number))  # type: ignore[arg-type]
    return ranked[:count]


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
        stopped: Why the search ended: ``"evaluations"``, ``"forward_passes"``, ``"seconds"``, ``"exhausted"`` or ``"stalled"``;
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

        Where the best policies were measured a second time, the second measurements decide; else the trials at the highest
        fidelity. Second measurements of policies that an extended search no longer has among its best do not count.
        """
        promotion = self.provenance.get("promotion") or {"finalists": 0}
        best = {trial.policy for trial in leaders(self.trials, self.objective, promotion["finalists"])}
        finals = [trial for trial in self.finals if trial.policy in best]
        finished = measured_best(finals) or measured_best(self.trials)
        return max(finished, key=lambda trial: (self.score(trial), -trial.number), default=None)

    @property
    def front(self) -> list[Trial]:
        """The trials at the highest fidelity that no other one beats in both score and BOPs, by ascending BOPs."""
        return nondominated(measured_best(self.trials), self.objective)

    @property
    def evaluations(self) -> int:
        """How many evaluations were made, failed ones and second measurements included: all trials but repeats."""
        return sum(trial.repeat_of is None for trial in (*self.trials, *self.finals))

    @property
    def forward_passes(self) -> int:
        """Everything the run spent: evaluations, probes, and second measurements."""
        return self.probe_spend + self.failed_spend + sum(trial.spend for trial in (*self.trials, *self.finals))

    def score(self, trial: Trial) -> float:
        """The trial's objective; raises ValueError if it failed."""
        if trial.metrics is None:
            raise ValueError(f"trial {trial.number} has no metrics: {trial.failure}")
        return self.objective.score(trial.metrics)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per trial, second measurements (``is_final``) last.

        Columns beside the trial's own fields, its policy as JSON: ``images``, ``noise``, ``finetune_steps``, ``spend`` in forward
        passes, and every metric, ``certified@0.25`` and so on; metrics of failed trials are missing.
        """
        import pandas

        rows = [
            {
                "number": trial.number,
                "policy": trial.policy.to_json(),
                **asdict(trial.fidelity),
                "seed": trial.seed,
                "is_final": is_final,
                "spend": trial.spend,
                "failure": trial.failure,
                "repeat_of": trial.repeat_of,
                **({} if trial.metrics is None else _columns(trial.metrics)),
            }
            for is_final, trials in ((False, self.trials), (True, self.finals))
            for trial in trials
        ]
        frame = pandas.DataFrame(rows)
        return frame.astype({"repeat_of": "Int64"}) if rows else frame


def _columns(metrics: Metrics) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, value in metrics.to_dict().items():
        prefix = "certified@" if name == "certified_accuracy" else ""
        columns |= {f"{prefix}{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
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
        constant: The best score that a classifier with one answer for all images has on this exam, in the search's objective; None
            if it was not measured.
    """

    policy: Policy | None
    post_step: str
    metrics: Metrics
    certificates: Certificates
    labels: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    provenance: Mapping[str, Any]
    set_certificate: SetCertificate | None = None
    constant: float | None = None

    @property
    def scores(self) -> NDArray[np.float64]:
        """Certified radius where the prediction is right, else 0, shape ``(images,)``."""
        return self.certificates.scores(self.labels)


@dataclass(frozen=True, slots=True)
class Entry:
    """One search and the exams of its winner.

    Attributes:
        run: The search.
        outcome: The exam after the post-step.
        before: The exam before it; None if there was no post-step.
        controls: Exams after other post-steps, by name.
    """

    run: Run
    outcome: Outcome
    before: Outcome | None = None
    controls: Mapping[str, Outcome] = field(default_factory=dict)
