"""The verb ``latency``: a table on disk that a budget takes, and one sentence on what fewer bits bring."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from suite.cli import main
from suite.contract.cost import parse_budget
from suite.contract.latency import Latency, read_latency
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.studies.latency import describe_finding, describe_machine

COMMAND = ["latency", "digits", "--precisions", "8,4", "--batch", "4", "--repeats", "2", "--networks", "4"]


def test_a_measured_table_is_written_shown_and_taken_by_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, "--out", "t.json", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"], "nothing else is left"
    table, about = read_latency(Path("t.json"))
    space = replace(load_problem("digits").space, choices=(4, 8))
    assert [layer.layer for layer in table.layers] == list(space.layers)
    assert {(entry.weight, entry.activation) for entry in table.layers[1].entries} == {(4, 4), (4, 8), (8, 4), (8, 8)}
    assert printed["table"] == json.loads(Path("t.json").read_text(encoding="utf-8"))["table"]
    assert (about["batch"], about["repeats"], about["choices"]) == (4, 2, [4, 8])
    assert about["machine"]["threads"] == 1
    assert about["machine"]["onnxruntime"]
    assert about["problem"]["network_sha256"] == load_problem("digits").provenance()["network_sha256"]
    networks = about["check"]["networks"]
    assert [found["kind"] for found in networks] == ["uniform"] * 2 + ["random"] * 2 + ["extreme"] * 2
    for found in networks:
        assert found["measured"] == min(found["halves"]) > 0
    cost = Latency("t.json")
    most = cost.units(cost.total(space, space.uniform(8)))
    assert parse_budget(f"latency:table=t.json<={most}", space).allows(space, space.uniform(8))
    with pytest.raises(BitcertError, match=r"no entry for layer .* at 2/2 bits, only for"):
        load_problem("digits", budget=f"latency:table=t.json<={most}")


def test_people_see_layers_how_they_add_up_and_what_it_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, "--precisions", "8"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "layer3.0.downsample.0",
        "kernels",
        "mean error",
        "made monotone: 0 of 10",
        "--budget 'latency:table=",
    ):
        assert text in shown
    assert "a uniform network takes" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["separable"], "separable has no network whose latency could be measured"),
        (["digits", "--precisions", "w4a4"], "bits separated by commas"),
        (["digits", "--precisions", "4,9"], "bits must lie in"),
        (["digits", "--repeats", "1"], "repeats must be at least 2"),
        (["digits", "--batch", "0"], "batch must be at least 1"),
        (["nothing"], "unknown problem"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["latency", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_finding_says_where_fewer_bits_bring_something_and_where_not() -> None:
    times = {2: 700_000.0, 3: 705_000.0, 7: 702_000.0, 8: 1_000_000.0}
    text = describe_finding(times, 0.01)
    assert text.startswith(
        "a uniform network takes 1000.0 us per image at 8/8 bits; 7/7 bits take 29.8% less time than 8/8"
    )
    assert "fewer bits than 7/7 bring nothing (at best -0.3%, repeated measurements vary by 1.0%)" in text


def test_a_finding_calls_differences_within_repetition_nothing() -> None:
    assert "4/4 bits bring nothing" in describe_finding({4: 97.0, 8: 100.0}, 0.01)
    assert "4/4 bits take 3.0% less" in describe_finding({4: 97.0, 8: 100.0}, 0.001)
    assert "bring nothing (at best +5.0%" in describe_finding({4: 105.0, 8: 100.0}, 0.001)
    assert describe_finding({8: 1500.0}, 0.1) == "a uniform network takes 1.5 us per image at 8/8 bits"


def test_fewer_bits_that_do_bring_something_all_the_way_are_reported() -> None:
    text = describe_finding({2: 50.0, 4: 75.0, 8: 100.0}, 0.001)
    assert "4/4 bits take 50" not in text
    assert text.endswith("2/2 bits take 33.3% less time than 4/4")


def test_the_machine_has_a_name_and_versions() -> None:
    found = describe_machine()
    assert found["cpu"]
    assert found["onnxruntime"].count(".") >= 1
