"""From a network to metrics: the one function that search evaluations and exams share."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from suite.certify import Measurement, Setup, Task
from suite.certify.sampling import predict
from suite.contract.clock import Clock
from suite.contract.trial import Metrics
from suite.protocols.protocol import Prepared


def measure(
    prepared: Prepared,
    certify: Callable[[nn.Module, Task, Setup], Measurement],
    task: Task,
    setup: Setup,
    *,
    bops: int,
    method: str,
    clock: Clock,
    started: float,
) -> tuple[Metrics, Measurement]:
    """Measure a network: clean accuracy, and what a certifier finds.

    Args:
        prepared: The network as deployed, and what its preparation cost.
        certify: ``measure`` of a certifier, or ``examine`` of an exam certifier.
        task: Images, labels and samples.
        setup: What the certifier may ask for.
        bops: BOPs of the policy.
        method: The certifier with its options, as requested.
        clock: Tells the time.
        started: When the preparation of the network began.

    Returns:
        The metrics, and the certifier's own result with certificates of single images.
    """
    network, noisy = prepared.network, task.noisy
    predicted = predict(network, noisy.pixels, batch=noisy.batch).cpu().numpy()
    found = certify(network, task, setup)
    metrics = Metrics(
        clean_accuracy=float((predicted == task.labels).mean()),
        acr=found.acr,
        certified_accuracy=found.certified_accuracy,
        bops=bops,
        forward_passes=len(noisy) + found.forward_passes + prepared.forward_passes,
        seconds=clock.now() - started,
        alpha=found.alpha,
        method=method,
        values=found.values,
        norm=found.norm,
    )
    return metrics, found
