"""Consistency regularization: a network that answers the same under different noise has larger certified radii."""

from __future__ import annotations

import math

from torch import Tensor

SAMPLES = 2
"""Noise samples of an image; more cost more and gained little in the authors' experiments."""

_ENTROPY = 0.5


def consistency_loss(logits: Tensor, weight: float) -> Tensor:
    """How much predictions differ under different noise, and how unsure they are on average.

    ``weight`` times the Kullback-Leibler divergence of each prediction from the mean prediction of its image, plus half of the
    mean prediction's entropy; in nats, averaged over samples and images.

    Args:
        logits: Of several noise samples of the same images, shape ``(samples, images, classes)``.
        weight: The authors use 20 at sigma 0.25 on CIFAR-10, and 10 at 0.5 and 1.

    References:
        Jeong and Shin, Consistency regularization for certified robustness of smoothed classifiers, NeurIPS 2020, eq. 8.
    """
    logs = logits.log_softmax(dim=-1)
    mean_logs = logs.logsumexp(dim=0) - math.log(len(logs))
    mean = mean_logs.exp()
    divergence = (mean * (mean_logs - logs)).sum(dim=-1).mean()
    entropy = -(mean * mean_logs).sum(dim=-1).mean()
    return weight * divergence + _ENTROPY * entropy
