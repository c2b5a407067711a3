"""A problem without a network: every layer loses the square of its missing bits."""

from __future__ import annotations

from typing import Any, NoReturn

from suite.contract.cost import float_bops, parse_budget
from suite.contract.objective import check_radii, parse_objective
from suite.contract.probes import Probes, ProbeSettings
from suite.contract.problem import Meter, Problem
from suite.contract.space import Layer, Policy, SearchSpace
from suite.contract.trial import Fidelity, Metrics
from suite.errors import BitcertError


class QuadraticProblem(Problem):
    """Accuracy falls with the square of the bits missing to 8, more in later layers.

    Args:
        layers: Number of layers.
        budget: As for every problem.
        objective: As for every problem.
        seed: Kept for the record: the formula has no randomness.
    """

    def __init__(self, *, layers: int = 4, budget: str | int = "w4a4", objective: str = "acr", seed: int = 0) -> None:
        self.name = "quadratic"
        self.space = SearchSpace(tuple(Layer(f"layer{n}", "conv", 100 + n, 10 + n) for n in range(layers)), pins={})
        self.budget = parse_budget(budget, self.space)
        self.objective = parse_objective(objective)
        self.sigma, self.seed = 0.25, seed
        self.radii = check_radii(tuple(sorted({0.0, *self.objective.radii})))
        self.fidelity = Fidelity(images=1, noise=1)
        self.meter = Meter()

    @property
    def network(self) -> NoReturn:
        """There is none."""
        raise BitcertError("the quadratic problem has no network")

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Apply the formula."""
        self.check_feasible(policy)
        missing = [(n + 1) * ((8 - w) ** 2 + (8 - a) ** 2) for n, (w, a) in enumerate(policy.precisions)]
        most = 72 * sum(range(1, len(missing) + 1))
        return self._metrics(1 - sum(missing) / most, self.bops(policy), fidelity)

    def evaluate_float(self, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Nothing is lost."""
        return self._metrics(1.0, float_bops(self.space), fidelity)

    def _metrics(self, accuracy: float, bops: int, fidelity: Fidelity) -> Metrics:
        passes = fidelity.images * fidelity.noise
        self.meter.charge(passes)
        certified = {radius: accuracy * max(0.0, 1 - radius / (2 * self.sigma)) for radius in self.radii}
        return Metrics(accuracy, self.sigma * accuracy, certified, bops, passes, 0.0, 0.0, "formula")

    def probes(self, settings: ProbeSettings) -> Probes:
        """There are none."""
        raise BitcertError("the quadratic problem has no network to probe")

    def check_fidelity(self, fidelity: Fidelity) -> None:
        """Any will do: the formula is exact."""

    def provenance(self) -> dict[str, Any]:
        """Name, size, budget, objective and seed."""
        return {
            "problem": self.name,
            "layers": len(self.space.layers),
            **self.budget.to_dict(),
            "sigma": self.sigma,
            "objective": self.objective.text,
            "radii": list(self.radii),
            "seed": self.seed,
        }
