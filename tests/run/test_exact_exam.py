"""Exams in exact arithmetic: the same for every engine that computes with integers, refused for all else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from suite.certify import Certificates
from suite.certify.exact import to_levels
from suite.certify.exam import ExamSettings
from suite.cli import main
from suite.contract.space import Policy
from suite.contract.trial import Fidelity
from suite.data import load_dataset
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.problems.vision import VisionProblem
from suite.protocols import NoPostStep
from suite.run.exam import check_exam, examine
from suite.run.limits import Limits
from suite.run.records import Outcome
from suite.studies.compare.run import ComparisonSettings, compare

BITS = [8, *[3] * 8, 8]
POLICY = Policy.from_bits(BITS, BITS)
GIVEN = ["--problem", "digits", "--budget", "w3a3"]
EXAM = ["--exam-images", "20", "--exam-n0", "10", "--exam-n", "50", "--exam-arithmetic", "exact"]
EXACT = ExamSettings(images=30, n0=20, n=100, arithmetic="exact")


def digits(engine: str) -> VisionProblem:
    problem = load_problem("digits", budget="w3a3", engine=engine)
    assert isinstance(problem, VisionProblem)
    return problem


@pytest.fixture(scope="module")
def onnx() -> VisionProblem:
    return digits("onnx")


@pytest.fixture(scope="module")
def outcome(onnx: VisionProblem) -> Outcome:
    return examine(onnx, POLICY, exam=EXACT)


def test_engines_agree_image_by_image(outcome: Outcome) -> None:
    other = examine(digits("integer"), POLICY, exam=EXACT)
    for name in Certificates.__slots__:
        np.testing.assert_array_equal(getattr(outcome.certificates, name), getattr(other.certificates, name))
    assert outcome.metrics.acr == other.metrics.acr
    assert outcome.metrics.acr is not None
    assert outcome.metrics.acr > 0


def test_certificates_are_close_to_those_of_floating_point(onnx: VisionProblem, outcome: Outcome) -> None:
    """Other noise of nearly the same distribution: bounds from 100 samples differ, the averages hardly."""
    other = examine(onnx, POLICY, exam=replace(EXACT, arithmetic="float"))
    assert np.any(outcome.certificates.p_lower != other.certificates.p_lower)
    difference = outcome.scores - other.scores
    assert abs(difference.mean()) <= 5 * difference.std() / np.sqrt(len(difference))


def test_records_name_the_arithmetic_only_if_it_is_exact(onnx: VisionProblem, outcome: Outcome) -> None:
    assert outcome.provenance["exam"] == asdict(EXACT)
    settings = replace(EXACT, images=5, n=10, arithmetic="float")
    recorded = examine(onnx, POLICY, exam=settings).provenance["exam"]
    assert list(recorded) == ["images", "n0", "n", "alpha", "method", "split"]


@pytest.mark.parametrize("split", ["train", "calibration", "search", "exam"])
def test_digits_are_sixteenths(split: str) -> None:
    dataset = load_dataset("digits")
    assert dataset.levels == 16
    levels = to_levels(dataset.splits[split].images(), 16)
    assert torch.equal(levels / 16, dataset.splits[split].images())
    assert levels.max() == 16


def test_floating_point_networks_are_refused(onnx: VisionProblem) -> None:
    with pytest.raises(
        BitcertError, match="the engine torch computes in floating point; choose the engine integer or onnx"
    ):
        examine(digits("torch"), POLICY, exam=EXACT)
    with pytest.raises(BitcertError, match="the engine torch computes in floating point"):
        check_exam(digits("torch"), EXACT)
    with pytest.raises(BitcertError, match="the float network is none; examine a policy"):
        examine(onnx, None, exam=EXACT)


@pytest.mark.parametrize(
    ("levels", "message"),
    [(None, "and digits states none"), (255, r"integers divided by 255, but the pixel .* of image 0")],
)
def test_images_on_another_grid_are_refused(levels: int | None, message: str) -> None:
    problem = digits("integer")
    bench = problem.bench
    problem.__dict__["bench"] = replace(bench, dataset=replace(bench.dataset, levels=levels))
    with pytest.raises(BitcertError, match=message):
        examine(problem, POLICY, exam=EXACT)


def test_comparisons_certify_winners_exactly_and_the_float_network_in_floating_point(
    onnx: VisionProblem, tmp_path: Path
) -> None:
    settings = ComparisonSettings(
        searchers=("cheapest",),
        seeds=(0,),
        limits=Limits(1),
        fidelity=Fidelity(images=5, noise=4),
        post_step=NoPostStep(),
        exam=replace(EXACT, images=10),
        same_network=True,
    )
    found = compare(onnx, settings, tmp_path / "comparison", executor="inline")
    assert found.entries[0].outcome.provenance["exam"]["arithmetic"] == "exact"
    assert "arithmetic" not in found.reference.provenance["exam"]
    assert found.provenance["exam"]["arithmetic"] == "exact"
    with pytest.raises(BitcertError, match="holds another"):
        compare(
            onnx,
            replace(settings, exam=replace(settings.exam, arithmetic="float")),
            tmp_path / "comparison",
            executor="inline",
        )
    with pytest.raises(BitcertError, match="the engine torch computes in floating point"):
        compare(digits("torch"), settings, tmp_path / "other", executor="inline")
    assert not (tmp_path / "other").exists()


def test_an_exported_file_is_certified_as_the_engine_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.onnx"
    assert main(["export", POLICY.to_json(), *GIVEN, "--out", str(out), "--exam", *EXAM, "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)
    found = {}
    for name, options in {
        "file": ["--model", str(out)],
        "engine": ["--policy", POLICY.to_json(), *GIVEN, "--engine", "onnx"],
    }.items():
        rows = tmp_path / f"{name}.json"
        assert main(["examine", *options, *EXAM, "--json", "--out", str(rows)]) == 0
        assert json.loads(capsys.readouterr().out)["provenance"]["exam"]["arithmetic"] == "exact"
        found[name] = json.loads(rows.read_text())["images"]
    assert found["file"] == found["engine"]
    labels, predictions, radii = (np.array(found["file"][name]) for name in ("label", "prediction", "radius"))
    assert exported["metrics"]["acr"] == pytest.approx(
        float(np.where(labels == predictions, radii, 0).mean()), abs=1e-15
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--policy", POLICY.to_json(), "--engine", "torch"], "the engine torch computes in floating point"),
        (["--float", "--engine", "onnx"], "the float network is none"),
        (
            ["--policy", POLICY.to_json(), "--engine", "onnx", "--exam-certify", "sequential"],
            "does not certify in exact arithmetic",
        ),
        (
            ["--policy", POLICY.to_json(), "--engine", "onnx", "--exam-alpha", "2e-15"],
            "alpha = 2e-15 is used up by 50 samples",
        ),
    ],
)
def test_wrong_uses_are_one_line(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examine", *given, *GIVEN, *EXAM]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""
