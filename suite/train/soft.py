"""Distillation from the float network's soft votes under noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite.errors import BitcertError
from suite.quantize.trainable import TrainableNetwork
from suite.train.loss import TrainingBatch, as_teacher


@dataclass(frozen=True, slots=True)
class SoftSettings:
    """How labels and soft votes are mixed.

    Attributes:
        samples: Noise samples of each image that the float network votes on.
        weight: Share of the soft votes, between 0 and 1; the labels have the rest.
        temperature: Divides the logits of both networks; the soft term is multiplied by its square.

    Raises:
        BitcertError: If an option is out of range.
    """

    samples: int = 16
    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise BitcertError(f"soft votes need samples >= 1, got {self.samples}")
        if not 0 <= self.weight <= 1 or not 0 < self.temperature < float("inf"):
            raise BitcertError(
                f"soft votes need weight between 0 and 1 and temperature > 0, got {self.weight} and {self.temperature}"
            )


class SoftVotes:
    """Cross-entropy of the labels, and the divergence from the float network's soft votes on the same images.

    ``(1 - weight) CE(label, s) + weight T^2 KL(v || softmax(s / T))`` with v the mean over noise samples of the teacher's
    ``softmax(t / T)``: what the smoothed float network thinks of the image, not of one noisy version of it. An image's votes
    are counted when it is first trained on, and kept. It is a :class:`.RememberingLoss`.

    Distillation of a smoothed classifier's average is a common ingredient of consistency training (Jeong and Shin, NeurIPS
    2020, arXiv 2006.04062, where the average is the network's own); this form, with a float teacher, follows no one paper.

    Args:
        teacher: The float network, in evaluation mode.
        settings: Samples, weight, temperature.
        images: Training images in total.
    """

    def __init__(self, teacher: nn.Module, settings: SoftSettings, images: int) -> None:
        self._teacher, self._settings = teacher, settings
        self._known = torch.zeros(images, dtype=torch.bool)
        self._votes: Tensor | None = None

    @property
    def passes(self) -> int:
        """Forward passes that the teacher has made."""
        return self._settings.samples * int(self._known.sum())

    def state(self) -> dict[str, Tensor]:
        """The votes so far."""
        return {} if self._votes is None else {"known": self._known, "votes": self._votes}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over the votes of an earlier call."""
        if state:
            self._known, self._votes = state["known"], state["votes"].to(next(self._teacher.parameters()).device)

    def __call__(self, network: TrainableNetwork, batch: TrainingBatch) -> Tensor:
        """The loss of one step."""
        weight, temperature = self._settings.weight, self._settings.temperature
        logits = network(batch.inputs)
        softened = (logits / temperature).log_softmax(dim=1)
        divergence = nn.functional.kl_div(softened, self.votes(batch), reduction="batchmean")
        labels = nn.functional.cross_entropy(logits, batch.labels)
        return (1 - weight) * labels + weight * temperature**2 * divergence

    def votes(self, batch: TrainingBatch) -> Tensor:
        """The soft votes for a batch's images, shape ``(batch, classes)``."""
        rows = (~self._known[batch.chosen]).nonzero().flatten()
        if len(rows):
            samples = self._settings.samples
            with as_teacher(self._teacher):
                logits = self._teacher(batch.noisy("soft", samples, rows)).unflatten(0, (samples, len(rows)))
            votes = (logits / self._settings.temperature).softmax(dim=2).mean(dim=0)
            if self._votes is None:
                self._votes = votes.new_empty(len(self._known), votes.shape[1])
            self._votes[batch.chosen[rows].to(votes.device)] = votes
            self._known[batch.chosen[rows]] = True
        assert self._votes is not None
        return self._votes[batch.chosen.to(self._votes.device)]
