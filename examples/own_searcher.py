# %% [markdown]
# # A searcher of your own
#
# Hill climbing: redraw two variables of the best policy so far and bring the result within the budget. A searcher
# proposes feasible policies (`ask`) and learns from trials (`tell`); all its randomness comes from its seed.

# %%
from collections.abc import Sequence

import numpy as np

import suite
from suite.contract.cost import random_feasible, repair


class HillClimbing(suite.Searcher):
    """Redraws two variables of the best policy so far and brings the result within the budget."""

    def __init__(self, problem: suite.Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._rng = np.random.default_rng(seed)
        self._best: tuple[float, suite.Policy] | None = None

    def ask(self, pending: Sequence[suite.Trial] = ()) -> suite.Policy:
        space, budget = self.problem.space, self.problem.budget
        if self._best is None or not space.variables:
            return random_feasible(space, budget, self._rng)
        vector = space.encode(self._best[1])
        redrawn = self._rng.integers(len(vector), size=2)
        vector[redrawn] = self._rng.integers(len(space.choices), size=2)
        return repair(space, space.decode(vector), budget, self._rng)

    def tell(self, trial: suite.Trial) -> None:
        if trial.metrics is not None:
            score = self.problem.objective.score(trial.metrics)
            if self._best is None or score > self._best[0]:
                self._best = score, trial.policy


# %% [markdown]
# Try it on `separable`, a closed formula instead of a network: evaluations cost nothing.

# %%
if __name__ == "__main__":
    problem = suite.load_problem("separable", budget="w3a3", seed=0)
    for name, searcher in {
        "hill climbing": HillClimbing(problem, seed=0),
        "random": suite.make_searcher("random", problem, seed=0),
    }.items():
        run = suite.search(problem, searcher, evaluations=256, directory=f"runs/example-{name.replace(' ', '-')}")
        print(f"{name}: ACR {run.score(run.best):.4f} after {run.evaluations} evaluations")
