"""The loss plane: its corners are the captures, every point is quantized, and a stopped one goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from suite.certify import Measurement, Setup, Task
from suite.certify.ranking import Ranking
from suite.cli import main
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.problems.vision import VisionProblem
from suite.protocols import PostStep
from suite.protocols.qat import QAT
from suite.protocols.sqwa import SQWA
from suite.protocols.training import training_of
from suite.quantize import recalibrate_batch_norm
from suite.studies.plane.run import MODELS_FILE, LossPlane, Plane, map_plane, mix
from suite.train.finetune import FinetuneSettings
from suite.train.sqwa import State, load_state, mean_loss, resolve_steps, sqwa

STEP = SQWA(steps=16, captures=3)
TINY = Fidelity(images=6, noise=4)


@pytest.fixture(scope="module")
def problem() -> VisionProblem:
    loaded = load_problem("digits", budget="w2.5a2.5", finetuning=FinetuneSettings(batch=32, learning_rate=3e-3))
    assert isinstance(loaded, VisionProblem)
    return loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plane") / "here"


@pytest.fixture(scope="module")
def plane(problem: VisionProblem, folder: Path) -> LossPlane:
    return map_plane(problem, problem.space.uniform(2), folder, post_step=STEP, size=3, fidelity=TINY)


def captures(problem: VisionProblem) -> list[State]:
    states: list[State] = []
    network, training = problem.bench.trainable(problem.space.uniform(2)), training_of(problem.bench, noise=True)
    sqwa(network, training, STEP.plan, captured=lambda _, state: states.append(state))
    return states


def test_coordinates_are_distances_and_shares_mix_the_corners() -> None:
    points = list(np.random.default_rng(0).standard_normal((3, 40)))
    plane = Plane.through(points)
    for corner, point, shares in zip(plane.corners, points, np.eye(3), strict=True):
        assert plane.project(point) == pytest.approx((*corner, 0), abs=1e-12)
        assert plane.shares(*corner) == pytest.approx(tuple(shares), abs=1e-12)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        apart = np.linalg.norm(plane.corners[first] - plane.corners[second])
        assert apart == pytest.approx(np.linalg.norm(points[first] - points[second]))
    parts = plane.shares(0.3, -1.2)
    mixture = sum(share * point for share, point in zip(parts, points, strict=True))
    assert plane.project(np.asarray(mixture)) == pytest.approx((0.3, -1.2, 0), abs=1e-12)
    off = points[0] + 2 * np.linalg.svd(np.vstack([plane.axes, np.zeros((1, 40))]))[2][-1]
    assert plane.project(off) == pytest.approx((0, 0, 2), abs=1e-9)


def test_three_points_on_a_line_make_no_plane() -> None:
    point = np.arange(5.0)
    for third in (3 * point, point):
        with pytest.raises(BitcertError, match="on one line"):
            Plane.through([point, 2 * point, third])


def test_a_mixture_with_one_share_is_that_state() -> None:
    states = [{"a.step": torch.tensor([0.1, 0.7]), "w": torch.tensor([1.5]), "n": torch.tensor(k)} for k in range(3)]
    states[1]["a.step"], states[1]["w"] = torch.tensor([0.3, 0.2]), torch.tensor([-2.25])
    mixed = mix(states, (0.0, 1.0, 0.0))
    assert torch.equal(mixed["a.step"].float(), states[1]["a.step"])
    assert torch.equal(mixed["w"].float(), states[1]["w"])
    between = mix(states, (0.5, 0.5, 0.0))
    assert between["w"].item() == pytest.approx(-0.375)
    assert between["a.step"].tolist() == pytest.approx([0.03**0.5, 0.14**0.5])
    assert (mix(states, (3.0, -4.0, 2.0))["a.step"] > 0).all()  # outside of the triangle, too


def test_corners_have_the_losses_of_the_captures(problem: VisionProblem, plane: LossPlane) -> None:
    training = training_of(problem.bench, noise=True)
    for mark, state in zip(plane.marks, captures(problem), strict=False):
        network = problem.bench.trainable(problem.space.uniform(2))
        load_state(network, state)
        for layer in network.layers().values():
            assert torch.equal(layer.quantize_weights(layer.weight), layer.weight)
        recalibrate_batch_norm(network, training.images)
        assert mark.loss == pytest.approx(mean_loss(network, training.batches), rel=1e-5)
        assert mark.distance == pytest.approx(0, abs=1e-9)


def test_points_between_are_quantized_before_they_are_measured(problem: VisionProblem) -> None:
    network = problem.bench.trainable(problem.space.uniform(2))
    load_state(network, mix(captures(problem), (0.2, 0.5, 0.3)))
    resolve_steps(network)
    free = [name for name, layer in network.layers().items() if layer.quantize_weights.grid.high == 1]  # type: ignore[union-attr]
    assert free
    for name in free:
        layer = network.layers()[name]
        rows = layer.quantize_weights(layer.weight).flatten(1)
        assert not torch.equal(rows, layer.weight.flatten(1))
        assert all(len(row.unique()) <= 3 for row in rows)


def test_the_average_of_three_captures_is_their_centroid(plane: LossPlane) -> None:
    marks = {mark.name: mark for mark in plane.marks}
    corners = np.array([(mark.u, mark.v) for mark in plane.marks[:3]])
    average = marks["average"]
    assert (average.u, average.v) == pytest.approx(tuple(corners.mean(axis=0)))
    assert average.distance == pytest.approx(0, abs=1e-9)
    assert marks["finetuned"].distance > 0
    inside = (plane.u[0] < corners[:, 0]) & (corners[:, 0] < plane.u[-1])
    assert inside.all()
    assert plane.loss.shape == plane.acr.shape == (3, 3)
    assert len(np.unique(plane.loss)) == 9


def test_a_plane_is_resumed_and_measures_nothing_twice(
    problem: VisionProblem, plane: LossPlane, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = folder / "journal.jsonl"
    whole = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(whole[:-4]))
    measured: list[tuple[int, int]] = []
    measure = Ranking.measure

    def counted(self: Ranking, network: torch.nn.Module, task: Task, setup: Setup) -> Measurement:
        measured.append((len(task.labels), task.n))
        return measure(self, network, task, setup)

    monkeypatch.setattr(Ranking, "measure", counted)
    again = map_plane(problem, problem.space.uniform(2), folder, post_step=STEP, size=3, fidelity=TINY)
    assert measured == [(TINY.images, TINY.noise)] * 4
    assert again.loss.tolist() == plane.loss.tolist()
    assert (again.acr.tolist(), again.marks) == (plane.acr.tolist(), plane.marks)


def test_a_folder_with_something_else_is_refused(problem: VisionProblem, plane: LossPlane, folder: Path) -> None:
    with pytest.raises(BitcertError, match="differs in size"):
        map_plane(problem, problem.space.uniform(2), folder, post_step=STEP, size=4, fidelity=TINY)


def test_damaged_models_are_named(problem: VisionProblem, plane: LossPlane, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes((folder / "journal.jsonl").read_bytes())
    (tmp_path / MODELS_FILE).write_bytes(b"not tensors")
    with pytest.raises(BitcertError, match="remove it to train again"):
        map_plane(problem, problem.space.uniform(2), tmp_path, post_step=STEP, size=3, fidelity=TINY)


@pytest.mark.parametrize(
    ("step", "size"),
    [
        (QAT(steps=16), 3),
        (SQWA(steps=16, captures=2), 3),
        (SQWA(steps=16, captures=3, averaged="masters"), 3),
        (STEP, 1),
    ],
)
def test_what_has_no_plane_is_refused(problem: VisionProblem, tmp_path: Path, step: PostStep, size: int) -> None:
    with pytest.raises(BitcertError, match="a plane"):
        map_plane(problem, problem.space.uniform(2), tmp_path / "new", post_step=step, size=size, fidelity=TINY)
    assert not (tmp_path / "new").exists()


def test_the_command_draws_the_plane_of_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    tiny = ["--images", "6", "--noise", "4"]
    search = ["search", "--problem", "digits", "--budget", "w2.5a2.5", "--searcher", "uniform", "--directory", run]
    assert main([*search, *tiny, "--json"]) == 0
    capsys.readouterr()
    command = ["plane", run, "--size", "2", "--post-step-steps", "8", *tiny]
    assert main([*command, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [mark["name"] for mark in content["marks"]][-2:] == ["average", "finetuned"]
    assert len(content["points"]) == 4
    report = Path(f"{run}-plane") / "report"
    assert {file.name for file in report.iterdir()} == {
        "plane.json",
        "plane.png",
        "plane.svg",
        "points.csv",
        "marks.csv",
        "marks.md",
        "marks.tex",
        "marks.html",
    }
    with Image.open(report / "plane.png") as picture:
        assert picture.width > 1000
    assert main([*command, "--size", "1"]) == 2
