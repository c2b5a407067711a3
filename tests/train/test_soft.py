"""Soft votes: the float network's mean softmax, counted once per image, and the loss that mixes them with labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from suite.errors import BitcertError
from suite.train.loss import TrainingBatch
from suite.train.soft import SoftSettings, SoftVotes


class Counting(nn.Module):
    """A linear classifier of four pixels that counts its rows."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        self.weight, self.rows = nn.Parameter(weight), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.rows += len(images)
        return images.flatten(1) @ self.weight.T


IMAGES = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def batch_of(chosen: list[int], step: int = 0) -> TrainingBatch:
    images = IMAGES[chosen]
    return TrainingBatch(step, 5, 0.25, torch.tensor(chosen), images, images + 0.1, LABELS[chosen])


def test_an_image_is_voted_on_once_and_its_passes_are_counted() -> None:
    teacher = Counting().eval()
    loss = SoftVotes(teacher, SoftSettings(samples=7), images=6)
    first = loss.votes(batch_of([0, 3]))
    second = loss.votes(batch_of([3, 1], step=1))
    assert torch.equal(second[0], first[1])
    assert loss.passes == teacher.rows == 7 * 3
    assert torch.equal(loss.votes(batch_of([1, 0], step=2)), torch.stack([second[1], first[0]]))
    assert loss.passes == 21


def test_votes_are_the_mean_softmax_over_noise_of_the_image() -> None:
    teacher, samples = Counting().eval(), 20_000
    found = SoftVotes(teacher, SoftSettings(samples=samples, temperature=1.5), images=6).votes(batch_of([2, 4]))
    rng = np.random.default_rng(0)
    for row, image in enumerate(IMAGES[[2, 4]].flatten(1).numpy()):
        noisy = image + 0.25 * rng.standard_normal((samples, 4))
        each = special.softmax(noisy @ teacher.weight.detach().numpy().T / 1.5, axis=1)
        assert np.allclose(
            found[row].numpy(), each.mean(axis=0), atol=6 * each.std(axis=0).max() / np.sqrt(samples) * 1.5
        )
    assert not found.requires_grad


def test_the_loss_mixes_cross_entropy_and_divergence() -> None:
    teacher, student, temperature = Counting(0).eval(), Counting(1), 2.0
    loss = SoftVotes(teacher, SoftSettings(samples=3, weight=0.3, temperature=temperature), images=6)
    batch = batch_of([0, 1, 5])
    found = loss(student, batch)  # type: ignore[arg-type]
    votes = loss.votes(batch).numpy().astype(np.float64)
    logits = student(batch.inputs).detach().numpy().astype(np.float64)
    entropy = -special.log_softmax(logits, axis=1)[np.arange(3), batch.labels.numpy()].mean()
    divergence = (votes * (np.log(votes) - special.log_softmax(logits / temperature, axis=1))).sum(axis=1).mean()
    assert float(found.detach()) == pytest.approx(0.7 * entropy + 0.3 * 4 * divergence, rel=1e-5)
    found.backward()
    assert student.weight.grad is not None
    assert teacher.weight.grad is None


def test_a_student_that_votes_as_the_teacher_has_no_divergence() -> None:
    teacher = Counting().eval()
    batch = batch_of([0, 1, 2])
    still = TrainingBatch(0, 0, 0.0, batch.chosen, batch.images, batch.images, batch.labels)
    loss = SoftVotes(teacher, SoftSettings(samples=2, weight=1.0), images=6)
    assert float(loss(teacher, still).detach()) == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples >= 1"),
        ({"weight": 1.1}, "weight between 0 and 1"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        SoftSettings(**options)  # type: ignore[arg-type]
