"""Seeds of a comparison with networks and images of their own, and controls of its winners."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from suite.certify.exam import ExamSettings
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.protocols import NoPostStep
from suite.report import leaderboard, leaderboard_table
from suite.report.comparison import Comparison
from suite.report.exams import exam_score
from suite.run.exam import examine
from suite.run.limits import Limits
from suite.studies.compare.run import ComparisonSettings, compare, load_comparison

SETTINGS = ComparisonSettings(
    searchers=("random", "cheapest"),
    seeds=(0, 1, 10),
    limits=Limits(3),
    fidelity=Fidelity(images=20, noise=8),
    post_step=NoPostStep(),
    exam=ExamSettings(images=30, n0=10, n=50),
)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("replicates") / "comparison"
    return compare(load_problem("digits", budget="w2.5a2.5"), SETTINGS, folder, executor="inline")


def test_every_seed_searches_a_network_and_images_of_its_own_and_is_examined_on_the_same(
    comparison: Comparison,
) -> None:
    networks = {entry.run.seed: entry.run.provenance["network_sha256"] for entry in comparison.entries}
    assert networks[0] == networks[10] != networks[1]  # ten networks are included
    for entry in comparison.entries:
        assert entry.run.provenance["replicate"] == entry.run.seed
        assert entry.outcome.provenance["network_sha256"] == networks[entry.run.seed]
        np.testing.assert_array_equal(entry.outcome.image_ids, comparison.reference.image_ids)
    cheapest = [entry.outcome for entry in comparison.entries if entry.run.searcher == "cheapest"]
    assert cheapest[0].policy == cheapest[1].policy
    assert not np.array_equal(cheapest[0].scores, cheapest[1].scores)


def test_winners_are_compared_with_the_float_network_of_their_seed(comparison: Comparison) -> None:
    frame = leaderboard(comparison).set_index("searcher")
    floats = [examine(load_problem("digits", replicate=seed), None, exam=SETTINGS.exam) for seed in SETTINGS.seeds]
    expected = np.mean([exam_score(outcome, comparison.objective) for outcome in floats])
    assert frame["score"]["float"] == pytest.approx(expected)
    for name in SETTINGS.searchers:
        assert frame["to_float"][name] == pytest.approx(frame["score"][name] - expected)


def test_seeds_share_everything_if_asked_to_or_if_search_images_judge(tmp_path: Path) -> None:
    problem = load_problem("digits", budget="w2.5a2.5")
    shared = replace(SETTINGS, searchers=("cheapest",), same_network=True)
    judged = replace(SETTINGS, searchers=("cheapest",), exam=replace(SETTINGS.exam, split="search"))
    for name, settings in (("shared", shared), ("judged", judged)):
        found = compare(problem, settings, tmp_path / name, executor="inline")
        assert len({entry.run.provenance["network_sha256"] for entry in found.entries}) == 1
        assert len(list((tmp_path / name / "exams").iterdir())) == 2


def test_controls_can_be_added_to_a_finished_comparison(comparison: Comparison) -> None:
    before = {path.name: path.read_bytes() for path in (comparison.directory / "exams").iterdir()}
    wanted = replace(SETTINGS, controls=("plain", "recalibrate:images=300"))
    found = compare(load_problem("digits", budget="w2.5a2.5"), wanted, comparison.directory, executor="inline")
    assert all((found.directory / "exams" / name).read_bytes() == content for name, content in before.items())
    frame = leaderboard(found).set_index("searcher")
    stale = load_problem("digits", budget="w2.5a2.5", protocol="ptq:recalibrate=false")
    cheapest = next(entry.outcome.policy for entry in found.entries if entry.run.searcher == "cheapest")
    scores = [
        exam_score(examine(stale.replicate(seed), cheapest, exam=SETTINGS.exam), found.objective)
        for seed in SETTINGS.seeds
    ]
    assert frame["after plain"]["cheapest"] == pytest.approx(np.mean(scores))
    assert frame["after plain"]["cheapest"] < frame["score"]["cheapest"]
    assert "after plain" in leaderboard_table(leaderboard(found)).to_markdown()
    assert load_comparison(found.directory).entries[0].controls.keys() == {"plain", "recalibrate:images=300"}
    with pytest.raises(BitcertError, match="unknown post-step 'plane'"):
        replace(SETTINGS, controls=("plane",))


def test_a_run_of_a_comparison_is_examined_as_its_seed_has_it(
    comparison: Comparison, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from suite.cli import main

    run = comparison.directory / "searches" / "cheapest-1"
    options = ["--exam-images", "30", "--exam-n0", "10", "--exam-n", "50", "--out", str(tmp_path / "exam.json")]
    assert main(["examine", "--run", str(run), *options, "--json"]) == 0
    capsys.readouterr()
    own = next(e.outcome for e in comparison.entries if e.run.searcher == "cheapest" and e.run.seed == 1)
    assert json.loads((tmp_path / "exam.json").read_text())["metrics"]["acr"] == own.metrics.acr
