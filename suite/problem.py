"""The contract between searchers and what they search: problems, fidelities, metrics and trials."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suite import cost
from suite.errors import BitcertError
from suite.space import Policy, SearchSpace

if TYPE_CHECKING:
    import torch

    from suite.objective import Objective
    from suite.probes import Probes, ProbeSettings


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
        hopeless: Whether the evaluation itself failed, so that another try would fail alike.
    """

    number: int
    policy: Policy
    fidelity: Fidelity
    seed: int
    metrics: Metrics | None = None
    failure: str | None = None
    repeat_of: int | None = None
    wasted: int = 0
    hopeless: bool = False

    @property
    def spend(self) -> int:
        """Forward passes this trial cost the run."""
        if self.metrics is None:
            return self.wasted
        return self.metrics.forward_passes if self.repeat_of is None else 0


class Meter:
    """Counts the forward passes charged by a problem; never goes backward."""

    def __init__(self) -> None:
        self._forward_passes = 0

    @property
    def forward_passes(self) -> int:
        """Forward passes charged so far."""
        return self._forward_passes

    def charge(self, forward_passes: int) -> None:
        """Add to the count."""
        if forward_passes < 0:
            raise ValueError(f"cannot charge {forward_passes} forward passes")
        self._forward_passes += forward_passes


class Problem(ABC):
    """A space, a budget, a network and data: what a searcher is run on.

    Subclasses define the abstract methods; whatever the network is used for goes through
    ``meter``, also what a cache answers, so that what a run spent does not depend on who ran before it.

    Attributes:
        name: Registered name.
        space: The policies.
        budget: The limit on BOPs.
        objective: What a search maximizes.
        sigma: Standard deviation of the smoothing noise, in the units of the images.
        radii: Radii at which certified accuracy is reported, ascending.
        seed: Root seed of noise and calibration.
        fidelity: The fidelity a search uses unless told otherwise.
        meter: Forward passes charged so far.
    """

    name: str
    space: SearchSpace
    budget: cost.Budget
    objective: Objective
    sigma: float
    radii: tuple[float, ...]
    seed: int
    fidelity: Fidelity
    meter: Meter

    def bops(self, policy: Policy) -> int:
        """BOPs of a policy, exact."""
        return cost.bops(self.space, policy)

    def is_feasible(self, policy: Policy) -> bool:
        """Whether the policy belongs to the space and is within the budget."""
        return policy in self.space and self.bops(policy) <= self.budget.limit

    def largest_uniform(self) -> Policy | None:
        """The uniform policy with the most bits that is feasible; None if none is."""
        feasible = [policy for bits in self.space.choices if self.is_feasible(policy := self.space.uniform(bits))]
        return feasible[-1] if feasible else None

    def check_feasible(self, policy: Policy) -> None:
        """Raise BitcertError if the policy is outside the space or over the budget."""
        if policy not in self.space:
            raise BitcertError(f"the policy does not belong to the space of {self.name}: {policy.to_json()}")
        if self.bops(policy) > self.budget.limit:
            raise BitcertError(f"the policy costs {self.bops(policy)} BOPs, over the budget of {self.budget.limit}")

    @property
    @abstractmethod
    def network(self) -> torch.nn.Module:
        """The float network, normalization inside: images in [0, 1] in, logits out."""

    @abstractmethod
    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Measure a feasible policy on search images.

        A pure function of its arguments and the problem, ``seconds`` aside; charges the meter.

        Raises:
            BitcertError: If the policy is not feasible.
        """

    @abstractmethod
    def evaluate_float(self, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Measure the float network as :meth:`evaluate` measures policies, nothing finetuned; charges the meter."""

    @abstractmethod
    def probes(self, settings: ProbeSettings) -> Probes:
        """What searchers may measure of the network beside evaluations, on training images; charges the meter."""

    @abstractmethod
    def check_fidelity(self, fidelity: Fidelity) -> None:
        """Raise BitcertError if evaluations cannot spend that much; warn if they cannot measure the objective with it."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What identifies the problem in a record: JSON-ready, without anything that differs between equal problems."""


def nondominated(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """The trials that no other one beats in both score and BOPs, by ascending BOPs; failed trials are left out."""
    finished = [trial for trial in trials if trial.metrics is not None]
    front: list[Trial] = []
    best = float("-inf")
    for trial in sorted(
        finished, key=lambda t: (t.metrics.bops, -objective.score(t.metrics), t.number) if t.metrics else ()
    ):
        assert trial.metrics is not None
        score = objective.score(trial.metrics)
        if score > best:
            front.append(trial)
            best = score
    return front
