"""Ray: what kills a worker or a node costs time and nothing else; many searches share the workers fairly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from suite.cli import EXIT_INTERRUPTED, EXIT_SLICE_OVER, main
from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics
from suite.errors import BitcertError
from suite.execute.executor import Resources, make_executor
from suite.execute.inline import InlineExecutor
from suite.problems.separable import SeparableProblem
from suite.run.limits import Limits
from suite.run.loop import SearchLoop
from suite.run.registry import make_searcher
from suite.run.state import load_run
from suite.studies.search.run import search

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")

EVALUATIONS = 12


class Deadly(SeparableProblem):
    """A problem that kills the process which evaluates it, the first time it meets each of two policies."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        mark = self._folder / str(zlib.crc32(policy.to_json().encode()))
        if not mark.exists() and len(list(self._folder.iterdir())) < 2:
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(policy, fidelity, seed)


class Slow(SeparableProblem):
    """A problem whose evaluations take their time."""

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        time.sleep(0.2)
        return super().evaluate(policy, fidelity, seed)


class Placed(SeparableProblem):
    """A problem that notes, for every evaluation, its process, its GPUs, and how many evaluations it met.

    A first evaluation waits for that of another process, so that both are under way at once however slow the machine is.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        (self._folder / f"process-{os.getpid()}").touch()
        under_way = self._folder / f"under-way-{os.getpid()}"
        under_way.touch()
        while len(list(self._folder.glob("process-*"))) < 2:
            time.sleep(0.01)
        met = len(list(self._folder.glob("under-way-*")))
        gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        metrics = super().evaluate(policy, fidelity, seed)
        note = {"process": os.getpid(), "gpus": gpus, "met": met}
        (self._folder / f"note-{uuid.uuid4()}").write_text(json.dumps(note))
        under_way.unlink()
        return metrics


@pytest.fixture
def stopped_ray() -> Iterator[None]:
    """Ray is shut down before and after."""
    ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """Ray as the first of the tests with two workers starts it; the others find it running."""
    yield
    ray.shutdown()


def loops_of(problem: SeparableProblem, folder: Path, count: int, on_trial: Callable[[int], None]) -> list[SearchLoop]:
    return [
        SearchLoop(
            problem,
            make_searcher("tpe", problem, seed),
            folder / str(seed),
            Limits(EVALUATIONS),
            on_trial=lambda _, seed=seed: on_trial(seed),  # type: ignore[misc]
        )
        for seed in range(count)
    ]


def test_killed_workers_are_replaced_and_their_trials_tried_again(tmp_path: Path, two_workers: None) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    problem = Deadly(marks)
    run = search(
        problem,
        make_searcher("random", problem, 0),
        evaluations=EVALUATIONS,
        directory=tmp_path / "ray",
        executor="ray",
        resources=Resources(workers=2),
    )
    sound = SeparableProblem()
    assert len(list(marks.iterdir())) == 2
    assert run == search(
        sound, make_searcher("random", sound, 0), evaluations=EVALUATIONS, directory=tmp_path / "inline"
    )


def _refuse(shared: str, given: int) -> int:
    raise BitcertError(f"{shared} {given}")


def test_an_error_of_a_worker_is_told_as_if_there_were_none(two_workers: None) -> None:
    with pytest.raises(BitcertError, match=r"^nothing is left of 3$") as caught:
        list(make_executor("ray", Resources(workers=2)).map(_refuse, "nothing is left of", [3]))
    assert caught.value.__cause__ is None


def test_twelve_searches_on_two_workers_progress_alike(tmp_path: Path, two_workers: None) -> None:
    seen: list[int] = []
    problem = SeparableProblem()
    loops = loops_of(problem, tmp_path, 12, seen.append)
    make_executor("ray", Resources(workers=2)).run(loops)
    for loop in loops:
        loop.close()
    assert sorted(seen) == sorted(list(range(12)) * EVALUATIONS)
    for end in range(24, len(seen), 12):
        done = [seen[:end].count(seed) for seed in range(12)]
        assert max(done) - min(done) <= 3


def test_metrics_go_to_tensorboard_and_a_parallel_run_is_replayed_without_ray(
    tmp_path: Path, two_workers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", "--problem", "separable", "--searcher", "random", "--evaluations", "4", "--executor", "ray"]
    command += ["--workers", "2", "--parallel", "2", "--directory", str(tmp_path / "run"), "--json"]
    assert main([*command, "--log", "nonsense"]) == 2
    assert main([*command, "--log", "wandb", "--executor", "inline"]) == 2
    assert not (tmp_path / "run").exists()
    capsys.readouterr()
    assert main([*command, "--log", "tensorboard"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trials"] == 4
    journal = (tmp_path / "run" / "journal.jsonl").read_bytes()
    assert main([*command, "--executor", "inline"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == journal
    written = list((tmp_path / "run" / "tune").rglob("events.out.tfevents.*"))
    assert written
    assert any(b"certified_at_0.25" in file.read_bytes() for file in written)


def test_a_lost_node_costs_no_trial(tmp_path: Path, stopped_ray: None) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        lost = cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False)
        finished = 0

        def remove_in_the_middle(_: int) -> None:
            nonlocal finished
            finished += 1
            if finished == 6:
                cluster.remove_node(lost, allow_graceful=False)

        problem = Slow()
        loops = loops_of(problem, tmp_path / "ray", 3, remove_in_the_middle)
        make_executor("ray", Resources()).run(loops)
        for loop in loops:
            loop.close()
        assert finished == 3 * EVALUATIONS
    finally:
        ray.shutdown()
        cluster.shutdown()
    alone = loops_of(SeparableProblem(), tmp_path / "inline", 3, lambda _: None)
    InlineExecutor().run(alone)
    for loop in alone:
        loop.close()
    for seed in range(3):
        found = load_run(tmp_path / "ray" / str(seed))
        assert [trial.policy for trial in found.trials] == [
            trial.policy for trial in load_run(tmp_path / "inline" / str(seed)).trials
        ]
        assert all(trial.metrics is not None for trial in found.trials)


def test_two_evaluations_share_a_gpu_that_each_asks_half_of(tmp_path: Path, stopped_ray: None) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    ray.init(num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
    problem = Placed(notes)
    loops = loops_of(problem, tmp_path / "runs", 4, lambda _: None)
    make_executor("ray", Resources(gpus=0.5)).run(loops)
    for loop in loops:
        loop.close()
    noted = [json.loads(note.read_text()) for note in notes.glob("note-*")]
    assert len(noted) == 4 * EVALUATIONS
    assert {tuple(note["gpus"]) for note in noted} == {("0",)}
    assert len({note["process"] for note in noted}) == 2
    assert max(note["met"] for note in noted) == 2


def heed_interrupts() -> None:
    """Undo what a shell does to the jobs that it starts in the background: they, and all they start, ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("options", "sent", "status", "told"),
    [
        ([], signal.SIGINT, EXIT_INTERRUPTED, "run the same command again to resume"),
        (["--slice", "10h"], signal.SIGALRM, EXIT_SLICE_OVER, "the slice of 10h is over; run the same command again"),
    ],
    ids=["interrupt", "slice"],
)
def test_an_interrupt_ends_the_command_and_the_run_goes_on(
    tmp_path: Path, stopped_ray: None, options: list[str], sent: signal.Signals, status: int, told: str
) -> None:
    journal, evaluations = tmp_path / "run" / "journal.jsonl", 100_000
    file = tmp_path / "search.yaml"
    file.write_text(
        f"study: search\nproblem: separable\nsearcher: random\nspend: {{evaluations: {evaluations}}}\n"
        f"executor: {{name: ray, workers: 1}}\ndirectory: {tmp_path / 'run'}\n"
    )
    command = [sys.executable, "-m", "suite.cli", "run", str(file), *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,  # noqa: PLW1509 (it calls nothing that a lock could block)
    )
    try:
        while process.poll() is None and not (journal.exists() and journal.read_text().count('"tell"') >= 5):
            time.sleep(0.05)
        process.send_signal(sent)
        _, shown = process.communicate()
    finally:
        process.kill()
    assert process.returncode == status, shown
    assert told in shown
    assert journal.read_text().endswith("\n")
    recorded = len(load_run(tmp_path / "run").trials)
    assert 5 <= recorded < evaluations
    problem = SeparableProblem()
    resumed = search(problem, make_searcher("random", problem, 0), evaluations=recorded + 3, directory=tmp_path / "run")
    assert len(resumed.trials) == recorded + 3
