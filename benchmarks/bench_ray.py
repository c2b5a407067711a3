"""Ray Tune's cost: overhead of trials that do nothing, wall time against the ideal, memory of the driver, fairness.

Sections are named as arguments; all of them by default, with 1,000 trials for memory (``memory=5000`` takes minutes).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics
from suite.execute.executor import Executor, Resources, make_executor
from suite.problems.separable import SeparableProblem
from suite.run.limits import Limits
from suite.run.loop import SearchLoop
from suite.run.registry import make_searcher

WORKERS = 2
PAGE = 4096


class Timed(SeparableProblem):
    """A formula that sleeps."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        time.sleep(self._seconds)
        return super().evaluate(policy, fidelity, seed)


class Clock:
    """Time and driver memory at each result, by search."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.memory: list[float] = []
        self.searches: list[int] = []

    def note(self, search: int) -> None:
        self.times.append(time.perf_counter())
        self.searches.append(search)
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(resident * PAGE / 2**20)


def run(executor: Executor, seconds: float, searches: int, evaluations: int) -> Clock:
    """Run several searches to completion."""
    clock, problem = Clock(), Timed(seconds)
    with tempfile.TemporaryDirectory() as folder:
        loops = [
            SearchLoop(
                problem,
                make_searcher("random", problem, seed),
                Path(folder) / str(seed),
                Limits(evaluations),
                on_trial=lambda _, seed=seed: clock.note(seed),  # type: ignore[misc]
            )
            for seed in range(searches)
        ]
        executor.run(loops)
        for loop in loops:
            loop.close()
    return clock


def overhead(executor: Executor, _: int) -> None:
    started = time.perf_counter()
    clock = run(executor, 0.0, 2, 100)
    settled = clock.times[10:]
    print(f"start of the workers, to the first result: {clock.times[0] - started:.1f} s")
    each = (settled[-1] - settled[0]) / (len(settled) - 1)
    print(f"afterwards: {each * 1e3:.0f} ms per no-op trial, 2 searches   target < 200 ms")


def wall(executor: Executor, trials: int) -> None:
    started = time.perf_counter()
    clock = run(executor, 0.3, 4, trials // 4)
    ideal = trials * 0.3 / WORKERS
    whole = clock.times[-1] - started
    settled = (clock.times[-1] - clock.times[0]) / ((trials - 1) * 0.3 / WORKERS)
    print(
        f"{trials} trials of 0.3 s on {WORKERS} workers: {whole:.1f} s, {whole / ideal:.2f} of ideal; "
        f"{settled:.2f} once workers are up   target < 1.3"
    )


def memory(executor: Executor, trials: int) -> None:
    clock = run(executor, 0.0, 10, trials // 10)
    early, late = clock.memory[trials // 5], clock.memory[-1]
    grown = (late - early) / (trials * 4 / 5) * 1024
    print(
        f"driver's memory over {trials} trials: {early:.0f} MiB after a fifth, {late:.0f} MiB at the end, {grown:.1f} KiB per trial"
    )


def fairness(executor: Executor, searches: int) -> None:
    clock = run(executor, 0.02, searches, 12)
    apart = []
    for end in range(2 * searches, len(clock.searches)):
        done = [clock.searches[:end].count(number) for number in range(searches)]
        apart.append(max(done) - min(done))
    print(f"{searches} searches on {WORKERS} workers: at most {max(apart)} trials apart")


SECTIONS = {"overhead": (overhead, 200), "wall": (wall, 200), "memory": (memory, 1000), "fairness": (fairness, 12)}


def main() -> None:
    asked = dict(argument.partition("=")[::2] for argument in sys.argv[1:]) or dict.fromkeys(SECTIONS, "")
    started = time.perf_counter()
    executor = make_executor("ray", Resources(workers=WORKERS))
    print(f"start of the cluster: {time.perf_counter() - started:.1f} s")
    for name, size in asked.items():
        section, usual = SECTIONS[name]
        section(executor, int(size or usual))


if __name__ == "__main__":
    main()
