"""The episode as a gymnasium environment, for agents from elsewhere."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from searchers._walk import FEATURES, LayerWalk
from suite.contract.problem import Problem
from suite.contract.trial import Fidelity

Observation = NDArray[np.float32]


class PolicyEnvironment(gymnasium.Env[Observation, Observation]):
    """One episode decides one policy, number by number; the last step evaluates it and is the only one rewarded.

    Observations are the states of :class:`searchers._walk.LayerWalk`, all in [0, 1]; actions are single numbers in
    [0, 1], of which intervals of equal length mean the choices of bits. The policy goes through the budget wall. The
    reward is the problem's objective; ``info`` of the last step holds the ``policy`` and its ``metrics``. What evaluations
    cost is counted by ``problem.meter``.

    Args:
        problem: Evaluates the policies.
        fidelity: Of every evaluation; the problem's default if None.
        seed: Of every evaluation (common random numbers).

    Example:
        >>> import suite
        >>> environment = PolicyEnvironment(suite.load_problem("separable"))
        >>> observation, info = environment.reset(seed=0)
        >>> observation.shape
        (10,)
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by gymnasium)

    def __init__(self, problem: Problem, *, fidelity: Fidelity | None = None, seed: int = 0) -> None:
        self.observation_space = Box(0.0, 1.0, (len(FEATURES),), np.float32)
        self.action_space = Box(0.0, 1.0, (1,), np.float32)
        self._problem = problem
        self._fidelity = fidelity or problem.fidelity
        self._seed = seed
        self._walk = LayerWalk(problem)
        if self._walk.steps == 0:
            raise ValueError("every layer is pinned: there is nothing to decide")
        self._actions: list[float] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Go back to the first layer; ``seed`` and ``options`` change nothing, the environment has no randomness."""
        super().reset(seed=seed)
        self._actions = []
        return self._walk.state(0, None).astype(np.float32), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide one number; returns observation, reward, whether the episode ended, False, and info.

        Raises:
            RuntimeError: If the episode has ended.
        """
        if len(self._actions) == self._walk.steps:
            raise RuntimeError("the episode has ended; call reset")
        self._actions.append(float(np.clip(action, 0.0, 1.0).item()))
        done = len(self._actions) == self._walk.steps
        seen = self._walk.state(len(self._actions) - done, self._actions[-1]).astype(np.float32)
        if not done:
            return seen, 0.0, False, False, {}
        policy = self._walk.policy(self._actions)
        metrics = self._problem.evaluate(policy, self._fidelity, self._seed)
        return seen, self._problem.objective.score(metrics), True, False, {"policy": policy, "metrics": metrics}
