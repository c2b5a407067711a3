"""The memory that holds the states of a recurrent or spiking network between steps, as a cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from suite.contract.cost import Cost
from suite.contract.space import Layer, Precision


@dataclass(frozen=True, slots=True)
class StateMemory(Cost):
    """Bytes of all states at their bits, for one image, packed and rounded up once; counted in bits.

    Every other cost counts states too: BOPs as one multiplication by the leak for each neuron and step, model size by the leaks.
    Both are small beside what weights cost, whereas on neuromorphic hardware the memory of states may be the larger one. Counted
    are layers of kind ``state``.
    """

    name: ClassVar[str] = "state-bytes"
    unit: ClassVar[str] = "bytes of states"
    per_unit: ClassVar[int] = 8

    def of_layer(self, layer: Layer, precision: Precision) -> int:
        """Bits of the layer's states; 0 if it holds none."""
        return layer.in_channels * precision.activation if layer.kind == "state" else 0
