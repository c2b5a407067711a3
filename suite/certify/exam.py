"""How held-out certification, the exam, is set up: which images, how many samples, which certifier."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from suite.certify.bounds import check_alpha, check_positive
from suite.certify.certifier import ExamCertifier, exam_certifier
from suite.certify.exact import check_arithmetic
from suite.errors import BitcertError, unknown_name

EXAM_SPLITS = ("exam", "search")


@dataclass(frozen=True, slots=True)
class ExamSettings:
    """How winners are certified at the end.

    Attributes:
        images: Exam images, the first ones of the split, the last ones of ``"search"``; None for all of them.
        n0: Noise samples that choose an image's class.
        n: Noise samples that enter its bound.
        alpha: Failure probability of each image's certificate.
        method: An exam certifier, with its options. ``"fixed"``; ``"sequential"``: the problem's radii only, far fewer samples
            (at most ``n``); or ``"aggregate"``: as fixed, plus bounds on the set's ACR and certified accuracies from the same
            samples, far tighter than the average of certificates where ``n`` is small.
        split: ``"exam"``, or ``"search"`` for tuning settings, which must not see exam images.
        arithmetic: ``"float"``, or ``"exact"``: certificates of integer networks by integer noise and proven bounds, with nothing
            rounded in between (:mod:`suite.certify.exact`).
    """

    images: int | None = None
    n0: int = 100
    n: int = 10_000
    alpha: float = 1e-3
    method: str = "fixed"
    split: str = "exam"
    arithmetic: str = "float"

    def __post_init__(self) -> None:
        self.certifier  # noqa: B018 (checks the name)
        if self.split not in EXAM_SPLITS:
            raise unknown_name("split of an exam", self.split, EXAM_SPLITS)
        check_positive(
            **{"exam images": 1 if self.images is None else self.images, "exam n0": self.n0, "exam n": self.n}
        )
        check_alpha(self.alpha)
        check_arithmetic(self.arithmetic)
        if self.exact and not self.certifier.exact:
            raise BitcertError(
                f"{self.method} does not certify in exact arithmetic: its bounds are computed in floating point; use fixed"
            )

    @property
    def exact(self) -> bool:
        """Whether its arithmetic is exact."""
        return self.arithmetic == "exact"

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object; the arithmetic only where it is exact."""
        content = asdict(self)
        if not self.exact:
            del content["arithmetic"]
        return content

    @property
    def certifier(self) -> ExamCertifier:
        """What certifies the images."""
        return exam_certifier(self.method)
