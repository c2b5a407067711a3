"""How held-out certification, the exam, is set up: which images, how many samples, which certifier."""

from __future__ import annotations

from dataclasses import dataclass

from suite.certify.certifier import ExamCertifier, exam_certifier
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
