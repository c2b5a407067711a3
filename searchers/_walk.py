"""A policy as an episode: walk through the layers and decide one bit width at a time (HAQ, Wang et al., CVPR 2019)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suite.contract.cost import enforce_budget
from suite.contract.problem import Problem
from suite.contract.space import Layer, Policy

FEATURES = (
    "depthwise",
    "input channels",
    "output channels",
    "stride",
    "kernel",
    "weights",
    "input size",
    "layer index",
    "previous action",
    "decides weights",
)
"""The numbers of a state, in order; all but the last two are those of the layer."""

_PREVIOUS = FEATURES.index("previous action")


class LayerWalk:
    """The steps of an episode on a problem, the state at each, and what actions mean.

    There is one step for each variable of the space, in execution order: a layer's weights, then its inputs. Tied layers
    are decided at the first of them, and pinned layers are skipped. The state is HAQ's: eight features of the layer,
    min-max normalized over all layers of the network; the bits decided before, as a fraction of the largest choice (1 at
    the start); and whether weights are decided (1) or only inputs (0).

    Args:
        problem: Whose policies are decided.

    Attributes:
        steps: Steps of an episode.
    """

    def __init__(self, problem: Problem) -> None:
        self._space, self._budget = problem.space, problem.budget
        self.steps = len(self._space.variables)
        described = np.array([_describe(layer, index) for index, layer in enumerate(self._space.layers)], dtype=float)
        least, most = described.min(axis=0), described.max(axis=0)
        normalized = (described - least) / np.where(most > least, most - least, 1.0)
        first = [slots[0] for slots in self._space.variables]
        decides_weights = np.array([slot.part == "weight" for slot in first], dtype=float)
        layers = np.array([slot.layer for slot in first], dtype=int)
        self._seen = np.column_stack([normalized[layers], np.ones(self.steps), decides_weights])

    def state(self, step: int, previous: float | None) -> NDArray[np.float64]:
        """What is seen at a step, shape ``(len(FEATURES),)``, after the action before it (None at the start)."""
        state: NDArray[np.float64] = self._seen[step].copy()
        if previous is not None:
            state[_PREVIOUS] = self._share(np.array([previous]))[0]
        return state

    def states(self, actions: ArrayLike) -> NDArray[np.float64]:
        """What was seen in an episode of these actions, shape ``(steps, len(FEATURES))``."""
        states = self._seen.copy()
        states[1:, _PREVIOUS] = self._share(np.asarray(actions)[:-1])
        return states

    def policy(self, actions: ArrayLike) -> Policy:
        """The policy that the actions, each in [0, 1], decide, behind the budget wall."""
        return enforce_budget(self._space, self._space.decode(self._chosen(np.asarray(actions))), self._budget)

    def actions(self, policy: Policy) -> NDArray[np.float64]:
        """Actions that decide a policy: the middles of the intervals that mean its bits, shape ``(steps,)``."""
        return (self._space.encode(policy) + 0.5) / len(self._space.choices)

    def taken(self, actions: ArrayLike, policy: Policy) -> NDArray[np.float64]:
        """The actions, those that the wall overruled replaced by what it did instead."""
        chosen = np.asarray(actions, dtype=float)
        return np.where(self._chosen(chosen) == self._space.encode(policy), chosen, self.actions(policy))

    def _chosen(self, actions: NDArray[np.float64]) -> NDArray[np.int64]:
        """Indices into the choices: intervals of equal length in [0, 1] mean the choices in ascending order.

        For choices without gaps this is HAQ's ``round(a * (b_max - b_min + 1) + b_min - 0.5)``, clipped to what there is.
        """
        count = len(self._space.choices)
        return np.clip(np.rint(actions * count - 0.5), 0, count - 1).astype(np.int64)

    def _share(self, actions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bits that actions mean, as a share of the most there are."""
        choices = np.array(self._space.choices)
        share: NDArray[np.float64] = choices[self._chosen(actions)] / choices[-1]
        return share


def _describe(layer: Layer, index: int) -> tuple[float, ...]:
    depthwise = layer.kind == "conv" and layer.groups == layer.in_channels > 1
    stride = 0 if layer.kind == "linear" else layer.stride[0]
    height, width = layer.input_size
    shape = layer.in_channels, layer.out_channels, stride, layer.kernel[0]
    return depthwise, *shape, layer.parameters, height * width, index
