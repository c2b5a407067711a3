"""A problem that costs nothing: every layer loses accuracy independently, by a closed formula.

It has no network and no data. Searchers are tested on it (small instances are solved by enumeration), and benchmarks
use it to measure overhead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from suite.contract.bit_settings import BitSettings
from suite.contract.cost import float_bops, parse_budget
from suite.contract.objective import Objective, check_radii, parse_objective
from suite.contract.probes import Derivatives, Probes, ProbeSettings, Quality, product_passes
from suite.contract.problem import Meter, Problem, check_seed, check_sigma
from suite.contract.space import DEFAULT_CHOICES, FLOAT_BITS, PARTS, Layer, Part, Policy, Precision, SearchSpace
from suite.contract.trial import GRADIENT_PASSES, Fidelity, Metrics
from suite.descent import BitTask, cells, descend, passes
from suite.errors import BitcertError
from suite.seeds import derive_seed


class SeparableProblem(Problem):
    """Minimize a sum of per-layer losses, each falling fourfold with every bit, under a BOPs budget.

    The loss of a policy is ``sum_i s_i * (4^-w_i + 4^-a_i)``, with sensitivities ``s_i`` drawn log-normally from the seed
    and scaled to sum to 8; it is 1 at 2/2 bits everywhere. The average certified radius is ``sigma * max(0, 1 - loss)``
    and the certified accuracy at r falls linearly from ``1 - loss`` to 0 at ``r = 2 * sigma``.

    Args:
        layers: Number of layers; MACs are drawn from the seed, within a factor of four.
        choices, budget, objective: As for every problem.
        sigma: Scale of the radius.
        radii: Radii at which certified accuracy is reported.
        seed: Draws sensitivities and MACs.

    Attributes:
        sensitivity: The ``s_i``, shape ``(layers,)``.
    """

    def __init__(
        self,
        *,
        layers: int = 10,
        choices: tuple[int, ...] = DEFAULT_CHOICES,
        budget: str | int = "w3a3",
        sigma: float = 0.25,
        objective: str = "acr",
        radii: tuple[float, ...] = (0.0, 0.25, 0.5),
        seed: int = 0,
    ) -> None:
        check_sigma(sigma)
        check_seed(seed)
        if not 1 <= layers <= 10_000:
            raise BitcertError(f"layers must lie in 1..10,000, got {layers}")
        rng = np.random.default_rng([seed, 0x5E9A])
        macs = (rng.uniform(1, 4, layers) * 100_000).astype(int)
        sensitivity = rng.lognormal(0.0, 1.0, layers)
        self.name = "separable"
        self.space = SearchSpace(
            tuple(
                Layer(f"layer{i}", "conv", int(count), int(count) // 64, in_channels=16, out_channels=16, kernel=(3, 3))
                for i, count in enumerate(macs)
            ),
            choices=choices,
            pins={},
        )
        self.budget = parse_budget(budget, self.space)
        self.sigma = sigma
        self.objective: Objective = parse_objective(objective)
        self.radii = check_radii(tuple(sorted({*radii, *self.objective.radii})))
        self.seed = seed
        self.fidelity = Fidelity(images=1, noise=1)
        self.meter = Meter()
        self.sensitivity = 8.0 * sensitivity / sensitivity.sum()

    @property
    def network(self) -> NoReturn:
        """There is none."""
        raise BitcertError("the separable problem has no network: its losses are a formula")

    def loss(self, policy: Policy) -> float:
        """The sum to minimize."""
        weights, activations = np.array(policy.weights), np.array(policy.activations)
        return float(self.sensitivity @ (4.0**-weights + 4.0**-activations))

    def forward_passes(self, fidelity: Fidelity) -> int:
        """Images x noise."""
        return fidelity.images * fidelity.noise

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Apply the formula; charges images x noise forward passes."""
        self.check_feasible(policy)
        return self._metrics(self.loss(policy), self.bops(policy), fidelity)

    def evaluate_float(self, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Apply the formula to a loss of 0; charges like an evaluation."""
        return self._metrics(0.0, float_bops(self.space), fidelity)

    def _metrics(self, loss: float, bops: int, fidelity: Fidelity) -> Metrics:
        accuracy = max(0.0, 1.0 - loss)
        forward_passes = self.forward_passes(fidelity)
        self.meter.charge(forward_passes)
        return Metrics(
            clean_accuracy=accuracy,
            acr=self.sigma * accuracy,
            certified_accuracy={radius: accuracy * max(0.0, 1 - radius / (2 * self.sigma)) for radius in self.radii},
            bops=bops,
            forward_passes=forward_passes,
            seconds=0.0,
            alpha=0.0,
            method="formula",
        )

    def probes(self, settings: ProbeSettings) -> SeparableProbes:
        """The formula, layer by layer; charges like probes of a network."""
        return SeparableProbes(self, settings)

    def check_fidelity(self, fidelity: Fidelity) -> None:
        """Any will do: the formula is exact."""

    def provenance(self) -> dict[str, Any]:
        """Name, size, budget and seed."""
        return {
            "problem": self.name,
            "layers": len(self.space.layers),
            "choices": list(self.space.choices),
            **self.budget.to_dict(),
            "sigma": self.sigma,
            "objective": self.objective.text,
            "radii": list(self.radii),
            "seed": self.seed,
        }


class SeparableProbes(Probes):
    """Probes of the formula; the problem's meter is charged.

    The squared quantization error of a layer's n weights is taken as ``n * 4^-bits``, that of its inputs too: a diagonal
    Hessian of ``2 * s_i / n`` then gives the formula's losses exactly.
    """

    def __init__(self, problem: SeparableProblem, settings: ProbeSettings) -> None:
        self._problem, self._settings = problem, settings

    def measure(self, policy: Policy) -> Quality:
        """Apply the formula; one forward pass per row."""
        self._problem.meter.charge(self._settings.rows)
        loss = self._problem.loss(policy)
        return Quality(loss, self._problem.sigma * max(0.0, 1.0 - loss))

    def perturbations(self, part: Part) -> NDArray[np.float64]:
        """``n * 4^-bits``, shape ``(layers, choices)``."""
        sizes = np.array([layer.parameters for layer in self._problem.space.layers])
        return np.outer(sizes, 4.0 ** -np.array(self._problem.space.choices))

    def first_order(self, policy: Policy) -> NDArray[np.float64]:
        """``2 * s_i * 4^-bits``: the gradient of the diagonal Hessian at the quantized point times the perturbation."""
        self._problem.meter.charge(GRADIENT_PASSES * self._settings.rows)
        bits = np.array([policy.weights, policy.activations])
        return np.where(bits == FLOAT_BITS, 0.0, 2 * self._problem.sensitivity * 4.0**-bits)

    def squared_gradients(self) -> NDArray[np.float64]:
        """``s_i / n``, which times the perturbations gives the formula's losses."""
        self._problem.meter.charge(GRADIENT_PASSES * self._settings.rows)
        sizes = np.array([layer.parameters for layer in self._problem.space.layers])
        return np.stack([self._problem.sensitivity / sizes] * len(PARTS))

    def output_changes(self, precisions: Sequence[Precision]) -> NDArray[np.float64]:
        """The formula's losses."""
        self._problem.meter.charge((GRADIENT_PASSES + len(precisions)) * self._settings.rows)
        losses = [4.0**-pair.weight + 4.0**-pair.activation for pair in precisions]
        return np.outer(self._problem.sensitivity, losses)

    def derivatives(self, part: Part) -> Derivatives:
        """Derivatives where nothing is quantized."""
        return _DiagonalDerivatives(self._problem, self._settings.rows)

    def learned_steps(
        self, epochs: int, images: int | None = None, *, freeze_weights: bool = False
    ) -> NDArray[np.float64]:
        """``s_i * 4^-bits`` for both parts, a perfect indicator; charges nothing, as there are no images."""
        losses = np.outer(self._problem.sensitivity, 4.0 ** -np.array(self._problem.space.choices))
        return np.stack([losses] * len(PARTS))

    def learned_bits(self, settings: BitSettings) -> NDArray[np.float64]:
        """Bits learned on the formula, interpolated between choices; charges like probes of a network."""
        problem = self._problem
        problem.meter.charge(passes(settings, problem.space))
        seed = derive_seed(problem.seed, "learned bits", self._settings.seed)
        return descend(settings, problem.space, SeparableTask(problem), seed)


class SeparableTask(BitTask):
    """The formula as the task of a descent: every mini-batch is the same, and there are no weights to train."""

    def __init__(self, problem: SeparableProblem) -> None:
        self._problem = problem
        count, sensitivity = len(problem.space.layers), problem.sensitivity
        self._sensitivity = np.array(
            [sum(sensitivity[slot % count] for slot in slots) for slots in problem.space.flat_variables]
        )

    def losses(self, chosen: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """The formula."""
        return np.array([self._problem.loss(self._problem.space.decode(vector)) for vector in chosen])

    def slopes(self, bits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Slopes of the formula's chords between choices."""
        choices = np.array(self._problem.space.choices, dtype=float)
        lower, _ = cells(choices, bits)
        rise = np.diff(4.0**-choices) / np.diff(choices)
        return np.asarray(self._sensitivity * rise[lower])

    def noisy_slopes(self, bits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Slopes of the formula, which falls with the power of the noise."""
        return np.asarray(-math.log(4) * self._sensitivity * 4.0**-bits)


class _DiagonalDerivatives(Derivatives):
    def __init__(self, problem: SeparableProblem, rows: int) -> None:
        self._problem, self._rows = problem, rows
        self.shapes = tuple((1, layer.parameters) for layer in problem.space.layers)
        sizes = np.array([layer.parameters for layer in problem.space.layers])
        self._curvature = (2 * problem.sensitivity / sizes).astype(np.float32)

    def gradient(self) -> list[NDArray[np.float32]]:
        self._problem.meter.charge(GRADIENT_PASSES * self._rows)
        return [np.zeros(shape, dtype=np.float32) for shape in self.shapes]

    def products(self, vectors: Sequence[Mapping[int, NDArray[np.float32]]]) -> list[dict[int, NDArray[np.float32]]]:
        passes = GRADIENT_PASSES + product_passes(self._problem.space, vectors)
        self._problem.meter.charge(math.ceil(passes * self._rows))
        return [{layer: values * self._curvature[layer] for layer, values in vector.items()} for vector in vectors]
