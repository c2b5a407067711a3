"""ARQ: a DDPG agent that decides layer by layer, rewarded by the certified radius of the smoothed network."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from searchers._ddpg import DDPG, AgentSettings
from searchers._heuristics import heuristic_policies
from searchers._walk import FEATURES, LayerWalk
from suite.contract.objective import parse_objective
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.space import Policy
from suite.contract.trial import Metrics, Trial
from suite.errors import BitcertError
from suite.options import check_counts, check_positive

_HAQ_EPISODES = 600
"""Episodes of a run of HAQ's released code, for which its warm-up and exploration are set."""

_HAQ_MEMORY = 128
"""Transitions that HAQ's released code remembers, for each layer of the network."""

_ATTEMPTS, _LEAST_DEVIATION, _GROWTH = 16, 0.05, 1.3
"""Of an episode that must end at a new policy: most attempts, least deviation of a second one, its growth per attempt."""


@dataclass(frozen=True, slots=True)
class ARQOptions:
    """Options of :class:`ARQ`; changing any after ``scale`` departs from the published method.

    Attributes:
        reward: What is rewarded: ``"acr"``, or the paper's rivals ``"clean"`` and ``"certified@0.25,0.5"``.
        scale: Factor of the reward. The published value is not known; None is ten per sigma of radius (ten per unit of
            accuracy), about HAQ's, and makes the reward independent of the unit of radii.
        baseline: Whether a moving average is subtracted from the rewards, as in HAQ's released code.
        episodes: Length of the run, after which the agent is exhausted. Warm-up and exploration are fitted to it; at the
            published 600 they are those of HAQ's released code.
        relabel: Whether the agent is taught what the budget wall did instead of what it asked for.
        updates: Updates of the agent for every step of an episode.
        warm_start: Whether uniform and greedy policies are tried first and remembered.
        twin_critics: Whether two critics guard against overestimation (TD3).
        avoid_repeats: Whether an episode that ends at a known policy is repeated with wider exploration.
        gradient_norm: Largest norm of the agent's gradients; None for no limit.
    """

    reward: str = "acr"
    scale: float | None = None
    baseline: bool = True
    episodes: int = _HAQ_EPISODES
    relabel: bool = False
    updates: int = 1
    warm_start: bool = False
    twin_critics: bool = False
    avoid_repeats: bool = False
    gradient_norm: float | None = None

    def __post_init__(self) -> None:
        parse_objective(self.reward)
        check_counts(self, episodes=1, updates=1)
        check_positive(self, "scale", "gradient_norm")


@dataclass(slots=True, eq=False)
class _Episode:
    """One proposal: its actions, the policy they led to, and the reward once it is told (NaN after a failure)."""

    number: int
    actions: NDArray[np.float64]
    policy: Policy
    reward: float | None = None


class ARQ(Searcher):
    """Adaptive robustness-aware quantization: HAQ's agent and wall, with certified robustness as the reward.

    Every proposal is an episode: the agent walks through the layers and decides one bit width at a time. Its reward is
    ``scale * (ACR of the quantized network - ACR of the float network)``, both measured on the same images and noise by the
    certification method of the problem; every step of the episode gets all of it, as in HAQ's released code. The float
    network is measured once, as a probe that the search pays for. The paper certifies incrementally in the loop: that is
    ``certify="incremental"`` of the problem.

    The agent ends after its ``episodes``. An episode that ends at a known policy teaches it as much as any other.
    Exploration is a function of the seed and the episode's number. Results are learned in the order of the proposals,
    whatever the order they arrive in: the episodes under way together are all walked by the same actor, and the agent
    ends up the same.

    Attributes:
        agent: The agent.

    Raises:
        BitcertError: If the reward has a second objective, or a radius that the problem does not report.

    References:
        Yang, Ugare, Zhao, Singh and Misailovic, ARQ: A mixed-precision quantization framework for accurate and
        certifiably robust DNNs, arXiv 2410.24214, 2024.
    """

    Options: ClassVar[type] = ARQOptions

    learns_from_repeats: ClassVar[bool] = True

    def __init__(self, problem: Problem, seed: int, options: ARQOptions | None = None) -> None:
        super().__init__(problem, seed)
        self._settings = options = options or ARQOptions()
        self._reward = parse_objective(options.reward)
        if self._reward.pareto or not set(self._reward.radii) <= set(problem.radii):
            radii = ", ".join(f"{radius:g}" for radius in problem.radii)
            raise BitcertError(
                f"unsupported reward {options.reward!r}; give acr, clean, or certified@ with radii of the problem ({radii})"
            )
        self._scale = options.scale or (10.0 / problem.sigma if self._reward.is_radius else 10.0)
        self._float_metrics = cache(problem.evaluate_float)
        self._walk = LayerWalk(problem)
        settings = AgentSettings(
            critics=2 if options.twin_critics else 1,
            baseline_rate=0.5 if options.baseline else None,
            gradient_norm=options.gradient_norm,
            capacity=_HAQ_MEMORY * len(problem.space.layers),
        )
        self.agent = DDPG(len(FEATURES), schedule(settings, options.episodes), seed)
        self._first = heuristic_policies(problem) if options.warm_start else []
        self._known: set[Policy] = set()
        self._proposed = 0
        self._open: deque[_Episode] = deque()

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose the policy of one more episode; raises Exhausted after the last one."""
        if self._proposed == self._settings.episodes:
            raise Exhausted(f"all {self._proposed} episodes have been walked")
        number, rng = self._proposed, np.random.default_rng([self.seed, self._proposed])
        for attempt in range(_ATTEMPTS if self._settings.avoid_repeats else 1):
            actions = self._act(number, attempt, rng)
            policy = self._walk.policy(actions)
            if policy not in self._known:
                break
        self._proposed += 1
        self._known.add(policy)
        self._open.append(_Episode(number, actions, policy))
        return policy

    def tell(self, trial: Trial) -> None:
        """Reward the episode of a trial, NaN if it failed, and train on all episodes whose turn has come.

        Trials of policies not proposed here are ignored; a failed one teaches nothing.
        """
        for episode in self._open:
            if episode.reward is None and episode.policy == trial.policy:
                episode.reward = self._rewarded(trial)
                break
        while self._open and self._open[0].reward is not None:
            self._train(self._open.popleft())

    def _rewarded(self, trial: Trial) -> float:
        if trial.metrics is None:
            return math.nan
        of_float = self._reward.score(self._float_metrics(trial.fidelity, trial.seed))
        return self._scale * (self._quantized_score(trial, trial.metrics) - of_float)

    def _quantized_score(self, trial: Trial, metrics: Metrics) -> float:
        """Score of the quantized network that is rewarded; NaN if it cannot be measured."""
        return self._reward.score(metrics)

    def _act(self, number: int, attempt: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Actions of an episode; later attempts explore more widely."""
        if attempt == 0 and number < len(self._first):
            return self._walk.actions(self._first[number])
        uniforms = rng.random(self._walk.steps)
        if number < self.agent.settings.warmup:
            return uniforms
        deviation = self.agent.deviation(number)
        if attempt > 0:
            deviation = max(deviation, _LEAST_DEVIATION) * _GROWTH**attempt
        actions: list[float] = []
        for step, uniform in enumerate(uniforms.tolist()):
            state = self._walk.state(step, actions[-1] if actions else None)
            actions.append(self.agent.explore(state, deviation, uniform))
        return np.array(actions)

    def _train(self, episode: _Episode) -> None:
        if episode.reward is None or np.isnan(episode.reward) or self._walk.steps == 0:
            return
        relabel = self._settings.relabel
        actions = self._walk.taken(episode.actions, episode.policy) if relabel else episode.actions
        self.agent.remember(self._walk.states(actions), actions, np.full(self._walk.steps, episode.reward))
        if episode.number >= self.agent.settings.warmup:
            for _ in range(self._settings.updates * self._walk.steps):
                self.agent.update()


@dataclass(frozen=True, slots=True)
class ARQPlusOptions:
    """Options of :class:`ARQPlus`.

    Attributes:
        episodes: Length of the run, to which warm-up and exploration are fitted; the agent is exhausted after it.
    """

    episodes: int = _HAQ_EPISODES

    def __post_init__(self) -> None:
        check_counts(self, episodes=1)


class ARQPlus(ARQ):
    """ARQ with what helps it in short runs: first the obvious policies, no policy twice, and a more careful agent.

    Uniform and greedy policies are tried and remembered before anything else, the agent is taught what the budget wall
    did instead of what it asked for, two critics guard against overestimation, and an episode that ends at a known policy
    is walked again. Its options were chosen on digits, where it therefore is not ranked.
    """

    Options: ClassVar[type] = ARQPlusOptions

    def __init__(self, problem: Problem, seed: int, options: ARQPlusOptions | None = None) -> None:
        episodes = (options or ARQPlusOptions()).episodes
        careful = ARQOptions(episodes=episodes, relabel=True, warm_start=True, twin_critics=True, avoid_repeats=True)
        super().__init__(problem, seed, careful)


def schedule(settings: AgentSettings, episodes: int) -> AgentSettings:
    """Fit warm-up and exploration, published for 600 episodes, to a run of another length.

    The warm-up is a quarter of the run at most, and the last episode explores as little as it would have done there.
    """
    warmup = min(settings.warmup, episodes // 4)
    decay = settings.decay ** ((_HAQ_EPISODES - settings.warmup) / max(1, episodes - warmup))
    return replace(settings, warmup=warmup, decay=decay)
