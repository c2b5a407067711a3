"""The entries of this project: verified as they are, and of the results that are recorded."""

from __future__ import annotations

import csv
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from suite.board.certificates import certificates_of
from suite.board.schema import BoardEntry, Verification, read_checked, read_entry, verification_of
from suite.cli import main

ROOT = Path(__file__).parents[2]
FILES = [path for path in sorted((ROOT / "results/entries").glob("*.json")) if not path.stem.endswith("verification")]


@cache
def entries() -> dict[Path, BoardEntry]:
    return {path: read_entry(path) for path in FILES}


def test_all_are_verified() -> None:
    assert len(FILES) > 200
    for path, entry in entries().items():
        found = read_checked(Verification, verification_of(path), "a verification")
        assert found.accepted
        assert found.entry == entry.sha256
        assert found.images > 0
    names = [
        (entry.method.text, entry.method.seed, entry.problem.record, entry.post_step.name)
        for entry in entries().values()
    ]
    assert not [name for name, count in Counter(map(str, names)).items() if count > 1]


def test_fresh_noise_agrees_with_them_as_it_should() -> None:
    found = [read_checked(Verification, verification_of(path), "a verification") for path in FILES]
    p_values = [verification.p_value for verification in found if verification.p_value is not None]
    assert sum(p < 0.05 for p in p_values) <= 0.1 * len(p_values)  # half of it expected


def test_they_are_the_recorded_winners() -> None:
    csv.field_size_limit(10**7)
    for entry in entries().values():
        folder = ROOT / entry.origin.command.split()[2]
        rows = recorded(folder / "rows.csv")
        row = rows[entry.method.text, str(entry.method.seed)]
        assert row["policy"] == entry.policy.policy().to_json()
        assert int(row["bops"]) == entry.results.costs["bops"]
        assert int(row["forward_passes"]) == entry.spend.forward_passes
        if entry.post_step.name == "none":  # training depends on the machine
            assert entry.results.acr == pytest.approx(float(row["exam_acr"]), abs=2e-3)
        assert certificates_of(entry).acr(entry.images.label) == pytest.approx(entry.results.acr)  # type: ignore[arg-type]


@cache
def recorded(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return {(row["searcher"], row["seed"].partition(".")[0]): row for row in csv.DictReader(stream)}


def test_one_is_certified_again() -> None:
    path = next(path for path in FILES if "w3a3-fit-0" in path.name)
    assert main(["verify", str(path), "--images", "20", "--samples", "50"]) == 0
