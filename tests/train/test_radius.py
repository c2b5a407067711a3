"""The radius loss against an independent computation, and its gradient against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats

from suite.errors import BitcertError
from suite.train.radius import RadiusLoss, radius_hinge, vote_cross_entropy

SIGMA, BETA, GAMMA = 0.5, 16.0, 8.0


def logits_of(seed: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Four samples of thirty images in five classes, most of them classified rightly."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (30,), generator=generator)
    logits = spread * torch.randn(4, 30, 5, generator=generator, dtype=torch.float64)
    return logits + 1.5 * spread * torch.nn.functional.one_hot(labels, 5), labels


def by_loops(logits: np.ndarray, labels: np.ndarray, sigma: float, beta: float, gamma: float) -> tuple[float, float]:
    cross_entropy = hinge = 0.0
    for row, label in enumerate(labels):
        plain = special.softmax(logits[:, row], axis=1).mean(axis=0)
        cross_entropy -= np.log(plain[label])
        sharp = special.softmax(beta * logits[:, row], axis=1).mean(axis=0)
        top, second = np.sort(sharp)[::-1][:2]
        if sharp.argmax() == label:
            radius = sigma / 2 * (stats.norm.isf(np.sort(sharp)[:-1].sum()) - stats.norm.ppf(second))
            assert top > 0
            hinge += max(0.0, sigma / 2 * gamma - radius)
    return cross_entropy / len(labels), hinge / len(labels)


@pytest.mark.parametrize("spread", [0.02, 0.1, 0.5, 5.0])
def test_the_loss_is_that_of_loops_over_images(spread: float) -> None:
    logits, labels = logits_of(1, spread)
    expected = by_loops(logits.numpy(), labels.numpy(), SIGMA, BETA, GAMMA)
    assert float(vote_cross_entropy(logits, labels)) == pytest.approx(expected[0])
    found = float(radius_hinge(logits, labels, sigma=SIGMA, beta=BETA, gamma=GAMMA))
    assert found == pytest.approx(expected[1])
    assert spread > 1 or 0 < found < SIGMA / 2 * GAMMA


def test_its_gradient_is_that_of_finite_differences() -> None:
    logits, labels = logits_of(2, 0.1)
    logits, labels = logits[:, :6].clone().requires_grad_(), labels[:6]

    def loss(given: torch.Tensor) -> torch.Tensor:
        hinge = radius_hinge(given, labels, sigma=SIGMA, beta=BETA, gamma=GAMMA)
        return vote_cross_entropy(given, labels) + 12 * hinge

    assert torch.autograd.gradcheck(loss, (logits,), eps=1e-6, atol=1e-5)


def test_wrong_answers_certain_ones_and_radii_beyond_the_margin_are_not_pushed() -> None:
    certain = torch.tensor([[[50.0, 0, 0]], [[50.0, 0, 0]]], requires_grad=True)
    modest = torch.tensor([[[0.1, 0, 0]], [[0.1, 0, 0]]], requires_grad=True)
    right, wrong = torch.tensor([0]), torch.tensor([1])
    gradients = []
    for logits, labels, gamma in (
        (certain, right, 8.0),
        (modest, wrong, 8.0),
        (modest, right, 0.5),
        (modest, right, 8.0),
    ):
        hinge = radius_hinge(logits, labels, sigma=SIGMA, beta=BETA, gamma=gamma)
        gradients.append(torch.autograd.grad(hinge, logits)[0])
    assert [bool(gradient.any()) for gradient in gradients] == [False, False, False, True]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert (gradients[3][:, 0, 0] < 0).all(), "a descent step raises the label's logit"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"samples": 0}, "samples >= 1"), ({"beta": 0.0}, "beta > 0"), ({"weight": -1.0}, "weight >= 0")],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        RadiusLoss(**options)  # type: ignore[arg-type]
