"""ARQ: a DDPG agent that decides layer by layer, rewarded by the certified radius of the smoothed network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from searchers._episodes import Episodes, schedule
from searchers._heuristics import heuristic_policies
from searchers._options import check_flag, check_positive
from searchers.ddpg import AgentSettings
from suite.contract.objective import parse_objective
from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Trial
from suite.errors import BitcertError


class ARQ(Searcher):
    """Adaptive robustness-aware quantization: HAQ's agent and wall, with certified robustness as the reward.

    Reward of an episode: ``scale * (ACR of the quantized network - ACR of the float network)``, both measured on the same
    images and noise by the certification method of the problem. The float network is measured once, as a probe that the
    search pays for. The paper certifies incrementally in the loop: that is ``certify="incremental"`` of the problem.

    Everything after ``scale`` differs from the published method when it is changed.

    Args:
        problem: What is searched.
        seed: Seed of the agent and its exploration.
        reward: What is rewarded: ``"acr"``, or the paper's rivals ``"clean"`` and ``"certified@0.25,0.5"``.
        scale: Factor of the reward. The published value is not known; None is ten per sigma of radius (ten per unit of
            accuracy), about HAQ's, and makes the reward independent of the unit of radii.
        baseline: Whether a moving average is taken off the rewards, as in HAQ's released code.
        episodes: Planned length of the run, to which warm-up and exploration are fitted; None for HAQ's 600.
        relabel: Whether the agent is taught what the budget wall did instead of what it asked for.
        updates: Updates of the agent for every step of an episode.
        warm_start: Whether uniform and greedy policies are tried first and remembered.
        twin_critics: Whether two critics guard against overestimation (TD3).
        avoid_repeats: Whether an episode that ends at a policy proposed before is walked again, exploring more widely.
        gradient_norm: Largest norm of the agent's gradients; None for any.

    Raises:
        BitcertError: If an option is out of range, or certified accuracy is rewarded at a radius the problem does not report.

    References:
        Yang, Ugare, Zhao, Singh and Misailovic, ARQ: A mixed-precision quantization framework for accurate and
        certifiably robust DNNs, arXiv 2410.24214, 2024.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        reward: str = "acr",
        scale: float | None = None,
        baseline: bool = True,
        episodes: int | None = None,
        relabel: bool = False,
        updates: int = 1,
        warm_start: bool = False,
        twin_critics: bool = False,
        avoid_repeats: bool = False,
        gradient_norm: float | None = None,
    ) -> None:
        super().__init__(problem, seed)
        self._reward = parse_objective(str(reward))
        unknown = [radius for radius in self._reward.radii if radius not in problem.radii]
        if unknown or self._reward.pareto:
            raise BitcertError(
                f"reward {reward!r} cannot be had: give acr, clean, or certified@ with radii of the problem "
                f"({', '.join(f'{radius:g}' for radius in problem.radii)})"
            )
        settings = AgentSettings(
            critics=2 if check_flag("twin_critics", twin_critics) else 1,
            baseline_rate=0.5 if check_flag("baseline", baseline) else None,
            gradient_norm=None if gradient_norm is None else check_positive("gradient_norm", gradient_norm),
        )
        usual = 10.0 / problem.sigma if self._reward.measure == "acr" else 10.0
        self._scale = usual if scale is None else check_positive("scale", scale)
        self._of_float = cache(self._measure_float)
        self.episodes = Episodes(
            problem,
            seed,
            schedule(settings, episodes),
            updates=updates,
            relabel=check_flag("relabel", relabel),
            avoid_repeats=check_flag("avoid_repeats", avoid_repeats),
            first=heuristic_policies(problem) if check_flag("warm_start", warm_start) else (),
        )

    def ask(self, pending: Sequence[Trial] = ()) -> Policy:
        """Propose the policy of one more episode."""
        return self.episodes.propose()

    def tell(self, trial: Trial) -> None:
        """Reward the episode of a trial; one that failed teaches nothing."""
        reward = math.nan
        if trial.metrics is not None:
            gain = self._reward.score(trial.metrics) - self._of_float(trial.fidelity, trial.seed)
            reward = self._scale * gain
        self.episodes.learn(trial, reward)

    def _measure_float(self, fidelity: Fidelity, seed: int) -> float:
        return self._reward.score(self.problem.evaluate_float(fidelity, seed))


class ARQPlus(ARQ):
    """ARQ with what helps it in short runs: first the obvious policies, no policy twice, and a more careful agent.

    Uniform and greedy policies are tried and remembered before anything else, the agent is taught what the budget wall
    did instead of what it asked for, two critics guard against overestimation, an episode that ends at a known policy is
    walked again, and exploration is fitted to the length of the run. What each adds is measured in ``results/``.

    Args:
        problem: What is searched.
        seed: Seed of the agent and its exploration.
        episodes: Planned length of the run.
    """

    def __init__(self, problem: Problem, seed: int, *, episodes: int = 64) -> None:
        super().__init__(
            problem,
            seed,
            episodes=episodes,
            relabel=True,
            warm_start=True,
            twin_critics=True,
            avoid_repeats=True,
        )
