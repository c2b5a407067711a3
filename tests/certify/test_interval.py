"""Interval bounds: a worked example, exhaustive enumeration, monotonicity, and ties of saturated outputs."""

from __future__ import annotations

import numpy as np
import pytest

from suite.certify.interval import (
    MISCLASSIFIED,
    OWN,
    ball,
    certified,
    certified_accuracy,
    certified_radius,
    excluded,
    margins,
    propagate,
)
from suite.errors import BitcertError
from suite.quantize.fixed_point import FixedPointLayer, FixedPointNetwork, Output
from tests.tiny_networks import Integers, box, random_network, tiny


def exact_margins(network: FixedPointNetwork, image: Integers, label: int, radius: int) -> Integers:
    outputs = network.outputs(box(image, radius, network.levels))
    return np.asarray((outputs[:, [label]] - outputs).min(axis=0))


def test_the_worked_example_has_its_margins() -> None:
    network, image = tiny(), np.array([[8, 6]])
    exact = [int(exact_margins(network, image, 0, radius)[1:].min()) for radius in range(6)]
    assert exact == [8, 6, 5, 3, 1, -1]
    bounds = [int(margins(network, image, np.array([0]), radius).min()) for radius in range(6)]
    assert bounds == [8, 6, 3, 0, -3, -5]
    unfused = []
    for radius in range(6):
        last = propagate(network, *ball(network, image, radius))[-1]
        unfused.append(int(last.low[0, 0] - last.high[0, 1:].max()))
    assert unfused == [8, 4, -3, -10, -17, -21]
    assert certified_radius(network, image, np.array([0])).tolist() == [3]


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_bounds_contain_the_enumeration_and_certify_only_what_is_robust(first: int) -> None:
    gaps = 0
    for seed in range(first, first + 20):
        network = random_network(seed, clamped=seed % 2 == 1, odd=seed % 4 < 2)
        image = np.random.default_rng(seed).integers(0, 16, (1, network.image_shape[2]))
        label = network.predict(image)
        for radius in (0, 1, 2, 4):
            found = margins(network, image, label, radius)
            exact = exact_margins(network, image, int(label[0]), radius)
            others = np.arange(network.classes) != label[0]
            assert (found[0, others] <= exact[others]).all()
            if radius == 0:
                assert (found[0, others] == exact[others]).all()
            gaps += int((found[0, others] < exact[others]).sum())
            robust = (network.predict(box(image, radius)) == label[0]).all()
            assert robust or not certified(network, image, label, radius)[0]
            values = network.as_images(box(image, radius))
            for step, bounds in zip(network.steps, propagate(network, *ball(network, image, radius)), strict=True):
                values = step(values)
                assert (bounds.low <= values).all()
                assert (values <= bounds.high).all()
    assert gaps


@pytest.mark.parametrize("clamped", [False, True])
def test_at_radius_0_margins_are_the_forward_pass_and_certified_is_correct(clamped: bool) -> None:
    network = random_network(5, clamped=clamped)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 16, (10_000, network.image_shape[2]))
    labels = rng.integers(0, 3, 10_000)
    outputs = network.outputs(images)
    found = margins(network, images, labels, 0)
    rows = np.arange(len(labels))
    expected = outputs[rows, labels][:, None] - outputs
    expected[rows, labels] = OWN
    assert (found == expected).all()
    assert (certified(network, images, labels, 0) == (network.predict(images) == labels)).all()


def test_widths_grow_with_the_radius_and_bisection_finds_what_a_scan_finds() -> None:
    for seed in range(8):
        network = random_network(seed, clamped=seed % 2 == 0)
        rng = np.random.default_rng(seed)
        images, labels = rng.integers(0, 16, (50, network.image_shape[2])), rng.integers(0, 3, 50)
        proven = np.stack([certified(network, images, labels, radius) for radius in range(16)])
        assert (proven[1:] <= proven[:-1]).all()
        scanned = proven.sum(axis=0) - 1
        assert (certified_radius(network, images, labels) == scanned).all()
        assert (certified_radius(network, images, labels, most=2) == scanned.clip(max=2)).all()
        shown = [bounds.high - bounds.low for bounds in propagate(network, *ball(network, images, 1))]
        wider = [bounds.high - bounds.low for bounds in propagate(network, *ball(network, images, 2))]
        assert all((one <= two).all() for one, two in zip(shown, wider, strict=True))


def saturated() -> FixedPointNetwork:
    """Three outputs of the same input: one stays below the upper limit, two may sit at it."""
    last = FixedPointLayer("last", np.array([[1], [2], [2]]), np.array([0, 1, 0]), 3, 0, 0, Output(3, 0))
    return FixedPointNetwork([last], (1, 1, 1), levels=15, input_fraction=0, rounding="half-up")


def test_outputs_that_sit_at_the_same_limit_prove_a_tie_only() -> None:
    """At input 3, outputs are 3, 7 and 6; from 4 on, the larger two sit at 7, where the first wins."""
    network = saturated()
    image = np.array([[3], [5]])
    before = margins(network, image, np.array([1, 1]), 1)
    assert margins(network, image[:1] - 1, np.array([1]), 1)[0, 2] == 1, "below the limit the difference counts"
    assert before[:, 2].tolist() == [0, 0]
    assert certified(network, image, np.array([1, 1]), 1).all(), "class 2 comes after class 1 and loses ties"
    swapped = margins(network, image, np.array([2, 2]), 0)
    assert (network.predict(image) == 1).all()
    assert not excluded(swapped, np.array([2, 2]))[:, 1].any(), "class 1 comes before class 2 and wins ties"


def test_certified_accuracy_counts_images_and_misclassified_ones_never() -> None:
    network = tiny()
    radius = certified_radius(network, np.array([[8, 6], [8, 6]]), np.array([0, 1]))
    assert radius.tolist() == [3, MISCLASSIFIED]
    assert certified_accuracy(radius, [0, 3, 4]) == {0: 0.5, 3: 0.5, 4: 0.0}


def test_negative_radii_are_refused_and_no_image_is_no_error() -> None:
    with pytest.raises(BitcertError, match="levels >= 0, got -1"):
        ball(tiny(), np.array([[8, 6]]), -1)
    assert margins(tiny(), np.zeros((0, 2), np.int64), np.zeros(0, np.int64), 1).shape == (0, 3)
