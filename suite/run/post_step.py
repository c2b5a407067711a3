"""What every winner goes through before the exam."""

from __future__ import annotations

from dataclasses import dataclass

from suite.errors import BitcertError, unknown_name

POST_STEPS = ("none", "qat")


@dataclass(frozen=True, slots=True)
class PostStep:
    """Finetuning between search and exam, the same for every winner.

    Attributes:
        name: ``"none"`` (quantized as calibrated) or ``"qat"`` (quantization-aware finetuning under noise).
        finetune_steps: Optimizer steps of ``"qat"``.
        seed: Seed of order and noise of the finetuning.
    """

    name: str = "none"
    finetune_steps: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in POST_STEPS:
            raise unknown_name("post-step", self.name, POST_STEPS)
        if self.finetune_steps < 1:
            raise BitcertError(f"the post-step needs at least 1 step, got {self.finetune_steps}")
