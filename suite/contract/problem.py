"""The contract of a problem: what a searcher is run on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from suite.contract.clock import Clock, WallClock
from suite.contract.cost import BOPs, Budget, bops
from suite.contract.objective import Objective
from suite.contract.probes import Probes, ProbeSettings
from suite.contract.space import Policy, SearchSpace
from suite.contract.trial import Fidelity, Metrics
from suite.errors import BitcertError

if TYPE_CHECKING:
    import torch

MAX_SIGMA = 100.0
"""Largest noise level: images lie in [0, 1], so far less already drowns them."""


def check_sigma(sigma: float) -> None:
    """Raise BitcertError unless ``sigma`` is positive and at most :data:`MAX_SIGMA`."""
    if not 0 < sigma <= MAX_SIGMA:
        raise BitcertError(
            f"sigma must be positive and finite, at most {MAX_SIGMA:g}, got {sigma}; it is the standard deviation of the "
            "smoothing noise on images in [0, 1]"
        )


def check_seed(seed: int) -> None:
    """Raise BitcertError unless ``seed`` is an integer from 0 up."""
    if type(seed) is not int or seed < 0:
        raise BitcertError(f"a seed must be an integer and not negative, got {seed!r}")


class Meter:
    """Counts the forward passes charged by a problem; never decreases."""

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

    Subclasses define the abstract methods. Every use of the network is charged to ``meter``, even one that a cache answers,
    so that what a run spent does not depend on what ran before it.

    Attributes:
        name: Registered name.
        space: The policies.
        budget: The limits on what a policy costs.
        objective: What a search maximizes.
        sigma: Standard deviation of the smoothing noise, in the units of the images.
        radii: Radii at which certified accuracy is reported, ascending.
        seed: Root seed of noise and calibration.
        fidelity: The fidelity a search uses unless told otherwise.
        norm: Norm of the certified radii.
        exam_method: The certifier of an exam unless another one is asked for.
        estimates: Whether evaluations are estimates only, so that a search measures its best policies again by default.
        meter: Forward passes charged so far.
        clock: Times evaluations and limits.
    """

    name: str
    space: SearchSpace
    budget: Budget
    objective: Objective
    sigma: float
    radii: tuple[float, ...]
    seed: int
    fidelity: Fidelity
    norm: str = "l2"
    exam_method: str = "fixed"
    estimates: bool = False
    meter: Meter
    clock: Clock = WallClock()

    def bops(self, policy: Policy) -> int:
        """BOPs of a policy, exact."""
        return bops(self.space, policy)

    def costs(self, policy: Policy) -> dict[str, int]:
        """What metrics record beside BOPs, in whole units: the costs that the objective minimizes or several limits are on."""
        limits = self.budget.limits
        rules = [*self.objective.costs, *(limit.cost for limit in limits if len(limits) > 1)]
        return {rule.name: rule.units(rule.total(self.space, policy)) for rule in rules if not isinstance(rule, BOPs)}

    def is_feasible(self, policy: Policy) -> bool:
        """Whether the policy belongs to the space and is within the budget."""
        return policy in self.space and self.budget.allows(self.space, policy)

    def check_feasible(self, policy: Policy) -> None:
        """Raise BitcertError if the policy is outside the space or over the budget."""
        if policy not in self.space:
            raise BitcertError(f"the policy does not belong to the space of {self.name}: {policy.to_json()}")
        if not self.budget.allows(self.space, policy):
            raise BitcertError(f"the policy {self.budget.describe_excess(self.space, policy)}")

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
        """What searchers may measure of the network besides evaluations, on training images; charges the meter."""

    @abstractmethod
    def check_fidelity(self, fidelity: Fidelity) -> None:
        """Raise BitcertError if evaluations do not support a fidelity; warn if it is too low to measure the objective."""

    def forward_passes(self, fidelity: Fidelity) -> int | None:
        """Most forward passes that one evaluation at a fidelity makes; may read the data.

        None if that is unknown: then no search measures finalists again within a limit on forward passes, and evaluations under
        way count towards it only once they are finished.
        """
        return None

    def default_fidelity(self) -> Fidelity:
        """:attr:`fidelity`, limited to the images available; may read the data."""
        return self.fidelity

    def second_look(self, fidelity: Fidelity) -> Fidelity:
        """The fidelity at which the best policies of a search are measured again, with other noise."""
        return fidelity

    def constant_score(self, fidelity: Fidelity, seed: int = 0) -> float | None:
        """The best score of a classifier that gives one answer for all images, which a policy has to beat; None without images."""
        return None

    def replicate(self, seed: int) -> Problem:
        """The problem as it is for one seed of a comparison: with the network and images that belong to the seed.

        Two seeds then differ in everything that is a matter of luck, and what is examined stays the same. Here nothing depends
        on it.
        """
        return self

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What identifies the problem in a record: JSON-ready, the same for equal problems."""
