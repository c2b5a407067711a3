"""What the searchers with a DDPG agent share: one episode a proposal, and learning from the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from searchers._options import check_count
from searchers.ddpg import DDPG, AgentSettings
from searchers.episode import FEATURES, LayerWalk
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.contract.trial import Trial

_HAQ_EPISODES = 600
"""Episodes of a run of HAQ's released code, for which its warm-up and its exploration are made."""

_HAQ_MEMORY = 128
"""Transitions that HAQ's released code remembers, for each layer of the network."""


_ATTEMPTS, _AGAIN, _WIDER = 16, 0.05, 1.3
"""Walks of an episode that has to end at a new policy, the least deviation of the second, and its growth."""


def schedule(settings: AgentSettings, episodes: int | None) -> AgentSettings:
    """Fit warm-up and exploration, made for 600 episodes, to a run of another length; None leaves them as they are.

    The warm-up is a quarter of the run at most, and the last episode explores as little as it would have done there.
    """
    if episodes is None:
        return settings
    warmup = min(settings.warmup, check_count("episodes", episodes, 1) // 4)
    decay = settings.decay ** ((_HAQ_EPISODES - settings.warmup) / max(1, episodes - warmup))
    return replace(settings, warmup=warmup, decay=decay)


@dataclass(slots=True, eq=False)
class _Episode:
    """One proposal: its actions, the policy they led to, and the reward once it is told (NaN after a failure)."""

    number: int
    actions: NDArray[np.float64]
    policy: Policy
    reward: float | None = None


class Episodes:
    """Proposes policies by walking the agent through the layers, and trains it on what they were worth.

    Exploration is a function of the seed and the episode's number. Results are learned in the order of the proposals,
    whatever the order they arrive in: the episodes under way together are all walked by the same actor, and the agent
    ends up the same. Every step of an episode gets the whole reward, as in HAQ's released code.

    Args:
        problem: What is searched.
        seed: Of the agent and its exploration.
        settings: Of the agent.
        updates: Updates of the agent for every step of a finished episode.
        relabel: Whether the agent is taught the actions that the wall took instead of its own (hindsight).
        avoid_repeats: Whether an episode that ends at a policy proposed before is walked again, with ever more exploration.
        first: Policies proposed before anything else, which take the place of random episodes.

    Attributes:
        agent: The agent.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        settings: AgentSettings,
        *,
        updates: int = 1,
        relabel: bool = False,
        avoid_repeats: bool = False,
        first: Sequence[Policy] = (),
    ) -> None:
        self._walk = LayerWalk(problem)
        capacity = _HAQ_MEMORY * len(problem.space.layers)
        self.agent = DDPG(len(FEATURES), replace(settings, capacity=capacity), seed)
        self._seed = seed
        self._updates = check_count("updates", updates, 1)
        self._relabel = relabel
        self._attempts = _ATTEMPTS if avoid_repeats else 1
        self._known: set[Policy] = set()
        self._first = list(first)
        self._proposed = 0
        self._open: deque[_Episode] = deque()

    def propose(self) -> Policy:
        """Walk through the layers once."""
        number, rng = self._proposed, np.random.default_rng([self._seed, self._proposed])
        for attempt in range(self._attempts):
            actions = self._act(number, attempt, rng)
            policy = self._walk.policy(actions)
            if policy not in self._known:
                break
        self._proposed += 1
        self._known.add(policy)
        self._open.append(_Episode(number, actions, policy))
        return policy

    def learn(self, trial: Trial, reward: float) -> None:
        """Take the reward of a proposed policy, NaN if it failed, and train on all episodes whose turn has come.

        Trials of policies that were not proposed here are passed over.
        """
        for episode in self._open:
            if episode.reward is None and episode.policy == trial.policy:
                episode.reward = reward
                break
        while self._open and self._open[0].reward is not None:
            self._train(self._open.popleft())

    def _act(self, number: int, attempt: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Actions of an episode; later attempts explore more widely."""
        if attempt == 0 and number < len(self._first):
            return self._walk.actions(self._first[number])
        uniforms = rng.random(self._walk.steps)
        if number < self.agent.settings.warmup:
            return uniforms
        deviation = self.agent.deviation(number)
        if attempt > 0:
            deviation = max(deviation, _AGAIN) * _WIDER**attempt
        actions: list[float] = []
        for step, uniform in enumerate(uniforms.tolist()):
            state = self._walk.state(step, actions[-1] if actions else None)
            actions.append(self.agent.explore(state, deviation, uniform))
        return np.array(actions)

    def _train(self, episode: _Episode) -> None:
        if episode.reward is None or np.isnan(episode.reward) or self._walk.steps == 0:
            return
        actions = self._walk.taken(episode.actions, episode.policy) if self._relabel else episode.actions
        self.agent.remember(self._walk.states(actions), actions, np.full(self._walk.steps, episode.reward))
        if episode.number >= self.agent.settings.warmup:
            for _ in range(self._updates * self._walk.steps):
                self.agent.update()
