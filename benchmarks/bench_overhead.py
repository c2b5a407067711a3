"""Overhead of the suite per evaluation: ask, journal, evaluate, journal, tell, in this process, on a free problem."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from suite.problems.separable import SeparableProblem
from suite.run.registry import make_searcher, searcher_names
from suite.studies.search.run import search

EVALUATIONS = {"random": 1000, "tpe": 100, "nsga2": 200, "evolution": 300}


def main() -> None:
    for name in searcher_names():
        if name not in EVALUATIONS:
            continue
        problem = SeparableProblem()
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            run = search(
                problem, make_searcher(name, problem, 0), evaluations=EVALUATIONS[name], directory=Path(folder) / "run"
            )
            per_trial = (time.perf_counter() - started) / len(run.trials)
        target = "   target <= 1 ms" if name == "random" else ""
        print(f"{name:<10} {per_trial * 1e3:7.2f} ms per evaluation over {len(run.trials)}{target}")


if __name__ == "__main__":
    main()
