"""The verb ``ablate``."""

from __future__ import annotations

from pathlib import Path

from suite.studies.compare import Searches, SearchesSettings
from suite.studies.model import Searcher, Variants, setting
from suite.studies.settings import HeldOutSettings, in_runs


class AblationExam(HeldOutSettings):
    """Held-out certification of an ablation: on search images, unless told otherwise."""

    split: str = setting(
        "search",
        "images that judge: exam, or search to choose settings without seeing the exam; those that searches have seen least "
        "are taken first",
    )


class AblateSettings(SearchesSettings):
    """Settings of an ablation."""

    searcher: Searcher = setting(..., "method, with options after its name if any", metavar="A")
    vary: Variants = setting(
        ...,
        "a variant: one option, or several as in relabel=true:updates=4; may be repeated",
        metavar="NAME=VALUE",
        repeat=True,
        min_length=1,
    )
    exam: AblationExam = AblationExam()


class Ablate(Searches[AblateSettings]):
    """Compare a searcher with variants of itself.

    Run a searcher and variants of it under equal spend, certify the winners, and test every variant against the searcher as
    it stands. A directory that holds the ablation is resumed.
    """

    Settings = AblateSettings

    def searchers(self) -> tuple[str, ...]:
        """The searcher as it stands, then its variants."""
        searcher = self.settings.searcher
        return (searcher, *(_vary(searcher, variant) for variant in self.settings.vary))

    def against(self) -> str | None:
        """The searcher as it stands."""
        return self.settings.searcher

    def split(self) -> str:
        """Search images, unless told otherwise."""
        return self.settings.exam.split

    def default_directory(self) -> Path:
        """Named after problem, budget and searcher."""
        return in_runs(self.problem, self.settings.searcher, "ablation")


def _vary(searcher: str, variant: str) -> str:
    """A searcher with options changed or added; those it has already give way."""
    changed = {option.partition("=")[0] for option in variant.split(":")}
    kept = [part for part in searcher.split(":") if "=" not in part or part.partition("=")[0] not in changed]
    return ":".join([*kept, variant])
