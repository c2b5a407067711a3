"""What a search maximizes: one number of the metrics, optionally with costs such as BOPs to minimize beside it."""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from suite.contract.cost import BOPs, Cost
from suite.contract.trial import Metrics, Trial
from suite.errors import BitcertError
from suite.plugins import COSTS, OBJECTIVES

_MOST_TEXT = 200  # characters of an objective


@dataclass(frozen=True)
class Objective(ABC):
    """A score to maximize.

    A new objective is a frozen dataclass, whose fields are its options, with :attr:`label` and :meth:`score`.

    Attributes:
        radii: Radii at which the score needs certified accuracies.
        text: The objective as given, such as ``"acr"`` or ``"certified@0.25,0.5+bops+bytes"``.
        minimized: Costs that are further objectives, as given, such as ``("bops", "bytes")``.
    """

    certified: ClassVar[bool] = True
    """Whether the score is computed from certificates, and 0 without them."""

    is_radius: ClassVar[bool] = False
    """Whether the score is a radius, in the units of sigma, rather than a share of the images."""

    per_image: ClassVar[bool] = False
    """Whether the score is the mean of :meth:`image_scores`; otherwise reports show no intervals over images."""

    radii: tuple[float, ...] = field(default=(), init=False)
    text: str = field(default="", kw_only=True)
    minimized: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    @abstractmethod
    def label(self) -> str:
        """The objective in words, for headers and axes."""

    @abstractmethod
    def score(self, metrics: Metrics) -> float:
        """The number to maximize; larger is better."""

    @property
    def pareto(self) -> bool:
        """Whether there is more than one objective."""
        return bool(self.minimized)

    @property
    def costs(self) -> tuple[Cost, ...]:
        """The rules of the costs to minimize."""
        return tuple(map(COSTS.make, self.minimized))

    def image_scores(
        self, labels: NDArray[np.int64], prediction: NDArray[np.int64], radius: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Score each image, shape ``(images,)``; the score is their mean.

        Args:
            labels: True classes, shape ``(images,)``.
            prediction: Certified classes, -1 where the certificate abstains, shape ``(images,)``.
            radius: Certified radii, shape ``(images,)``.

        Raises:
            BitcertError: If the score is not ``per_image``.
        """
        raise BitcertError(f"{self.label} is kept as an average only; per-image scores exist for acr and certified@r")


@dataclass(frozen=True)
class ACR(Objective):
    """The average certified radius."""

    is_radius: ClassVar[bool] = True
    per_image: ClassVar[bool] = True
    label = "ACR"

    def score(self, metrics: Metrics) -> float:
        """The mean over images of the radius if the prediction is right, else 0."""
        return metrics.measured("acr")

    def image_scores(
        self, labels: NDArray[np.int64], prediction: NDArray[np.int64], radius: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The radius where the prediction is right, else 0."""
        return np.where(prediction == labels, radius, 0.0)


@dataclass(frozen=True)
class CleanAccuracy(Objective):
    """Accuracy without noise, which held-out certification keeps as an average only."""

    certified: ClassVar[bool] = False
    label = "clean accuracy"

    def score(self, metrics: Metrics) -> float:
        """Share of images that the quantized network gets right without noise."""
        return metrics.measured("clean_accuracy")


@dataclass(frozen=True)
class CertifiedAccuracy(Objective):
    """Certified accuracy, averaged over radii; ``certified@0.25,0.5`` for short.

    Attributes:
        radii: Where the certified accuracy is taken, ascending.
    """

    per_image: ClassVar[bool] = True

    radii: tuple[float, ...]

    def __post_init__(self) -> None:
        check_radii(self.radii)

    @property
    def label(self) -> str:
        """Certified accuracy at the radii."""
        return f"certified accuracy at {', '.join(f'{radius:g}' for radius in self.radii)}"

    def score(self, metrics: Metrics) -> float:
        """The mean over radii of the share of images predicted right with a certified radius >= it."""
        certified = metrics.certified_accuracy
        if certified is None:
            raise BitcertError("the problem does not measure certified accuracy; choose another objective")
        return sum(certified[radius] for radius in self.radii) / len(self.radii)

    def image_scores(
        self, labels: NDArray[np.int64], prediction: NDArray[np.int64], radius: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The share of radii at which the image is certified and predicted right."""
        certified = radius[:, None] >= np.array(self.radii)
        shares: NDArray[np.float64] = ((prediction == labels)[:, None] & certified).mean(axis=1)
        return shares


def parse_objective(text: str) -> Objective:
    """Read ``acr``, ``clean``, ``certified@0.25,0.5`` or another objective; see ``suite.plugins.OBJECTIVES``.

    Options follow a name as in ``my_module:Median:share=0.5``. What follows a ``+`` is a cost to minimize as a further
    objective: ``+bops``, ``+bytes``, both, or any registered cost; see ``suite.plugins.COSTS``.

    Raises:
        BitcertError: If the text is none of these, the radii are not ascending numbers >= 0, or a cost is given twice.
    """
    name, *minimized = text.split("+") if len(text) <= _MOST_TEXT else [text]
    try:
        if len(text) > _MOST_TEXT:
            raise BitcertError(f"it is longer than {_MOST_TEXT} characters")
        given: dict[str, Any] = {}
        if name.startswith("certified@"):
            name, given = "certified", {"radii": parse_radii(name.removeprefix("certified@"))}
        else:
            name, given = OBJECTIVES.parse(name)
        if not given.keys().isdisjoint({"text", "minimized"}):
            raise BitcertError("its text and its costs are no options")
        objective: Objective = OBJECTIVES.options(name, given)
        objective = replace(objective, text=text, minimized=tuple(minimized))
        costs = objective.costs
        if repeated := [cost.name for cost, other in combinations(costs, 2) if cost.name == other.name]:
            raise BitcertError(f"the cost {repeated[0]} is given twice")
        if any(cost.name == BOPs.name and cost != BOPs() for cost in costs):
            raise BitcertError("bops has no options here: the table of the space counts")
    except BitcertError as error:
        raise BitcertError(
            f"objective {text[:_MOST_TEXT]!r} is not understood; give acr, clean or certified@0.25,0.5, optionally with +bops, "
            f"+bytes or both, or another objective by name ({error})"
        ) from None
    return objective


def parse_radii(text: str) -> tuple[float, ...]:
    """Read ``0,0.25,0.5`` as radii, or ``1/255,2/255``.

    Raises:
        BitcertError: If they are not numbers >= 0 in ascending order without repetition.
    """
    try:
        if not re.fullmatch(r"[0-9.,e+/-]*", text):
            raise ValueError
        radii = tuple(_number(part) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise BitcertError(f"radii are numbers separated by commas, got {text[:80]!r}") from None
    return check_radii(radii)


def _number(text: str) -> float:
    above, *below = map(float, text.split("/"))
    return above / below.pop() if len(below) == 1 else float(text)


def check_radii(radii: tuple[float, ...]) -> tuple[float, ...]:
    """Return the radii if they are finite, >= 0 and strictly ascending; raise BitcertError otherwise."""
    if not radii or any(not 0 <= radius < float("inf") for radius in radii) or list(radii) != sorted(set(radii)):
        raise BitcertError(
            f"radii must be finite numbers >= 0 in ascending order without repetition, got {list(radii)}"
        )
    return radii


def nondominated(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """The Pareto front of the score and the costs to minimize (BOPs, where the objective names none), by ascending costs.

    Costs are compared in the order in which the objective names them. Of equal trials the first stays; failed ones are left
    out.
    """
    names = [cost.name for cost in objective.costs] or [BOPs.name]
    finished = [
        ((*map(trial.metrics.cost, names), -objective.score(trial.metrics)), trial.number, trial)
        for trial in trials
        if trial.metrics is not None
    ]
    front: list[tuple[tuple[float, ...], Trial]] = []
    for values, _, trial in sorted(finished, key=lambda row: row[:2]):
        # What comes before costs no more by the first cost; the last on the front are the likeliest to match the others.
        if not any(all(map(operator.le, other, values)) for other, _ in reversed(front)):
            front.append((values, trial))
    return [trial for _, trial in front]
