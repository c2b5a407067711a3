"""Problems replayed from a table: every policy was measured before, so that an evaluation takes microseconds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from suite.contract.clock import ReplayClock
from suite.contract.objective import ACR
from suite.contract.probes import Probes, ProbeSettings
from suite.contract.problem import Meter
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics
from suite.errors import BitcertError
from suite.files import read_sealed
from suite.networks import checkpoint_sha256, shipped_checkpoints
from suite.plugins import PROBLEMS
from suite.problems.vision import VisionProblem
from suite.tables.probes import PROBES, RecordedProbes
from suite.tables.series import Series
from suite.tables.table import PolicyTable, find_table, read_table, table_record


class TabularProblem(VisionProblem):
    """Search on a table: evaluations, their noise, their cost and their time are those recorded on the network.

    Seeds of evaluations take turns through the recorded ones. What a table does not hold, such as held-out certification, is
    measured on the network.

    Args:
        file: The table, as made by ``bitcert build-table``, or the name of one that comes with bitcert.
        budget, objective, seed: As for :func:`suite.problems.load_problem`.
        sigma: Of the table, if given.
        protocol: One that the table holds; its first if None.
        replicate: Of no influence: a table is about one network.

    Attributes:
        top: Its series of search images at the highest fidelity, by noise.

    Raises:
        BitcertError: If the table is damaged, of another schema, or about another network; if it lacks measurements.
    """

    holds_protocols: ClassVar[bool] = True
    """Each protocol has measurements of its own, whatever the finetuning steps."""

    def __init__(
        self,
        file: str = "",
        *,
        budget: str | int | None = None,
        sigma: float | None = None,
        seed: int = 0,
        objective: str = "acr",
        protocol: str | None = None,
        replicate: int | None = None,
    ) -> None:
        if not file:
            raise BitcertError("name the table: table:file=FILE")
        self.source, self.file = file, find_table(file)
        record = table_record(self.file)
        if sigma not in (None, record["sigma"]):
            raise BitcertError(f"{file} was recorded at sigma {record['sigma']:g}, not {sigma:g}")
        if seed != record["problem_seed"]:
            raise BitcertError(f"{file} was recorded with the problem's seed {record['problem_seed']}, not {seed}")
        series = [Series.from_dict(content) for content in record["series"]]
        protocols = list(dict.fromkeys(each.protocol for each in series if each.split == "search"))
        chosen = protocol or protocols[0]
        if chosen not in protocols:
            raise BitcertError(f"{file} has no measurements under {chosen}; it has {', '.join(protocols)}")
        super().__init__(
            replace(PROBLEMS.load(record["problem"]), choices=tuple(record["choices"])),
            budget=budget,
            sigma=record["sigma"],
            seed=seed,
            objective=objective,
            protocol=chosen,
        )
        self.name = "table"
        self._searched = [each for each in series if each.split == "search" and each.protocol == chosen]
        self._record = record
        self.fidelity = max(self._searched, key=lambda each: each.images * each.noise).fidelity
        self.top = [each for each in self._searched if each.fidelity == self.fidelity]
        self.clock: ReplayClock = ReplayClock()
        _check_network(self.file, record)

    @cached_property
    def table(self) -> PolicyTable:
        """The measurements; read at the first evaluation."""
        table = read_table(self.file, self.space)
        if table.radii != self.radii:
            raise BitcertError(f"{self.file} has certified accuracies at {table.radii}, not at {self.radii}")
        return table

    @cached_property
    def truth(self) -> dict[Policy, float]:
        """The score of every feasible policy: on exam images where the table has them, else its mean over all noise at the top.

        Empty if the table does not hold all policies of the space.
        """
        if not self.table.is_complete:
            return {}
        scores = self.true_scores
        return {
            policy: float(score)
            for policy, score in zip(self.table.policies, scores, strict=True)
            if self.is_feasible(policy)
        }

    @cached_property
    def true_scores(self) -> NDArray[np.float64]:
        """The best score that the table has of each of its policies, shape ``(policies,)``; see :attr:`truth`."""
        exams = [each for each in self.table.series if each.split == "exam" and each.protocol == self.protocol]
        return self.scores(exams or self.top)

    @property
    def truth_error(self) -> float | None:
        """Standard error of a true ACR over noise; None where it is not known, there is no noise, or for another objective."""
        own = [each for each in self._record["exactness"] if each["protocol"] == self.protocol]
        exams = [each for each in own if each["split"] == "exam"]
        size = self.fidelity.images, self.fidelity.noise
        top = exams or [each for each in own if (each["images"], each["noise"]) == size]
        errors = [each["error"] / each["seeds"] ** 0.5 for each in top if each["error"] is not None]
        return max(errors) if errors and isinstance(self.objective, ACR) else None

    def scores(self, series: Sequence[Series]) -> NDArray[np.float64]:
        """Mean score of each of the table's policies over series, shape ``(policies,)``."""
        columns = [self.table.column(each) for each in series]
        found = [
            [self.objective.score(self.table.metrics(row, column, self.bops(policy))) for column in columns]
            for row, policy in enumerate(self.table.policies)
        ]
        return np.asarray(np.mean(found, axis=1))

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """What was recorded; charges and takes the time that it did then."""
        self.check_feasible(policy)
        found = self._answer(policy, fidelity, seed)
        self.meter.charge(found.forward_passes)
        self.clock.advance(found.seconds)
        return found

    def _answer(self, policy: Policy, fidelity: Fidelity, seed: int) -> Metrics:
        columns = self._columns(fidelity)
        return self.table.metrics(self.table.row(policy), columns[seed % len(columns)], self.bops(policy))

    def _columns(self, fidelity: Fidelity) -> list[int]:
        """The columns of a fidelity, by noise."""
        found = [self.table.column(each) for each in sorted(self._searched) if each.fidelity == fidelity]
        if not found:
            known = ", ".join(dict.fromkeys(each.size for each in self._searched))
            raise BitcertError(
                f"{self.file} has no measurements with {fidelity.images} images, {fidelity.noise} noise samples and "
                f"{fidelity.finetune_steps} finetuning steps; it has {known} under {self.protocol}"
            )
        return found

    def constant_score(self, fidelity: Fidelity, seed: int = 0) -> float:
        """As recorded."""
        columns = self._columns(fidelity)
        return self.objective.score(Metrics.from_dict(self._record["constant"][columns[seed % len(columns)]]))

    def probes(self, settings: ProbeSettings) -> Probes:
        """What was recorded of the methods that probe."""
        return RecordedProbes(settings, self._probe_record["seeds"], self.meter, self._probe_record[str(self.protocol)])

    @cached_property
    def _probe_record(self) -> dict[str, Any]:
        path = self.file.with_name(self.file.stem + PROBES)
        return read_sealed(path, "a table's probes")

    def check_fidelity(self, fidelity: Fidelity) -> None:
        """Raise BitcertError unless the table has it."""
        self._columns(fidelity)

    def default_fidelity(self) -> Fidelity:
        """The highest recorded."""
        return self.fidelity

    def second_look(self, fidelity: Fidelity) -> Fidelity:
        """The same: only the noise is another one."""
        return fidelity

    def forward_passes(self, fidelity: Fidelity) -> int:
        """The most that were recorded."""
        return int(self.table.values["forward_passes"][:, self._columns(fidelity)].max())

    def replicate(self, seed: int) -> TabularProblem:
        """The problem itself: a table is about one network."""
        return self

    def provenance(self) -> dict[str, Any]:
        """That of the network's problem when the table was recorded, with what may differ, and the table's name and hash."""
        recorded = dict(self._record["provenance"][str(self.protocol)])
        for key in [key for key in recorded if key.startswith("budget")]:
            del recorded[key]
        return recorded | {
            "problem": f"table:file={self.source}",
            **self.budget.to_dict(),
            "objective": self.objective.text,
            "table_sha256": self._record["table_sha256"],
        }

    def fresh(self) -> TabularProblem:
        """The same problem with a meter and a clock of its own; what was read of the table is shared."""
        again = copy.copy(self)
        again.meter, again.clock = Meter(), ReplayClock()
        return again


class DigitsTable(TabularProblem):
    """Every policy of ``digits-blocks``, recorded: the table that comes with bitcert, at one of three noise levels.

    Args:
        sigma: 0.12, 0.25 or 0.5; 0.25 if None.
        budget, seed, objective, protocol, replicate: As for :class:`TabularProblem`.
    """

    def __init__(self, *, sigma: float | None = None, **settings: Any) -> None:
        super().__init__(f"digits-table-sigma{0.25 if sigma is None else float(sigma):g}", **settings)
        self.name = "digits-table"


class ShippedTable(TabularProblem):
    """A table that comes with bitcert, as a problem of its own.

    Args:
        budget, seed, objective, protocol, replicate: As for :class:`TabularProblem`.
    """

    stem: ClassVar[str]
    """Name of the table and of the problem."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(self.stem, **settings)
        self.name = self.stem


class DigitsTableLow(ShippedTable):
    """Every policy of ``digits-blocks`` at 1 to 3 bits, recorded under three protocols: the table that comes with bitcert."""

    stem = "digits-table-low"


class DigitsLinfTable(ShippedTable):
    """Every policy of ``digits-linf``, recorded: L-infinity certificates by interval bounds, without any noise."""

    stem = "digits-linf-table"


def load_table(text: str, **settings: Any) -> TabularProblem:
    """Load the problem that replays a table.

    Args:
        text: A problem, such as ``digits-table`` or ``surrogate:file=FILE``; else what the problem ``table`` takes as its file.
        **settings: See :func:`suite.problems.load_problem`.

    Raises:
        BitcertError: If the problem is about no table, or as for :class:`TabularProblem`.
    """
    from suite.problems import load_problem

    named = ":" in text or text in PROBLEMS.names()
    problem = load_problem(text if named else f"table:file={text}", **settings)
    if not isinstance(problem, TabularProblem):
        raise BitcertError(f"{text} is no table; name a file that ends in .parquet, or a problem such as digits-table")
    return problem


def _check_network(file: Path, record: dict[str, Any]) -> None:
    definition = PROBLEMS.load(record["problem"])
    found = checkpoint_sha256(shipped_checkpoints(definition.trained_as or definition.name, record["sigma"])[0])
    if found != record["network_sha256"]:
        raise BitcertError(
            f"{file} was recorded on another network ({record['network_sha256'][:12]}, not {found[:12]}); build it again"
        )
