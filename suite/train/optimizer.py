"""What trainings share: parameter groups for Adam, an optimizer's state as tensors, and batches of noisy images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from suite.data import ImageSplit
from suite.quantize.steps import LEAST_STEP


def size_of(scale: Tensor) -> float:
    """What the learning rate of a quantizer step or clipping level is relative to: Adam's updates are about the rate."""
    return max(float(scale.detach().abs().mean()), LEAST_STEP)


def parameter_groups(
    network: nn.Module, scales: Sequence[nn.Parameter], rate: float, scale_rate: float | None = None
) -> list[dict[str, Any]]:
    """Groups for Adam, of everything that is not frozen: each scale at a rate relative to its size, all else at one rate.

    Args:
        network: What is trained.
        scales: Its quantizer steps, thresholds and clipping levels.
        rate: Learning rate of everything else.
        scale_rate: Of the scales, relative to their size; ``rate`` if None.
    """
    share, known = rate if scale_rate is None else scale_rate, {id(scale) for scale in scales}
    others = [one for one in network.parameters() if one.requires_grad and id(one) not in known]
    groups: list[dict[str, Any]] = [{"params": others, "lr": rate}] if others else []
    return groups + [{"params": [scale], "lr": share * size_of(scale)} for scale in scales if scale.requires_grad]


_STATE = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # of Adam and of gradient descent


def optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """What an optimizer remembers: kind of tensor -> name of the parameter -> tensor, groups for a store."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, parameter in network.named_parameters():
        for kind, tensor in optimizer.state.get(parameter, {}).items():
            if tensor is not None:
                groups.setdefault(kind, {})[name] = tensor
    return groups


def load_optimizer_state(
    network: nn.Module, optimizer: torch.optim.Optimizer, groups: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Take over what :func:`optimizer_state` returned; other groups are ignored."""
    for name, parameter in network.named_parameters():
        for kind in _STATE:
            if (kept := groups.get(kind, {}).get(name)) is not None:
                # Fused optimizers take a parameter and its moments to lie in memory alike.
                like = torch.empty_like(parameter) if kept.shape == parameter.shape else torch.empty_like(kept)
                optimizer.state[parameter][kind] = like.detach().to(parameter.device).copy_(kept)


class NoisyBatches:
    """Batches of images with one noise sample each, reshuffled once what is left is less than a batch.

    Args:
        split: Training images.
        batch: Images per batch; all of them if there are fewer.
        sigma: Standard deviation of the noise.
        generator: Randomness of order and noise.
    """

    def __init__(self, split: ImageSplit, batch: int, sigma: float, generator: torch.Generator) -> None:
        self._split, self._batch, self._sigma, self._generator = split, batch, sigma, generator
        self._order = torch.empty(0, dtype=torch.int64)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """The next batch: indices into the split, images as they are, and with noise; on the CPU."""
        if len(self._order) < min(self._batch, len(self._split)):
            self._order = torch.randperm(len(self._split), generator=self._generator)
        chosen, self._order = self._order[: self._batch], self._order[self._batch :]
        images = self._split.subset(chosen.numpy()).images()
        return chosen, images, images + self._sigma * torch.randn(images.shape, generator=self._generator)

    def state(self) -> dict[str, Tensor]:
        """What decides the coming batches."""
        return {"order": self._order, "generator": self._generator.get_state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where :meth:`state` was asked for."""
        self._order = state["order"]
        self._generator.set_state(state["generator"])
