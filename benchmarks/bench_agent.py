"""Cost of the agent of ARQ and HAQ: one episode of 22 layers, proposed, rewarded and learned, without evaluations."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.timing import measure
from suite.contract.cost import parse_budget
from suite.contract.space import SearchSpace
from suite.contract.trial import Trial
from suite.problems.separable import SeparableProblem
from suite.run.registry import make_searcher

LAYERS, EPISODES = 22, 30


def main() -> None:
    problem = SeparableProblem(layers=LAYERS)
    problem.space = SearchSpace(problem.space.layers)  # first and last layer pinned, as in every real network
    problem.budget = parse_budget("w3a3", problem.space)
    for name in ("arq", "arq:twin_critics=true", "arq:updates=4"):
        searcher = make_searcher(name, problem, 0)

        def episode(searcher=searcher) -> None:  # type: ignore[no-untyped-def]
            trial = Trial(0, searcher.ask(), problem.fidelity, seed=0)
            searcher.tell(replace(trial, metrics=problem.evaluate(trial.policy, trial.fidelity)))

        seconds = sorted(measure({name: episode}, rounds=EPISODES, warmup=21)[name])
        median = seconds[EPISODES // 2] * 1e3
        print(
            f"{name:<24} {median:6.1f} ms per episode ({seconds[0] * 1e3:.1f} to {seconds[-1] * 1e3:.1f})   target < 50 ms"
        )


if __name__ == "__main__":
    main()
