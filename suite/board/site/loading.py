"""Entries as the site lists them: each with its status, its certificates, and the board it belongs to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from suite.board.certificates import certificates_of
from suite.board.schema import (
    BoardEntry,
    Verification,
    Withdrawal,
    read_checked,
    read_entry,
    verification_of,
    withdrawal_of,
)
from suite.certify import Certificates
from suite.contract.objective import Objective, parse_objective
from suite.errors import BitcertError

Status = Literal["verified", "claimed", "rejected", "withdrawn"]
STATUSES: tuple[Status, ...] = ("verified", "claimed", "rejected", "withdrawn")

_TOLERANCE = 1e-9
_MOST_NAME = 200  # bytes; file systems allow 255, and the site appends endings
_OBJECTIVE = re.compile(r"acr|clean|certified@[0-9.,e+-]+")
"""What an entry may name: anything else would import what a stranger asks for."""


@dataclass(frozen=True, slots=True)
class Board:
    """What entries must share to be compared.

    Attributes:
        problem, budget, sigma, objective, protocol, norm, guarantee: What was searched.
        post_step: Finetuning before certification, with its options.
        exam: How winners were certified, with the images and their labels, as JSON.
    """

    problem: str
    budget: str
    sigma: float
    objective: str
    protocol: str
    norm: str
    guarantee: str
    post_step: str
    exam: str

    @property
    def slug(self) -> str:
        """Name of its files: readable, and unique by a hash of the whole."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        return re.sub(r"[^A-Za-z0-9.]+", "_", f"{self.problem}-{self.budget}")[:80].strip("._") + f"-{digest}"

    @property
    def title(self) -> str:
        """What it is about, in one line."""
        noise = f"sigma {self.sigma:g}" if self.norm == "l2" else "L-infinity"
        step = self.post_step.partition(" ")[0]
        return f"{self.problem}, budget {self.budget}, {noise}, {self.objective}, {self.protocol}, post-step {step}"


@dataclass(frozen=True)
class Listed:
    """One entry with everything that the site says about it.

    Attributes:
        entry: What was submitted.
        text: Its file, as it is.
        status: ``verified`` only if an accepted verification is of this very content.
        verification: What a verification of this content found, if there is one.
        withdrawal: Why it no longer counts, if it was withdrawn.
        certificates: From the counts that it publishes.
        objective: What is scored.
    """

    entry: BoardEntry
    text: str
    status: Status
    verification: Verification | None
    withdrawal: Withdrawal | None
    certificates: Certificates
    objective: Objective

    @cached_property
    def name(self) -> str:
        """Name of its files."""
        return self.entry.name

    @cached_property
    def board(self) -> Board:
        """Where it stands."""
        entry, task, rows = self.entry, self.entry.problem, self.entry.images
        images = hashlib.sha256(json.dumps([rows.id, rows.label]).encode()).hexdigest()
        exam = entry.exam.model_dump() | {"pictures": images, "data": entry.hashes.data}
        step = entry.post_step
        options = f" {json.dumps(step.options, sort_keys=True)}" if step.options else ""
        return Board(
            task.name,
            task.budget,
            task.sigma,
            task.objective,
            task.protocol,
            task.norm,
            task.guarantee,
            f"{step.name}{options}",
            json.dumps(exam, sort_keys=True),
        )

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """The objective image by image; the average alone where exams keep nothing else, shape ``(1,)``."""
        if not self.objective.per_image:
            return np.array([self.entry.results.clean_accuracy])
        found = self.certificates
        return self.objective.image_scores(self.labels, found.prediction, found.radius)

    @property
    def score(self) -> float:
        """The objective."""
        return float(self.scores.mean())

    @property
    def labels(self) -> NDArray[np.int64]:
        """True classes."""
        return np.array(self.entry.images.label, dtype=np.int64)

    @property
    def constant_level(self) -> bool:
        """Whether a classifier with one answer for all images does as well."""
        constant = self.entry.results.constant
        return constant is not None and self.score <= constant

    @cached_property
    def certified_accuracy(self) -> dict[float, float]:
        """Radius -> share of images, at the radii that the entry reports, from its rows."""
        radii = sorted(map(float, self.entry.results.certified_accuracy))
        return self.certificates.certified_accuracy(self.labels, radii)

    def curve(self) -> list[tuple[float, float]]:
        """Certified accuracy at 0, at every radius that is certified for an image, where it falls, and just beyond the largest."""
        scores = self.certificates.scores(self.labels)
        radii = [0.0, *np.unique(scores[scores > 0]).tolist()]
        shares = self.certificates.certified_accuracy(self.labels, radii)
        return [*shares.items(), (1.02 * radii[-1] or 1.0, 0.0)]


@dataclass(frozen=True, slots=True)
class Collection:
    """All entries of a folder, and what is wrong with those that cannot be listed."""

    entries: tuple[Listed, ...]
    problems: tuple[str, ...]

    @property
    def boards(self) -> dict[Board, list[Listed]]:
        """The entries of each board, boards in alphabetical order."""
        grouped: dict[Board, list[Listed]] = {}
        for listed in self.entries:
            grouped.setdefault(listed.board, []).append(listed)
        return dict(sorted(grouped.items(), key=lambda item: (item[0].title, item[0].slug)))


def read_entries(directory: Path, advance: Callable[[int, int], None] = lambda done, total: None) -> Collection:
    """Read a folder of entries; one that is damaged is a problem, no reason to stop.

    Args:
        directory: With ``NAME.json``, and beside it ``NAME.verification.json`` and ``NAME.withdrawn.json``.
        advance: Told after each entry how many of how many are read.

    Raises:
        BitcertError: If there is no such folder, or it holds no entry that can be read.
    """
    if not directory.is_dir():
        raise BitcertError(f"{directory} is no folder of entries; name the one that holds NAME.json files")
    files = sorted(directory.glob("*.json"))
    beside = [path for path in files if path.name.endswith((".verification.json", ".withdrawn.json"))]
    entries = sorted(set(files) - set(beside))
    read, problems = [], []
    for number, path in enumerate(entries, 1):
        try:
            listed, found = _read(path)
            read.append(listed)
            problems += found
        except BitcertError as error:
            problems.append(str(error))
        advance(number, len(entries))
    expected = {kind(path) for path in entries for kind in (verification_of, withdrawal_of)}
    problems += [f"{path.name} belongs to no entry" for path in beside if path not in expected]
    if not read:
        reasons = "; ".join(problems[:3]) or "it has no NAME.json"
        raise BitcertError(f"{directory} holds no readable entry: {reasons}")
    return Collection(tuple(read), tuple(problems))


def _read(path: Path) -> tuple[Listed, list[str]]:
    entry = read_entry(path)
    if len(path.name.encode()) > _MOST_NAME:
        raise BitcertError(f"{path.name} has a name of more than {_MOST_NAME} bytes; shorten the budget or the method")
    text, _, _ = entry.problem.objective.partition("+")
    if not _OBJECTIVE.fullmatch(text):
        raise BitcertError(f"{path.name} has the objective {text}; the leaderboard knows acr, clean and certified@r")
    try:
        objective = parse_objective(text)
        certificates = certificates_of(entry)
        radii = [float(radius) for radius in entry.results.certified_accuracy]
        if not np.isfinite([*radii, *certificates.radius]).all():
            raise BitcertError("a radius is not finite")
    except (BitcertError, ValueError) as error:
        raise BitcertError(f"{path.name} cannot be listed: {error}") from None
    computed = certificates.acr(np.array(entry.images.label))
    if abs(computed - entry.results.acr) > _TOLERANCE:
        raise BitcertError(f"{path.name} claims an ACR of {entry.results.acr:g}, but its rows give {computed:g}")
    problems: list[str] = []
    verification = withdrawal = None
    if (beside := verification_of(path)).exists():
        try:
            verification = read_checked(Verification, beside, "a verification")
            if verification.entry != entry.sha256:
                problems.append(f"{beside.name} is of another entry")
                verification = None
        except BitcertError as error:
            problems.append(str(error))
    status: Status = "claimed" if verification is None else "verified" if verification.accepted else "rejected"
    if (beside := withdrawal_of(path)).exists():
        status = "withdrawn"
        try:
            withdrawal = read_checked(Withdrawal, beside, "a withdrawal")
        except BitcertError as error:
            problems.append(str(error))
    content = path.read_text(encoding="utf-8")
    return Listed(entry, content, status, verification, withdrawal, certificates, objective), problems
