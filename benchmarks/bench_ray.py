"""What Ray Tune adds to an evaluation that costs nothing, start of the cluster and of the workers told apart."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from suite.problem import Trial
from suite.problems.separable import SeparableProblem
from suite.run.executors import Resources, make_executor
from suite.run.loop import Limits, SearchLoop
from suite.run.registry import make_searcher

SEARCHES, EVALUATIONS = 2, 100


def main() -> None:
    started = time.perf_counter()
    executor = make_executor("ray", Resources())
    print(f"start of the cluster: {time.perf_counter() - started:.1f} s")
    finished: list[float] = []

    def note(_: Trial) -> None:
        finished.append(time.perf_counter())

    problem = SeparableProblem()
    with tempfile.TemporaryDirectory() as folder:
        loops = [
            SearchLoop(
                problem,
                make_searcher("random", problem, seed),
                Path(folder) / str(seed),
                Limits(EVALUATIONS),
                on_trial=note,
            )
            for seed in range(SEARCHES)
        ]
        started = time.perf_counter()
        executor.run(problem, loops)
        for loop in loops:
            loop.close()
    print(f"start of the workers, to the first result: {finished[0] - started:.1f} s")
    settled = finished[10:]
    per_trial = (settled[-1] - settled[0]) / (len(settled) - 1)
    print(
        f"afterwards: {per_trial * 1e3:.0f} ms a trial over {len(settled)} trials of {SEARCHES} searches   target < 200 ms"
    )


if __name__ == "__main__":
    main()
