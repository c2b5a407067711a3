"""Damaged files: hundreds of random changes of everything that is read back end in a BitcertError or in the same content."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from suite.certify import Certificates, SetCertificate
from suite.contract.space import Policy
from suite.contract.trial import Metrics
from suite.errors import BitcertError
from suite.files import json_sha256
from suite.networks import load_checkpoint, network_sha256, save_checkpoint
from suite.run.folder import SettingsFile
from suite.run.outcomes import read_outcome, write_outcome
from suite.run.records import Outcome
from suite.store import Store

_COUNT = 300
_DIGITS = {ord("0") + digit: chr(0xFF10 + digit) for digit in range(10)}  # full-width
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3.5, 2.0, 10**30, 10**400, 1e308, -0.0, float("nan"), float("inf"), "", "x", "3", "\uff13",
    "NaN", [], {}, [[]], [3], {"a": 1}, ["x"],
)  # fmt: skip


def _damaged_bytes(content: bytes, seed: int) -> Iterator[bytes]:
    """Contents with bits flipped, bytes replaced, cut out, doubled or put in, and truncated ones."""
    rng = random.Random(seed)
    for _ in range(_COUNT):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 1, 4))):
            place = rng.randrange(len(changed) or 1)
            length = rng.choice((1, 2, 8, 40))
            match rng.randrange(6):
                case 0:
                    changed[place : place + 1] = bytes([(changed[place] if changed else 0) ^ 1 << rng.randrange(8)])
                case 1:
                    changed[place : place + 1] = rng.randbytes(1)
                case 2:
                    del changed[place : place + length]
                case 3:
                    changed[place:place] = changed[place : place + length]
                case 4:
                    changed[place:place] = rng.choice((rng.randbytes(length), b"9" * 5000, b"[" * 5000, b"0", b"\xff"))
                case 5:
                    del changed[place:]
        yield bytes(changed)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON tree with every key or index in it."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [pair for key, value in items for pair in [(tree, key), *_places(value)]]


def _damaged_trees(tree: Any, seed: int) -> Iterator[Any]:
    """Trees with a value dropped, renamed, repeated, or replaced by one of another kind or size."""
    rng = random.Random(seed)
    for _ in range(_COUNT):
        changed = json.loads(json.dumps(tree))
        container, key = rng.choice(_places(changed))
        value = container[key]
        match rng.randrange(5):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[key + rng.choice(("x", "\u0301", " "))] = container.pop(key)
            case 1:
                container.append(value)
            case 2 if isinstance(value, int | float):
                container[key] = rng.choice((value + 1, value - 1, -value, value * 10**40, str(value), float(value)))
            case 3:
                container[key] = [value]
            case _:
                container[key] = rng.choice(_VALUES)
        yield changed


def _damaged_json(content: bytes, seed: int) -> Iterator[bytes]:
    """Damaged bytes, damaged trees, and text whose digits are those of another script."""
    yield from _damaged_bytes(content, seed)
    tree = json.loads(content)
    for changed in _damaged_trees(tree, seed):
        yield json.dumps(changed).encode()
    rng = random.Random(seed)
    text = content.decode()
    for place in rng.choices([place for place, letter in enumerate(text) if letter.isdigit()], k=_COUNT // 3):
        yield (text[:place] + text[place].translate(_DIGITS) + text[place + 1 :]).encode()


def _check(path: Path, damaged: Iterator[bytes], read: Callable[[], object], intact: object) -> None:
    """Every damaged content is refused, or read as what it was; most of them are refused."""
    assert read() == intact
    original = path.read_bytes()
    accepted = changes = 0
    for content in damaged:
        path.write_bytes(content)
        changes += content != original
        try:
            found = read()
        except BitcertError:
            continue
        assert found == intact, content
        accepted += content != original
    assert changes >= _COUNT / 2
    assert accepted <= changes / 10


def test_policies() -> None:
    """A policy has no checksum: whatever is accepted must say, letter by letter, what the policy then holds."""
    text = Policy.from_bits([8, 3, 2, 2, 8], [8, 4, 2, 3, 8]).to_json()
    assert Policy.from_json(text).to_json() == text
    refused = 0
    for content in _damaged_json(text.encode(), seed=0):
        try:
            policy = Policy.from_json(content.decode(errors="replace"))
        except BitcertError:
            refused += 1
            continue
        said = json.loads(content.decode())
        assert json.dumps(said, sort_keys=True) == json.dumps(policy.to_dict(), sort_keys=True), content
        assert all(1 <= bits <= 32 for precision in policy.precisions for bits in precision), content
    assert refused > _COUNT


def _exam() -> Outcome:
    labels = np.array([3, 1, 4, 1, 5])
    certificates = Certificates(
        prediction=np.array([3, 1, 4, 2, -1]),
        radius=np.array([0.5, 0.25, 0.125, 0.75, 0.0]),
        p_lower=np.array([0.97, 0.84, 0.69, 0.99, 0.25]),
        forward_passes=np.full(5, 110),
    )
    metrics = Metrics(
        clean_accuracy=0.6,
        acr=certificates.acr(labels),
        certified_accuracy=certificates.certified_accuracy(labels, (0.0, 0.25, 1.0)),
        bops=12345,
        forward_passes=555,
        seconds=1.5,
        alpha=0.001,
        method="aggregate",
    )
    bounds = SetCertificate(0.2, {0.0: 0.5, 0.25: 0.25}, 0.001, 100)
    provenance = {"problem": "digits", "sigma": 0.25, "note": "π", "post_step": {"name": "sqwa", "steps": 3}}
    policy = Policy.from_bits([8, 3], [8, 4])
    return Outcome(policy, "sqwa", metrics, certificates, labels, np.arange(5) + 7, provenance, bounds)


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    path = tmp_path / "exam.json"
    write_outcome(_exam(), path)
    return path


def _as_written(path: Path) -> bytes:
    copy = path.with_suffix(".copy")
    write_outcome(read_outcome(path), copy)
    return copy.read_bytes()


def test_exams(exam: Path) -> None:
    content = exam.read_bytes()
    _check(exam, _damaged_json(content, seed=1), lambda: _as_written(exam), content)


def test_exams_whose_checksum_was_made_to_match(exam: Path) -> None:
    """Then only the fields themselves can tell; averages that are accepted follow from the certificates."""
    content = json.loads(exam.read_bytes())
    del content["sha256"]
    refused = 0
    for changed in _damaged_trees(content, seed=2):
        exam.write_text(json.dumps({**changed, "sha256": json_sha256(changed)}))
        try:
            found = read_outcome(exam)
        except BitcertError:
            refused += 1
            continue
        certificates, labels = found.certificates, found.labels
        assert found.metrics.acr == pytest.approx(certificates.acr(labels), abs=1e-8)
        assert found.metrics.certified_accuracy == pytest.approx(
            certificates.certified_accuracy(labels, list(found.metrics.certified)), abs=1e-8
        )
        columns = (certificates.prediction, certificates.radius, certificates.p_lower, certificates.forward_passes)
        assert {len(column) for column in (labels, found.image_ids, *columns)} == {len(labels)}
        assert np.isfinite(certificates.radius).all()
        assert (certificates.radius >= 0).all()
        assert ((certificates.p_lower >= 0) & (certificates.p_lower <= 1)).all()
    assert refused > _COUNT / 2


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_checkpoints(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    save_checkpoint(
        _network(), path, {"sigma": 0.25, "settings": {"epochs": 3, "rate": 0.1}, "command": "bitcert train"}
    )

    def read() -> object:
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        return load_checkpoint(network, path), network_sha256(network)

    damaged = path.with_suffix(suffix)
    content = damaged.read_bytes()
    changes = _damaged_json(content, seed=3) if suffix == ".json" else _damaged_bytes(content, seed=4)
    _check(damaged, changes, read, read())


def test_stores(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.safetensors", "training", {"seed": 1, "sigma": 0.25}, "numpy")
    store.write({"network": {"weight": np.arange(6.0), "count": np.array(3)}}, {"epochs": 2, "loss": 0.5})

    def read() -> object:
        stored = store.read()
        named = {f"{group}/{name}": array for group, arrays in stored.groups.items() for name, array in arrays.items()}
        return stored.record, {
            name: (str(array.dtype), array.shape, array.tobytes()) for name, array in named.items()
        }  # fmt: skip

    content = store.path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")

    def damaged() -> Iterator[bytes]:
        yield from _damaged_bytes(content, seed=5)
        for tree in _damaged_trees(json.loads(content[8:length]), seed=6):
            header = json.dumps(tree).encode()
            yield len(header).to_bytes(8, "little") + header + content[length:]

    _check(store.path, damaged(), read, read())


def test_descriptions_of_folders(tmp_path: Path) -> None:
    file = SettingsFile("comparison.json", "comparison")
    settings = {"searchers": ["tpe", "random"], "seeds": [0, 1], "limits": {"evaluations": 36, "seconds": None}}
    file.claim(tmp_path, {"problem": {"problem": "digits", "sigma": 0.25}, "settings": settings})
    path = tmp_path / file.name
    content = path.read_bytes()
    _check(path, _damaged_json(content, seed=7), lambda: file.read(tmp_path), file.read(tmp_path))
