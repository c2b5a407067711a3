"""Commands that make one file: interrupted at every write, they end with the file of an uninterrupted one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from suite.cli import EXIT_INTERRUPTED, main
from tests.interruptions import interrupt_every_second_write

PROBLEM = ["--problem", "digits", "--budget", "w3a3"]
EXAM = ["--post-step", "qat:steps=2", "--exam-images", "10", "--exam-n0", "10", "--exam-n", "200"]


def results(folder: Path) -> list[Any]:
    """Weights and certificates: all that files say beside dates, seconds and hashes of those."""
    found: list[Any] = []
    for file in sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text())
        metrics = content.get("exam", {}).get("metrics", {})
        found += [content["policy"], content.get("images"), {**metrics, "seconds": None}]
    for file in sorted(folder.rglob("*.safetensors")):
        found.append({name: array.tolist() for name, array in load_file(file).items()})
    return found


@pytest.mark.parametrize("verb", ["examine", "export", "submit"])
def test_an_interrupted_command_resumes(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after the last step of the training and after the last image of the exam."""
    run, whole, resumed = (tmp_path / name for name in ("run", "whole", "resumed"))
    command, file = {
        "examine": (["examine", "--policy", "w3a3", *PROBLEM, *EXAM], "found.json"),
        "export": (["export", "w3a3", *PROBLEM, "--exam", *EXAM], "found.onnx"),
        "submit": (["submit", str(run), *EXAM], "found"),
    }[verb]
    if verb == "submit":
        spend = ["--evaluations", "1", "--images", "10", "--noise", "4", "--finalists", "0"]
        assert main(["search", *PROBLEM, "--searcher", "random", "--directory", str(run), *spend]) == 0
    for folder in (whole, resumed):
        folder.mkdir()
    assert main([*command, "--out", str(whole / file)]) == 0
    writes = interrupt_every_second_write(monkeypatch, KeyboardInterrupt)
    for expected in (EXIT_INTERRUPTED, EXIT_INTERRUPTED, 0):
        assert main([*command, "--out", str(resumed / file)]) == expected
    assert len(writes) == 4
    assert results(resumed) == results(whole)
    assert not list(resumed.rglob("*.unfinished"))
