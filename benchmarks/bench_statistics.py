"""What it costs to recalibrate batch norm for every policy, as a share of an evaluation at the default fidelity.

``python -m benchmarks.bench_statistics [PROBLEM]`` (default: digits); other problems read their images from BITCERT_DATA. Each
round evaluates a policy that is new to both alternatives.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import numpy as np

from benchmarks.timing import measure, ratio
from suite.contract.cost import random_feasible
from suite.problems import load_problem
from suite.workbench import bench_problem


def main() -> None:
    name = (sys.argv[1:] or ["digits"])[0]

    def evaluation(protocol: str) -> Callable[[], object]:
        problem, rng = load_problem(name, protocol=protocol), np.random.default_rng(0)
        policies = (random_feasible(problem.space, problem.budget, rng) for _ in itertools.count())
        fidelity = problem.default_fidelity()
        return lambda: problem.evaluate(next(policies), fidelity)

    seconds = measure({"recalibrated": evaluation("ptq"), "stale": evaluation("ptq:recalibrate=false")})
    problem = bench_problem(load_problem(name), "network")
    fidelity = problem.default_fidelity()
    passes = problem.forward_passes(fidelity)
    assert passes is not None
    share = problem.bench.statistics_passes() / passes
    print(f"{name}, {fidelity.images} images x {fidelity.noise} noise samples")
    print(f"time with recalibration / without: {ratio(seconds, 'recalibrated', 'stale')}")
    print(f"share of the forward passes: {share:.1%}")


if __name__ == "__main__":
    main()
