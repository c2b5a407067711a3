"""Fixed-point networks: exact execution against fractions, no ties, files, and what is refused by name."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from suite.certify import certify
from suite.errors import BitcertError
from suite.quantize.fixed_point import (
    FixedPointLayer,
    FixedPointNetwork,
    Output,
    read_fixed_point,
    write_fixed_point,
)
from tests.tiny_networks import box, execute, random_network, tiny


def half_even(value: Fraction) -> int:
    return round(value)


def half_away(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2)) if value >= 0 else math.ceil(value - Fraction(1, 2))


def off_by_one(value: Fraction) -> int:
    return math.floor(value)


def convolutional(seed: int = 0, rounding: str = "odd") -> FixedPointNetwork:
    rng = np.random.default_rng(seed)
    bias = 2 * rng.integers(-50, 50, 4) + 1
    first = FixedPointLayer(
        "conv", rng.integers(-8, 8, (4, 2, 3, 3)), bias, 4, 3, 12, Output(4, 2), (2, 1), (1, 0)
    )  # accumulators of fraction 11
    last = FixedPointLayer("fc", rng.integers(-8, 8, (3, 4 * 3 * 3)), rng.integers(-50, 50, 3), 4, 3, 5)
    assert rounding == "odd"
    return FixedPointNetwork([first, last], (2, 5, 5))


def test_the_tiny_network_gives_the_outputs_computed_by_hand() -> None:
    assert tiny().outputs(np.array([[8, 6]])).tolist() == [[8, 0, -16]]


@pytest.mark.parametrize("seed", range(24))
def test_outputs_equal_an_execution_in_fractions(seed: int) -> None:
    network = random_network(seed, clamped=seed % 2 == 1, odd=seed % 4 < 2)
    images = np.random.default_rng(seed).integers(0, 16, (40, network.image_shape[2]))
    unit = Fraction(2) ** network.steps[-1].fraction
    expected = [[value * unit for value in execute(network, image)] for image in images]
    assert network.outputs(images).tolist() == expected
    images_in_unit_interval = torch.from_numpy(images.reshape(-1, 1, 1, images.shape[1])).float() / network.levels
    assert network(images_in_unit_interval).tolist() == expected


def test_odd_biases_make_all_ways_of_rounding_agree_on_all_inputs() -> None:
    ties = 0
    for seed in range(6):
        odd = random_network(seed, clamped=True)
        every = box(np.full(odd.image_shape[2], 8), 3)[::7]
        for image in every:
            results = [execute(odd, image, rounding) for rounding in (half_even, half_away)]
            assert results == [execute(odd, image)] * 2
        plain = random_network(seed, clamped=True, odd=False)
        ties += sum(execute(plain, image, half_even) != execute(plain, image) for image in every)
    assert ties, "without odd biases, roundings differ"


def test_a_rounding_that_is_off_by_one_is_noticed() -> None:
    network = random_network(1)
    images = box(np.full(network.image_shape[2], 8), 2)
    unit = Fraction(2) ** network.steps[-1].fraction
    wrong = [[value * unit for value in execute(network, image, off_by_one)] for image in images]
    assert network.outputs(images).tolist() != wrong


def test_convolutions_equal_sums_written_out() -> None:
    network = convolutional()
    image = np.random.default_rng(1).integers(0, 256, (2, 5, 5))
    layer = network.layers[0]
    padded = np.pad(image, ((0, 0), (1, 1), (0, 0)))
    hidden = np.zeros((4, 3, 3), dtype=np.int64)
    for channel in range(4):
        for down in range(3):
            for right in range(3):
                window = padded[:, 2 * down : 2 * down + 3, right : right + 3]
                doubled = 2 * int((window * layer.weight[channel]).sum()) + int(layer.bias[channel])
                hidden[channel, down, right] = min(max((doubled + 2**9) // 2**10, 0), 15)
    expected = network.layers[1].weight @ hidden.ravel() + network.layers[1].bias
    assert network.outputs(image[None]).tolist() == [expected.tolist()]


def test_convolutions_in_32_bits_are_exact_for_any_batch() -> None:
    """Fast convolution algorithms, such as Winograd's, compute with fractions; sums here are as large as 32 bits allow."""
    rng = np.random.default_rng(0)
    first = FixedPointLayer(
        "first", rng.integers(-32, 32, (64, 3, 3, 3)), 2 * rng.integers(-9, 9, 64) + 1, 6, 5, 14, Output(8, 0)
    )
    second = replace(
        first, name="second", weight=rng.integers(-32, 32, (64, 64, 3, 3)), bias_fraction=6, output=Output(8, 0)
    )
    last = FixedPointLayer("last", rng.integers(-32, 32, (10, 64 * 64)), np.zeros(10, np.int64), 6, 5, 5)
    layers = [replace(first, padding=(1, 1)), replace(second, padding=(1, 1)), last]
    network = FixedPointNetwork(layers, (3, 8, 8))
    assert [step.exact for step in network.steps] == [torch.float32, torch.float32, torch.float64]
    wide_network = FixedPointNetwork(layers, (3, 8, 8), dtype=torch.float64)
    images = rng.integers(0, 256, (48, 3, 8, 8))
    expected = wide_network.outputs(images)
    assert np.array_equal(network.outputs(images), expected)
    for batch in (1, 2, 16):
        assert np.array_equal(network.outputs(images[:batch]), expected[:batch])


def test_smoothing_certifies_it_in_exact_arithmetic() -> None:
    network = random_network(1)
    images = np.random.default_rng(0).integers(0, 16, (3, 1, 1, network.image_shape[2])).astype(np.float32)
    found = certify(network, images / np.float32(15), [0] * 3, sigma=0.1, n0=20, n=200, arithmetic="exact", levels=15)
    assert (found.radius > 0).any()


def test_predictions_are_the_first_class_with_the_largest_output() -> None:
    last = FixedPointLayer("last", np.array([[0], [1], [1]]), np.zeros(3, np.int64), 2, 0, 0)
    network = FixedPointNetwork([last], (1, 1, 1), levels=3, input_fraction=0)
    assert network.predict(np.array([[0], [2]])).tolist() == [0, 1]


def wide(weights: int, bias: int = 0) -> FixedPointLayer:
    weight = np.zeros((2, weights), np.int64)
    weight[1] = 127
    return FixedPointLayer("wide", weight, np.array([0, bias]), 8, 0, 0)


def test_a_filter_whose_sums_may_reach_two_to_the_24_is_refused_in_32_bits_by_name_and_computed_in_64() -> None:
    fits, last = 518, 2**24 - 1 - 518 * 127 * 255
    assert last >= 0
    just_below = FixedPointNetwork([wide(fits, last)], (1, 1, fits), input_fraction=0, dtype=torch.float32)
    full = np.full((1, fits), 255)
    assert just_below.outputs(full).tolist() == [[0, 2**24 - 1]]
    assert just_below.steps[0].exact == torch.float32
    with pytest.raises(
        BitcertError, match=r"layer 'wide': the accumulator of filter 1 may reach 16777216, .* below 2\^24"
    ):
        FixedPointNetwork([wide(fits, last + 1)], (1, 1, fits), input_fraction=0, dtype=torch.float32)
    above = FixedPointNetwork([wide(fits, last + 2)], (1, 1, fits), input_fraction=0)
    assert above.steps[0].exact == torch.float64
    assert above.outputs(full).tolist() == [[0, 2**24 + 1]]
    huge = FixedPointLayer("huge", np.array([[1]]), np.array([2**53 - 2]), 2, 0, 0)
    with pytest.raises(BitcertError, match=r"below 2\^52"):
        FixedPointNetwork([huge], (1, 1, 1), input_fraction=0)


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_files_give_networks_back(tmp_path: Path, ending: str) -> None:
    images = np.random.default_rng(0).integers(0, 16, (20, 50))
    for number, network in enumerate([tiny(), random_network(3, clamped=True), convolutional()]):
        path = tmp_path / f"{number}.{ending}"
        write_fixed_point(network, path)
        read = read_fixed_point(path)
        assert (read.image_shape, read.levels, read.rounding) == (network.image_shape, network.levels, network.rounding)
        shown = images[:, : math.prod(network.image_shape)]
        assert read.outputs(shown).tolist() == network.outputs(shown).tolist()
        again = tmp_path / f"again.{ending}"
        write_fixed_point(read, again)
        assert again.read_bytes() == path.read_bytes()


def written(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "network.json"
    write_fixed_point(random_network(0), path)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


CHANGES: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("layers", 0, "operation"), "maxpool", "unknown operation of layer 'layer0' 'maxpool'; known: "),
    (("layers", 0, "operation"), "convolution", "the weight of a convolution has 4 dimensions"),
    (("layers", 0, "weight", 0, 0), 1.5, r"layer0\.weight must hold integers"),
    (("layers", 0, "weight", 0, 0), 10**30, r"layer0\.weight must hold integers"),
    (("layers", 0, "weight", 0), [1], r"layer0\.weight is no array"),
    (("layers", 0, "weight", 0, 0), 99, "layer 'layer0': weights of . bits lie in"),
    (("layers", 0, "bias", 0), 2, "layer 'layer0': biases must be odd"),
    (("layers", 0, "bias_fraction"), 0, "layer 'layer0': the fraction of its bias must be"),
    (("layers", 0, "output", "fraction"), 60, "layer 'layer0': the fraction of its outputs must be at most"),
    (("layers", 0, "output", "bits"), 99, "layer 'layer0': bits must lie in 1..16"),
    (("layers", 0, "output"), None, "layer 'layer0': only the last layer"),
    (("layers", 0, "name"), "layer1", "two layers have the same name"),
    (("layers", 0, "bias"), None, r"layer0\.bias is missing"),
    (("layers", 0, "groups"), 2, r"layers\.0\.groups: Extra inputs are not permitted"),
    (("layers",), [], "ends with a linear layer"),
    (("rounding",), "truncate", "unknown rounding 'truncate'; known: "),
    (("input", "shape"), [4], "channels, height and width"),
    (("input", "shape"), [1, 9, 9], "layer 'layer0': it takes . inputs, but there are 81"),
    (("input", "levels"), 0, "positive shape and 1 to 65535 levels"),
    (("version",), 2, "version: Input should be 1"),
]


@pytest.mark.parametrize(("key", "value", "message"), CHANGES)
def test_wrong_files_are_refused_and_the_layer_named(
    tmp_path: Path, key: tuple[str | int, ...], value: Any, message: str
) -> None:
    content: Any = written(tmp_path)
    target = content
    for part in key[:-1]:
        target = target[part]
    target[key[-1]] = value
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BitcertError, match=message):
        read_fixed_point(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"\x80\x04K\x01.", "damaged or not a fixed-point network"),
        ("a.json", b"[" * 100_000, "damaged or not a fixed-point network"),
        ("a.json", b"[1]", "the file: Input should be a valid dictionary"),
        ("a.safetensors", b"\x80\x04K\x01.", "damaged or not a fixed-point network"),
        ("a.h5", b"", "is read from .json or .safetensors, not from a.h5"),
    ],
)
def test_what_is_no_network_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BitcertError, match=message):
        read_fixed_point(tmp_path / name)


def test_other_tensor_files_missing_files_and_other_endings_are_refused(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(3, np.int8)}, tmp_path / "other.safetensors")
    with pytest.raises(BitcertError, match="the file: Input should be a valid dictionary"):
        read_fixed_point(tmp_path / "other.safetensors")
    with pytest.raises(BitcertError, match="there is no network at"):
        read_fixed_point(tmp_path / "missing.json")
    with pytest.raises(BitcertError, match=r"is written as .json or .safetensors, not as network.pt"):
        write_fixed_point(tiny(), tmp_path / "network.pt")


def test_images_outside_of_the_levels_and_biases_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(BitcertError, match=r"images are integers in 0\.\.15, found 8\.\.16"):
        tiny().outputs(np.array([[8, 16]]))
    with pytest.raises(BitcertError, match="one bias per output"):
        replace(tiny().layers[0], bias=np.zeros(2, np.int64))
