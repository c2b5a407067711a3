"""What a certifier is: it measures a network on labelled images and says what it guarantees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from suite.certify.base_record import BaseRecord
from suite.certify.certificates import Certificates, SetCertificate
from suite.certify.kept_counts import KeptCounts
from suite.certify.sampling import NoisyClassifier, NoisyImages, Progress
from suite.certify.set_scores import SetScores
from suite.errors import unknown_name
from suite.kept import KeptPart
from suite.plugins import CERTIFIERS


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What to certify and how many samples to spend; the same for all networks under comparison.

    Attributes:
        noisy: The images, plain (``noisy.pixels``) and under noise.
        labels: True classes, shape ``(images,)``.
        radii: Radii at which certified accuracy is reported, ascending.
        n0: Noise samples that choose a class.
        n: Noise samples that enter a bound or an estimate; the maximum for adaptive methods.
        alpha: Failure probability of each certificate, or of all bounds on the set together.
        progress: Called with the forward passes since the last call.
        kept: Where counts are kept while they are made, so that they resume; for one network only.
    """

    noisy: NoisyImages
    labels: NDArray[np.int64]
    radii: tuple[float, ...]
    n0: int
    n: int
    alpha: float
    progress: Progress | None = None
    kept: KeptPart | None = None

    def sampler(self, network: nn.Module) -> NoisyClassifier:
        """A network under this task's noise."""
        kept = None if self.kept is None else KeptCounts(self.kept, self.noisy.batch, self.progress)
        return NoisyClassifier(network, self.noisy, self.progress, kept)


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """What a certifier found.

    Attributes:
        acr: Average certified radius; None if it measures none.
        certified_accuracy: Radius -> share of images; None if it measures none.
        forward_passes: Images pushed through the network.
        alpha: Failure probability: of each certificate, of the bounds together, or 1 for estimates.
        certificates: One row per image, for certifiers of single images.
        set_certificate: Bounds on the set, where an exam has both.
        values: Other measured quantities, by name.
        norm: Norm of the radii.
    """

    acr: float | None
    certified_accuracy: Mapping[float, float] | None
    forward_passes: int
    alpha: float
    certificates: Certificates | None = None
    set_certificate: SetCertificate | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    norm: str | None = "l2"

    @classmethod
    def average(cls, certificates: Certificates, task: Task) -> Measurement:
        """Averages of certificates of single images."""
        return cls(
            acr=certificates.acr(task.labels),
            certified_accuracy=certificates.certified_accuracy(task.labels, task.radii),
            forward_passes=int(certificates.forward_passes.sum()),
            alpha=task.alpha,
            certificates=certificates,
        )


class Setup(ABC):
    """What certifiers may ask for: computed once for all networks, and not charged."""

    @abstractmethod
    def float_base(self, task: Task) -> BaseRecord:
        """Predictions of the float network on the task's images and noise."""

    @abstractmethod
    def bases(self, task: Task) -> Sequence[BaseRecord]:
        """Predictions of all base networks, the float network first."""

    @abstractmethod
    def scores(self, images: int, n: int, alpha: float) -> SetScores:
        """Scores for bounds on a set of ``images`` images with ``n`` samples each."""


class Certifier(ABC):
    """Measures networks in a search. Subclasses are frozen dataclasses whose fields are their options.

    Attributes:
        estimates: Whether it guarantees nothing: its scores order policies, and finalists are measured again.
        limited_by_samples: Whether no radius can exceed what ``n`` agreeing samples certify.
        uses_scores: Whether it needs :meth:`Setup.scores`, which are then computed before evaluations go to workers.
        selects: Whether ``n0`` samples choose a class before ``n`` more are counted.
        samples: Whether it draws noise samples at all; if not, fidelities have one.
    """

    estimates: ClassVar[bool] = False
    limited_by_samples: ClassVar[bool] = False
    uses_scores: ClassVar[bool] = False
    selects: ClassVar[bool] = True
    samples: ClassVar[bool] = True

    __slots__ = ()

    @abstractmethod
    def measure(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        """Measure a network: images to logits, normalization inside, in evaluation mode, on the images' device."""

    def check_installed(self) -> None:  # noqa: B027 (most need nothing)
        """Raise BitcertError unless the packages that it needs are there; asked before a search or an exam starts."""

    def most_samples(self, n0: int, n: int) -> int:
        """Most noise samples that :meth:`measure` takes of one image."""
        return n0 + n if self.selects else n


class ExamCertifier(Certifier):
    """A certifier whose certificates of single images need no other classifier: it can do held-out certification.

    Attributes:
        exam_limited_by_samples: Whether no radius of an exam can exceed what ``n`` agreeing samples certify.
        exact: Whether it holds exams in exact arithmetic (:mod:`.exact`), too.
    """

    exam_limited_by_samples: ClassVar[bool] = True
    exact: ClassVar[bool] = False

    __slots__ = ()

    def examine(self, network: nn.Module, task: Task, setup: Setup) -> Measurement:
        """Certify image by image; the result has ``certificates``. The same as :meth:`measure` by default."""
        return self.measure(network, task, setup)

    def most_exam_samples(self, n0: int, n: int) -> int:
        """Most noise samples that :meth:`examine` takes of one image, or passes where it takes none."""
        return n0 + n if self.samples else self.most_samples(n0, n)


def exam_certifier(text: str) -> ExamCertifier:
    """Make an exam certifier from its name and options; raises BitcertError on other certifiers and unknown names."""
    certifier = CERTIFIERS.make(text)
    if isinstance(certifier, ExamCertifier):
        return certifier
    able = [name for name in CERTIFIERS.names() if issubclass(CERTIFIERS.load(name), ExamCertifier)]
    raise unknown_name("certifier of an exam", CERTIFIERS.parse(text)[0], able)
