"""Stores: what is written comes back, and a file that is missing, damaged or someone else's is named."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from suite.errors import BitcertError
from suite.store import Store

IDENTITY = {"seed": 1, "sigma": 0.25, "settings": {"rate": 0.1}}


def _store(path: Path, framework: Literal["torch", "numpy"] = "numpy", **changes: object) -> Store:
    return Store(path / "a.safetensors", "training", IDENTITY | changes, framework)


def test_torch_tensors_come_back_as_they_were_however_they_lie_in_memory(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    tensors = {"tied": base, "also.tied": base, "turned": base.T, "half": base[:, :2].bfloat16(), "n": torch.tensor(3)}
    _store(tmp_path, "torch").write({"network": tensors, "none": {}}, {"loss": float("nan"), "epochs": 3})
    read = _store(tmp_path, "torch").read()
    assert set(read.groups) == {"network"}
    for name, tensor in tensors.items():
        found = read.groups["network"][name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found, tensor.detach())
    assert (read.record["epochs"], read.record["loss"] != read.record["loss"]) == (3, True)


def test_numpy_arrays_come_back_in_their_groups(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    _store(tmp_path).write({"a": {"x/y": array, "t": array.T}, "b": {"x/y": array + 1}})
    read = _store(tmp_path).read()
    np.testing.assert_array_equal(read.groups["a"]["x/y"], array)
    np.testing.assert_array_equal(read.groups["a"]["t"], array.T)
    np.testing.assert_array_equal(read.groups["b"]["x/y"], array + 1)
    assert read.record == {}


def test_the_order_of_an_identity_does_not_matter(tmp_path: Path) -> None:
    _store(tmp_path).write({})
    Store(tmp_path / "a.safetensors", "training", dict(reversed(IDENTITY.items())), "numpy").read()


def test_text_that_looks_like_the_hash_is_no_trap(tmp_path: Path) -> None:
    trap = '"sha256":"' + "0" * 64 + '"'
    store = _store(tmp_path, note=trap)
    store.write({}, {trap: trap, "sha256": "0" * 64})
    assert store.read().record == {trap: trap, "sha256": "0" * 64}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BitcertError, match=r"there is no training stored at .*a\.safetensors"):
        _store(tmp_path).read()


def test_what_differs_from_another_identity_is_named(tmp_path: Path) -> None:
    _store(tmp_path).write({})
    with pytest.raises(
        BitcertError, match="another training: it differs in more, seed, sigma; remove it to start over"
    ):
        _store(tmp_path, seed=2, sigma=None, more=None).read()


@pytest.mark.parametrize(
    "content", [b"", bytes(1000), b"garbage", save({"a": np.zeros(3)}), save({"a": np.zeros(3)}, {"identity": "{}"})]
)
def test_what_was_not_written_by_a_store_is_damage(content: bytes, tmp_path: Path) -> None:
    _store(tmp_path).path.write_bytes(content)
    with pytest.raises(BitcertError, match=r"a\.safetensors is damaged .*; remove it to start over"):
        _store(tmp_path).read()


def test_the_module_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, suite.store; sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
