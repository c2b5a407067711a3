"""What is evaluated and what comes back: fidelities, metrics and trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from suite.contract.space import Policy
from suite.errors import BitcertError

GRADIENT_PASSES = 3
"""Forward passes charged for a gradient, per row: a backward pass costs about two forward ones."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How much one evaluation spends.

    Attributes:
        images: Number of search images, the first ones of the split.
        noise: Noise samples of each image's bound or estimate (n of the certificate; an upper limit for methods that
            stop early).
        finetune_steps: Optimizer steps of quantization-aware finetuning before the measurement.
    """

    images: int = 100
    noise: int = 100
    finetune_steps: int = 0

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("noise", 1), ("finetune_steps", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise BitcertError(f"fidelity {name} must be an integer >= {least}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Metrics:
    """What one evaluation measured and spent; None where a family of problems does not measure a value.

    Attributes:
        clean_accuracy: Share of images that the quantized network gets right without noise.
        acr: Average certified radius, in the units of the images.
        certified_accuracy: Radius -> share of images predicted right with a certified radius >= it.
        bops: BOPs of the policy.
        forward_passes: Images pushed through the network; one finetuning image counts 3.
        seconds: Time it took, by the problem's clock.
        alpha: Failure probability of each image's certificate, or of all bounds on the set (``"aggregate"``); 1 without
            a guarantee (``"ranking"``).
        method: The certifier, options after its name if any.
        values: Whatever else the family measures, by name.
        norm: Norm of the certified radii; None without certificates.
        costs: What the policy costs beside BOPs, in whole units, by the name of the cost: what its run minimizes or limits.
    """

    clean_accuracy: float | None
    acr: float | None
    certified_accuracy: Mapping[float, float] | None
    bops: int
    forward_passes: int
    seconds: float
    alpha: float
    method: str
    values: Mapping[str, float] = field(default_factory=dict)
    norm: str | None = "l2"
    costs: Mapping[str, int] = field(default_factory=dict)

    @property
    def numbers(self) -> list[float]:
        """Everything that was measured, without names."""
        found = [self.clean_accuracy, self.acr, *(self.certified_accuracy or {}).values(), *self.values.values()]
        return [number for number in found if number is not None]

    def measured(self, name: str) -> float:
        """A number by its name, such as ``"acr"`` or one of ``values``.

        Raises:
            BitcertError: If it was not measured.
        """
        found = {"acr": self.acr, "clean_accuracy": self.clean_accuracy, **self.values}.get(name)
        if found is None:
            raise BitcertError(
                f"{self.method!r} does not measure {name}; choose another objective or another certifier"
            )
        return found

    def cost(self, name: str) -> int:
        """What the policy costs, by the name of the cost.

        Raises:
            BitcertError: If it was not recorded.
        """
        found = {"bops": self.bops, **self.costs}.get(name)
        if found is None:
            raise BitcertError(f"the metrics do not hold the cost {name!r}")
        return found

    @property
    def certified(self) -> Mapping[float, float]:
        """Certified accuracy by radius; empty if it was not measured."""
        return self.certified_accuracy or {}

    def to_dict(self) -> dict[str, Any]:
        """As a JSON-ready dictionary; radii become text; empty ``values`` and ``costs`` and the default norm are left out."""
        content = {name: getattr(self, name) for name in self.__slots__}
        if self.certified_accuracy is not None:
            content["certified_accuracy"] = {radius_text(r): share for r, share in self.certified_accuracy.items()}
        for name in ("values", "costs"):
            content[name] = dict(content[name])
            if not content[name]:
                del content[name]
        if self.norm == "l2":
            del content["norm"]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Metrics:
        """Read what :meth:`to_dict` wrote.

        Raises:
            BitcertError: If a value is missing, unknown or of the wrong type.
        """
        content = {"values": {}, "norm": "l2", "costs": {}, **content}
        if missing := [name for name in _KINDS if name not in content]:
            raise BitcertError(f"the metrics lack {', '.join(missing)}")
        if unknown := [name for name in content if name not in _KINDS]:
            raise BitcertError(f"the metrics have unknown values: {', '.join(unknown)}")
        for name, kinds in _KINDS.items():
            if type(content[name]) not in kinds:
                raise BitcertError(f"{name} of metrics cannot be {content[name]!r}")
        if any(type(amount) is not int or amount < 0 for amount in content["costs"].values()):
            raise BitcertError(f"costs of metrics are integers from 0 up, got {content['costs']!r}")
        if min(content["bops"], content["forward_passes"]) < 0:
            raise BitcertError(
                f"counts of metrics start at 0, got {content['bops']} BOPs and {content['forward_passes']} forward passes"
            )
        certified = content["certified_accuracy"]
        try:
            if certified is not None:
                certified = {float(radius): float(share) for radius, share in certified.items()}
            values = {name: float(value) for name, value in content["values"].items()}
        except (TypeError, ValueError) as error:
            raise BitcertError(f"metrics need numbers: {error}") from None
        return cls(**(content | {"certified_accuracy": certified, "values": values}))


_NUMBER = (float, int)
_KINDS: Mapping[str, tuple[type, ...]] = {
    "clean_accuracy": (*_NUMBER, type(None)),
    "acr": (*_NUMBER, type(None)),
    "certified_accuracy": (dict, type(None)),
    "bops": (int,),
    "forward_passes": (int,),
    "seconds": _NUMBER,
    "alpha": _NUMBER,
    "method": (str,),
    "values": (dict,),
    "norm": (str, type(None)),
    "costs": (dict,),
}


def radius_text(radius: float) -> str:
    """The shortest text that reads back as the same number; ``"1"`` rather than ``"1.0"``."""
    return repr(float(radius)).removesuffix(".0")


@dataclass(frozen=True, slots=True)
class Trial:
    """A policy, its fidelity and seed, and its metrics or its failure.

    Attributes:
        number: Position in the run, from 0.
        policy: What was evaluated.
        fidelity: How much the evaluation spent.
        seed: Seed of the evaluation, the same for all trials of a run (common random numbers).
        metrics: What was measured; None while pending or after a failure.
        failure: Why the evaluation failed; None otherwise.
        repeat_of: Number of the earlier trial with the same policy, fidelity and seed, whose metrics were reused at no spend.
        wasted: Forward passes charged by a failed evaluation.
        retryable: Whether another attempt may succeed; not after a failure of the evaluation itself, such as divergence.
    """

    number: int
    policy: Policy
    fidelity: Fidelity
    seed: int
    metrics: Metrics | None = None
    failure: str | None = None
    repeat_of: int | None = None
    wasted: int = 0
    retryable: bool = True

    @property
    def spend(self) -> int:
        """Forward passes this trial cost the run."""
        if self.metrics is None:
            return self.wasted
        return self.metrics.forward_passes if self.repeat_of is None else 0
