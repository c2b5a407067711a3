"""Submitting: from a search, a comparison and recorded rows; what is there already is not made again; searches repeated."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from suite.board.schema import read_entry, verification_of, weights_of
from suite.board.winners import recorded_winners
from suite.cli import main
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.protocols import Request, parse_post_step, protocol_for
from suite.quantize.stored import restore_network, store_network
from suite.run.outcomes import read_outcome
from suite.workbench import bare, workbench_of

SPEND = ["--evaluations", "6", "--images", "20", "--noise", "8", "--finalists", "2"]
EXAM = ["--exam-images", "100", "--exam-n0", "10", "--exam-n", "100"]
RESULTS = Path(__file__).parents[2] / "results"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def submitted(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.json")) if "." not in path.stem.split("-")[-1]]


def test_a_search_is_submitted_verified_and_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, entries = tmp_path / "run", tmp_path / "entries"
    problem = ["--problem", "digits", "--budget", "w3a3"]
    assert run("search", *problem, "--searcher", "evolution", "--seed", 1, "--directory", folder, *SPEND) == 0
    command = ["submit", folder, "--out", entries, *EXAM, "--author", "A. Author", "--link", "https://example.org"]
    assert run(*command) == 0
    (path,) = submitted(entries)
    entry = read_entry(path)
    assert (entry.method.text.partition(":")[0], entry.method.seed, entry.origin.authors) == (
        "evolution",
        1,
        ["A. Author"],
    )
    assert (entry.spend.evaluations, entry.spend.finalists, entry.spend.other_passes) == (6, 2, 0)
    before = path.stat().st_mtime_ns
    assert run(*command) == 0
    assert (submitted(entries), path.stat().st_mtime_ns) == ([path], before)
    capsys.readouterr()
    assert run("verify", path, "--full", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    assert found["full"]
    assert found["images"] == sum(chosen >= 0 for chosen in entry.images.prediction)
    lie = entry.model_copy(update={"method": entry.method.model_copy(update={"seed": 2})})
    forged = entries / f"{lie.name}.json"
    forged.write_text(lie.model_dump_json(), encoding="utf-8")
    assert run("verify", forged) == 0  # only a repetition can tell who found a policy
    assert run("verify", forged, "--full", "--json", "--record") == 1
    assert "repeated, finds another policy" in verification_of(forged).read_text(encoding="utf-8")


def test_a_comparison_is_submitted_as_it_was_examined(tmp_path: Path) -> None:
    folder, entries = tmp_path / "comparison", tmp_path / "entries"
    problem = ["--problem", "digits-linf", "--budget", "w3a3", "--executor", "inline"]
    searchers = ["--searchers", "uniform,random", "--seeds", "0,1", "--post-step", "qa-ibp:steps=5"]
    spend = ["--evaluations", "3", "--images", "20", "--exam-images", "100", "--exam-certify", "interval"]
    assert run("compare", *problem, *searchers, *spend, "--directory", folder) == 0
    assert run("submit", folder, "--out", entries, "--searchers", "uniform") == 0
    paths = submitted(entries)
    assert [(read_entry(path).method.name, read_entry(path).method.seed) for path in paths] == [
        ("uniform", 0),
        ("uniform", 1),
    ]
    outcomes = [read_outcome(file) for file in (folder / "exams").rglob("*.json")]
    averages = [outcome.metrics.acr for outcome in outcomes if outcome.post_step == "qa-ibp"]
    for path in paths:
        entry = read_entry(path)
        assert entry.problem.guarantee == "deterministic"
        assert weights_of(path).exists()
        assert entry.results.acr in averages
    assert run("verify", entries, "--images", "20") == 0
    lie = read_entry(paths[0])
    assert lie.images.radius is not None
    rows = lie.images.model_copy(update={"radius": [max(lie.images.radius)] * 100})
    labels = np.array(rows.label)
    right = labels == np.array(rows.prediction)
    acr = float(np.where(right, max(lie.images.radius), 0).mean())
    shares = {
        text: float((right & (max(lie.images.radius) >= float(text))).mean()) for text in lie.results.certified_accuracy
    }
    results = lie.results.model_copy(update={"acr": acr, "certified_accuracy": shares})
    lie = lie.model_copy(update={"images": rows, "results": results})
    forged = entries / f"{lie.name}.json"
    forged.write_text(lie.model_dump_json(), encoding="utf-8")
    shutil.copy(weights_of(paths[0]), weights_of(forged))
    assert run("verify", forged, "--record") == 1
    assert "without noise come out differently" in verification_of(forged).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["methods-w3a3", "supernet", "mnist-linf-w3a3", "states-rnn", "arq-irs", "pareto"])
def test_recorded_rows_give_all_their_winners(name: str) -> None:
    csv.field_size_limit(10**7)
    with (RESULTS / name / "rows.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["searcher"] != "float"]
    found = list(recorded_winners(RESULTS / name / "rows.csv"))
    for winner, row in zip(found, rows, strict=True):
        assert winner.policy.to_json() == row["policy"]
        assert (winner.method.partition(":")[0], str(winner.seed)) == (row["searcher"].partition(":")[0], row["seed"])
        assert str(winner.spend.forward_passes) == row["forward_passes"]
        assert winner.post_step.name == row["post_step"]
        assert winner.exam.n == int(row["exam_n"])


def test_what_cannot_be_submitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    rows = RESULTS / "methods-w3a3"
    for arguments in (
        [tmp_path / "missing"],
        [tmp_path],
        [rows, "--searchers", "tpe", "--seeds", "99"],
        [rows, "--searchers", "tpee"],
        [rows, "--seeds", "0", "--searchers", "uniform", "--experiment", "no.yaml"],
    ):
        assert run("submit", *arguments, "--out", tmp_path / "entries") == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "entries").exists()


@pytest.mark.parametrize(
    ("name", "step"), [("digits", "qat:steps=2"), ("digits", "none"), ("spiking-digits", "qat:steps=1")]
)
def test_a_stored_network_computes_the_same(name: str, step: str) -> None:
    problem = load_problem(name, budget="w3a3")
    bench, policy = workbench_of(problem, "network"), problem.space.uniform(3)
    network = parse_post_step(step).prepare(bench, policy, Request(protocol_for(None, 0))).network
    groups = store_network(bare(network))
    like = bench.trainable(policy).freeze()
    restored = restore_network(like, groups, problem.space, policy, bench.calibration)
    images = bench.statistics_batches[0][:50]
    assert torch.equal(restored(images.clone()), network(images.clone()))
    layer = next(name for name, weight in groups["weight"].items() if weight.abs().max() <= 3)
    for group, value, reason in (
        ("weight", torch.full_like(groups["weight"][layer], 9), "lie on no level of 3 bits"),
        ("weight", groups["weight"][layer].float(), "has shape"),
        ("bias", groups["bias"][layer] * float("nan"), "not finite"),
        ("scale", -groups["scale"][layer] - 1, "scale below 0"),
    ):
        wrong = groups | {group: groups[group] | {layer: value}}
        with pytest.raises(BitcertError, match=reason):
            restore_network(bench.trainable(policy).freeze(), wrong, problem.space, policy, bench.calibration)
    del groups["step"]
    with pytest.raises(BitcertError, match="other layers or tensors"):
        restore_network(bench.trainable(policy).freeze(), groups, problem.space, policy, bench.calibration)
