"""Journals with random damage: refused with file and line, or read as what was written; never half understood."""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics
from suite.errors import BitcertError
from suite.execute.inline import InlineExecutor
from suite.problems.separable import SeparableProblem
from suite.run.events import SEARCH_EVENTS
from suite.run.journal import FILE_NAME, JournalWarning, read_journal
from suite.run.limits import Limits, Promotion
from suite.run.loop import SearchLoop
from suite.run.registry import make_searcher
from suite.run.rungs import Rungs
from suite.run.state import load_run

MUTATIONS = 1_000
LADDER = (Fidelity(10, 4), Fidelity(30, 4))


class Unreliable(SeparableProblem):
    """Some evaluations fail, some of them at every try."""

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        luck = zlib.crc32(f"{policy.to_json()} {fidelity.images} {seed} {self.meter.forward_passes % 3}".encode()) % 10
        self.meter.charge(1)
        if luck < 3:
            raise RuntimeError("out of memory")
        return replace(super().evaluate(policy, fidelity, seed), forward_passes=fidelity.images * fidelity.noise)


def resume(directory: Path) -> SearchLoop:
    problem = Unreliable(layers=4)
    return SearchLoop(
        problem,
        make_searcher("random", problem, 0),
        directory,
        Limits(24),
        fidelity=LADDER[-1],
        rungs=Rungs(LADDER[:-1], reduction=2),
        promotion=Promotion(3, LADDER[-1], seed=1),
        retries=1,
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal with rungs, retries, failures and second measurements."""
    directory = tmp_path_factory.mktemp("sound")
    loop = resume(directory)
    InlineExecutor().run([loop])
    loop.close()
    content = (directory / FILE_NAME).read_bytes()
    for needed in (b'"rung"', b'"retry"', b'"promote"', b'"failure":"RuntimeError', b'"wasted"', b'"stop"'):
        assert needed in content
    return content


def change_byte(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(content)))
    return content[:place] + bytes([content[place] ^ int(rng.integers(1, 256))]) + content[place + 1 :]


def flip_bit(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(content)))
    return content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :]


def insert_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(content)))
    return content[:place] + rng.bytes(int(rng.integers(1, 5))) + content[place:]


def lose_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(content)))
    return content[:place] + content[place + int(rng.integers(1, 40)) :]


def on_lines(change: Callable[[list[bytes], np.random.Generator], list[bytes]]) -> Callable[..., bytes]:
    return lambda content, rng: b"".join(change(content.splitlines(keepends=True), rng))


def drop_line(lines: list[bytes], rng: np.random.Generator) -> list[bytes]:
    place = int(rng.integers(len(lines)))
    return lines[:place] + lines[place + 1 :]


def repeat_line(lines: list[bytes], rng: np.random.Generator) -> list[bytes]:
    place, target = rng.integers(len(lines), size=2)
    return [*lines[:target], lines[place], *lines[target:]]


def swap_lines(lines: list[bytes], rng: np.random.Generator) -> list[bytes]:
    first, second = rng.choice(len(lines), size=2, replace=False)
    lines[first], lines[second] = lines[second], lines[first]
    return lines


def on_fields(change: Callable[[dict[str, Any], np.random.Generator], None]) -> Callable[..., list[bytes]]:
    """Change one object in one line: the event, or one inside of it."""

    def changed(lines: list[bytes], rng: np.random.Generator) -> list[bytes]:
        place = int(rng.integers(len(lines)))
        event = json.loads(lines[place])
        inside = [event, *(value for value in event.values() if isinstance(value, dict) and value)]
        change(inside[int(rng.integers(len(inside)))], rng)
        lines[place] = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        return lines

    return changed


def change_value(fields: dict[str, Any], rng: np.random.Generator) -> None:
    wrong: list[Any] = [None, True, "x", -1, 0.5, float("nan"), float("inf"), 10**30, [], {}, [1], {"a": 1}, "9" * 40]
    name = list(fields)[int(rng.integers(len(fields)))]
    different = [value for value in wrong if value != fields[name]]
    fields[name] = different[int(rng.integers(len(different)))]


def remove_field(fields: dict[str, Any], rng: np.random.Generator) -> None:
    del fields[list(fields)[int(rng.integers(len(fields)))]]


def add_field(fields: dict[str, Any], rng: np.random.Generator) -> None:
    fields[f"extra{rng.integers(9)}"] = 1


KINDS: list[Callable[[bytes, np.random.Generator], bytes]] = [
    change_byte,
    flip_bit,
    insert_bytes,
    lose_bytes,
    *map(on_lines, (drop_line, repeat_line, swap_lines)),
    *(on_lines(on_fields(change)) for change in (change_value, remove_field, add_field)),
]


def reseal(content: bytes) -> bytes:
    """Give every line that is an object the checksum it should have: what damages a file by accident cannot do that."""
    sealed, crc = b"", 0
    for line in content.splitlines():
        try:
            event = json.loads(line)
            event.pop("crc")
        except (ValueError, AttributeError, KeyError, TypeError):
            return content
        body = json.dumps(event, separators=(",", ":")).encode()[:-1]
        crc = zlib.crc32(body, crc)
        sealed += body + b',"crc":"%08x"}\n' % crc
    return sealed


def refusal(directory: Path) -> str | None:
    """Why the run cannot be read; None if it can."""
    try:
        load_run(directory)
    except BitcertError as error:
        return str(error)
    return None


def test_no_damage_is_accepted_and_none_ends_in_a_traceback(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(sound)
    events, refused = read_journal(tmp_path, SEARCH_EVENTS), 0
    for number in range(MUTATIONS):
        rng = np.random.default_rng(number)
        path.write_bytes(KINDS[number % len(KINDS)](sound, rng))
        reason = refusal(tmp_path)
        if reason is None:
            assert read_journal(tmp_path, SEARCH_EVENTS) in (events, events[:-1]), number
        else:
            assert FILE_NAME in reason, number
            refused += 1
    assert refused > 0.9 * MUTATIONS


def test_events_with_valid_checksums_are_validated_all_the_same(sound: bytes, tmp_path: Path) -> None:
    changes = {
        change: on_lines(on_fields(change))
        for change in (change_value, remove_field, add_field)  # some of these values are as good as those before
    }
    shuffles = [on_lines(change) for change in (drop_line, repeat_line, swap_lines)]
    for number in range(MUTATIONS // 4):
        kind = [*changes.values(), *shuffles][number % 6]
        (tmp_path / FILE_NAME).write_bytes(reseal(kind(sound, np.random.default_rng(number))))
        assert FILE_NAME in (refusal(tmp_path) or FILE_NAME), number


def test_a_damaged_run_is_not_resumed(sound: bytes, tmp_path: Path) -> None:
    whole: list[object] = []
    for number in range(120):
        directory = tmp_path / str(number)
        directory.mkdir()
        damaged = KINDS[number % len(KINDS)](sound, np.random.default_rng(number)) if number else sound
        (directory / FILE_NAME).write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", JournalWarning)
            try:
                loop = resume(directory)
            except BitcertError:
                assert (directory / FILE_NAME).read_bytes() == damaged
                continue
        InlineExecutor().run([loop])
        loop.close()
        whole.append(load_run(directory))
    assert whole.count(whole[0]) == len(whole) < 20


def test_resuming_from_events_that_were_forged_is_refused_or_done(sound: bytes, tmp_path: Path) -> None:
    for number in range(60):
        directory = tmp_path / str(number)
        directory.mkdir()
        damaged = reseal(KINDS[-3 + number % 3](sound, np.random.default_rng(number)))
        (directory / FILE_NAME).write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", JournalWarning)  # the forged versions of the software
                resume(directory).close()
        except BitcertError:
            assert (directory / FILE_NAME).read_bytes() == damaged
