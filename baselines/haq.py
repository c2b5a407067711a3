"""HAQ: a DDPG agent that decides layer by layer, rewarded by the accuracy of the quantized network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from searchers.arq import ARQ, ARQOptions
from suite.contract.problem import Problem
from suite.plugins import check_counts


@dataclass(frozen=True, slots=True)
class HAQOptions:
    """Options of :class:`HAQ`.

    Attributes:
        episodes: Planned length of the run, to which warm-up and exploration are fitted; None for the published 600.
    """

    episodes: int | None = None

    def __post_init__(self) -> None:
        check_counts(self, episodes=1)


class HAQ(ARQ):
    """Hardware-aware automated quantization, with the budget's cost as its resource.

    Reward: ``10 * (accuracy of the quantized network - accuracy of the float network)``, without noise, which is the paper's
    0.1 for every percent. State, actions, wall, agent and schedule are those of the released code without its defects:
    accuracy is measured on held-out images in evaluation mode, not on training images in training mode; the features of
    a layer are the same in every episode; the feature that tells weights from activations is kept; no action means zero
    bits; pinned layers take no step; and no spurious step is stored at the end of an episode.

    Evaluations cost what they cost every searcher, noise included. The winner is chosen as for every search, by the
    problem's objective: HAQ steers by accuracy only.

    References:
        Wang, Liu, Lin, Lin and Han, HAQ: Hardware-aware automated quantization with mixed precision, CVPR 2019.
    """

    Options: ClassVar[type] = HAQOptions

    def __init__(self, problem: Problem, seed: int, options: HAQOptions | None = None) -> None:
        episodes = (options or HAQOptions()).episodes
        super().__init__(problem, seed, ARQOptions(reward="clean", episodes=episodes))
