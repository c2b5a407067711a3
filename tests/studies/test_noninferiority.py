"""Tests for non-inferiority: their error rates by simulation, the order of tests, and what is read from where."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from suite.cli import main
from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.report.intervals import paired_shares_interval, score_of_difference
from suite.run.outcomes import write_outcome
from suite.run.records import Outcome
from suite.studies.noninferiority import measure
from suite.studies.noninferiority.measure import Point, images_needed, judge, read_points
from suite.studies.noninferiority.report import claim_table, plot_claims
from tests.report.fabricated import fabricate, make_outcome

_IMAGES = 1000
_POLICY = Policy.from_bits([2, 2], [2, 2])


def _outcome(certified: NDArray[np.bool_], bops: int, policy: Policy | None = _POLICY) -> Outcome:
    """An exam in which these images are certified at 0.25, and no others at all."""
    labels = np.zeros(len(certified), dtype=np.int64)
    prediction = np.where(certified, 0, -1)
    return make_outcome(labels, prediction, np.where(certified, 0.25, 0.0), bops=bops, policy=policy)


def _pair(rng: np.random.Generator, lost: float, gained: float, images: int = _IMAGES) -> tuple[Outcome, Outcome]:
    """Exams of a quantized and a float network: shares of images that only one of them certifies."""
    kind = rng.choice(4, size=images, p=[lost, gained, 0.5, 0.5 - lost - gained])
    return _outcome((kind == 1) | (kind == 2), 10), _outcome((kind == 0) | (kind == 2), 1000, None)


def _verdict(quantized: Outcome, float_network: Outcome) -> str:
    point = Point("uniform", "w2a2", (quantized,), (float_network,))
    return judge([point], (0.25,), margin=0.01).judged[0].verdict


@pytest.mark.parametrize("lost", [0.02, 0.05, 0.15])
def test_a_network_at_the_margin_passes_as_often_as_stated(lost: float) -> None:
    rng = np.random.default_rng(0)
    passed = sum(_verdict(*_pair(rng, lost, lost - 0.01)) == "not worse" for _ in range(1000))
    # 2.5 % of 1,000: above 42 with a chance of 0.001
    assert passed <= 42


def test_with_the_images_that_are_needed_an_equal_network_passes_four_times_in_five() -> None:
    rng = np.random.default_rng(1)
    first, second = _pair(rng, 0.05, 0.05, 100_000)
    needed = judge([Point("a", "b", (first,), (second,))], (0.25,), 0.01).judged[0].differences[0.25].needed
    # closed form: the variance of the difference is 0.1
    assert needed == pytest.approx(0.1 * (1.959964 + 0.841621) ** 2 / 0.01**2, rel=0.02)
    passed = sum(_verdict(*_pair(rng, 0.05, 0.05, needed)) == "not worse" for _ in range(500))
    # 80 % of 500, within 4 standard errors
    assert abs(passed / 500 - 0.8) < 4 * math.sqrt(0.16 / 500)


def test_a_much_worse_network_is_called_worse() -> None:
    assert _verdict(*_pair(np.random.default_rng(2), 0.2, 0.01)) == "worse"


@pytest.mark.parametrize(("images", "verdict"), [(200, "undecided"), (1000, "not worse")])
def test_equal_exams_decide_as_much_as_their_images_do(images: int, verdict: str) -> None:
    same = np.arange(images) % 2 == 0
    assert _verdict(_outcome(same, 10), _outcome(same, 1000, None)) == verdict
    assert 200 < images_needed(np.zeros(images), 0.01) < 1000


@pytest.mark.parametrize("gained", [0.0, 0.0005, 0.002, 0.01, 0.05])
@pytest.mark.parametrize("images", [500, 1000, 3000])
def test_a_network_at_the_margin_is_claimed_in_one_of_forty_exams_at_most(images: int, gained: float) -> None:
    margin = 0.01
    counts = np.arange(images // 4)
    gains, losses = np.meshgrid(counts, counts, indexing="ij")
    chance = stats.binom.pmf(gains, images, gained) * stats.binom.pmf(
        losses, images - gains, (gained + margin) / (1 - gained)
    )
    assert chance.sum() == pytest.approx(1)
    claimed = score_of_difference(gains, losses, images, -margin) > stats.norm.ppf(0.975)
    assert chance[claimed].sum() <= 0.0255
    likely = np.argwhere(chance > np.quantile(chance, 1 - 10 / chance.size))
    for gain, loss in likely:
        assert (paired_shares_interval(int(gain), int(loss), images).low > -margin) == claimed[gain, loss]


def test_more_radii_need_more_images() -> None:
    differences = np.repeat([-1.0, 0.0, 1.0], [50, 900, 50])
    one, three = (images_needed(differences, 0.01, radii) for radii in (1, 3))
    assert three / one == pytest.approx(((1.959964 + 1.501086) / (1.959964 + 0.841621)) ** 2, rel=1e-3)


def test_radii_that_are_no_decimals_count_images_certified_right_there() -> None:
    certified = np.arange(1000) % 2 == 0
    pair = [
        make_outcome(
            np.zeros(1000, dtype=np.int64), np.where(certified, 0, -1), np.where(certified, 26 / 255, 0.0), **kind
        )
        for kind in ({"bops": 10, "policy": _POLICY}, {"bops": 1000, "policy": None})
    ]
    (judged,) = judge([Point("s", "n", (pair[0],), (pair[1],))], (26 / 255,), 0.01).judged
    assert judged.differences[26 / 255].accuracy == 0.5


def test_exams_on_search_images_claim_nothing() -> None:
    quantized, reference = _pair(np.random.default_rng(5), 0.001, 0.02)
    seen = replace(quantized, provenance={**quantized.provenance, "exam": {"split": "search"}})
    with pytest.raises(BitcertError, match="s, n was certified on search images; a claim needs held-out ones"):
        judge([Point("s", "n", (seen,), (reference,))], (0.25,), 0.01)


def test_a_series_ends_at_the_first_network_that_fails() -> None:
    rng = np.random.default_rng(3)
    good, reference = _pair(rng, 0.001, 0.02)
    bad = _outcome(rng.random(_IMAGES) < 0.2, 20)
    points = [
        Point("s", name, (outcome,), (reference,))
        for name, outcome in (("cheap", good), ("middle", bad), ("dear", _with_bops(good, 30)))
    ]
    claims = judge(points, (0.25,), 0.01)
    assert [(one.point.name, one.verdict, one.claimed) for one in claims.judged] == [
        ("dear", "not worse", True),
        ("middle", "worse", False),
        ("cheap", "not worse", False),
    ]
    smallest = claims.smallest("s")
    assert smallest is not None
    assert smallest.point.share == 0.03
    assert "s: not worse from 3.00% of the float network's BOPs on." in claim_table(claims).notes


def _with_bops(outcome: Outcome, bops: int) -> Outcome:
    certificates = outcome.certificates
    return make_outcome(outcome.labels, certificates.prediction, certificates.radius, bops=bops, policy=_POLICY)


def test_all_radii_must_hold() -> None:
    rng = np.random.default_rng(4)
    good, reference = _pair(rng, 0.001, 0.02)
    certificates = good.certificates
    low = make_outcome(good.labels, certificates.prediction, certificates.radius / 2, bops=10, policy=_POLICY)
    point = Point("s", "n", (low,), (reference,))
    assert judge([point], (0.1,), 0.01).judged[0].verdict == "not worse"
    assert judge([point], (0.1, 0.25), 0.01).judged[0].verdict == "worse"


def test_winners_of_all_seeds_are_one_point_with_an_interval_over_seeds_and_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = fabricate()
    comparison = replace(made, entries=tuple(replace(entry, before=made.reference) for entry in made.entries))
    monkeypatch.setattr(measure, "load_comparison", lambda folder: comparison)
    (point,) = read_points("searched=runs/made-up@random", None)
    entries = [entry for entry in comparison.entries if entry.run.searcher == "random"]
    assert (point.series, len(point.outcomes)) == ("searched", len(entries))
    found = judge([point], (0.25,), 0.01).judged[0].differences[0.25]
    assert found.accuracy == pytest.approx(np.mean([entry.outcome.metrics.certified[0.25] for entry in entries]))
    alone = judge([Point("s", "n", point.outcomes[:1], point.references[:1])], (0.25,), 0.01)
    assert found.interval != alone.judged[0].differences[0.25].interval
    (before,) = read_points("searched=runs/made-up@random@before", None)
    assert [outcome.metrics.acr for outcome in before.outcomes] == [made.reference.metrics.acr] * len(entries)
    with pytest.raises(BitcertError, match="unknown searcher 'nobody'"):
        read_points("searched=runs/made-up@nobody", None)
    with pytest.raises(BitcertError, match="unknown exam of this comparison 'nothing'; known: before"):
        read_points("searched=runs/made-up@random@nothing", None)


def test_the_command_writes_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantized, reference = _pair(np.random.default_rng(5), 0.001, 0.02)
    write_outcome(quantized, tmp_path / "w2a2.json")
    write_outcome(reference, tmp_path / "float.json")
    given = ["noninferiority", f"uniform={tmp_path / 'w2a2.json'}", "--float", str(tmp_path / "float.json")]
    given += ["--radii", "0,0.25", "--beside", f"again={tmp_path / 'float.json'}", "--out", str(tmp_path / "out")]
    assert main(given) == 0
    assert "not worse from 1.00%" in capsys.readouterr().out
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {
        ".csv",
        ".html",
        ".json",
        ".md",
        ".png",
        ".svg",
        ".tex",
    }
    assert main([*given, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["smallest_share"] == {"uniform": 0.01}
    written = json.loads((tmp_path / "out" / "noninferiority.json").read_text())
    assert written == content | written
    row = content["rows"][0]
    assert row["difference@0.25"] == pytest.approx(row["certified@0.25"] - row["float@0.25"])


def test_the_figure_shows_every_series_at_every_radius() -> None:
    rng = np.random.default_rng(6)
    quantized, reference = _pair(rng, 0.03, 0.02)
    points = [Point(name, "n", (quantized,), (reference,)) for name in ("uniform", "searched")]
    axes = plot_claims(judge(points, (0.0, 0.25), 0.01))
    panels = axes.figure.axes
    assert [panel.get_title("left") or panel.get_title() for panel in panels] == ["r = 0", "r = 0.25"]
    assert axes.get_legend_handles_labels()[1] == ["float", "margin", "uniform", "searched"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nothing"], "networks are given as SERIES=FILE or SERIES=DIR@SEARCHER, got 'nothing'"),
        (["s=missing.json"], "is missing: there is no file missing.json"),
        (["s=quantized.json"], "is tested against the float network; give its exam with --float"),
        (["s=float.json", "--float", "float.json"], "is the exam of a float network"),
        (["s=other.json", "--float", "float.json"], "two exams are on different images"),
        (["s=quantized.json", "--float", "float.json", "--margin", "0"], "the margin is a share"),
        (["s=quantized.json", "--float", "float.json", "--radii", "1,x"], "radii are numbers"),
    ],
)
def test_mistakes_are_one_clear_line(
    given: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    quantized, reference = _pair(rng, 0.01, 0.01)
    write_outcome(quantized, Path("quantized.json"))
    write_outcome(reference, Path("float.json"))
    write_outcome(_pair(rng, 0.01, 0.01, 50)[0], Path("other.json"))
    assert main(["noninferiority", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
