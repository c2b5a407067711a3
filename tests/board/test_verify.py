"""Verification: honest entries are accepted, and every kind of tampering is rejected for its own reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suite.board.certificates import certificates_of
from suite.board.make import Submission, write_entry
from suite.board.schema import BoardEntry, Verification, entry_schema, read_entry, weights_of
from suite.board.verify import Effort, verify_entry
from suite.cli import main
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.workbench import BenchProblem, bench_problem
from tests.board.conftest import winner

Edit = Callable[[dict[str, Any]], object]


def forge(path: Path, folder: Path, edit: Edit) -> Path:
    """The entry with an edit, under the name that its new content has, weights beside it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    entry = BoardEntry.model_validate_json(json.dumps(content))
    forged = folder / f"{entry.name}.json"
    forged.write_text(entry.model_dump_json(), encoding="utf-8")
    if weights_of(path).exists():
        shutil.copy(weights_of(path), weights_of(forged))
    return forged


def verify(path: Path, problem: BenchProblem, **effort: Any) -> Verification:
    return verify_entry(read_entry(path), path, problem, Effort(seed=1, **effort))


def raise_counts(content: dict[str, Any]) -> None:
    """More successes than there were, and averages that follow from them."""
    rows = content["images"]
    rows["successes"] = [
        100 if chosen >= 0 else count for chosen, count in zip(rows["prediction"], rows["successes"], strict=True)
    ]
    refresh(content)


def refresh(content: dict[str, Any]) -> None:
    entry = BoardEntry.model_validate_json(json.dumps(content))
    found, labels = certificates_of(entry), np.array(entry.images.label)
    results = content["results"]
    results["acr"] = found.acr(labels)
    shares = found.certified_accuracy(labels, [float(radius) for radius in results["certified_accuracy"]])
    results["certified_accuracy"] = {text: shares[float(text)] for text in results["certified_accuracy"]}


def loosen(content: dict[str, Any]) -> None:
    content["exam"]["alpha"] = 0.5
    refresh(content)


def swap(content: dict[str, Any]) -> None:
    rows = content["images"]
    for name in ("id", "label", "prediction", "successes"):
        rows[name] = rows[name][50:] + rows[name][:50]


def best_labels(content: dict[str, Any]) -> None:
    rows = content["images"]
    rows["label"] = [
        label if chosen < 0 else chosen for label, chosen in zip(rows["label"], rows["prediction"], strict=True)
    ]
    refresh(content)


EDITS: dict[str, tuple[Edit, str]] = {
    "policy": (lambda c: c["policy"]["weights"].__setitem__(1, 2), "costs are"),
    "policy over budget": (
        lambda c: c["policy"].update(weights=[8] * 10, activations=[8] * 10),
        "exceeds the budget w3a3",
    ),
    "policy of another space": (lambda c: c["policy"].update(weights=[3], activations=[3]), "does not belong"),
    "average": (lambda c: c["results"].update(acr=0.5), "0.5; "),
    "certified accuracy": (
        lambda c: c["results"]["certified_accuracy"].update({"0.25": 1.0}),
        "certified accuracy at 0.25",
    ),
    "counts": (raise_counts, "fresh noise gives"),
    "clean accuracy": (lambda c: c["results"].update(clean_accuracy=0.9), "clean accuracy"),
    "constant classifier": (lambda c: c["results"].update(constant=0.0), "constant classifier"),
    "spend": (lambda c: c["spend"].update(forward_passes=100), "add up to 4,300 forward passes, it claims 100"),
    "network hash": (lambda c: c["hashes"].update(network="0" * 64), "hashes are not those"),
    "data hash": (
        lambda c: c["problem"]["record"].update(data_sha256="0" * 64),
        "differs from digits as it is here in data_sha256",
    ),
    "budget": (lambda c: c["problem"].update(budget="w4a4"), "budget is 'w4a4', the problem says 'w3a3'"),
    "sigma": (lambda c: c["problem"].update(sigma=0.5), "sigma is 0.5"),
    "norm": (lambda c: c["problem"].update(norm="linf"), "norm is 'linf', the problem says 'l2'"),
    "guarantee": (lambda c: c["problem"].update(guarantee="deterministic"), "guarantee is 'deterministic'"),
    "protocol": (lambda c: c["problem"].update(protocol="supernet"), "protocol is 'supernet'"),
    "code as certifier": (lambda c: c["exam"].update(method="os:system"), "unknown certifier 'os:system'"),
    "alpha": (lambda c: c["exam"].update(alpha=1e-4), "follows from the rows"),
    "large alpha": (loosen, "the board wants at most 0.001"),
    "search images": (lambda c: c["exam"].update(split="search"), "which searches see"),
    "few images": (lambda c: c["exam"].update(images=20), "at least 100"),
    "swapped images": (swap, "not the held-out images"),
    "labels": (best_labels, "or not their labels"),
    "missing weights": (lambda c: c["post_step"].update(name="qat"), "its weights are missing"),
}


def test_honest_entries_are_accepted(problem: BenchProblem, quantized: Path, finetuned: Path) -> None:
    for path in (quantized, finetuned):
        found = verify(path, problem)
        assert found.accepted, found.reasons
        assert (found.images, found.samples, found.entry) == (
            sum(chosen >= 0 for chosen in read_entry(path).images.prediction),
            100,
            read_entry(path).sha256,
        )
        assert found.agreement is not None
        assert found.agreement > 0.95
    assert not weights_of(quantized).exists()
    assert 0 < verify(quantized, problem, images=7, samples=30).images <= 7


@pytest.mark.parametrize("kind", EDITS)
def test_edits_are_rejected(kind: str, problem: BenchProblem, quantized: Path, tmp_path: Path) -> None:
    edit, reason = EDITS[kind]
    found = verify(forge(quantized, tmp_path, edit), problem)
    assert not found.accepted
    assert any(reason in line for line in found.reasons), found.reasons


def test_another_seed_of_the_problem_is_rejected(quantized: Path, tmp_path: Path) -> None:
    other = bench_problem(load_problem("digits", budget="w3a3", seed=1), "network")
    path = write_entry(other, winner(other, other.space.uniform(3)), tmp_path, Submission("bitcert submit"))
    assert any("seed 1 of the problem" in line for line in verify(path, other).reasons)


def test_weights_of_another_network_are_rejected(problem: BenchProblem, finetuned: Path, tmp_path: Path) -> None:
    path = forge(finetuned, tmp_path, lambda _: None)
    weights_of(path).write_bytes(weights_of(path).read_bytes()[:-1] + b"x")
    assert "its hash differs" in verify(path, problem).reasons[0]
    weights_of(path).unlink()
    assert "cannot be read" in verify(path, problem).reasons[0]
    other = write_entry(
        problem, winner(problem, problem.space.uniform(2), "qat:steps=1"), tmp_path, Submission("bitcert submit")
    )
    weights = read_entry(other).hashes.weights
    foreign = forge(finetuned, tmp_path, lambda content: content["hashes"].update(weights=weights))
    shutil.copy(weights_of(other), weights_of(foreign))
    assert "belongs to another network: it differs in policy" in verify(foreign, problem).reasons[0]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("objective", "intruder:Objective"),
        ("certify", "intruder:Certifier"),
        ("protocol", "intruder:Protocol"),
        ("budget", "intruder:Cost<=5"),
        ("problem", "intruder:Problem"),
        ("network", "intruder:network"),
        ("based_on", "folder"),
        ("engine", "intruder:Engine"),
    ],
)
def test_no_code_that_an_entry_names_is_imported(
    key: str, text: str, quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "intruder.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    path = forge(quantized, tmp_path, lambda content: content["problem"]["record"].update({key: text}))
    assert main(["verify", str(path), "--images", "10", "--samples", "20"]) == 1


def test_files_that_are_no_entries(quantized: Path, tmp_path: Path) -> None:
    text = quantized.read_text(encoding="utf-8")
    cases: dict[str, tuple[str, str]] = {
        "truncated": (text[: len(text) // 2], "is not an entry"),
        "giant": (text + " " * (9 * 2**20), "larger than"),
        "unknown key": (text.replace('"version":1', '"version":1,"run":"rm -rf"'), "Extra inputs are not permitted"),
        "twice": (text.replace('"version":1', '"version":1,"version":1'), "a key is there twice"),
        "not finite": (text.replace('"score":0.4', '"score":NaN'), "NaN is no number of JSON"),
        "traversal": (text.replace('"name":"digits"', '"name":"../../digits"'), "should match pattern"),
        "deep": ("[" * 100_000, "is not an entry"),
        "renamed": (text, "its name or its content was changed"),
    }
    for name, (content, reason) in cases.items():
        path = tmp_path / f"{name}.json"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(BitcertError, match=reason):
            read_entry(path)


def test_the_verb_says_what_it_found(quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "entries"
    folder.mkdir()
    good = forge(quantized, folder, lambda _: None)
    assert main(["verify", str(folder), "--images", "10", "--samples", "20", "--record"]) == 0
    recorded = json.loads(good.with_suffix(".verification.json").read_text(encoding="utf-8"))
    assert recorded["accepted"]
    assert recorded["entry"] == read_entry(good).sha256
    own = folder / "x.json"
    own.write_text(
        quantized.read_text(encoding="utf-8").replace('"name":"digits"', '"name":"elsewhere"'), encoding="utf-8"
    )
    capsys.readouterr()
    assert main(["verify", str(folder), "--images", "10", "--samples", "20", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [found[str(path)]["accepted"] for path in (good, own)] == [True, False]
    for arguments in (
        ["verify", str(tmp_path / "none")],
        ["verify", str(tmp_path)],
        ["verify", str(good), "--images", "0"],
    ):
        assert main(arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_published_schema_is_the_code_s() -> None:
    published = Path(__file__).parents[2] / "docs" / "_static" / "entry.schema.json"
    assert published.read_text(encoding="utf-8") == entry_schema()
