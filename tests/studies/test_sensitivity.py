"""The analysis of sensitivities: orders, costs, tables and figures, resumed where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import kendalltau

from suite.cli import main
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.problems import load_problem
from suite.studies.sensitivity.run import analyse_sensitivity, order_agreement

METHODS = ("hawq-v1:images=8", "hawq-v2:images=8", "sensitivity-ilp:images=8:noise=1")
COMMAND = (
    *("sensitivity", "digits", "--budget", "w3a3", "--policies", "5", "--images", "6", "--noise", "4"),
    *("--protocol", "ptq:recalibrate=false"),  # quicker, and so bad that the scores of five policies differ
)


def test_agreement_is_kendalls_tau_with_the_least_loss_first() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert order_agreement(-scores, scores)[0] == pytest.approx(1)
    assert order_agreement(scores, scores)[0] == pytest.approx(-1)
    rng = np.random.default_rng(0)
    losses = rng.integers(4, size=30).astype(float)
    scores = rng.standard_normal(30)
    tau, low, high = order_agreement(losses, scores)
    assert tau == pytest.approx(kendalltau(losses, -scores).statistic)
    assert low < tau < high
    assert order_agreement(losses, scores) == (tau, low, high)


def test_intervals_cover_the_true_tau() -> None:
    """Of two normal variables with correlation r, tau is 2 / pi * arcsin(r); 60 intervals of 95 % miss it rarely."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        drawn = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], size=60)
        _, low, high = order_agreement(-drawn[:, 0], drawn[:, 1])
        covered += low <= 2 / np.pi * np.arcsin(0.7) <= high
    assert covered >= 50  # of 60; fewer has a probability below 0.001 at 95 %


def test_a_method_that_predicts_the_same_for_all_has_no_tau() -> None:
    assert np.isnan(order_agreement(np.ones(5), np.arange(5.0))).all()


def test_methods_that_predict_no_losses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BitcertError, match="unknown sensitivity method 'tpe'"):
        analyse_sensitivity(load_problem("digits"), tmp_path, methods=("tpe",))
    assert not list(tmp_path.iterdir())


def test_two_policies_have_no_order_worth_the_name(tmp_path: Path) -> None:
    with pytest.raises(BitcertError, match="three at least"):
        analyse_sensitivity(
            load_problem("digits"), tmp_path, methods=METHODS[:1], policies=2, fidelity=Fidelity(images=4, noise=2)
        )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sensitivity")
    methods = ("--methods", ",".join(METHODS))
    assert main([*COMMAND, *methods, "--directory", str(directory), "--json"]) == 0
    return directory


def test_tables_agree_with_each_other(written: Path) -> None:
    report = written / "report"
    record = json.loads((report / "sensitivity.json").read_text(encoding="utf-8"))
    methods, policies = pd.read_csv(report / "methods.csv"), pd.read_csv(report / "policies.csv")
    assert list(methods["method"]) == list(METHODS)
    for row in methods.itertuples():
        expected = kendalltau(policies[row.method], -policies["score"]).statistic
        assert row.kendall_tau == pytest.approx(expected)
    assert methods["forward_passes"].tolist()[2] == 8 * (1 + 8 * 2 * 7)
    assert len(pd.read_csv(report / "losses.csv")) == 3 * 2 * 10 * 7
    layers = pd.read_csv(report / "layers.csv")
    assert (layers["mean_trace_weights_se"] > 0).all()
    assert [len(record[name]) for name in ("methods", "layers", "losses", "policies")] == [3, 10, 420, 5]
    assert record["provenance"]["budget"] == "w3a3"


def test_figures_are_written_as_png_and_svg(written: Path) -> None:
    for name in ("layers", "losses", "agreement"):
        with Image.open(written / "report" / f"{name}.png") as image:
            assert min(image.size) > 300
            assert np.asarray(image.convert("L")).std() > 5, "something is drawn"
        assert (written / "report" / f"{name}.svg").stat().st_size > 5_000


def test_a_second_run_measures_nothing_again_and_writes_the_same(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = (written / "policies" / "journal.jsonl").read_text(encoding="utf-8")
    losses = (written / "report" / "losses.csv").read_bytes()
    picture = (written / "report" / "losses.png").read_bytes()
    assert main([*COMMAND, "--methods", ",".join(METHODS), "--directory", str(written)]) == 0
    assert "Kendall tau" in capsys.readouterr().out
    assert (written / "policies" / "journal.jsonl").read_text(encoding="utf-8") == journal
    assert (written / "report" / "losses.csv").read_bytes() == losses
    assert (written / "report" / "losses.png").read_bytes() == picture


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "unknown problem 'nonsense'"),
        (["digits", "--methods", "random"], "unknown sensitivity method 'random'"),
        (["digits", "--policies", "0"], "evaluations must be at least 1"),
        (["separable"], "has no network"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sensitivity", *arguments, "--directory", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert not (tmp_path / "new").exists()
