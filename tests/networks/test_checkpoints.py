"""Checkpoints: round trips, foreign files, and every way in which a file can be wrong."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from suite.errors import BitcertError
from suite.networks import (
    build_network,
    checkpoints,
    load_checkpoint,
    network_sha256,
    save_checkpoint,
    shipped_checkpoints,
)


def _network(seed: int = 0) -> nn.Module:
    return build_network("resnet8", 10, 1, seed=seed)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save_checkpoint(_network(1), path, {"sigma": 0.25})
    return path


def test_a_round_trip_restores_network_and_record(saved: Path) -> None:
    network = _network(2)
    record = load_checkpoint(network, saved)
    assert network_sha256(network) == network_sha256(_network(1))
    assert record == {"sigma": 0.25, "network_sha256": network_sha256(_network(1))}
    assert sorted(path.name for path in saved.parent.iterdir()) == ["net.json", "net.safetensors"]


def test_sigma_in_the_name_is_no_suffix(tmp_path: Path) -> None:
    save_checkpoint(_network(), tmp_path / "digits-sigma0.25.safetensors", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits-sigma0.25.json", "digits-sigma0.25.safetensors"]


def test_the_hash_sees_values_names_shapes_and_dtypes() -> None:
    def hashed(name: str, tensor: torch.Tensor) -> str:
        module = nn.Module()
        module.register_buffer(name, tensor)
        return network_sha256(module)

    values = torch.tensor([1.0, 2.0])
    hashes = [
        hashed("a", values),
        hashed("b", values),
        hashed("a", values.reshape(2, 1)),
        hashed("a", values.view(torch.int32)),
        hashed("a", torch.tensor([1.0, 2.0000002])),
        hashed("a", torch.tensor(1.0)),
        hashed("a", values.bfloat16()),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hashed("a", torch.tensor([[1.0, 3.0], [2.0, 4.0]])[:, 0]) == hashes[0]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pth.tar"])
@pytest.mark.parametrize("prefix", ["", "module.", "1.module."])
@pytest.mark.parametrize("holder", [None, "state_dict", "model"])
def test_pytorch_files_as_commonly_published_are_read(
    tmp_path: Path, suffix: str, prefix: str, holder: str | None
) -> None:
    path = tmp_path / f"public{suffix}"
    left_out = ("normalization.", "num_batches_tracked")
    state = {
        prefix + name: tensor
        for name, tensor in _network(1).state_dict().items()
        if not any(part in name for part in left_out)
    }
    torch.save({holder: state, "epoch": 90, "arch": "resnet8"} if holder else state, path)
    network = _network(2)
    assert load_checkpoint(network, path) == {}
    assert network_sha256(network) == network_sha256(_network(1))


def test_half_precision_weights_become_float(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file(
        {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in _network(1).state_dict().items()
        },
        path,
    )
    network = _network(2)
    load_checkpoint(network, path)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


class _Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_file_is_refused_and_never_runs(tmp_path: Path, suffix: str, plain: bool) -> None:
    path = tmp_path / f"trap{suffix}"
    content = {"state_dict": _Trap(tmp_path / "sprung")}
    if plain:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(BitcertError, match=r"refused: it holds the Python object \w+\.mkdir, which could run code"):
        load_checkpoint(_network(), path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 and nothing more", bytes(200)])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(BitcertError, match=r"broken\S+ is damaged or not a checkpoint") as caught:
        load_checkpoint(_network(), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_one_clear_error(saved: Path, suffix: str, share: float) -> None:
    path = saved.with_name(f"cut{suffix}")
    if suffix == ".pt":
        torch.save(_network(1).state_dict(), path)
    else:
        path.write_bytes(saved.read_bytes())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BitcertError, match="is damaged or not a checkpoint"):
        load_checkpoint(_network(), path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_changed_bytes_are_an_error_or_other_weights_but_never_a_crash(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    state = nn.Linear(3, 2).state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        changed = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            changed[position] = rng.integers(256)
        path.write_bytes(changed)
        try:
            load_checkpoint(nn.Linear(3, 2), path)
        except BitcertError:
            refused += 1
    assert refused > 10


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BitcertError, match=r"there is no checkpoint at .*net\.pt"):
        load_checkpoint(_network(), tmp_path / "net.pt")


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(BitcertError, match=r"net\.onnx is of no known kind; give \.safetensors"):
        load_checkpoint(_network(), tmp_path / "net.onnx")
    with pytest.raises(BitcertError, match=r"written as \.safetensors"):
        save_checkpoint(_network(), tmp_path / "net.pt", {})


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": [1]}, {"epoch": 3}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(BitcertError, match="holds no state dict"):
        load_checkpoint(_network(), tmp_path / "net.pt")


def _changed(saved: Path, change: str) -> None:
    state = load_file(saved)
    if change == "missing":
        for name in ("conv1.weight", "linear.bias"):
            del state[name]
    elif change == "unexpected":
        state |= {f"extra{number}": torch.zeros(1) for number in range(5)}
    elif change == "shape":
        state["linear.weight"] = torch.zeros(100, 64)
    elif change == "nan":
        state["layer2.0.bn1.running_var"][3] = float("nan")
    elif change == "infinite":
        state["conv1.weight"][0, 0, 0, 0] = float("inf")
    save_file(state, saved)
    saved.with_suffix(".json").unlink()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("missing", "it lacks conv1.weight, linear.bias$"),
        ("unexpected", "it has unknown extra0, extra1, extra2 and 2 more$"),
        ("shape", r"it has other shapes: linear.weight \(100, 64\) instead of \(10, 64\)$"),
        ("nan", "layer2.0.bn1.running_var holds values that are not finite"),
        ("infinite", "conv1.weight holds values that are not finite"),
    ],
)
def test_what_does_not_fit_is_named_and_the_network_stays(saved: Path, change: str, told: str) -> None:
    _changed(saved, change)
    network = _network(2)
    with pytest.raises(BitcertError, match=told):
        load_checkpoint(network, saved)
    assert network_sha256(network) == network_sha256(_network(2))


def test_weights_of_another_network_are_not_mistaken_for_wrapped_ones(tmp_path: Path) -> None:
    save_checkpoint(build_network("resnet20", 10), tmp_path / "net.safetensors", {})
    with pytest.raises(BitcertError, match="does not fit the network"):
        load_checkpoint(_network(), tmp_path / "net.safetensors")


def test_a_record_of_other_weights_is_found_out(saved: Path) -> None:
    record = saved.with_suffix(".json").read_text()
    save_checkpoint(_network(3), saved, {})
    saved.with_suffix(".json").write_text(record)
    network = _network(2)
    with pytest.raises(BitcertError, match="is not the one its record describes"):
        load_checkpoint(network, saved)
    assert network_sha256(network) == network_sha256(_network(2))


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_record_is_named(saved: Path, text: str) -> None:
    saved.with_suffix(".json").write_text(text)
    with pytest.raises(BitcertError, match=r"net\.json is not a checkpoint's record"):
        load_checkpoint(_network(), saved)


def test_an_interrupted_save_leaves_the_old_checkpoint_or_a_loud_error(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "write_bytes", fail)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(_network(3), saved, {})
    with pytest.raises(BitcertError, match="is not the one its record describes"):
        load_checkpoint(_network(), saved)
    monkeypatch.undo()
    save_checkpoint(_network(3), saved, {})
    load_checkpoint(_network(), saved)


def test_shipped_checkpoints_load_and_record_how_they_were_made() -> None:
    for sigma in (0.25, 0.5):
        record = load_checkpoint(_network(), shipped_checkpoints("digits", sigma)[0])
        assert record["sigma"] == sigma
        assert record["command"] == f"bitcert train digits --sigma {sigma:g} --seed 0"
        assert len(record["network_sha256"]) == 64
        assert json.dumps(record)
    for sigma in (0.25, 0.5, 1.0):
        record = load_checkpoint(build_network("resnet20", 10, 3), shipped_checkpoints("cifar10-resnet20", sigma)[0])
        assert record["command"] == f"bitcert train cifar10-resnet20 --sigma {sigma:g} --seed 0"


def test_a_checkpoint_that_is_not_shipped_lists_those_that_are() -> None:
    with pytest.raises(BitcertError, match=r"no trained digits at sigma 0.3 .*: 0.12, 0.25, 0.5, 1\)"):
        shipped_checkpoints("digits", 0.3)[0]
