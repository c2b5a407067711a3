"""What a search maximizes: one number of the metrics, optionally with BOPs as a second objective."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from suite.contract.trial import Metrics, Trial
from suite.errors import BitcertError


@dataclass(frozen=True, slots=True)
class Objective:
    """A score to maximize.

    Attributes:
        text: The objective as asked for, such as ``"acr"`` or ``"certified@0.25,0.5+bops"``.
        measure: ``"acr"``, ``"certified"`` or ``"clean"``.
        radii: The radii whose certified accuracies are averaged; empty unless ``measure`` is ``"certified"``.
        pareto: Whether fewer BOPs are a second objective.
    """

    text: str
    measure: str
    radii: tuple[float, ...] = ()
    pareto: bool = False

    def score(self, metrics: Metrics) -> float:
        """The number to maximize; larger is better."""
        if self.measure == "acr":
            return metrics.acr
        if self.measure == "clean":
            return metrics.clean_accuracy
        return sum(metrics.certified_accuracy[radius] for radius in self.radii) / len(self.radii)


def parse_objective(text: str) -> Objective:
    """Read ``acr``, ``clean`` or ``certified@0.25,0.5``; a trailing ``+bops`` makes fewer BOPs the second objective.

    Raises:
        BitcertError: If the text is none of these, or the radii are not ascending numbers >= 0.
    """
    measure, _, second = text.partition("+")
    if second in ("", "bops") and (second or "+" not in text):
        pareto = second == "bops"
        if measure in ("acr", "clean"):
            return Objective(text, measure, pareto=pareto)
        if re.fullmatch(r"certified@[0-9.,]+", measure):
            return Objective(text, "certified", parse_radii(measure.removeprefix("certified@")), pareto)
    raise BitcertError(
        f"objective {text!r} is not understood; give acr, clean or certified@0.25,0.5, optionally with +bops"
    )


def parse_radii(text: str) -> tuple[float, ...]:
    """Read ``0,0.25,0.5`` as radii.

    Raises:
        BitcertError: If they are not numbers >= 0 in ascending order without repetition.
    """
    try:
        radii = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BitcertError(f"radii are numbers separated by commas, got {text!r}") from None
    return check_radii(radii)


def check_radii(radii: tuple[float, ...]) -> tuple[float, ...]:
    """Return the radii if they are finite, >= 0 and strictly ascending; raise BitcertError otherwise."""
    if not radii or any(not 0 <= radius < float("inf") for radius in radii) or list(radii) != sorted(set(radii)):
        raise BitcertError(
            f"radii must be finite numbers >= 0 in ascending order without repetition, got {list(radii)}"
        )
    return radii


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
