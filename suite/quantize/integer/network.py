"""The integer network, executed by torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from suite.quantize.integer.operations import Accumulate, Operation


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One operation, the names of the values it takes, and that of its result; no operation renames a value."""

    operation: Operation | None
    inputs: tuple[str, ...]
    output: str


class IntegerNetwork(nn.Module):
    """A network that computes with integers from its first layer's inputs to its logits.

    Its logits are the same to the last bit for every batch size, number of threads, device and program that follows
    :mod:`.operations`, because no rounding depends on the order of a sum.

    Args:
        steps: Its operations in order; the first reads the first input name, the images.

    Attributes:
        steps: The operations, without renamings.
        images: Name of the input.
        logits: Name of the result.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        names: dict[str, str] = {}
        kept = []
        for step in steps:
            inputs = tuple(names.get(name, name) for name in step.inputs)
            if step.operation is None:
                names[step.output] = inputs[0]
            else:
                kept.append(Step(step.operation, inputs, step.output))
        self.steps = tuple(kept)
        self.images, self.logits = self.steps[0].inputs[0], self.steps[-1].output
        self._operations = nn.ModuleList(step.operation for step in self.steps if step.operation is not None)
        last = {name: place for place, step in enumerate(self.steps) for name in step.inputs}
        self._done = tuple(
            tuple(name for name in set(step.inputs) if last[name] == place) for place, step in enumerate(self.steps)
        )
        self.eval().requires_grad_(False)

    def layers(self) -> list[Accumulate]:
        """Its layers, batch norms and averages that were no part of a layer included."""
        return [operation for operation in self._operations if isinstance(operation, Accumulate)]

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], noise added, shape ``(batch, C, H, W)``, to logits, shape ``(batch, classes)``."""
        values = {self.images: images}
        for step, done in zip(self.steps, self._done, strict=True):
            assert step.operation is not None
            result = step.operation(*(values[name] for name in step.inputs))
            for name in done:
                del values[name]
            values[step.output] = result
        return values[self.logits]
