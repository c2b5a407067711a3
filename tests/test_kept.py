"""State of long computations: written rarely, all of it, and removed without touching what else is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from suite.errors import BitcertError
from suite.kept import EVERY, KeptPart, KeptState, kept_beside, remove_kept


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def part_of(state: KeptState, name: str, seed: int = 0) -> KeptPart:
    return state.part(name, "post-step", lambda: {"seed": seed})


def keep(part: KeptPart, value: float, *, finished: bool = False) -> None:
    part.keep(lambda: ({"network": {"weight": torch.tensor(value)}}, {"done": value}), finished=finished)


def test_nothing_is_written_in_the_first_half_minute_nor_twice_within_one(tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "state"
    part = part_of(KeptState(folder, {}, clock), "exam")
    clock.now = EVERY - 1
    keep(part, 1.0)
    keep(part, 2.0, finished=True)
    assert not folder.exists()
    for clock.now, value in ((EVERY, 3.0), (2 * EVERY - 1, 4.0)):
        keep(part, value)
    stored = part_of(KeptState(folder), "exam").read()
    assert stored is not None
    assert (stored.record["done"], float(stored.groups["network"]["weight"])) == (3.0, 3.0)


def test_a_finished_part_is_written_as_it_was_with_the_next_one(tmp_path: Path) -> None:
    clock, weight = Clock(), torch.tensor(1.0)
    state = KeptState(tmp_path, {}, clock)
    part_of(state, "first").keep(lambda: ({"network": {"weight": weight}}, {}), finished=True)
    weight.zero_()
    clock.now = EVERY
    keep(part_of(state, "second"), 2.0)
    stored = part_of(KeptState(tmp_path), "first").read()
    assert stored is not None
    assert float(stored.groups["network"]["weight"]) == 1
    assert part_of(KeptState(tmp_path), "third").read() is None


def test_the_seconds_of_all_calls_add_up(tmp_path: Path) -> None:
    for expected in (EVERY, 2 * EVERY, 3 * EVERY):
        clock = Clock()
        state = KeptState(tmp_path, {}, clock)
        part = part_of(state, "exam")
        part.read()
        clock.now = EVERY
        assert state.seconds + clock.now == expected
        keep(part, 0.0)


@pytest.mark.parametrize(("identity", "seed", "named"), [({"problem": 2}, 0, "problem"), ({"problem": 1}, 3, "seed")])
def test_a_state_of_something_else_is_refused(
    identity: dict[str, int], seed: int, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.kept.EVERY", 0)
    keep(part_of(KeptState(tmp_path, {"problem": 1}), "exam"), 0.0)
    with pytest.raises(
        BitcertError, match=f"belongs to another post-step: it differs in {named}; remove it to start over"
    ):
        part_of(KeptState(tmp_path, identity), "exam", seed).read()


def test_a_state_of_other_versions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.kept.EVERY", 0)
    keep(part_of(KeptState(tmp_path), "exam"), 0.0)
    monkeypatch.setattr("suite.kept.package_versions", lambda: {"torch": "0.1"})
    with pytest.raises(BitcertError, match="belongs to another post-step: it differs in versions; remove it"):
        part_of(KeptState(tmp_path), "exam").read()


def test_only_the_state_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.kept.EVERY", 0)
    folder = kept_beside(tmp_path / "a.b.json")
    assert folder == tmp_path / "a.b.json.unfinished"
    remove_kept(folder)
    keep(part_of(KeptState(folder), "exam"), 0.0)
    (folder / ".exam.safetensors.x1.part").touch()
    remove_kept(folder)
    assert list(tmp_path.iterdir()) == []
    keep(part_of(KeptState(folder), "exam"), 0.0)
    (folder / "notes.txt").touch()
    remove_kept(folder)
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]
