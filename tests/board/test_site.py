"""The site's content: statuses, ranks, verdicts, downloads, strangers' text, and what a build does to its folder."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from suite.board.schema import verification_of, withdrawal_of
from suite.board.site import build_site
from suite.board.site.loading import Listed, read_entries
from suite.board.site.standings import rank_entries, standings
from suite.cli import main
from suite.errors import BitcertError
from suite.report.intervals import crossed_interval
from tests.board.synthetic import RADII, make_entry, put, put_board


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("board") / "entries"
    put_board(found)
    return found


@pytest.fixture(scope="module")
def site(folder: Path) -> Path:
    out = folder.parent / "site"
    build_site(read_entries(folder), out)
    return out


def listed_on(folder: Path, budget: str = "w3a3") -> list[Listed]:
    return next(listed for board, listed in read_entries(folder).boards.items() if board.budget == budget)


def status_of(folder: Path) -> tuple[str, tuple[str, ...]]:
    found = read_entries(folder)
    return found.entries[0].status, found.problems


def test_an_entry_is_verified_only_by_an_accepted_verification_of_this_very_content(tmp_path: Path) -> None:
    path = put(tmp_path, make_entry(seed=1), "verified")
    assert status_of(tmp_path) == ("verified", ())
    content = json.loads(verification_of(path).read_text())
    verification_of(path).write_text(json.dumps(content | {"entry": "0" * 64}))
    assert status_of(tmp_path) == ("claimed", (f"{verification_of(path).name} is of another entry",))
    verification_of(path).write_text(json.dumps(content | {"accepted": False, "reasons": ["no"]}))
    assert status_of(tmp_path)[0] == "rejected"
    verification_of(path).write_text("{}")
    status, (problem,) = status_of(tmp_path)
    assert status == "claimed"
    assert "is not a verification" in problem
    withdrawal_of(path).write_text("damaged")
    assert status_of(tmp_path)[0] == "withdrawn"


def test_only_verified_entries_of_one_board_are_ranked(folder: Path) -> None:
    listed = listed_on(folder)
    ranks = rank_entries(listed)
    eligible = {each.name: each.score for each in listed if each.status == "verified" and each.score > 0.08}
    assert ranks.keys() == eligible.keys()
    assert sorted(ranks, key=ranks.__getitem__) == sorted(eligible, key=eligible.__getitem__, reverse=True)
    assert not any(each.name in ranks for each in listed if each.entry.method.name == "cheapest")
    assert [ranks.get(each.name) for each in listed if each.status != "verified"] == [None] * 4


def test_standings_are_of_methods_over_seeds_paired_with_the_reference(folder: Path) -> None:
    listed = listed_on(folder)
    found = standings(listed[0].board, listed)
    assert found is not None
    assert found.against == "random-filled"
    rows = found.table.frame.set_index("method")
    assert set(rows.index) == {"cheapest", "random", "random-filled", "tpe", "evolution"}
    scores = {
        name: np.array([each.scores for each in listed if each.entry.method.name == name])
        for name in ("tpe", "random-filled")
    }
    tpe, difference = rows.loc["tpe"], scores["tpe"] - scores["random-filled"]
    assert tpe["score"] == pytest.approx(scores["tpe"].mean())
    assert tpe["difference"] == pytest.approx(difference.mean())
    interval = crossed_interval(difference, paired=True)
    assert (tpe["difference_low"], tpe["difference_high"]) == pytest.approx((interval.low, interval.high))
    assert set(rows["verdict"].dropna()) == {"underpowered"}  # 4 comparisons need 8 seeds, 6 are there
    assert any("at least 8 common seeds" in note for note in found.table.notes)
    assert rows["constant"]["cheapest"]
    assert np.isnan(rows["rank"].astype(float)["cheapest"])


def test_enough_seeds_give_a_verdict_of_the_sign_flip_test(tmp_path: Path) -> None:
    for seed in range(6):
        put(tmp_path, make_entry("random-filled", seed), "verified")
        put(tmp_path, make_entry("evolution", seed), "verified")
    listed = listed_on(tmp_path)
    found = standings(listed[0].board, listed)
    assert found is not None
    row = found.table.frame.set_index("method").loc["evolution"]
    means = {
        name: np.array([each.score for each in listed if each.entry.method.name == name])
        for name in ("evolution", "random-filled")
    }
    p_value = stats.permutation_test(
        (means["evolution"] - means["random-filled"],), np.mean, permutation_type="samples"
    ).pvalue
    assert row["p_adjusted"] == pytest.approx(p_value)
    assert row["verdict"] == ("better" if p_value <= 0.05 else "not distinguishable")


def test_a_seed_submitted_again_does_not_replace_the_first(tmp_path: Path) -> None:
    first = make_entry("tpe", 0)
    put(tmp_path, first, "verified")
    later = make_entry("tpe", 0, date="2026-11-20", costs={"bytes": 1})
    put(
        tmp_path,
        later.model_copy(
            update={"images": make_entry("evolution", 0).images, "results": make_entry("evolution", 0).results}
        ),
        "verified",
    )
    listed = listed_on(tmp_path)
    found = standings(listed[0].board, listed)
    assert len(listed) == 2
    assert found is not None
    assert found.table.frame["score"].tolist() == pytest.approx([first.results.acr])
    assert "1 entry repeats the seed" in found.table.notes[-1]


def test_boards_differ_in_anything_that_makes_scores_incomparable(tmp_path: Path) -> None:
    put(tmp_path, make_entry())
    for changes in ({"budget": "w2a2"}, {"problem": "mnist"}, {"images": 41}, {"post_step": "sqwa"}):
        put(tmp_path, make_entry(**changes))
    boards = read_entries(tmp_path).boards
    assert len(boards) == 5
    assert len({board.slug for board in boards}) == 5
    assert standings(*next(iter(boards.items()))) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"results": {"acr": 0.9}}, "claims an ACR of 0.9, but its rows give"),
        ({"problem": {"objective": "evil_module:Thing"}}, "has the objective evil_module:Thing"),
    ],
)
def test_entries_that_contradict_themselves_or_ask_for_code_are_not_listed(
    tmp_path: Path, change: dict[str, dict[str, object]], reason: str
) -> None:
    put(tmp_path, make_entry(seed=1))
    entry = make_entry(seed=2)
    put(
        tmp_path,
        entry.model_copy(update={part: getattr(entry, part).model_copy(update=new) for part, new in change.items()}),
    )
    found = read_entries(tmp_path)
    assert [each.entry.method.seed for each in found.entries] == [1]
    assert reason in found.problems[0]


def test_text_of_strangers_stays_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    put(tmp_path / "entries", make_entry(text=f"=cmd{evil}", origin={"notes": evil, "authors": [evil]}))
    build_site(read_entries(tmp_path / "entries"), tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        assert "<script>" not in page.read_text(), page
    rows = list(csv.DictReader(io.StringIO((tmp_path / "site" / "entries.csv").read_text())))
    assert rows[0]["method"] == f"'=cmd{evil}"


def test_downloads_hold_what_the_entries_hold(folder: Path, site: Path) -> None:
    each = listed_on(folder)[0]
    assert (site / "entries" / f"{each.name}.json").read_text() == (folder / f"{each.name}.json").read_text()
    images = list(csv.DictReader(io.StringIO((site / "entries" / f"{each.name}.csv").read_text())))
    right = [float(row["radius"]) * (row["prediction"] == row["label"]) for row in images]
    assert np.mean(right) == pytest.approx(each.entry.results.acr)
    assert [int(row["successes"]) for row in images] == each.entry.images.successes
    rows = {row["name"]: row for row in json.loads((site / "entries.json").read_text())}
    assert rows[each.name]["certified@0.25"] == each.entry.results.certified_accuracy[f"{RADII[0]:g}"]
    base = site / "boards" / each.board.slug
    content = json.loads(base.with_name(base.name + ".json").read_text())
    assert {row["method"] for row in content["methods"]} == {"cheapest", "random", "random-filled", "tpe", "evolution"}
    assert r"\begin{tabular}" in base.with_name(base.name + ".tex").read_text()


def test_equal_entries_give_equal_bytes_and_only_own_files_are_removed(
    folder: Path, tmp_path: Path, site: Path
) -> None:
    out = tmp_path / "site"
    put(tmp_path / "other", make_entry(budget="w4a4"))
    build_site(read_entries(tmp_path / "other"), out)
    (out / "CNAME").write_text("example.org")
    stale = {path.relative_to(out) for path in (out / "entries").iterdir()}
    build_site(read_entries(folder), out)
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert not {str(path) for path in stale} & files.keys()
    assert files.pop("CNAME") == b"example.org"
    assert files == {str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*") if path.is_file()}


@pytest.mark.parametrize("content", ['{"made_by": "another", "files": []}', "[]", None])
def test_a_folder_that_holds_something_else_is_refused(folder: Path, tmp_path: Path, content: str | None) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    if content is not None:
        (tmp_path / "site.json").write_text(content)
    with pytest.raises(BitcertError, match="is not empty and holds no earlier build"):
        build_site(read_entries(folder), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_manifest_cannot_name_files_outside(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    put(tmp_path / "entries", make_entry())
    build_site(read_entries(tmp_path / "entries"), tmp_path / "site")
    (tmp_path / "site" / "site.json").write_text(json.dumps({"made_by": "bitcert site", "files": ["../precious"]}))
    build_site(read_entries(tmp_path / "entries"), tmp_path / "site")
    assert (tmp_path / "precious").exists()


def test_the_verb_builds_and_says_what_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "entries", make_entry())
    arguments = ["site", "build", str(tmp_path / "entries"), str(tmp_path / "site")]
    assert main(arguments) == 0
    assert "1 entries (1 claimed) on 1 boards" in capsys.readouterr().out
    (tmp_path / "entries" / "broken.json").write_text("{")
    assert main([*arguments, "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("bitcert: broken.json is not an entry")
    assert json.loads(printed.out)["entries"] == 1
    (tmp_path / "empty").mkdir()
    assert main(["site", "build", str(tmp_path / "empty"), str(tmp_path / "site")]) == 2
    assert main(["site", "build", str(tmp_path / "entries"), str(tmp_path / "entries")]) == 2
    assert main(["site", "serve", "a", "b"]) == 2


def test_a_curve_falls_at_the_radii_of_images(folder: Path) -> None:
    (listed, *_) = read_entries(folder).entries
    curve, scores = listed.curve(), listed.certificates.scores(listed.labels)
    assert curve[-1][1] == 0.0
    radii = np.array([radius for radius, _ in curve])
    for between in (radii[1:] + radii[:-1]) / 2:  # the curve is constant up to the next radius, and has its value there
        share = curve[int(np.searchsorted(radii, between))][1]
        assert share == pytest.approx((scores >= between).mean())
