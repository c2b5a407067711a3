"""The verb ``noninferiority``."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from suite.studies.model import keyed, setting
from suite.studies.study import Study, print_table
from suite.studies.table import PublishedTables

if TYPE_CHECKING:
    from suite.studies.noninferiority.measure import Claims


class NoninferioritySettings(PublishedTables):
    """Settings of a test for non-inferiority."""

    networks: tuple[str, ...] = setting(
        ...,
        "what is tested: SERIES=FILE, an exam (JSON); SERIES=DIR@SEARCHER, the winners of a searcher in a comparison, all seeds "
        "(DIR@SEARCHER@before: before the post-step, DIR@SEARCHER@NAME: after a control); or SERIES=DIR@STEP, the policies of a "
        "comparison of post-steps",
        metavar="SERIES=SOURCE",
        min_length=1,
    )
    reference: str | None = setting(
        None, "exam of the float network that single exams are tested against", flag="--float", metavar="FILE"
    )
    margin: float = setting(0.01, "loss of certified accuracy that is still not worse")
    radii: str = setting("0,0.5", "radii at all of which a network must not be worse", metavar="A,B,...")
    beside: tuple[str, ...] = setting(
        (),
        "NAME=FILE, an exam or a published table (TSV) whose certified accuracy the figure shows as a line; may be repeated",
        metavar="NAME=FILE",
        repeat=True,
    )
    out: str | None = setting(None, "also write noninferiority.csv, .json, .md, .png and .svg there", metavar="DIR")


class Noninferiority(Study[NoninferioritySettings, "Claims"]):
    """Test from how many BOPs on networks are not worse than float.

    Compare exams of quantized networks with that of the float network, image by image. A network is not worse if the 95 %
    interval of the difference of certified accuracy lies above minus the margin at all radii. In every series, networks are tested
    from the most BOPs to the fewest, and the first that fails ends it: so the chance that a series claims too much is 2.5 %,
    however many networks it has.
    """

    Settings = NoninferioritySettings
    positional = ("networks",)

    @cached_property
    def radii(self) -> tuple[float, ...]:
        """Radii at all of which a network must not be worse."""
        from suite.contract.objective import parse_radii

        with keyed("radii"):
            return parse_radii(self.settings.radii)

    def run(self, *, quiet: bool = True) -> Claims:
        """Read the exams and test; write table and figure if asked to."""
        from suite.run.outcomes import read_outcome
        from suite.studies.noninferiority.measure import judge, read_points
        from suite.studies.noninferiority.report import write_claims
        from suite.studies.table.report import read_named

        settings = self.settings
        with keyed("reference"):
            reference = None if settings.reference is None else read_outcome(Path(settings.reference))
        with keyed("networks"):
            points = [point for given in settings.networks for point in read_points(given, reference)]
        with keyed("margin"):
            claims = judge(points, self.radii, settings.margin)
        with keyed("beside"):
            beside = [read_named(given, settings.first) for given in settings.beside]
        if settings.out is not None:
            write_claims(claims, beside, Path(settings.out))
        return claims

    def to_json(self, result: Claims) -> str:
        """Rows and claims."""
        from suite.studies.noninferiority.report import claims_content

        return json.dumps(claims_content(result), indent=2)

    def show(self, result: Claims) -> None:
        """Print the table and what every series may claim."""
        from suite.studies.noninferiority.report import claim_table

        print_table(claim_table(result))
        if self.settings.out is not None:
            print(f"table and figure in {self.settings.out}")
