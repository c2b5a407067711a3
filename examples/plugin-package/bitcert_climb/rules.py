"""An objective and a cost: frozen dataclasses, whose fields are their options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from suite.contract.cost import Cost
from suite.contract.objective import Objective
from suite.contract.space import Layer, Precision
from suite.contract.trial import Metrics
from suite.options import check_probabilities


@dataclass(frozen=True)
class Worst(Objective):
    """The lesser of clean accuracy and certified accuracy, the latter weighted.

    Attributes:
        weight: Of the certified accuracy at radius 0.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_probabilities(self, "weight")

    @property
    def label(self) -> str:
        """The two accuracies."""
        return "lesser of clean and certified accuracy"

    def score(self, metrics: Metrics) -> float:
        """The lesser of the two."""
        certified = metrics.certified_accuracy or {}
        return min(metrics.clean_accuracy or 0.0, self.weight * certified[0.0])


@dataclass(frozen=True, slots=True)
class Memory(Cost):
    """Bits of the weights and of one row of inputs: what has to be in memory while a layer runs.

    Attributes:
        rows: Rows of inputs held.
    """

    rows: int = 1

    name: ClassVar[str] = "memory"
    unit: ClassVar[str] = "bits"

    def of_layer(self, layer: Layer, precision: Precision) -> int:
        """Weights and inputs at their bits."""
        inputs = layer.in_channels * layer.input_size[1] * self.rows
        return layer.parameters * precision.weight + inputs * precision.activation
