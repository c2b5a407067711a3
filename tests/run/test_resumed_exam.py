"""Exams that are interrupted and resumed: the outcomes of those that are not."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from suite.certify import Certificates
from suite.certify.exam import ExamSettings
from suite.contract.clock import ReplayClock
from suite.errors import BitcertError
from suite.execute.executor import make_executor
from suite.kept import EVERY, kept_beside
from suite.problems import load_problem
from suite.problems.vision import VisionProblem
from suite.quantize.layer import QuantizedLayer
from suite.run.exam import ExamCase, examine, hold_exams, missing_exams
from suite.run.outcomes import read_outcome
from suite.run.records import Outcome

IMAGES, N0, N = 20, 25, 300
TOTAL = IMAGES * (N0 + N)


class PassingClock(ReplayClock):
    """A clock by which every look takes longer than the state goes unwritten."""

    def now(self) -> float:
        """Seconds: ``EVERY`` for each look so far."""
        self.advance(EVERY)
        return super().now()


def digits(engine: str = "torch") -> VisionProblem:
    problem = load_problem("digits", budget="w3a3", engine=engine)
    assert isinstance(problem, VisionProblem)
    return problem


def assert_same(found: Outcome, expected: Outcome) -> None:
    for name in Certificates.__slots__:
        np.testing.assert_array_equal(getattr(found.certificates, name), getattr(expected.certificates, name))
    assert replace(found.metrics, seconds=0) == replace(expected.metrics, seconds=0)
    for field in fields(Outcome):
        if field.name not in ("metrics", "certificates", "labels", "image_ids"):
            one, two = (getattr(outcome, field.name) for outcome in (found, expected))
            assert repr(one) == repr(two), field.name


@pytest.mark.parametrize("method", ["fixed", "aggregate", "sequential"])
@pytest.mark.parametrize("post_step", ["none", "qat:steps=5"])
def test_an_exam_interrupted_again_and_again_ends_as_one_in_one_go(method: str, post_step: str, tmp_path: Path) -> None:
    problem, exam = digits(), ExamSettings(images=IMAGES, n0=N0, n=N, method=method)
    policy = problem.space.uniform(3)
    expected = examine(problem, policy, post_step, exam=exam)
    problem.clock = PassingClock()
    passes: list[int] = []
    steps: list[int] = []
    most = [0]

    def stop(count: int) -> None:
        passes.append(count)
        if sum(passes) > most[0] + 2_000:
            most[0] = sum(passes)
            raise KeyboardInterrupt

    interrupted = 0
    while True:
        passes.clear()
        try:
            found = examine(problem, policy, post_step, exam=exam, state=tmp_path, progress=stop, on_step=steps.append)
            break
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted >= (1 if method == "sequential" else 2)
    assert_same(found, expected)
    assert sum(passes) == found.certificates.forward_passes.sum()
    assert steps == ([] if post_step == "none" else [1, 2, 3, 4, *[5] * (interrupted + 1)])


def test_the_seconds_are_those_of_all_calls(tmp_path: Path) -> None:
    problem, exam = digits(), ExamSettings(images=IMAGES, n0=N0, n=N)
    problem.clock = PassingClock()

    def stop(count: int) -> None:
        if problem.clock.now() > spent:
            raise KeyboardInterrupt

    spent = 10 * EVERY
    with pytest.raises(KeyboardInterrupt):
        examine(problem, problem.space.uniform(3), exam=exam, state=tmp_path, progress=stop)
    problem.clock, spent = PassingClock(), float("inf")
    resumed = examine(problem, problem.space.uniform(3), exam=exam, state=tmp_path, progress=stop)
    assert resumed.metrics.seconds > problem.clock.now() / 2 + 5 * EVERY


def test_a_short_exam_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.kept.EVERY", float("inf"))
    problem = digits()
    exam = ExamSettings(images=IMAGES, n0=N0, n=N)
    examine(problem, problem.space.uniform(3), "qat:steps=2", exam=exam, state=tmp_path / "state")
    assert not (tmp_path / "state").exists()


def interrupted(problem: VisionProblem, folder: Path, exam: ExamSettings) -> None:
    told = 0

    def stop(count: int) -> None:
        nonlocal told
        told += count
        if told > TOTAL // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(problem, problem.space.uniform(3), exam=exam, state=folder, progress=stop)


@pytest.mark.parametrize(("engine", "arithmetic"), [("torch", "float"), ("onnx", "float"), ("onnx", "exact")])
def test_the_state_of_another_exam_or_a_damaged_one_is_refused_and_an_executor_removes_it(
    engine: str, arithmetic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.kept.EVERY", 0)
    problem, exam = digits(engine), ExamSettings(images=IMAGES, n0=N0, n=N, arithmetic=arithmetic)
    policy, file = problem.space.uniform(3), tmp_path / "outcome.json"
    folder = kept_beside(file)
    interrupted(problem, folder, exam)
    for changed, seed, named in ((replace(exam, n=N + 1), 0, "exam"), (exam, 1, "post_step")):
        with pytest.raises(BitcertError, match=f"belongs to another exam: it differs in {named}; remove it"):
            examine(problem, policy, exam=changed, seed=seed, state=folder)
    done: list[Outcome] = []
    hold_exams(make_executor("inline", None), problem, exam, {file: ExamCase(policy)}, done.append)
    assert_same(done[0], examine(problem, policy, exam=exam))
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]
    assert read_outcome(file).metrics == done[0].metrics
    interrupted(problem, folder, exam)
    (state,) = folder.iterdir()
    state.write_bytes(state.read_bytes()[:-7])
    with pytest.raises(BitcertError, match=r"is damaged .*; remove it to start over"):
        examine(problem, policy, exam=exam, state=folder)


def test_what_a_stop_right_after_writing_leaves_is_removed_with_the_next_start(tmp_path: Path) -> None:
    written, other = tmp_path / "written.json", tmp_path / "other.json"
    case = ExamCase(None)
    written.touch()
    for file in (written, other):
        kept_beside(file).mkdir()
        (kept_beside(file) / "exam.safetensors").touch()
    assert missing_exams({written: case, other: case}) == {other: case}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json.unfinished", "written.json"]


def test_a_network_that_has_changed_is_another_exam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.kept.EVERY", 0)
    problem, exam = digits(), ExamSettings(images=IMAGES, n0=N0, n=N)
    interrupted(problem, tmp_path, exam)
    plain = QuantizedLayer.load

    def other(self: QuantizedLayer, weight: torch.Tensor, *arguments: object) -> None:
        plain(self, weight * 1.01, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(QuantizedLayer, "load", other)
    with pytest.raises(BitcertError, match="belongs to another exam: it differs in network; remove it"):
        examine(digits(), problem.space.uniform(3), exam=exam, state=tmp_path)
