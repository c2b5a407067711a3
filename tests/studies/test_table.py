"""Certificates side by side: published tables and exams, counted by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from suite.cli import main
from suite.errors import BitcertError
from suite.report.curves import certified_shares
from suite.report.intervals import crossed_interval
from suite.run.outcomes import write_outcome
from suite.studies.table.report import read_table, summary, together
from tests.report.fabricated import fabricate, make_outcome

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
ROWS = "0\t3\t3\t0.635\t1\t0:00:03.003228\n20\t8\t8\t0.25\t1\t0:00:02\n40\t1\t2\t1.9\t0\t0:00:02\n60\t5\t-1\t0.0\t0\t0:00:02\n"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "gaussian.tsv"
    path.write_text(HEADER + ROWS)
    return path


def test_a_published_table_is_counted(published: Path) -> None:
    table = read_table(published)
    assert table.name == "gaussian"
    assert table.scores().mean() == pytest.approx((0.635 + 0.25) / 4)
    shares = certified_shares(table.radius, table.correct, (0, 0.25, 0.2501, 0.635, 1))
    np.testing.assert_array_equal(shares, [0.5, 0.5, 0.25, 0.25, 0])


def test_a_published_table_is_cut_to_the_first_images(published: Path) -> None:
    table = read_table(published, first=40)
    assert table.radius.tolist() == [[0.635, 0.25]]
    assert table.ids.tolist() == [0, 20]
    with pytest.raises(BitcertError, match=r"gaussian\.tsv has no images whose idx is below 0"):
        read_table(published, first=0)


def test_an_exam_has_the_numbers_that_it_recorded(tmp_path: Path) -> None:
    outcome = fabricate().reference
    write_outcome(outcome, tmp_path / "exam.json")
    row = summary([read_table(tmp_path / "exam.json", "float")], radii=(0.0, 0.25, 0.5)).iloc[0]
    assert (row["name"], row["images"]) == ("float", len(outcome.labels))
    assert row["acr"] == pytest.approx(outcome.metrics.acr)
    for radius in (0.0, 0.25, 0.5):
        assert row[f"certified@{radius:g}"] == pytest.approx(outcome.metrics.certified[radius])


def test_the_command_writes_table_and_figure(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_outcome(fabricate().reference, tmp_path / "exam.json")
    given = [f"ResNet-20, Gaussian={published}", f"ours={tmp_path / 'exam.json'}", "--out", str(tmp_path / "out")]
    assert main(["table", *given]) == 0
    assert "ours" in capsys.readouterr().out
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(files) == {f"certificates.{kind}" for kind in ("csv", "html", "json", "md", "png", "svg", "tex")}
    assert [row["name"] for row in json.loads(files["certificates.json"])["tables"]] == ["ResNet-20, Gaussian", "ours"]
    assert main(["table", *given, "--radii", "0,0.3", "--first", "61", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert (first["certified@0"], first["certified@0.3"]) == (0.5, 0.25)
    assert files["certificates.png"] == (tmp_path / "out" / "certificates.png").read_bytes()


def test_names_and_paths_may_hold_anything(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = published.with_name("episodes=64.tsv")
    path.write_text(published.read_text())
    assert main(["table", str(path), f"[a/b] x=1={path}", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["episodes=64", "[a/b] x=1"]
    assert main(["table", f"[/]={path}"]) == 0
    assert "[/]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "cannot be read"),
        ("a,b\n1,2\n", "needs tab-separated columns"),
        (HEADER, "needs tab-separated columns"),
        (HEADER + "0\t3\t3\tnan\t1\t0\n", "no numbers"),
        (HEADER + "0\t3\t3\t-1\t1\t0\n", "below 0"),
        (HEADER + "0\t3\t4\t0.5\t1\t0\n", "contradicts"),
    ],
)
def test_damaged_tables_are_refused(
    content: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.tsv").write_text(content)
    assert main(["table", str(tmp_path / "table.tsv")]) == 2
    assert expected in capsys.readouterr().err


def test_mistakes_in_what_is_asked_for(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["absent.tsv"], "there is no file"),
        (["."], "there is no file"),
        ([str(published), "--out", str(published)], "is a file"),
        ([str(published), str(published)], "a file is given twice"),
        ([str(published), "--radii", "x"], "numbers separated by commas"),
        ([str(published), "--radii", "1,0"], "ascending"),
    ):
        assert main(["table", *arguments]) == 2
        assert expected in capsys.readouterr().err


def test_beside_a_sequential_exam_all_radii_are_rounded_down_alike(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exam that tried 0, 0.25 and 0.5 only must not look worse than a table of any radius, nor fail where it never tried."""
    outcome = fabricate().reference
    tried = {radius: outcome.metrics.certified[radius] for radius in (0.0, 0.25, 0.5)}
    radius = np.array([0.0, 0.25, 0.5])[np.searchsorted([0.0, 0.25, 0.5], outcome.certificates.radius, "right") - 1]
    certificates = replace(outcome.certificates, radius=radius)
    acr = certificates.acr(outcome.labels)
    metrics = replace(outcome.metrics, method="sequential", acr=acr, certified_accuracy=tried)
    write_outcome(replace(outcome, metrics=metrics, certificates=certificates), tmp_path / "sequential.json")
    frame = summary([read_table(tmp_path / "sequential.json"), read_table(published)], radii=(0.0, 0.5, 1.0))
    ours, theirs = frame.iloc[0], frame.iloc[1]
    assert np.isnan(ours["acr"])
    assert np.isnan(ours["certified@1"])
    assert ours["acr_down"] == pytest.approx(0.25 * (tried[0.25] + tried[0.5]))
    assert theirs["acr"] == pytest.approx((0.635 + 0.25) / 4)
    assert theirs["acr_down"] == pytest.approx((0.5 + 0.25) / 4)
    assert theirs["certified@1"] == 0
    out = tmp_path / "out"
    assert main(["table", str(tmp_path / "sequential.json"), str(published), "--out", str(out)]) == 0
    assert "rounded down" in capsys.readouterr().out
    written = (out / "certificates.md").read_text()
    assert "—" in written
    assert "method sequential" in written


def _trained(folder: Path, name: str, gained: float, seeds: int = 3) -> list[str]:
    """Exams of some trainings, each a little better than the last; files are given under one name."""
    reference, files = fabricate().reference, []
    for seed in range(seeds):
        certificates = reference.certificates
        radius = np.where(certificates.radius > 0, certificates.radius + gained + 0.001 * seed, 0.0)
        path, known = folder / f"{name}-{seed}.json", reference.provenance
        write_outcome(make_outcome(reference.labels, certificates.prediction, radius, provenance=dict(known)), path)
        files.append(f"{name}={path}")
    return files


def test_tables_of_one_name_are_averaged_and_compared_image_by_image(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*_trained(tmp_path, "plain", 0.0), *_trained(tmp_path, "better", 0.01), f"public={published}"]
    assert main(["table", *given, "--against", "plain", "--json", "--out", str(tmp_path / "out")]) == 0
    plain, better, public = json.loads(capsys.readouterr().out)
    tables = [read_table(Path(text.partition("=")[2]), "plain") for text in given[:3]]
    scores = np.concatenate([table.scores() for table in tables])
    assert plain["classifiers"] == 3
    assert plain["acr"] == pytest.approx(scores.mean())
    expected = crossed_interval(scores)
    assert (plain["acr_low"], plain["acr_high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    right = float((scores > 0).mean())
    assert better["difference"] == pytest.approx(0.01 * right)
    assert better["difference_low"] < better["difference"] < better["difference_high"]
    assert (plain["difference"], public["difference"]) == (None, None)
    assert main(["table", *given, "--against", "nobody"]) == 2
    assert "unknown table 'nobody'; known: " in capsys.readouterr().err


def test_tables_of_one_name_have_the_same_images(published: Path, tmp_path: Path) -> None:
    write_outcome(fabricate().reference, tmp_path / "exam.json")
    tables = [read_table(published, "same"), read_table(tmp_path / "exam.json", "same")]
    with pytest.raises(BitcertError, match="tables of the name 'same' are averaged"):
        together(tables)
