"""What bases predicted, written down once and read back, whatever has happened to the files."""

from __future__ import annotations

import functools
import json
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from safetensors.numpy import save

from suite.certify import BaseRecord, BaseStore, CertificationWarning, record_base
from suite.certify.base_record import most_frequent
from suite.errors import BitcertError
from suite.store import Store
from tests.certify.simulators import Known

KEY = {"network": "a", "sigma": 0.25, "seed": 0, "images": [3, 1, 2], "n": 40}


def _sampler(seed: int = 0) -> Known:
    return Known(np.random.default_rng(7).dirichlet(np.ones(4), 6), sigma=0.25, seed=seed)


def _record(seed: int = 0) -> BaseRecord:
    return record_base(_sampler(seed), n0=8, n=40)


def _never() -> BaseRecord:
    raise AssertionError("it is on record")


def _same(one: BaseRecord, other: BaseRecord) -> bool:
    return np.array_equal(one.select, other.select) and np.array_equal(one.count, other.count)


# Records


def test_a_record_is_what_was_predicted_on_both_kinds_of_samples() -> None:
    record, sampler = _record(), _sampler()
    assert np.array_equal(record.select, sampler.predictions("select", 0, 8))
    assert np.array_equal(record.count, sampler.predictions("count", 0, 40))
    assert record.select.dtype == record.count.dtype == np.int16
    assert np.array_equal(record.chosen, sampler.counts("select", 0, 8).argmax(axis=1))


@given(arrays.arrays(np.int16, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.integers(0, 12)))
def test_the_most_frequent_class_is_the_lowest_among_equals(predictions: NDArray[np.int16]) -> None:
    for row, found in zip(predictions.tolist(), most_frequent(predictions), strict=True):
        assert found == min(set(row), key=lambda c: (-row.count(c), c))


@pytest.mark.parametrize("numbers", [{"n0": 0, "n": 5}, {"n0": 5, "n": 0}])
def test_a_record_of_nothing_is_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(BitcertError, match="must be at least 1, got 0"):
        record_base(_sampler(), **numbers)


# The store


def test_a_record_is_made_once_and_read_back_as_it_was(tmp_path: Path) -> None:
    store = BaseStore(tmp_path / "new" / "folder")
    made = store.get(KEY, _record)
    assert _same(made, _record())
    read = BaseStore(tmp_path / "new" / "folder").get(KEY, _never)
    assert _same(read, made)
    assert read.select.dtype == read.count.dtype == np.int16
    assert list((tmp_path / "new" / "folder").iterdir()) == [store.path(KEY)]


def test_all_that_a_key_holds_tells_records_apart_but_not_its_order(tmp_path: Path) -> None:
    store = BaseStore(tmp_path)
    others = [{**KEY, "network": "b"}, {**KEY, "sigma": 0.5}, {**KEY, "images": [1, 2, 3]}, {**KEY, "more": None}, {}]
    assert len({store.path(key) for key in (KEY, *others)}) == 6
    assert store.path(dict(reversed(KEY.items()))) == store.path(KEY)
    for seed, key in enumerate((KEY, *others)):
        store.get(key, functools.partial(_record, seed))
    for seed, key in enumerate((KEY, *others)):
        assert _same(store.get(key, _never), _record(seed))
    assert len(list(tmp_path.iterdir())) == 6


def _header(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


class _Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def _stored(arrays: dict[str, NDArray[np.int16]]) -> bytes:
    """A store of the right identity with other arrays."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder, "base"), "base classifier", KEY, "numpy")
        store.write({"base": arrays})
        return store.path.read_bytes()


def _damages(intact: bytes, of_another: bytes, tmp_path: Path) -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    select, count = _record().select, _record().count
    return {
        "empty": b"",
        "a few bytes": b"abc",
        "noughts": bytes(1000),
        "noise": generator.bytes(5000),
        "text": b"this is not a record of anything at all",
        "half": intact[: len(intact) // 2],
        "one byte short": intact[:-1],
        "one byte long": intact + b"\0",
        "header only": intact[: 8 + int.from_bytes(intact[:8], "little")],
        "of another key": of_another,
        "no hash": save(
            {"base/select": select, "base/count": count}, metadata={"identity": _text(KEY), "record": "{}"}
        ),
        "no tensors": _stored({}),
        "one tensor": _stored({"select": select}),
        "other names": _stored({"a": select, "b": count}),
        "no key": save({"select": select, "count": count}),
        "another note": save({"select": select, "count": count}, metadata={"other": "1"}),
        "a pickle": pickle.dumps(_Bomb(tmp_path / "exploded")),
        "a pickle behind a header": _header({"__metadata__": {"key": _text(KEY)}})
        + pickle.dumps(_Bomb(tmp_path / "exploded")),
    }


DAMAGES = tuple(_damages(bytes(99), b"", Path()))


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_or_not_what_its_name_says_is_sampled_again(damage: str, tmp_path: Path) -> None:
    store = BaseStore(tmp_path / "store")
    other = {**KEY, "network": "b"}
    store.get(KEY, _record)
    store.get(other, lambda: _record(1))
    content = _damages(store.path(KEY).read_bytes(), store.path(other).read_bytes(), tmp_path)[damage]
    store.path(KEY).write_bytes(content)
    with pytest.warns(CertificationWarning, match="it is sampled again") as caught:
        assert _same(store.get(KEY, lambda: _record(2)), _record(2))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not (tmp_path / "exploded").exists()
    assert _same(store.get(KEY, _never), _record(2))
    assert _same(store.get(other, _never), _record(1))


@pytest.mark.parametrize("header", [[], None, 7, {"__metadata__": None}, {"__metadata__": []}])
def test_a_header_of_another_shape_is_damage(header: object, tmp_path: Path) -> None:
    store = BaseStore(tmp_path)
    store.path(KEY).write_bytes(_header(header))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CertificationWarning)
        assert _same(store.get(KEY, _record), _record())


def test_a_flipped_bit_in_the_data_is_damage(tmp_path: Path) -> None:
    store = BaseStore(tmp_path)
    made = store.get(KEY, _record)
    content = bytearray(store.path(KEY).read_bytes())
    content[-2] ^= 1
    store.path(KEY).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CertificationWarning)
        assert _same(store.get(KEY, _record), made)


@pytest.mark.parametrize(
    ("select", "count"),
    [
        (np.zeros((6, 8), dtype=np.int16), np.zeros((5, 40), dtype=np.int16)),
        (np.zeros((6, 8), dtype=np.int16), np.zeros(40, dtype=np.int16)),
        (np.zeros((6, 8), dtype=np.float32), np.zeros((6, 40), dtype=np.float32)),
    ],
)
def test_tensors_that_are_no_record_are_damage(
    select: NDArray[np.generic], count: NDArray[np.generic], tmp_path: Path
) -> None:
    store = BaseStore(tmp_path)
    Store(store.path(KEY), "base classifier", KEY, "numpy").write({"base": {"select": select, "count": count}})
    with pytest.warns(CertificationWarning, match="is damaged .it holds"):
        assert _same(store.get(KEY, _record), _record())


def test_nothing_is_left_behind_when_a_record_cannot_be_made(tmp_path: Path) -> None:
    store = BaseStore(tmp_path / "store")

    def fails() -> BaseRecord:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get(KEY, fails)
    assert not store.path(KEY).exists()
    assert list(tmp_path.rglob("*.*")) == []
    assert _same(store.get(KEY, _record), _record())


def test_nothing_is_left_behind_when_a_record_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError("no space left on device")

    store = BaseStore(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        store.get(KEY, _record)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_making_is_not_taken_for_a_damaged_file(tmp_path: Path) -> None:
    def fails() -> BaseRecord:
        raise ValueError("no such network")

    with pytest.raises(ValueError, match="no such network"):
        BaseStore(tmp_path).get(KEY, fails)


def test_the_folder_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BITCERT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert BaseStore().folder == tmp_path / "own"
    assert BaseStore(tmp_path / "given").folder == tmp_path / "given"
    monkeypatch.setenv("BITCERT_CACHE", "")
    assert BaseStore().folder == tmp_path / "xdg" / "bitcert"
    monkeypatch.delenv("BITCERT_CACHE")
    assert BaseStore().folder == tmp_path / "xdg" / "bitcert"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert BaseStore().folder == tmp_path / "home" / ".cache" / "bitcert"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert BaseStore().folder == tmp_path / "home" / ".cache" / "bitcert"
    BaseStore().get(KEY, _record)
    assert BaseStore().path(KEY).is_file()
    assert not (tmp_path / "own").exists()
