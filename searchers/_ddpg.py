"""DDPG: a deterministic actor for one action in [0, 1], and a critic that says in which direction to improve it.

Deep deterministic policy gradient (Lillicrap et al., ICLR 2016) with the exploration and the reward baseline of HAQ
(Wang et al., CVPR 2019); two critics give the clipped double estimate of TD3 (Fujimoto et al., ICML 2018). The networks are
so small that automatic differentiation would spend more time on its graph than on the arithmetic: gradients are written out.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from threadpoolctl import ThreadpoolController

from suite.store import Store

Array = NDArray[np.floating]

_THREADS = 1  # fixed, since floating-point sums depend on it; more would contend with evaluations for the cores


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How the agent explores and learns; the defaults are those of HAQ's released code.

    Attributes:
        hidden: Width of both hidden layers, of actor and critics.
        actor_rate, critic_rate: Learning rates of Adam.
        discount: Of the value of the next state.
        tau: Rate at which the target networks follow, per update.
        batch: Transitions of an update, drawn without replacement.
        capacity: Transitions remembered; the oldest make room.
        critics: 1, or 2 for TD3's twins, of which the smaller value of the next state counts.
        baseline_rate: Rate of the moving average of rewards that is subtracted from them; None subtracts nothing.
        gradient_norm: Gradients are clipped to this norm; None for no clipping.
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


class Tape(NamedTuple):
    """What the backward pass needs of a forward pass: inputs and both hidden layers, one row per sample."""

    inputs: Array
    first: Array
    second: Array


class Perceptron:
    """Two hidden layers of rectified linear units and one linear output.

    Args:
        inputs: Numbers that go in.
        hidden: Width of the hidden layers.
        rng: Draws weights and biases uniformly within ``1 / sqrt(inputs of the layer)``, as torch does.
        dtype: Of all numbers.

    Attributes:
        parameters: All weights and biases, one vector: what an optimizer changes in place.
    """

    def __init__(
        self, inputs: int, hidden: int, rng: np.random.Generator, dtype: type[np.floating] = np.float32
    ) -> None:
        self._shapes = list(itertools.pairwise((inputs, hidden, hidden, 1)))
        bound = np.concatenate([np.full((rows + 1) * columns, 1 / np.sqrt(rows)) for rows, columns in self._shapes])
        self.parameters: Array = (rng.uniform(-1, 1, len(bound)) * bound).astype(dtype)
        self._bind()

    def _bind(self) -> None:
        """Make the layers views of the parameters, so that whatever changes these in place changes the network."""
        self._layers = self._split(self.parameters)
        self._scratch: Array = np.empty_like(self.parameters)
        self._gradients = self._split(self._scratch)

    def copy(self) -> Perceptron:
        """Another network with the same parameters."""
        twin = copy.copy(self)
        twin.parameters = self.parameters.copy()
        twin._bind()
        return twin

    def forward(self, inputs: Array) -> tuple[Array, Tape]:
        """Outputs, shape ``(samples, 1)``, for inputs ``(samples, inputs)``, and the tape for the gradients."""
        (weight1, bias1), (weight2, bias2), (weight3, bias3) = self._layers
        first = inputs @ weight1
        first += bias1
        np.maximum(first, 0, out=first)
        second = first @ weight2
        second += bias2
        np.maximum(second, 0, out=second)
        output: Array = second @ weight3 + bias3
        return output, Tape(inputs, first, second)

    def parameter_gradient(self, tape: Tape, outward: Array) -> Array:
        """Gradient by ``parameters``, given the gradient by the outputs, shape ``(samples, 1)``.

        The next call of any method overwrites it.
        """
        second, first = self._hidden_gradients(tape, outward)
        layers = zip(self._gradients, tape, (first, second, outward), strict=True)
        for (weight, bias), entering, leaving in layers:
            np.matmul(entering.T, leaving, out=weight)
            leaving.sum(axis=0, out=bias)
        return self._scratch

    def input_gradient(self, tape: Tape, outward: Array) -> Array:
        """Gradient by the inputs, shape ``(samples, inputs)``, given the gradient by the outputs."""
        _, first = self._hidden_gradients(tape, outward)
        gradient: Array = first @ self._layers[0][0].T
        return gradient

    def follow(self, leader: Perceptron, share: float) -> None:
        """Move the parameters a share of the way to another network's of the same size."""
        way = np.subtract(leader.parameters, self.parameters, out=self._scratch)
        way *= share
        self.parameters += way

    def _hidden_gradients(self, tape: Tape, outward: Array) -> tuple[Array, Array]:
        """Gradients by the second and the first hidden layer before their rectification."""
        second = outward @ self._layers[2][0].T
        second *= tape.second > 0
        first = second @ self._layers[1][0].T
        first *= tape.first > 0
        return second, first

    def _split(self, vector: Array) -> list[tuple[Array, Array]]:
        """Views of a vector as the weights and biases of the layers."""
        parts = np.split(
            vector, np.cumsum([size for rows, columns in self._shapes for size in (rows * columns, columns)])
        )
        return [(parts[2 * n].reshape(shape), parts[2 * n + 1]) for n, shape in enumerate(self._shapes)]


class Adam:
    """Adaptive moment estimation for one vector of parameters (Kingma and Ba, ICLR 2015).

    Attributes:
        moments: Running means of the gradient and of its square, shape ``(2, parameters)``.
        steps: Steps taken.
    """

    def __init__(self, parameters: Array, rate: float) -> None:
        self._rate = rate
        self.moments = np.zeros((2, len(parameters)), dtype=parameters.dtype)
        self.steps = 0
        self._scratch = np.empty_like(parameters)

    def descend(self, parameters: Array, gradient: Array) -> None:
        """Take a step against the gradient, in place."""
        first, second, tiny = 0.9, 0.999, 1e-8
        self.steps += 1
        mean, square = self.moments
        step = self._scratch  # large temporary arrays cost more than the arithmetic on them
        mean *= first
        mean += np.multiply(gradient, 1 - first, out=step)
        square *= second
        np.multiply(gradient, gradient, out=step)
        step *= 1 - second
        square += step
        np.sqrt(square, out=step)
        step /= math.sqrt(1 - second**self.steps)
        step += tiny
        np.divide(mean, step, out=step)
        step *= self._rate / (1 - first**self.steps)
        parameters -= step


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
        remembered: Transitions stored so far.
    """

    def __init__(
        self, state_size: int, settings: AgentSettings, seed: int, dtype: type[np.floating] = np.float32
    ) -> None:
        self.settings = settings
        self._rng = np.random.default_rng(seed)
        sizes = [state_size] + [state_size + 1] * settings.critics
        self._networks = [Perceptron(size, settings.hidden, self._rng, dtype) for size in sizes]
        self._targets = [network.copy() for network in self._networks]
        rates = [settings.actor_rate] + [settings.critic_rate] * settings.critics
        self._optimizers = [Adam(network.parameters, rate) for network, rate in zip(self._networks, rates, strict=True)]
        self.actor, *self.critics = self._networks
        # One row per transition: state, action, next state, whether there is one, reward.
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
        """Store an episode: states of shape ``(steps, state_size)``, actions and rewards of shape ``(steps,)``."""
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
            before = mean if self.baseline is None else self.baseline
            self.baseline = before + settings.baseline_rate * (mean - before)
            reward = reward - self._memory.dtype.type(self.baseline)
        target_actor, *target_critics = self._targets
        actor_optimizer, *critic_optimizers = self._optimizers
        with self._threads.limit(limits=_THREADS, user_api="blas"):
            output, _ = target_actor.forward(following)
            pair = np.hstack([following, special.expit(output)])
            value = np.minimum.reduce([critic.forward(pair)[0] for critic in target_critics])
            target = reward + settings.discount * goes_on * value
            pair = np.hstack([state, action])
            for critic, optimizer in zip(self.critics, critic_optimizers, strict=True):
                value, tape = critic.forward(pair)
                gradient = critic.parameter_gradient(tape, (2 / len(batch)) * (value - target))  # of the mean square
                optimizer.descend(critic.parameters, self._clipped(gradient))
            output, actor_tape = self.actor.forward(state)
            chosen = special.expit(output)
            _, tape = self.critics[0].forward(np.hstack([state, chosen]))
            outward = np.full_like(chosen, -1 / len(batch))  # of the negative mean value
            by_action = self.critics[0].input_gradient(tape, outward)[:, -1:]
            gradient = self.actor.parameter_gradient(actor_tape, by_action * chosen * (1 - chosen))
            actor_optimizer.descend(self.actor.parameters, self._clipped(gradient))
        for target_network, network in zip(self._targets, self._networks, strict=True):
            target_network.follow(network, settings.tau)

    def save(self, path: Path) -> None:
        """Write the whole state: networks, targets, optimizers, memory, baseline, and the generator's state."""
        notes = {
            "settings": asdict(self.settings),
            "state_size": int(self._columns[0]),
            "remembered": self.remembered,
            "baseline": self.baseline,
            "steps": self._optimizers[0].steps,
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
        for optimizer in agent._optimizers:
            optimizer.steps = notes["steps"]
        agent._rng.bit_generator.state = notes["generator"]
        return agent

    def _arrays(self) -> dict[str, Array]:
        """Everything that learning changes, by name; the arrays themselves, not copies."""
        named: dict[str, Array] = {"memory": self._memory}
        for number, network in enumerate(self._networks):
            named[f"{number}.network"] = network.parameters
            named[f"{number}.target"] = self._targets[number].parameters
            named[f"{number}.moments"] = self._optimizers[number].moments
        return named

    def _clipped(self, gradient: Array) -> Array:
        most = self.settings.gradient_norm
        if most is None or (norm := float(np.linalg.norm(gradient))) <= most:
            return gradient
        return gradient * (most / norm)


def _store(path: Path) -> Store:
    return Store(path, "agent", {"agent": "DDPG"}, "numpy", remedy="it holds no agent that can be read")


def truncated_normal(mean: float, deviation: float, uniform: float) -> float:
    """The ``uniform`` quantile of the normal distribution around a mean in [0, 1], truncated to [0, 1]."""
    if deviation < 1e-6:
        return mean
    low, high = special.ndtr(-mean / deviation), special.ndtr((1 - mean) / deviation)
    return float(np.clip(mean + deviation * special.ndtri(low + uniform * (high - low)), 0.0, 1.0))
