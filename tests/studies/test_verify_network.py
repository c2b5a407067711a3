"""The verb ``verify-network``: verdicts, maximum radii, resumption, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suite.cli import main
from suite.data import load_dataset
from suite.quantize.fixed_point import FixedPointLayer, FixedPointNetwork, Output, read_fixed_point, write_fixed_point
from suite.studies import verify_network
from tests.tiny_networks import tiny

IMAGES = 12


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digit classifier: sums over blocks of 2 x 2 pixels, some clamped, and the nearest of the classes' mean images of these."""
    split = load_dataset("digits").splits["train"]
    codes = np.rint(split.images().flatten(1).numpy() * 16).astype(np.int64)
    rows, columns = np.divmod(np.arange(64), 8)
    blocks = (rows // 2 * 4 + columns // 2 == np.arange(16)[:, None]).astype(np.int64)
    hidden = FixedPointLayer("hidden", blocks, np.full(16, -1), 4, 3, 8, Output(4, 5))
    itself = FixedPointLayer("itself", np.eye(16, dtype=np.int64), np.zeros(16, np.int64), 2, 0, 5)
    sums = FixedPointNetwork([hidden, itself], (1, 8, 8), levels=16, input_fraction=4).outputs(codes)
    means = np.stack([sums[split.labels == label].mean(axis=0) for label in range(10)])
    bias = np.rint(-(means**2).sum(axis=1) / 2).astype(np.int64)
    last = FixedPointLayer("last", np.rint(means).astype(np.int64), bias, 6, 0, 5)
    path = tmp_path_factory.mktemp("network") / "digits.json"
    write_fixed_point(FixedPointNetwork([hidden, last], (1, 8, 8), levels=16, input_fraction=4), path)
    return path


def command(network: Path, *more: str) -> list[str]:
    return ["verify-network", str(network), "--dataset", "digits", "--images", str(IMAGES), "--radii", "2,1", *more]


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_verdicts_counterexamples_and_maximum_radii_fit_together(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command(network, "--maximum-radius", "--out", "out.json", "--json")) == 0
    found = printed(capsys)
    assert json.loads(Path("out.json").read_text(encoding="utf-8")) == found
    assert (found["norm"], found["levels"], found["alpha"], found["radii"]) == ("linf", 16, 0.0, [1, 2])
    split, executed = load_dataset("digits").splits["exam"], read_fixed_point(network)
    codes = np.rint(split.images(0, IMAGES).flatten(1).numpy() * 16).astype(np.int64)
    predicted = executed.predict(codes)
    statuses = []
    for place, image in enumerate(found["images"]):
        assert (image["id"], image["label"]) == (split.ids[place], split.labels[place])
        assert image["correct"] == (predicted[place] == image["label"])
        assert len(image["verdicts"]) == (2 if image["correct"] else 0)
        for verdict in image["verdicts"]:
            statuses.append(verdict["status"])
            if verdict["status"] == "not robust":
                point = np.array(verdict["counterexample"])
                assert np.abs(point - codes[place]).max() <= verdict["radius"]
                assert executed.predict(point[None])[0] != image["label"]
                assert image["broken"] <= verdict["radius"]
            elif verdict["status"] == "robust":
                assert image["robust"] >= verdict["radius"]
                assert (verdict["by"] == "bounds") == (image["interval_radius"] >= verdict["radius"])
    assert {"robust", "not robust"} <= set(statuses)
    summary = {row["radius"]: row for row in found["summary"]}
    correct = sum(image["correct"] for image in found["images"])
    for row in summary.values():
        assert row["robust"] + row["not_robust"] + row["unknown"] == correct
        assert row["certified_accuracy"] == row["robust"] / IMAGES
        assert row["percentile_95_seconds"] >= row["median_seconds"] > 0
    assert summary[1]["robust"] >= summary[2]["robust"]
    assert main(command(network, "--maximum-radius")) == 0
    shown = capsys.readouterr().out
    for text in ("1/16", "certified accuracy", "maximum robust radius", "average robust radius", "misclassified"):
        assert text in shown


def test_a_verification_that_stopped_goes_on_and_another_one_is_refused(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = command(network, "--directory", str(tmp_path / "journal"), "--json")
    verify_image = verify_network._verify_image
    count = 0

    def interrupted(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return verify_image(*given)

    monkeypatch.setattr(verify_network, "_verify_image", interrupted)
    assert main(asked) == 130
    capsys.readouterr()
    assert main(asked) == 0
    first = printed(capsys)
    assert count == IMAGES + 1, "the four images that were done are not verified again"
    assert main(asked) == 0
    assert count == IMAGES + 1
    assert printed(capsys) == first
    assert main([*asked, "--seconds", "7"]) == 2
    assert "holds a verification that differs in seconds" in capsys.readouterr().err


def test_images_come_in_the_order_of_the_files_if_asked(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(command(network, "--file-order", "--directory", str(tmp_path / "j"), "--solver", "branch", "--json")) == 0
    )
    ids = [image["id"] for image in printed(capsys)["images"]]
    assert ids == sorted(load_dataset("digits").splits["exam"].ids.tolist())[:IMAGES]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dataset", "mnist"], "mnist needs a data folder"),
        (["--dataset", "digits2"], "unknown dataset 'digits2'"),
        (["--images", "1000"], "1000 exam images asked for, digits has 400"),
        (["--images", "0"], "images must be at least 1"),
        (["--radii", "1,1"], "different numbers of levels >= 0, got [1, 1]"),
        (["--radii=-1"], "different numbers of levels >= 0"),
        (["--radii", "a"], "integers separated by commas"),
        (["--seconds", "0"], "seconds must be a positive number, got 0.0"),
        (["--solver", "gurobi"], 'unknown solver "gurobi"'),
        (["--workers", "0"], "workers must be at least 1"),
    ],
)
def test_mistakes_are_one_line(
    network: Path,
    more: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("BITCERT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(command(network, *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_files_that_are_no_network_or_take_other_images_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_fixed_point(tiny(), Path("tiny.json"))
    content = json.loads(Path("tiny.json").read_text(encoding="utf-8"))
    content["layers"][0]["operation"] = "softmax"
    Path("softmax.json").write_text(json.dumps(content), encoding="utf-8")
    for name, message in (
        ("tiny.json", "images of digits have shape (1, 8, 8) and 16 levels, the network takes (1, 1, 2) and 15"),
        ("softmax.json", "unknown operation of layer 'hidden' 'softmax'; known: "),
        ("missing.json", "there is no network at missing.json"),
    ):
        assert main(command(Path(name))) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
