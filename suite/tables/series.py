"""What is measured of every policy of a table: once, under one protocol, on one set of images, with one noise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from suite.contract.trial import Fidelity
from suite.errors import BitcertError

Split = Literal["search", "exam"]


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """One measurement of every policy.

    Attributes:
        protocol: How policies become networks, as :func:`suite.problems.load_problem` takes it.
        split: The images: ``"search"``, as a search sees them, or ``"exam"``, which no search sees.
        images, noise: How many, and noise samples of each.
        seed: Of the noise, and of the finetuning.
        steps: Of finetuning, for a protocol that trains.
    """

    protocol: str
    split: Split
    images: int
    noise: int
    seed: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        if self.split not in ("search", "exam"):
            raise BitcertError(f"the images of a series are search or exam, got {self.split!r}")
        for name, least in (("images", 1), ("noise", 1), ("seed", 0), ("steps", 0)):
            if type(value := getattr(self, name)) is not int or value < least:
                raise BitcertError(f"{name} of a series must be an integer >= {least}, got {value!r}")

    @property
    def fidelity(self) -> Fidelity:
        """What one evaluation spends."""
        return Fidelity(self.images, self.noise, self.steps)

    @property
    def text(self) -> str:
        """In words, such as ``ptq, 120x64, search images, noise 0``."""
        return f"{self.protocol}, {self.size}, {self.split} images, noise {self.seed}"

    @property
    def size(self) -> str:
        """Images, noise samples and steps, such as ``120x64`` or ``120x64 after 200 steps``."""
        return f"{self.images}x{self.noise}" + (f" after {self.steps} steps" if self.steps else "")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Series:
        """Read what :meth:`to_dict` made."""
        try:
            return cls(**content)
        except TypeError:
            raise BitcertError(f"this is no series of a table: {dict(content)}") from None


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """Read images x noise samples, such as ``30x16,120x64``.

    Raises:
        BitcertError: If one is not written like this.
    """
    found = [re.fullmatch(r"(\d{1,9})x(\d{1,9})", part.strip(), re.ASCII) for part in text.split(",")]
    if None in found:
        raise BitcertError(f"sizes are written as IMAGESxNOISE, such as 30x16,120x64, got {text!r}")
    return [(int(size[1]), int(size[2])) for size in found if size is not None]
