"""The events of a search: what each line of its journal may say."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    NonNegativeInt,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    model_validator,
)
from pydantic import NonNegativeFloat as Seconds

from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics
from suite.run.journal import Event
from suite.run.limits import Promotion
from suite.run.rungs import Rungs


def _policy(content: Any) -> Policy:
    if isinstance(content, Policy):
        return content
    policy = Policy.from_json(json.dumps(content))
    if policy.to_dict() != content:
        raise ValueError("a policy has weights and activations, and nothing else")
    return policy


def _finite(content: dict[str, JsonValue]) -> dict[str, JsonValue]:
    json.dumps(content, allow_nan=False)
    return content


PolicyField = Annotated[Policy, PlainValidator(_policy), PlainSerializer(Policy.to_dict)]
MetricsField = Annotated[Metrics, PlainSerializer(Metrics.to_dict)]
Settings = Annotated[dict[str, JsonValue], AfterValidator(_finite)]


class Start(Event):
    """The first line: which run this is. ``provenance`` identifies the problem; the rest is as for ``SearchLoop``."""

    event: Literal["start"] = "start"
    version: Literal[3]
    searcher: str
    searcher_seed: int
    searcher_options: Settings
    fidelity: Fidelity
    rungs: Rungs
    evaluation_seed: int
    parallel: int
    promotion: Promotion | None
    provenance: Settings
    software: Settings

    def differences(self, other: Start) -> list[str]:
        """What makes another run of it: names of settings, software aside."""
        ours, theirs = (start.model_dump(mode="json", exclude={"software", "provenance"}) for start in (self, other))
        return [key for key in ours if theirs[key] != ours[key]] + [
            key
            for key in {**self.provenance, **other.provenance}
            if key not in self.provenance or self.provenance[key] != other.provenance.get(key)
        ]


class Resume(Event):
    """The run goes on with other software than it began with."""

    event: Literal["resume"] = "resume"
    software: Settings


class Ask(Event):
    """The searcher has proposed a policy; ``probes`` and ``searcher_seconds`` are what its calls cost since the last record."""

    event: Literal["ask"] = "ask"
    number: NonNegativeInt
    policy: PolicyField
    probes: NonNegativeInt
    searcher_seconds: Seconds


class Promote(Event):
    """One of the best policies is to be measured again."""

    event: Literal["promote"] = "promote"
    number: NonNegativeInt
    policy: PolicyField


class Rung(Event):
    """A trial was measured at a rung and goes on to the next one; ``elapsed`` is the time of the run in seconds."""

    event: Literal["rung"] = "rung"
    number: NonNegativeInt
    elapsed: Seconds
    metrics: MetricsField


class Retry(Event):
    """An evaluation failed after ``wasted`` forward passes and is retried."""

    event: Literal["retry"] = "retry"
    number: NonNegativeInt
    failure: str
    wasted: NonNegativeInt


class Tell(Event):
    """A trial is finished: with metrics, those of all its rungs added up, or with a failure."""

    event: Literal["tell"] = "tell"
    number: NonNegativeInt
    elapsed: Seconds
    metrics: MetricsField | None = None
    failure: str | None = None
    wasted: NonNegativeInt = 0
    repeat_of: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _metrics_or_failure(self) -> Self:
        failed = self.metrics is None
        if failed != (self.failure is not None) or failed != ("wasted" in self.model_fields_set):
            raise ValueError("a finished trial has metrics, or a failure and what it wasted")
        return self


class Stop(Event):
    """The run has ended."""

    event: Literal["stop"] = "stop"
    reason: Literal["evaluations", "forward_passes", "seconds", "exhausted", "stalled"]
    elapsed: Seconds
    probes: NonNegativeInt
    searcher_seconds: Seconds


SearchEvent = Start | Resume | Ask | Promote | Rung | Retry | Tell | Stop

SEARCH_EVENTS: TypeAdapter[SearchEvent] = TypeAdapter(Annotated[SearchEvent, Field(discriminator="event")])
