"""Whether quantized networks certify as many images as the float network, up to a margin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from suite.contract.objective import Objective, parse_objective
from suite.contract.trial import radius_text
from suite.errors import BitcertError, unknown_name
from suite.report.exams import check_same_exam, find, image_scores, is_stepped
from suite.report.intervals import CONFIDENCE, Interval, crossed_interval, paired_shares_interval
from suite.report.power import POWER
from suite.run.outcomes import read_outcome
from suite.run.records import Entry, Outcome
from suite.studies.compare.run import load_comparison
from suite.studies.post_steps.run import CONTENTS as POST_STEPS
from suite.studies.post_steps.run import load_post_steps

_BEFORE = "before"


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """Networks at one cost: one network, or the winners of all seeds of a searcher.

    Attributes:
        series: What they are compared with at other costs.
        name: What they are called within the series.
        outcomes: Their exams.
        references: The exam of the float network of each.
    """

    series: str
    name: str
    outcomes: tuple[Outcome, ...]
    references: tuple[Outcome, ...]

    @property
    def bops(self) -> float:
        """Mean BOPs."""
        return float(np.mean([outcome.metrics.bops for outcome in self.outcomes]))

    @property
    def share(self) -> float:
        """BOPs as a share of the float network's."""
        return self.bops / self.references[0].metrics.bops

    def scores(self, radius: float) -> NDArray[np.float64]:
        """Whether each image is certified at a radius, shape ``(networks, images)``."""
        return np.array([image_scores(outcome, _certified(radius)) for outcome in self.outcomes])

    def float_scores(self, radius: float) -> NDArray[np.float64]:
        """The same of the float network of each."""
        return np.array([image_scores(outcome, _certified(radius)) for outcome in self.references])


@dataclass(frozen=True, slots=True)
class Difference:
    """Certified accuracy of networks less that of the float network, at one radius.

    Attributes:
        accuracy: Of the networks, on average.
        reference: Of the float network.
        interval: 95 % interval of the difference over images, and over seeds if there are several.
        needed: Images with which networks as good as float would be shown not to be worse at all radii with a chance of at least
            80 %, if differences vary as these do; for networks of several seeds, these held fixed.
    """

    accuracy: float
    reference: float
    interval: Interval
    needed: int

    @property
    def mean(self) -> float:
        """The difference."""
        return self.accuracy - self.reference


@dataclass(frozen=True, slots=True)
class Judged:
    """A point with its differences by radius.

    Attributes:
        point: The networks.
        differences: By radius.
        verdict: ``"not worse"``, ``"worse"`` or ``"undecided"``.
        claimed: Whether all points of the series with more BOPs are not worse, either.
    """

    point: Point
    differences: Mapping[float, Difference]
    verdict: str
    claimed: bool


@dataclass(frozen=True, slots=True)
class Claims:
    """What was tested.

    Attributes:
        margin: Loss that counts as not worse.
        radii: At all of which networks must not be worse.
        judged: Series by series, from the most BOPs to the fewest.
    """

    margin: float
    radii: tuple[float, ...]
    judged: tuple[Judged, ...]

    @property
    def series(self) -> list[str]:
        """Names of the series, in the order given."""
        return list(dict.fromkeys(one.point.series for one in self.judged))

    def smallest(self, series: str) -> Judged | None:
        """What a series may claim: its point of the fewest BOPs that is not worse, nor is any above it."""
        claimed = [one for one in self.judged if one.point.series == series and one.claimed]
        return claimed[-1] if claimed else None


def read_points(given: str, reference: Outcome | None) -> list[Point]:
    """Read ``SERIES=FILE``, ``SERIES=DIR@SEARCHER``, ``SERIES=DIR@SEARCHER@STEP`` or ``SERIES=DIR@STEP``.

    Args:
        given: Where exams are: a file, a comparison, or a comparison of post-steps, of which every policy is a point.
        reference: Exam of the float network, for single exams.

    Raises:
        BitcertError: If there are none, or no exam of the float network.
    """
    series, equals, source = given.partition("=")
    if not (series and equals and source):
        raise BitcertError(f"networks are given as SERIES=FILE or SERIES=DIR@SEARCHER, got {given!r}")
    folder, at, name = source.partition("@")
    if at and (Path(folder) / POST_STEPS.name).exists():
        return _policies(series, Path(folder), name)
    if at:
        return [_winners(series, Path(folder), *name.split("@", 1))]
    outcome = read_outcome(Path(source))
    if outcome.policy is None:
        raise BitcertError(f"{source} is the exam of a float network; give it with --float")
    if reference is None:
        raise BitcertError(f"{source} is tested against the float network; give its exam with --float")
    return [Point(series, Path(source).stem, (outcome,), (reference,))]


def judge(points: Sequence[Point], radii: Sequence[float], margin: float) -> Claims:
    """Test all points of all series.

    Raises:
        BitcertError: If two exams are not on the same images with the same noise, or a radius was not examined, or the margin is no
            share of the images.
    """
    if not 0 < margin < 1:
        raise BitcertError(f"the margin is a share of the images between 0 and 1, got {margin:g}")
    judged: list[Judged] = []
    for series in dict.fromkeys(point.series for point in points):
        claimed = True
        for point in sorted((one for one in points if one.series == series), key=lambda one: -one.bops):
            _check(point, radii)
            differences = {radius: compare(point, radius, margin, len(radii)) for radius in radii}
            verdict = _verdict([found.interval for found in differences.values()], margin)
            claimed = claimed and verdict == "not worse"
            judged.append(Judged(point, differences, verdict, claimed))
    return Claims(margin, tuple(radii), tuple(judged))


def compare(point: Point, radius: float, margin: float, radii: int = 1) -> Difference:
    """Compare networks with their float networks at one of several radii, image by image."""
    scores, floats = point.scores(radius), point.float_scores(radius)
    differences = scores - floats
    if len(differences) == 1:
        gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
        interval = paired_shares_interval(gained, lost, differences.shape[1])
    else:
        interval = crossed_interval(differences, paired=True)
    needed = images_needed(differences.mean(axis=0), margin, radii)
    return Difference(float(scores.mean()), float(floats.mean()), interval, needed)


def images_needed(differences: NDArray[np.float64], margin: float, radii: int = 1) -> int:
    """Images with which differences of 0 are shown to be above minus the margin, at all of several radii, with a chance of 80 %.

    The normal approximation: the sum of the two quantiles, times the standard deviation over the margin, squared. The chance to
    fail is divided among the radii, so that of all is at least 80 % however they depend on each other. Where hardly an image
    differs, the test needs as many as if it had seen a share of the margin differ.
    """
    quantiles = float(stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(1 - (1 - POWER) / radii))
    variance = max(float(differences.var(ddof=1)), margin * (1 - margin))
    return math.ceil(quantiles**2 * variance / margin**2)


def _verdict(intervals: Sequence[Interval], margin: float) -> str:
    if all(interval.low > -margin for interval in intervals):
        return "not worse"
    return "worse" if any(interval.high < -margin for interval in intervals) else "undecided"


def _policies(series: str, folder: Path, step: str) -> list[Point]:
    compared = load_post_steps(folder)
    if step not in compared.exams:
        raise unknown_name("post-step of this comparison", step, compared.exams)
    rows = zip(compared.names, compared.exams[step], strict=True)
    return [Point(series, name, tuple(row), (compared.reference,) * len(row)) for name, row in rows]


def _winners(series: str, folder: Path, searcher: str, step: str = "") -> Point:
    comparison = load_comparison(folder)
    entries = [entry for entry in comparison.entries if entry.run.searcher == searcher]
    if not entries:
        raise unknown_name("searcher", searcher, sorted({entry.run.searcher for entry in comparison.entries}))
    references = tuple(comparison.reference_of(entry.run.seed) for entry in entries)
    budget = comparison.recorded("budget")
    return Point(series, f"{searcher}, {budget}", tuple(_exam(entry, step) for entry in entries), references)


def _exam(entry: Entry, step: str) -> Outcome:
    if not step:
        return entry.outcome
    known = {**entry.controls, **({} if entry.before is None else {_BEFORE: entry.before})}
    if step not in known:
        raise unknown_name("exam of this comparison", step, known)
    return known[step]


def _check(point: Point, radii: Sequence[float]) -> None:
    for outcome, reference in zip(point.outcomes, point.references, strict=True):
        check_same_exam(outcome, reference)
        if (split := find(outcome.provenance, "exam.split")) not in (None, "exam"):
            raise BitcertError(
                f"{point.series}, {point.name} was certified on {split} images; a claim needs held-out ones"
            )
        if is_stepped(outcome.metrics.method) and not set(radii) <= set(map(float, outcome.metrics.certified)):
            tried = ", ".join(map(radius_text, sorted(map(float, outcome.metrics.certified))))
            raise BitcertError(f"{point.series}, {point.name}: the exam tried the radii {tried} only")


def _certified(radius: float) -> Objective:
    return parse_objective(f"certified@{radius_text(radius)}")
