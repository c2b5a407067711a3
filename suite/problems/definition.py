"""What makes a named problem: the choices that a definition fixes, everything else having a default."""

from __future__ import annotations

from dataclasses import dataclass, field

from suite.certify import ExamCertifier, exam_certifier
from suite.contract.space import MAX_BITS, MIN_BITS
from suite.contract.trial import Fidelity
from suite.errors import BitcertError, unknown_name

EXAM_SPLITS = ("exam", "search")
"""Images that may be certified: those of the exam, or those of the search, to choose settings by."""


@dataclass(frozen=True, slots=True)
class ExamSettings:
    """How winners are certified at the end.

    Attributes:
        images: Exam images, the first ones of the split, the last ones of ``"search"``; None for all of them.
        n0: Noise samples that choose an image's class.
        n: Noise samples that enter its bound.
        alpha: Failure probability of each image's certificate.
        method: A certifier that may hold exams, options after its name if any. ``"fixed"``; ``"sequential"``: radii of the
            problem only, far fewer samples (``n`` is the most); or ``"aggregate"``: as fixed, and from the same samples bounds
            on the set's ACR and certified accuracies, far tighter than the average of certificates where ``n`` is small.
        split: ``"exam"``, or ``"search"`` to choose settings, which must not see exam images.
    """

    images: int | None = None
    n0: int = 100
    n: int = 10_000
    alpha: float = 1e-3
    method: str = "fixed"
    split: str = "exam"

    def __post_init__(self) -> None:
        self.certifier  # noqa: B018 (checks the name)
        if self.split not in EXAM_SPLITS:
            raise unknown_name("split of an exam", self.split, EXAM_SPLITS)
        for name in ("images", "n0", "n"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BitcertError(f"exam {name} must be at least 1, got {value}")
        if not 0 < self.alpha < 1:
            raise BitcertError(f"alpha must lie strictly between 0 and 1, got {self.alpha}; 0.001 is usual")

    @property
    def certifier(self) -> ExamCertifier:
        """What certifies the images."""
        return exam_certifier(self.method)


@dataclass(frozen=True, slots=True)
class Definition:
    """A named problem.

    Attributes:
        name: Registered name.
        summary: One line for ``bitcert list``.
        network: Name of the architecture.
        dataset: Name of the dataset.
        shape: Channels, height and width of an image.
        classes: Outputs of the network.
        sigma: Default noise level.
        budget: Default budget.
        radii: Radii at which certified accuracy is reported, ascending.
        fidelity: Default fidelity of a search.
        exam: Default exam.
        choices: Bits a free slot may take.
        tie_weight_activation: Whether a layer's weights and inputs share their bit width.
        tie_shortcuts: Whether a block's shortcut shares its precision with the block's first convolution.
        batch: Rows per batch.
        threads: Threads of one evaluation; with ``batch`` fixed so that scores are equal, not nearly equal, everywhere.
        calibration_images: Calibration images, the first ones of the split.
        trained_as: Problem whose trained network this one shares; its own if None.
        based_on: Problem into which a network of the user's was put, if any.
        unquantized: What of the user's network stays in floating point, in words.
    """

    name: str
    summary: str
    network: str
    dataset: str
    shape: tuple[int, int, int]
    classes: int
    sigma: float = 0.25
    budget: str = "w3a3"
    radii: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    fidelity: Fidelity = field(default_factory=Fidelity)
    exam: ExamSettings = field(default_factory=ExamSettings)
    choices: tuple[int, ...] = tuple(range(MIN_BITS, MAX_BITS + 1))
    tie_weight_activation: bool = False
    tie_shortcuts: bool = False
    batch: int = 250
    threads: int = 1
    calibration_images: int = 100
    trained_as: str | None = None
    based_on: str | None = None
    unquantized: str = ""
