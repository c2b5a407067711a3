"""Entries of the leaderboard: what a file says, checked field by field, and nothing in it is executed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from suite.certify import ABSTAIN
from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.files import json_sha256, write_text

VERSION: Literal[1] = 1
LARGEST_ENTRY, LARGEST_WEIGHTS = 8 * 2**20, 512 * 2**20
"""Bytes of files that are read at all."""

_MOST_IMAGES = 100_000
Count = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Class = Annotated[int, Field(ge=ABSTAIN, lt=2**15)]
Text = Annotated[str, StringConstraints(max_length=400, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, StringConstraints(max_length=160, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+=-]*$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Link = Annotated[str, StringConstraints(max_length=400, pattern=r"^https?://[^\s\"'<>]+$")]


class Checked(BaseModel):
    """A part of an entry: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Method(Checked):
    """Who searched.

    Attributes:
        name: Registered name of the method.
        text: The same with its options, as the command line takes it.
        seed: Of the search.
        version: Of bitcert, whose implementation it is, or of the package that brings the method.
    """

    name: Name
    text: Text
    seed: Count
    version: Text


class Task(Checked):
    """What was searched; two entries are compared only if their boards are equal.

    Attributes:
        name: Problem.
        budget: Limits on costs, as text.
        sigma: Standard deviation of the noise.
        objective: What searches maximized.
        protocol: How a policy becomes a network.
        norm: Of the certified radii.
        guarantee: ``"probabilistic"``, each certificate holds with probability 1 - alpha; or ``"deterministic"``.
        record: The problem as it describes itself: network, data, pins, radii, hashes.
    """

    name: Name
    budget: Text
    sigma: Length
    objective: Text
    protocol: Text
    norm: Literal["l2", "linf"]
    guarantee: Literal["probabilistic", "deterministic"]
    record: dict[str, Any]


class Choice(Checked):
    """A policy: bits of every layer's weights and inputs."""

    weights: list[Annotated[int, Field(ge=1, le=32)]]
    activations: list[Annotated[int, Field(ge=1, le=32)]]

    def policy(self) -> Policy:
        """The policy."""
        return Policy.from_bits(self.weights, self.activations)


class PostStepRecord(Checked):
    """Finetuning between search and certification.

    Attributes:
        name: Registered name.
        options: Its options, JSON-ready.
        seed: Of its order and noise.
        forward_passes: What it cost.
    """

    name: Name
    options: dict[str, Any]
    seed: Count
    forward_passes: Count


class Fidelity(Checked):
    """How much one evaluation spends; see :class:`suite.contract.trial.Fidelity`."""

    images: Count
    noise: Count
    finetune_steps: Count


class Spend(Checked):
    """What the search cost: the forward passes follow from the parts, or are fewer where evaluations are adaptive.

    Attributes:
        fidelity: Of an evaluation.
        second: Of a second measurement; None if there were none.
        evaluations: Successful trials that were no repeats, second measurements included.
        finalists: Second measurements among them.
        probe_passes: Forward passes of the searcher's own probes.
        other_passes: Forward passes of failed trials and of lower rungs.
        forward_passes: Everything.
        seconds: Wall time.
        score: What the search measured for its winner; optimistic, never compared.
    """

    fidelity: Fidelity
    second: Fidelity | None
    evaluations: Count
    finalists: Count
    probe_passes: Count
    other_passes: Count
    forward_passes: Count
    seconds: Length
    score: Finite | None


class Exam(Checked):
    """How the winner was certified on held-out images; see :class:`suite.certify.exam.ExamSettings`."""

    images: Annotated[int, Field(ge=1, le=_MOST_IMAGES)]
    n0: Count
    n: Count
    alpha: Share
    method: Text
    split: Text
    arithmetic: Literal["float", "exact"] = "float"


class Results(Checked):
    """Averages over the images; they follow from the rows.

    Attributes:
        acr: Average certified radius.
        clean_accuracy: Share of images right without noise.
        certified_accuracy: Radius -> share of images predicted right with at least this certified radius.
        costs: Cost -> of the policy, in the units that are counted.
        bops_share: Share of the float network's BOPs.
        constant: Score of the best classifier with one answer; a score at its level says nothing.
        forward_passes: Of the exam.
    """

    acr: Length
    clean_accuracy: Share
    certified_accuracy: dict[str, Share]
    costs: dict[Name, Count]
    bops_share: Length
    constant: Finite | None
    forward_passes: Count


class Rows(Checked):
    """One row per held-out image, in columns.

    Attributes:
        id: Of the image in its dataset.
        label: True class.
        prediction: Certified class; -1 where it abstains.
        successes: How many of the exam's n samples gave the chosen class; None where bounds do not come from one count.
        radius: Certified radius; None where it follows from ``successes``.
        p_lower: Lower bound of the class's probability; None where it follows.
        forward_passes: Of the image; None where all have n0 + n.
    """

    id: Annotated[list[Count], Field(min_length=1, max_length=_MOST_IMAGES)]
    label: list[Class]
    prediction: list[Class]
    successes: list[Count] | None = None
    radius: list[Length] | None = None
    p_lower: list[Share] | None = None
    forward_passes: list[Count] | None = None

    @model_validator(mode="after")
    def _columns(self) -> Self:
        lengths = {name: len(column) for name, column in self if column is not None}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"its columns have {lengths} rows; all must have the same number")
        others = [self.radius, self.p_lower, self.forward_passes]
        if (self.successes is None) == (None in others) or (self.successes is not None and others != [None] * 3):
            raise ValueError("rows have either successes, or radius, p_lower and forward_passes")
        if len(set(self.id)) != len(self.id):
            raise ValueError("an image is listed more than once")
        return self


class Hashes(Checked):
    """SHA-256 of what the result depends on.

    Attributes:
        network: The float network.
        data: The images.
        weights: The file of weights beside the entry; None if the network is made from the policy.
    """

    network: Digest
    data: Digest
    weights: Digest | None


class Origin(Checked):
    """Where the result comes from.

    Attributes:
        command: That makes the entry again.
        experiment: Experiment file of the search, if any.
        software: Packages and their versions.
        commit: Of bitcert's source, if known.
        date: When the entry was made, ISO 8601.
        authors: Who submits.
        links: Papers, code.
        notes: Anything a reader should know, such as what was cut of a published method.
    """

    command: Text
    experiment: Text | None
    software: dict[Text, Text]
    commit: Text | None
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]
    authors: list[Text] = []
    links: list[Link] = []
    notes: Annotated[str, StringConstraints(max_length=4000)] = ""


class BoardEntry(Checked):
    """One winner of one search, certified on held-out images, with everything that is needed to certify it again."""

    version: Literal[1]
    method: Method
    problem: Task
    policy: Choice
    post_step: PostStepRecord
    spend: Spend
    exam: Exam
    results: Results
    images: Rows
    hashes: Hashes
    origin: Origin

    @property
    def sha256(self) -> str:
        """Of the whole content."""
        return json_sha256(self.model_dump(mode="json"))

    @property
    def name(self) -> str:
        """Name of its files: problem, budget, method, seed, and a hash that only this content has."""
        parts = [self.problem.name, self.problem.budget, self.method.name, str(self.method.seed), self.sha256[:10]]
        return "-".join(re.sub(r"[^A-Za-z0-9._]", "_", part) for part in parts)


PartT = TypeVar("PartT", bound=Checked)


class Withdrawal(Checked):
    """Why an entry no longer counts; its file stays."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]


class Verification(Checked):
    """What a verification found.

    Attributes:
        entry: SHA-256 of the entry's content.
        accepted: Whether nothing spoke against it.
        reasons: What spoke against it, one line each.
        images: Held-out images that were certified again.
        samples: Fresh noise samples of each of them.
        seed: Of the fresh noise and of the choice of images.
        error_rate: Probability, at most, of rejecting an honest entry.
        p_value: Smallest of the tests, corrected for their number; None where nothing is random.
        agreement: Share of the chosen images with the same prediction.
        full: Whether the search was repeated, too.
        software: Packages and their versions.
        commit: Of bitcert's source, if known.
        date: ISO 8601.
    """

    version: Literal[1]
    entry: Digest
    accepted: bool
    reasons: list[str]
    images: Count
    samples: Count
    seed: Count
    error_rate: Share
    p_value: Share | None
    agreement: Share | None
    full: bool
    software: dict[Text, Text]
    commit: Text | None
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]


def read_checked(kind: type[PartT], path: Path, what: str) -> PartT:
    """Read a JSON file as a part of an entry.

    Raises:
        BitcertError: If it is missing, too large, not JSON, or not what it should be.
    """
    try:
        if path.stat().st_size > LARGEST_ENTRY:
            raise BitcertError(f"{path.name} is larger than {LARGEST_ENTRY:,} bytes; {what} is not")
        text = path.read_text(encoding="utf-8")
        json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeats)
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise BitcertError(f"{path.name} is not {what}: {place}: {first['msg']}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BitcertError(f"{path.name} is not {what}: {error}") from None


def read_entry(path: Path) -> BoardEntry:
    """Read an entry whose file is named as its content says.

    Raises:
        BitcertError: If it is no entry, or its name is another one.
    """
    entry = read_checked(BoardEntry, path, "an entry")
    if path.name != f"{entry.name}.json":
        raise BitcertError(f"{path.name} holds the entry {entry.name}: its name or its content was changed")
    return entry


def write_checked(part: Checked, path: Path) -> None:
    """Write a part of an entry as JSON, compact where it has rows."""
    indent = None if isinstance(part, BoardEntry) else 2
    write_text(path, part.model_dump_json(indent=indent) + "\n")


def entry_schema() -> str:
    """The JSON Schema of an entry."""
    return json.dumps(BoardEntry.model_json_schema(), indent=2) + "\n"


def weights_of(path: Path) -> Path:
    """The file of weights beside an entry."""
    return path.with_suffix(".safetensors")


def verification_of(path: Path) -> Path:
    """The file beside an entry that says what its verification found."""
    return path.with_suffix(".verification.json")


def withdrawal_of(path: Path) -> Path:
    """The file beside an entry that withdraws it."""
    return path.with_suffix(".withdrawn.json")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
