"""Problems whose scores a surrogate predicts: for spaces too large to measure every policy."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics
from suite.errors import BitcertError
from suite.problems.tabular import TabularProblem
from suite.seeds import derive_seed
from suite.tables.surrogate import MOST_FITTED, Fit, fit

_MOST_ENUMERATED = 100_000
_CHUNK = 2_000


class SurrogateProblem(TabularProblem):
    """Search on a surrogate: what a Gaussian process, fitted to a table, says of any policy, with the noise of the table's entries.

    Whatever is made with it says ``surrogate`` in its problem's name, and has the cross-validated rank correlation in its record.

    Args:
        file: The table.
        policies: How many of its policies the process is fitted to, drawn by the problem's seed; None for all, up to 1,500.
        budget, objective, sigma, seed, protocol, replicate: As for :class:`.TabularProblem`.

    Raises:
        BitcertError: As for a table, or if there are too few policies to fit.
    """

    def __init__(self, file: str = "", policies: int | None = None, **settings: Any) -> None:
        super().__init__(file, **settings)
        if policies is not None and policies < 10:
            raise BitcertError(f"a surrogate needs 10 policies or more, got {policies}")
        self._count = policies
        self._fits: dict[tuple[str, Fidelity], Fit] = {}
        self._means: dict[tuple[Policy, Fidelity], dict[str, tuple[float, float]]] = {}
        self.name = "surrogate"

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the table that the process is fitted to."""
        count = len(self.table.vectors)
        wanted = min(count, MOST_FITTED) if self._count is None else self._count
        if wanted > count:
            raise BitcertError(f"{wanted:,} policies asked for, but {self.file} has {count:,}")
        return np.sort(np.random.default_rng(derive_seed(self.seed, "surrogate")).permutation(count)[:wanted])

    def fit_of(self, metric: str, fidelity: Fidelity) -> Fit:
        """The process of a metric, such as ``"acr"``, at a fidelity; fitted at the first call to means over noises."""
        key = metric, fidelity
        if key not in self._fits:
            found = self.table.values[metric][self.rows][:, self._columns(fidelity)]
            noises = found.shape[1]
            noise = float(np.sqrt(found.var(axis=1, ddof=1).mean() / noises)) if noises > 1 else None
            self._fits[key] = fit(self.table.vectors[self.rows], found.mean(axis=1), noise)
        return self._fits[key]

    def _answer(self, policy: Policy, fidelity: Fidelity, seed: int) -> Metrics:
        """Predictions with noise: one draw for a policy and seed, as strong for each metric as its entries' noise."""
        columns = self._columns(fidelity)
        draw = np.random.default_rng(
            derive_seed(self.seed, "surrogate noise", seed, policy.to_json())
        ).standard_normal()
        values = {}
        for metric, (mean, noise) in self._predicted(policy, fidelity).items():
            most = 1.0 if metric == "clean_accuracy" or metric.startswith("certified@") else None
            values[metric] = np.array([[mean + noise * np.sqrt(len(columns)) * draw]]).clip(0.0, most)
        return replace(self.table, values=values).metrics(0, 0, self.bops(policy))

    def _predicted(self, policy: Policy, fidelity: Fidelity) -> dict[str, tuple[float, float]]:
        """Mean and noise of every metric; what is the same for all policies, or is no score, is the median of the table's."""
        key = policy, fidelity
        if key not in self._means:
            found, vector = {}, self.space.encode(policy)[None]
            for metric, entries in self.table.values.items():
                seen = entries[self.rows][:, self._columns(fidelity)]
                if metric in ("forward_passes", "seconds") or np.ptp(seen) == 0:
                    found[metric] = float(np.median(seen)), 0.0
                else:
                    process = self.fit_of(metric, fidelity)
                    found[metric] = float(process.predict(vector)[0][0]), process.noise
            self._means[key] = found
        return self._means[key]

    @property
    def truth_error(self) -> None:
        """Predictions have no noise."""

    @cached_property
    def truth(self) -> dict[Policy, float]:
        """What the surrogate predicts of every feasible policy, without noise, for the objective ACR; empty for large spaces."""
        space = self.space
        if space.cardinality > _MOST_ENUMERATED:
            return {}
        if self.objective.text != "acr":
            raise BitcertError(f"the surrogate knows the truth of acr alone, not of {self.objective.text}")
        vectors = np.array(list(itertools.product(range(len(space.choices)), repeat=len(space.variables))))
        process = self.fit_of("acr", self.fidelity)
        chunks = [process.predict(vectors[start : start + _CHUNK])[0] for start in range(0, len(vectors), _CHUNK)]
        scored = zip(map(space.decode, vectors), np.concatenate(chunks), strict=True)
        return {policy: float(score) for policy, score in scored if self.is_feasible(policy)}

    def provenance(self) -> dict[str, Any]:
        """That of the table, with how well the surrogate predicts policies that it was not fitted to."""
        found = self.fit_of("acr", self.fidelity)
        count = "" if self._count is None else f":policies={self._count}"
        return super().provenance() | {
            "problem": f"surrogate:file={self.source}{count}",
            "surrogate": {
                "policies": len(self.rows),
                "kendall": found.kendall,
                "spearman": found.spearman,
                "error": found.error,
                "noise": found.noise,
            },
        }
