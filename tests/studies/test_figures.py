"""Figures of studies are drawn on axes of the caller, too, and tables list what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from suite.contract.objective import parse_objective
from suite.contract.space import Policy
from suite.report.figures import figure_of
from suite.report.table import NOTHING
from suite.studies.plane.report import mark_table, plot_plane
from suite.studies.plane.run import LossPlane, Mark
from suite.studies.post_steps.report import plot_post_steps, post_step_table
from suite.studies.post_steps.run import PostStepComparison
from suite.studies.sensitivity.report import method_table, plot_agreement, plot_layers, plot_losses, write_sensitivity
from suite.studies.sensitivity.run import Agreement, Sensitivity
from suite.studies.table.report import CertificateTable, certificate_table, plot_tables, summary
from tests.report.fabricated import fabricate

KNOWN = {"problem": "made-up", "budget": "w3a3", "sigma": 0.25, "objective": "acr"}
LAYERS = ["first", "second", "last"]
POLICY = Policy.from_bits([2, 2, 2], [2, 2, 2])


def make_sensitivity() -> Sensitivity:
    rng = np.random.default_rng(0)
    columns = ("mean_trace_weights", "mean_trace_weights_se", "mean_trace_inputs", "mean_trace_inputs_se")
    layers = pd.DataFrame(
        {"layer": LAYERS, "weights": 10, **{name: rng.random(3) for name in (*columns, "top_eigenvalue")}}
    )
    losses = pd.DataFrame(
        [
            {"method": method, "layer": layer, "part": part, "bits": bits, "loss": rng.normal()}
            for method in ("hawq", "ilp")
            for layer in LAYERS
            for part in ("weight", "activation")
            for bits in (2, 3, 4)
        ]
    )
    policies = pd.DataFrame({"score": rng.random(6), "hawq": rng.random(6), "ilp": rng.random(6)})
    agreements = (
        Agreement("hawq", float("nan"), float("nan"), float("nan"), POLICY, 1_200, 0.5),
        Agreement("ilp", 0.5, 0.25, 0.75, POLICY, 40, 1.25),
    )
    return Sensitivity(layers, losses, policies, agreements, KNOWN)


def make_plane() -> LossPlane:
    names = ("capture 1", "capture 2", "capture 3", "average", "finetuned")
    marks = tuple(Mark(name, place, place**2 / 4, 0.5 * (place > 3), 0.1, 0.2) for place, name in enumerate(names))
    grid, rng = np.linspace(0, 4, 4), np.random.default_rng(0)
    return LossPlane(
        grid, grid, rng.random((4, 4)), rng.random((4, 4)), marks, {"problem": KNOWN, "post_step": {"captures": 3}}
    )


def make_post_steps() -> PostStepComparison:
    found = fabricate(("random", "tpe"), 2, layers=4, images=40, evaluations=4)
    exams = [entry.outcome for entry in found.entries]
    policies = tuple(outcome.policy for outcome in exams[:2] if outcome.policy is not None)
    provenance = {**KNOWN, "seeds": [0], "exam": {"split": "search", "n": 1_000}}
    named = {"qat": [[exams[0]], [exams[1]]], "sqwa": [[exams[2]], [exams[3]]]}
    names = tuple(f"policy {number}" for number in range(1, len(policies) + 1))
    return PostStepComparison(named, found.reference, parse_objective("acr"), policies, names, provenance)


def make_tables() -> list[CertificateTable]:
    radius = np.array([[0.1, 0.3, 0.0, 0.6]])
    table = CertificateTable("published", Path("a.tsv"), np.arange(4), radius, radius > 0)
    return [
        table,
        replace(table, name="exam", tried=(0.0, 0.25, 0.5), settings={"method": "sequential", "sigma": 0.25}),
    ]


PLOTS: dict[str, tuple[int, Callable[..., Axes]]] = {
    "layers": (1, lambda ax=None: plot_layers(make_sensitivity(), ax)),
    "losses": (4, lambda ax=None: plot_losses(make_sensitivity(), ax)),
    "agreement": (2, lambda ax=None: plot_agreement(make_sensitivity(), ax)),
    "plane": (2, lambda ax=None: plot_plane(make_plane(), ax)),
    "post_steps": (2, lambda ax=None: plot_post_steps(make_post_steps(), ax)),
    "certificates": (1, lambda ax=None: plot_tables(make_tables(), ax)),
}


@pytest.mark.parametrize("name", PLOTS)
def test_axes_of_the_caller_get_one_panel(name: str) -> None:
    panels, plot = PLOTS[name]
    own = plot()
    assert len([axes for axes in figure_of(own).axes if axes.get_label() != "<colorbar>"]) == panels
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot(right) is right
    assert not left.has_data()
    assert not figure.legends
    assert figure.get_suptitle() == ""
    assert right.has_data()
    assert len(right.lines) == len(own.lines)


def test_other_panels_can_be_asked_for() -> None:
    found, ax = make_sensitivity(), Figure().subplots()
    assert plot_losses(found, ax, method="ilp", part="activation").get_title(loc="left") == "ilp, activations"
    assert plot_agreement(found, Figure().subplots(), method="hawq").get_title(loc="left").startswith("hawq\n")
    assert plot_plane(make_plane(), Figure().subplots(), values="acr").get_title(loc="left") == "ACR (search estimate)"


def test_negative_losses_are_marked_for_readers_without_colour() -> None:
    found = make_sensitivity()
    axes = plot_losses(found, Figure().subplots())
    shown = found.losses[(found.losses["method"] == "hawq") & (found.losses["part"] == "weight")]
    assert sum(bool(text.get_text()) for text in axes.texts) == (shown["loss"] < 0).sum() > 0


def test_tables_say_what_was_found(tmp_path: Path) -> None:
    methods = method_table(make_sensitivity())
    assert methods.cells == [["ilp", "0.500", "[0.25, 0.75]", "40", "1.2"], ["hawq", NOTHING, NOTHING, "1,200", "0.5"]]
    write_sensitivity(make_sensitivity(), tmp_path)
    assert pd.read_csv(tmp_path / "methods.csv")["method"].tolist() == ["hawq", "ilp"]
    assert [line[0] for line in mark_table(make_plane()).cells][-2:] == ["average", "finetuned"]
    assert post_step_table(make_post_steps()).cells[0][4:6] == [NOTHING, NOTHING]
    rows = certificate_table(summary(make_tables(), (0.0, 0.25, 1.0))).cells
    assert [rows[0][2], rows[1][2], rows[1][-1]] == ["0.250", NOTHING, NOTHING]
