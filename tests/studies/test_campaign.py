"""Campaigns in miniature: five experiments in order, cut into slices, continued elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite.cli import EXIT_SLICE_OVER, main
from suite.errors import BitcertError
from suite.studies.slices import SliceOver, parse_duration, time_slice
from suite.train import base

_PROBLEM = {"name": "digits", "checkpoint": "runs/mini/base.safetensors"}
_SUPERNET = "supernet:file=runs/mini/supernet.safetensors"
_EXAM = {"images": 20, "n0": 4, "n": 16}
_STAGES: dict[str, dict[str, Any]] = {
    "base": {"study": "train", "problem": {"name": "digits"}, "epochs": 3, "out": "runs/mini/base.safetensors"},
    "supernet": {
        "study": "supernet",
        "problem": _PROBLEM,
        "steps": 4,
        "batch": 8,
        "out": "runs/mini/supernet.safetensors",
    },
    "search": {
        "study": "compare",
        "problem": {**_PROBLEM, "protocol": _SUPERNET, "budget": "w3a3"},
        "searchers": ["random", "uniform"],
        "seeds": [0],
        "spend": {"evaluations": 2, "images": 10, "noise": 8},
        "exam": {**_EXAM, "post_step": "qat:start=runs/mini/supernet.safetensors", "post_step_steps": 2},
        "executor": "inline",
        "directory": "runs/mini/search",
    },
    "float": {
        "study": "examine",
        "problem": _PROBLEM,
        "float_network": True,
        "exam": _EXAM,
        "out": "runs/mini/float.json",
    },
    "table": {"study": "table", "files": ["float=runs/mini/float.json"], "out": "runs/mini/table"},
}


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in _STAGES.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content))
    file = Path("campaign.yaml")
    files = [f"{name}.yaml" for name in _STAGES]
    file.write_text(yaml.safe_dump({"study": "campaign", "files": files, "directory": "runs/mini/stages"}))
    return file


def _interrupt_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the alarm of a slice ring after some epochs, however long they take."""
    train, left = base._train_epoch, [epochs]

    def train_and_ring(*arguments: Any) -> tuple[float, float]:
        trained = train(*arguments)
        left[0] -= 1
        if left[0] < 0:
            signal.raise_signal(signal.SIGALRM)
        return trained

    monkeypatch.setattr(base, "_train_epoch", train_and_ring)


@pytest.mark.usefixtures("no_figures")
def test_a_campaign_in_slices_ends_as_one_in_one_go(
    campaign: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        _interrupt_after(1, patched)
        assert main(["run", str(campaign), "--slice", "10h", "--json"]) == EXIT_SLICE_OVER
    assert "the slice of 10h is over; run the same command again" in capsys.readouterr().err
    first = json.loads(Path("runs/mini/stages/base.json").read_text())
    assert (first["done"], len(first["slices"])) == (False, 1)
    assert Path("runs/mini/base.resume").exists()

    shutil.copytree("runs", "elsewhere/runs")  # another machine: the experiments and the folder are all there is
    for file in Path().glob("*.yaml"):
        shutil.copy(file, "elsewhere")
    monkeypatch.chdir("elsewhere")
    assert main(["run", str(campaign), "--slice", "10h", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in stages] == list(_STAGES)
    assert all(stage["done"] for stage in stages)
    assert [len(stage["slices"]) for stage in stages] == [2, 1, 1, 1, 1]
    assert Path("runs/mini/table/certificates.png").exists()

    monkeypatch.chdir("..")
    shutil.rmtree("runs")
    assert main(["run", str(campaign), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole[0]["result"]["network_sha256"] == stages[0]["result"]["network_sha256"]
    assert [_without_time(stage["result"]) for stage in whole] == [_without_time(stage["result"]) for stage in stages]


def _without_time(content: Any) -> Any:
    """JSON without what depends on the clock."""
    if isinstance(content, dict):
        return {name: _without_time(value) for name, value in content.items() if "seconds" not in name}
    return [_without_time(value) for value in content] if isinstance(content, list) else content


def test_what_is_done_is_not_run_again_unless_its_settings_change(
    campaign: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign.write_text(yaml.safe_dump({"study": "campaign", "files": ["base.yaml"], "directory": "runs/mini/stages"}))
    assert main(["run", str(campaign)]) == 0
    assert "base" in capsys.readouterr().out

    def refuse(*arguments: object) -> tuple[float, float]:
        raise AssertionError

    monkeypatch.setattr(base, "_train_epoch", refuse)
    assert main(["run", str(campaign)]) == 0
    Path("base.yaml").write_text(yaml.safe_dump({**_STAGES["base"], "seed": 1}))
    assert main(["run", str(campaign)]) == 2
    assert "is another training's (other seed)" in capsys.readouterr().err


def test_a_dry_run_plans_what_is_left(campaign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(campaign), "--dry-run", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert list(runs) == list(_STAGES)
    assert runs["base"]["forward_passes"] == {"training": 3 * 3 * 997}
    assert runs["supernet"]["forward_passes"]["training"] > 0
    counted = "counted with the network that comes with bitcert, while there is no runs/mini/base.safetensors"
    assert counted in runs["supernet"]["notes"]
    assert runs["search"]["forward_passes"]["search"] > 0
    assert not Path("runs").exists()


def test_a_stage_without_a_network_to_count_with_says_so(campaign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = {**_STAGES["supernet"], "problem": {**_PROBLEM, "sigma": 0.3}}  # for which no network comes with bitcert
    Path("supernet.yaml").write_text(yaml.safe_dump(stage))
    assert main(["run", str(campaign), "--dry-run", "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["runs"]["supernet"]["notes"]
    assert notes[0].startswith("cannot be planned before the stages above have run: ")


def test_a_device_is_that_of_all_stages_with_a_network(campaign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(campaign), "--device", "nowhere"]) == 2
    assert "device 'nowhere' cannot be used here" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": ["base.yaml", "missing.yaml"]}, r"campaign.yaml:\d+: files: missing.yaml cannot be read"),
        ({"files": ["campaign.yaml"]}, "is a campaign itself"),
        ({"files": ["base.yaml", "base.yaml"]}, "two stages are called base"),
        ({"files": []}, "files"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    campaign: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    content = {"study": "campaign", "files": [f"{name}.yaml" for name in _STAGES]} | change
    campaign.write_text(yaml.safe_dump(content))
    assert main(["run", str(campaign)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not Path("runs").exists()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "0s", "1d", "1e3s", "10 m", "٣m"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(BitcertError, match="a slice is a time such as"):
        parse_duration(text)


def test_a_slice_interrupts_once_and_leaves_the_signal_as_it_was() -> None:
    before, rung = signal.getsignal(signal.SIGALRM), list[bool]()

    def work() -> None:
        with time_slice(3600):
            try:
                signal.raise_signal(signal.SIGALRM)
            finally:
                rung.append(True)

    with pytest.raises(SliceOver):
        work()
    assert rung == [True]
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
