"""What the study finds: cheap scores and deployed scores of the same policies, budget by budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from suite.contract.objective import Objective
from suite.contract.space import Policy
from suite.studies.predictors.design import Stratum

Array = NDArray[np.float64]

FREE = (
    "BOPs",
    "mean weight bits",
    "mean input bits",
    "MACs at the fewest weight bits",
    "MACs at the fewest input bits",
)
"""Scores that are read off a policy."""


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """One score of all policies of a budget.

    Attributes:
        name: Post-step, planning method, or one of :data:`FREE`.
        kind: Whether it is measured, predicted by a planning method, or free.
        values: Shape ``(policies, columns)``, the more the better but for :data:`FREE`; a column for each seed, one without
            seeds. Columns recorded by earlier studies come last.
        seeds: Of training or of probes; empty where neither is made.
        images: The part of each image in the columns that are not recorded, shape ``(policies, columns, images)``; None where the
            objective has no such parts, or all columns are recorded.
        preparation: Forward passes that one column takes per policy, without its exam; NaN where it is not known.
        certification: Forward passes of its exam, likewise.
        recorded: How many columns were recorded by earlier studies.
    """

    name: str
    kind: Literal["measured", "predicted", "free"]
    values: Array
    seeds: tuple[int, ...] = ()
    images: Array | None = None
    preparation: float = 0.0
    certification: float = 0.0
    recorded: int = 0

    @property
    def columns(self) -> int:
        """Columns of ``values``."""
        return int(self.values.shape[1])

    @property
    def means(self) -> Array:
        """Means over columns, shape ``(policies,)``."""
        return np.asarray(self.values.mean(axis=1))

    @property
    def images_known(self) -> int:
        """Columns whose images are known."""
        return 0 if self.images is None else int(self.images.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class AtBudget:
    """The scores of the policies just below one budget.

    Attributes:
        budget: As it was written.
        policies: With their strata.
        cheap: The scores that may predict.
        deployed: The scores after what deploys a policy; their mean, :attr:`truth`, is predicted.
    """

    budget: str
    policies: Mapping[Policy, Stratum]
    cheap: tuple[Score, ...]
    deployed: tuple[Score, ...]

    @property
    def truth(self) -> Score:
        """The deployed scores as one, with all their columns; see :func:`combine`."""
        return combine(self.deployed)


@dataclass(frozen=True, slots=True, eq=False)
class Predictors:
    """Cheap scores of policies that no method chose, and their deployed score.

    Attributes:
        budgets: The scores at each; the same scores at all of them.
        objective: What all measured scores score.
        provenance: Problem, settings of the deployed score, versions and commit, JSON-ready.
        setup: Forward passes that a score takes once, however many policies it scores; 0 where it is not named.
    """

    budgets: tuple[AtBudget, ...]
    objective: Objective
    provenance: Mapping[str, Any]
    setup: Mapping[str, int] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the cheap scores."""
        return tuple(score.name for score in self.budgets[0].cheap)

    @property
    def deployed(self) -> str:
        """What deploys the policies, in words."""
        return self.budgets[0].truth.name

    @property
    def policies(self) -> int:
        """How many there are, at all budgets."""
        return sum(len(part.policies) for part in self.budgets)

    def cheap(self, name: str) -> list[Score]:
        """One cheap score at every budget."""
        return [next(score for score in part.cheap if score.name == name) for part in self.budgets]

    def at(self, part: AtBudget) -> Predictors:
        """One of the budgets alone."""
        return replace(self, budgets=(part,))


def combine(scores: tuple[Score, ...]) -> Score:
    """Make several measured scores one, whose mean over columns is the truth of a policy at a budget.

    Post-steps differ in level. How far each policy is above the mean of its post-step at this budget is averaged over all columns,
    so that a post-step of many columns counts more in the order, which they make more reliable, but not in the level: that is the
    mean of the levels of the post-steps, each of which counts once. So budgets stay comparable when one of them has more recorded
    columns than another. With equally many columns of every post-step, all this is their plain mean.
    """
    if len(scores) == 1:
        return scores[0]
    levels = np.array([score.values.mean() for score in scores])
    shifts = [float(levels.mean() - level) for level in levels]
    moved = [
        (score.values + shift, score.columns - score.recorded) for score, shift in zip(scores, shifts, strict=True)
    ]
    measured = [values[:, :count] for values, count in moved]
    images = [score.images + shift for score, shift in zip(scores, shifts, strict=True) if score.images is not None]
    return Score(
        name=" and ".join(score.name for score in scores),
        kind="measured",
        values=np.hstack([*measured, *(values[:, count:] for values, count in moved)]),
        images=np.concatenate(images, axis=1) if images else None,
        preparation=known_mean([score.preparation for score in scores]),
        certification=known_mean([score.certification for score in scores]),
        recorded=sum(score.recorded for score in scores),
    )


def known_mean(values: list[float]) -> float:
    """Mean of what is known; NaN if nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
