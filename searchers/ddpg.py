"""DDPG: a deterministic actor for one action in [0, 1], and a critic that says in which direction to improve it.

Deep deterministic policy gradient (Lillicrap et al., ICLR 2016) with the exploration and the reward baseline of HAQ
(Wang et al., CVPR 2019); two critics give the clipped double estimate of TD3 (Fujimoto et al., ICML 2018).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy import special
from threadpoolctl import ThreadpoolController

from searchers._mlp import Adam, Array, Perceptron
from suite.store import Store

_THREADS = 1
"""Threads of the agent's arithmetic: fixed, since sums in floating point depend on them; more of them wait for each other
wherever evaluations use the cores."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How the agent explores and learns; the defaults are those of HAQ's released code.

    Attributes:
        hidden: Width of both hidden layers, of actor and critics.
        actor_rate, critic_rate: Learning rates of Adam.
        discount: Of the value of the next state.
        tau: Share of the networks that goes into their targets at every update.
        batch: Transitions of an update, drawn without replacement.
        capacity: Transitions remembered; the oldest make room.
        critics: 1, or 2 for TD3's twins: the lesser value of the next state is believed.
        baseline_rate: How fast the moving average of rewards that is subtracted from them moves to a batch's mean; None
            subtracts nothing.
        gradient_norm: Largest norm of a gradient, longer ones are shortened to it; None leaves them as they are.
        warmup: Episodes of random actions before the actor is followed and trained.
        deviation: Standard deviation of the first exploration, in units of the action.
        decay: Factor of the deviation from one episode to the next.
    """

    hidden: int = 300
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    discount: float = 1.0
    tau: float = 0.01
    batch: int = 64
    capacity: int = 2048
    critics: int = 1
    baseline_rate: float | None = 0.5
    gradient_norm: float | None = None
    warmup: int = 20
    deviation: float = 0.5
    decay: float = 0.99


class DDPG:
    """The agent: acts, explores, remembers, learns. A function of its seed and of what it is called with.

    Args:
        state_size: Numbers in a state.
        settings: How it explores and learns.
        seed: Of the initial weights and of the draws from memory.
        dtype: Of networks and memory.

    Attributes:
        actor: From states to actions before the sigmoid.
        critics: From states and actions to values.
        baseline: The moving average of rewards; None before the first update.
        remembered: Transitions taken in so far.
    """

    def __init__(
        self, state_size: int, settings: AgentSettings, seed: int, dtype: type[np.floating] = np.float32
    ) -> None:
        self.settings = settings
        self._rng = np.random.default_rng(seed)
        self.actor = Perceptron(state_size, settings.hidden, self._rng, dtype)
        self.critics = [Perceptron(state_size + 1, settings.hidden, self._rng, dtype) for _ in range(settings.critics)]
        self._target_actor = self.actor.copy()
        self._target_critics = [critic.copy() for critic in self.critics]
        self._actor_optimizer = Adam(self.actor.parameters, settings.actor_rate)
        self._critic_optimizers = [Adam(critic.parameters, settings.critic_rate) for critic in self.critics]
        # A row of memory: state, action, next state, whether there is one, reward.
        self._columns = np.cumsum([state_size, 1, state_size, 1])
        self._memory = np.zeros((settings.capacity, 2 * state_size + 3), dtype=dtype)
        self._threads = ThreadpoolController()
        self.remembered = 0
        self.baseline: float | None = None

    def act(self, state: ArrayLike) -> float:
        """The actor's action, in [0, 1], for one state."""
        with self._threads.limit(limits=_THREADS, user_api="blas"):
            output, _ = self.actor.forward(np.atleast_2d(np.asarray(state, dtype=self._memory.dtype)))
        return float(special.expit(output[0, 0]))

    def explore(self, state: ArrayLike, deviation: float, uniform: float) -> float:
        """The actor's action with noise: the ``uniform`` quantile of a normal distribution around it, truncated to [0, 1]."""
        return truncated_normal(self.act(state), deviation, uniform)

    def deviation(self, episode: int) -> float:
        """Standard deviation of the exploration in an episode, counted from 0; it decays once the warm-up is over."""
        return self.settings.deviation * self.settings.decay ** max(0, episode - self.settings.warmup)

    def remember(self, states: ArrayLike, actions: ArrayLike, rewards: ArrayLike) -> None:
        """Take in an episode; its last step ends it.

        Args:
            states: Shape ``(steps, state_size)``.
            actions: Shape ``(steps,)``.
            rewards: Shape ``(steps,)``.
        """
        state = np.asarray(states)
        steps = len(state)
        following = np.concatenate([state[1:], np.zeros_like(state[:1])])
        rows = np.column_stack([state, actions, following, np.arange(steps) < steps - 1, rewards])
        self._memory[(self.remembered + np.arange(steps)) % self.settings.capacity] = rows
        self.remembered += steps

    def update(self) -> None:
        """Improve critics and actor on one batch from memory, then let the targets follow.

        The critics' target is ``r - baseline + discount * Q'(s', actor'(s'))``, Q' and actor' being the targets, without Q'
        after an episode's last step. The actor ascends the first critic's value of its actions.
        """
        settings = self.settings
        known = min(self.remembered, settings.capacity)
        batch = self._memory[self._rng.choice(known, size=min(settings.batch, known), replace=False)]
        state, action, following, goes_on, reward = np.split(batch, self._columns, axis=1)
        if settings.baseline_rate is not None:
            mean = float(reward.mean(dtype=np.float64))
            self.baseline = mean if self.baseline is None else self.baseline + settings.baseline_rate * (
                mean - self.baseline
            )  # fmt: skip
            reward = reward - self._memory.dtype.type(self.baseline)
        with self._threads.limit(limits=_THREADS, user_api="blas"):
            output, _ = self._target_actor.forward(following)
            pair = np.hstack([following, special.expit(output)])
            value = np.minimum.reduce([critic.forward(pair)[0] for critic in self._target_critics])
            target = reward + settings.discount * goes_on * value
            pair = np.hstack([state, action])
            for critic, optimizer in zip(self.critics, self._critic_optimizers, strict=True):
                value, tape = critic.forward(pair)
                gradient = critic.parameter_gradient(tape, (2 / len(batch)) * (value - target))  # of the mean square
                optimizer.descend(critic.parameters, self._shortened(gradient))
            output, actor_tape = self.actor.forward(state)
            chosen = special.expit(output)
            _, tape = self.critics[0].forward(np.hstack([state, chosen]))
            outward = np.full_like(chosen, -1 / len(batch))  # of the negative mean value
            by_action = self.critics[0].input_gradient(tape, outward)[:, -1:]
            gradient = self.actor.parameter_gradient(actor_tape, by_action * chosen * (1 - chosen))
            self._actor_optimizer.descend(self.actor.parameters, self._shortened(gradient))
        for target_network, network in zip(self._target_networks, self._networks, strict=True):
            target_network.follow(network, settings.tau)

    def save(self, path: Path) -> None:
        """Write the whole state: networks, targets, optimizers, memory, baseline, and the generator's state."""
        notes = {
            "settings": asdict(self.settings),
            "state_size": int(self._columns[0]),
            "remembered": self.remembered,
            "baseline": self.baseline,
            "steps": self._actor_optimizer.steps,
            "generator": self._rng.bit_generator.state,
        }
        _store(path).write({"agent": self._arrays()}, notes)

    @classmethod
    def load(cls, path: Path) -> DDPG:
        """Read what :meth:`save` wrote; the agent continues as if it had never stopped.

        Raises:
            BitcertError: If there is no file, or it holds no agent.
        """
        stored = _store(path).read()
        found, notes = stored.groups["agent"], stored.record
        settings = AgentSettings(**notes["settings"])
        agent = cls(notes["state_size"], settings, seed=0, dtype=found["memory"].dtype.type)
        for name, array in agent._arrays().items():
            array[:] = found[name]
        agent.remembered, agent.baseline = notes["remembered"], notes["baseline"]
        for optimizer in (agent._actor_optimizer, *agent._critic_optimizers):
            optimizer.steps = notes["steps"]
        agent._rng.bit_generator.state = notes["generator"]
        return agent

    @property
    def _networks(self) -> list[Perceptron]:
        return [self.actor, *self.critics]

    @property
    def _target_networks(self) -> list[Perceptron]:
        return [self._target_actor, *self._target_critics]

    def _arrays(self) -> dict[str, Array]:
        """Everything that learning changes, by name; the arrays themselves, not copies."""
        named: dict[str, Array] = {"memory": self._memory}
        optimizers = [self._actor_optimizer, *self._critic_optimizers]
        for place, (network, target, optimizer) in enumerate(
            zip(self._networks, self._target_networks, optimizers, strict=True)
        ):
            name = "actor" if place == 0 else f"critic{place}"
            named |= {
                name: network.parameters,
                f"{name}.target": target.parameters,
                f"{name}.moments": optimizer.moments,
            }
        return named

    def _shortened(self, gradient: Array) -> Array:
        most = self.settings.gradient_norm
        norm = 0.0 if most is None else float(np.linalg.norm(gradient))
        return gradient if most is None or norm <= most else gradient * (most / norm)


def _store(path: Path) -> Store:
    return Store(path, "agent", {"agent": "DDPG"}, "numpy", remedy="it holds no agent that can be read")


def truncated_normal(mean: float, deviation: float, uniform: float) -> float:
    """The ``uniform`` quantile of the normal distribution around a mean in [0, 1], truncated to [0, 1]."""
    if deviation < 1e-6:
        return mean
    low, high = special.ndtr(-mean / deviation), special.ndtr((1 - mean) / deviation)
    return float(np.clip(mean + deviation * special.ndtri(low + uniform * (high - low)), 0.0, 1.0))
