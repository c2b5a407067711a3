"""What is evaluated and what comes back: fidelities, metrics and trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from suite.contract.space import Policy
from suite.errors import BitcertError


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How much one evaluation spends.

    Attributes:
        images: Number of search images, the first ones of the split.
        noise: Noise samples that count towards each image's bound or estimate (n of the certificate; the most of them
            for methods that choose).
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
    """What one evaluation measured, with what it cost.

    Attributes:
        clean_accuracy: Share of images that the quantized network gets right without noise.
        acr: Average certified radius, in the units of the images (L2).
        certified_accuracy: Radius -> share of images predicted right with a certified radius >= it.
        bops: BOPs of the policy.
        forward_passes: Images pushed through the network; one finetuning image counts 3.
        seconds: Wall time.
        alpha: Failure probability: of each image's certificate, of the bounds on the set together (``"aggregate"``), or 1
            where nothing is promised (``"ranking"``).
        method: The certification method.
    """

    clean_accuracy: float
    acr: float
    certified_accuracy: Mapping[float, float]
    bops: int
    forward_passes: int
    seconds: float
    alpha: float
    method: str

    def to_dict(self) -> dict[str, Any]:
        """As a JSON-ready dictionary; radii become text."""
        content = {name: getattr(self, name) for name in self.__slots__}
        content["certified_accuracy"] = {
            radius_text(radius): share for radius, share in self.certified_accuracy.items()
        }
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Metrics:
        """Read what :meth:`to_dict` wrote."""
        certified = {float(radius): float(share) for radius, share in content["certified_accuracy"].items()}
        return cls(**{**content, "certified_accuracy": certified})


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
        wasted: Forward passes that a failed evaluation had made, as far as they were charged.
        retryable: Whether another try may succeed; not so where the evaluation itself failed, as by divergence.
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
