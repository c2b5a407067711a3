"""Cost of the sensitivity methods up to their first policy: forward passes, seconds and memory, each in a fresh process.

First, what derivatives take in forward passes of the float network, beside what they are charged.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import suite
from benchmarks.timing import measure
from suite.contract.probes import ProbeSettings, product_passes
from suite.contract.trial import GRADIENT_PASSES
from suite.problems.vision import VisionProblem
from suite.run.registry import make_searcher, predicting_names

ROWS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", default="digits")
    parser.add_argument("--budget", default="w3a3")
    parser.add_argument("--data")
    parser.add_argument("--checkpoint")
    parser.add_argument("--methods", default=",".join(predicting_names()))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    settings = {name: getattr(arguments, name) for name in ("budget", "data", "checkpoint")}
    derivatives = time_derivatives(_problem(arguments.problem, settings))
    # One process per method, so that peak memory is its own; spawned, so that it starts empty.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        methods = arguments.methods.split(",")
        rows = [pool.apply(cost_of, (method, arguments.problem, settings)) for method in ("", *methods)]
    if arguments.json:
        print(json.dumps({"derivatives": derivatives, "methods": rows}, indent=2))
        return
    console = Console()
    console.print(f"forward passes of the float network, {arguments.problem}, {ROWS} rows", highlight=False)
    for name, row in derivatives.items():
        console.print(f"  {name:<48} {row['measured']:6.2f} measured   {row['charged']:6.2f} charged", highlight=False)
    table = Table("method", "passes", "seconds", "peak MiB", "MiB above evaluating")
    for row in rows:
        table.add_row(
            str(row["method"]) or "one evaluation",
            f"{row['passes']:,}",
            f"{row['seconds']:.1f}",
            f"{row['mebibytes']:.0f}",
            f"{row['mebibytes'] - rows[0]['mebibytes']:.0f}",
        )
    console.print(table)


def time_derivatives(problem: VisionProblem) -> dict[str, dict[str, float]]:
    """Medians over rounds of the time of gradients and products, by that of a forward pass of as many rows."""
    derivatives = problem.probes(ProbeSettings(ROWS, 1)).derivatives("weight")
    inputs = problem.bench.dataset.splits["train"].images(0, ROWS)
    rng = np.random.default_rng(0)
    vectors = [rng.choice([-1.0, 1.0], shape).astype(np.float32) for shape in derivatives.shapes]
    whole = [dict(enumerate(vectors))]
    single = [{layer: vector} for layer, vector in enumerate(vectors)]

    def forward() -> None:
        with problem.bench.fixed_threads(), torch.inference_mode():
            problem.network(inputs)

    seconds = measure(
        {
            "forward": forward,
            "gradient": derivatives.gradient,
            "one": lambda: derivatives.products(whole),
            "layers": lambda: derivatives.products(single),
        },
        rounds=5,
    )
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    charged = {
        "gradient": float(GRADIENT_PASSES),
        "one": GRADIENT_PASSES + product_passes(problem.space, whole),
        "layers": GRADIENT_PASSES + product_passes(problem.space, single),
    }
    titles = {
        "gradient": "gradient",
        "one": "gradient and one product over all layers",
        "layers": "gradient and one product for each layer",
    }
    return {
        titles[name]: {"measured": median[name] / median["forward"], "charged": passes}
        for name, passes in charged.items()
    }


def cost_of(method: str, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Cost of a method up to its first policy; without a method, of one evaluation."""
    problem = _problem(name, settings)
    uniform = problem.space.uniform(problem.space.choices[0])
    problem.network  # noqa: B018 (read before the clock starts)
    started = time.perf_counter()
    if method:
        make_searcher(method, problem, 0).ask()
    else:
        problem.evaluate(uniform, problem.fidelity)
    return {
        "method": method,
        "passes": problem.meter.forward_passes,
        "seconds": time.perf_counter() - started,
        "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _problem(name: str, settings: dict[str, Any]) -> VisionProblem:
    problem = suite.load_problem(name, **settings)
    if not isinstance(problem, VisionProblem):
        raise SystemExit(f"{name} has no network")
    return problem


if __name__ == "__main__":
    main()
