"""Files of exams: written with a checksum, and checked field by field when they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from suite.certify import ABSTAIN, Certificates, SetCertificate
from suite.contract.space import Policy
from suite.contract.trial import Metrics, radius_text
from suite.errors import BitcertError
from suite.files import read_sealed, write_sealed
from suite.run.records import Outcome

OUTCOME_VERSION = 2
_WHAT = "an exam"
_TOLERANCE = 1e-9  # sums in floating point depend on the machine

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Class = Annotated[int, Field(ge=0, lt=2**15)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Length = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Alpha = Annotated[float, Field(gt=0, le=1)]


def _radius(text: str) -> str:
    if not 0 <= float(text) < float("inf") or text != radius_text(float(text)):
        raise ValueError(f"{text!r} is not a radius")
    return text


_Shares = dict[Annotated[str, AfterValidator(_radius)], _Share]


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Metrics(_Checked):
    clean_accuracy: _Share | None
    acr: _Length | None
    certified_accuracy: _Shares | None
    bops: _Count
    forward_passes: _Count
    seconds: _Length
    alpha: _Share
    method: str
    values: dict[str, _Finite] = {}
    norm: str | None = "l2"
    costs: dict[str, _Count] = {}

    @model_validator(mode="after")
    def _certain_without_noise_only(self) -> _Metrics:
        if self.alpha == 0 and self.norm == "l2":
            raise ValueError("alpha must be above 0 for certificates under noise")
        return self


class _Set(_Checked):
    acr: _Length
    certified_accuracy: _Shares
    alpha: _Alpha
    n: _Count

    @staticmethod
    def record(bounds: SetCertificate) -> dict[str, Any]:
        shares = {radius_text(radius): share for radius, share in bounds.certified_accuracy.items()}
        return {"acr": bounds.acr, "certified_accuracy": shares, "alpha": bounds.alpha, "n": bounds.forward_passes}

    def certificate(self) -> SetCertificate:
        return SetCertificate(self.acr, _by_radius(self.certified_accuracy), self.alpha, self.n)


class _Images(_Checked):
    id: list[_Count]
    label: list[_Class]
    prediction: list[Annotated[int, Field(ge=ABSTAIN, lt=2**15)]]
    radius: list[_Length]
    p_lower: list[_Share]
    forward_passes: list[_Count]

    @model_validator(mode="after")
    def _rows(self) -> Self:
        lengths = {name: len(getattr(self, name)) for name in type(self).model_fields}
        if len(set(lengths.values())) != 1 or not self.id:
            raise ValueError(f"its columns have {lengths} rows; all must have the same number, at least one")
        if any(radius and chosen == ABSTAIN for chosen, radius in zip(self.prediction, self.radius, strict=True)):
            raise ValueError("it abstains with a radius above 0")
        return self


class _Exam(_Checked):
    version: int
    policy: dict[str, list[int]] | None
    post_step: str
    metrics: _Metrics
    provenance: dict[str, Any]
    set: _Set | None
    constant: _Finite | None = None
    images: _Images


def write_outcome(outcome: Outcome, path: Path) -> None:
    """Write an outcome as JSON with a checksum, in one step."""
    bounds = outcome.set_certificate
    content = {
        "version": OUTCOME_VERSION,
        "policy": None if outcome.policy is None else outcome.policy.to_dict(),
        "post_step": outcome.post_step,
        "metrics": outcome.metrics.to_dict(),
        "provenance": dict(outcome.provenance),
        "set": None if bounds is None else _Set.record(bounds),
        "constant": outcome.constant,
        "images": {
            "id": outcome.image_ids.tolist(),
            "label": outcome.labels.tolist(),
            **{name: getattr(outcome.certificates, name).tolist() for name in Certificates.__slots__},
        },
    }
    write_sealed(path, content)


def read_outcome(path: Path) -> Outcome:
    """Read what :func:`write_outcome` wrote.

    Raises:
        BitcertError: If the file is missing, damaged, of another version, or its averages do not follow from its
            certificates.
    """
    content = read_sealed(path, _WHAT)
    if content.get("version") != OUTCOME_VERSION:
        raise BitcertError(
            f"{path} is an exam of version {content.get('version')!r}, this bitcert reads version {OUTCOME_VERSION}"
        )
    try:
        exam = _Exam.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise BitcertError(f"{path} is not {_WHAT} of bitcert, or it is damaged: {place}: {first['msg']}") from None
    columns = {name: np.array(values) for name, values in exam.images.model_dump().items()}
    outcome = Outcome(
        policy=None if exam.policy is None else Policy.from_json(json.dumps(exam.policy)),
        post_step=exam.post_step,
        metrics=Metrics.from_dict(content["metrics"]),
        labels=columns.pop("label"),
        image_ids=columns.pop("id"),
        certificates=Certificates(**columns),
        provenance=exam.provenance,
        set_certificate=None if exam.set is None else exam.set.certificate(),
        constant=exam.constant,
    )
    _check_averages(exam.metrics, outcome, path)
    return outcome


def _check_averages(metrics: _Metrics, outcome: Outcome, path: Path) -> None:
    found, labels = outcome.certificates, outcome.labels
    shares = _by_radius(metrics.certified_accuracy or {})
    wanted = found.certified_accuracy(labels, list(shares))
    pairs = [(shares[radius], wanted[radius]) for radius in shares]
    if metrics.acr is not None:
        pairs.append((metrics.acr, found.acr(labels)))
    if any(abs(said - follows) > _TOLERANCE * max(1.0, follows) for said, follows in pairs):
        raise BitcertError(f"{path} is damaged: its ACR and certified accuracies do not follow from its certificates")


def _by_radius(shares: dict[str, float]) -> dict[float, float]:
    return {float(radius): share for radius, share in shares.items()}
