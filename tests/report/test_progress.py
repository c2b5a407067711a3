"""Bars wait for the first news, keep to standard error, and are silent when asked to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from suite.contract.space import Policy
from suite.contract.trial import Fidelity, Metrics, Trial
from suite.errors import BitcertError
from suite.problems.separable import SeparableProblem
from suite.report.progress import Progress, SearchBars
from suite.run.limits import Limits


def trial(number: int, acr: float | None) -> Trial:
    metrics = None if acr is None else Metrics(0.5, acr, {}, 1, 10, 1.0, 0.001, "fixed")
    failure = "loss became [nan]" if acr is None else None
    return Trial(number, Policy.from_bits([2], [2]), Fidelity(), 0, metrics, failure)


def watch(progress: Progress, limits: Limits) -> SearchBars:
    return SearchBars(progress, SeparableProblem(layers=2).objective, [("tpe", 0), ("haq", 1)], limits)


def test_nothing_is_shown_before_there_is_news(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.add("policies", 3)
    assert capsys.readouterr() == ("", "")
    with Progress() as progress:
        progress.add("policies", 3)
        progress.advance("policies")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "policies" in shown.err
    assert "1/3" in shown.err


@pytest.mark.parametrize(("done", "shown"), [(0, False), (1, True)])
def test_mistakes_found_before_anything_is_done_take_the_bars_away(
    done: int, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress()
    progress.add("policies", 3)
    error = BitcertError("there is no checkpoint")
    progress.update("policies", done)
    progress.__exit__(type(error), error, None)
    assert bool(capsys.readouterr().err) is shown


def test_quiet_bars_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True) as progress:
        watcher = watch(progress, Limits(2))
        watcher.trial("tpe", 0, trial(0, 0.25))
        watcher.trial("tpe", 0, trial(1, None))
        watcher.exams(1)
        progress.print("news")
    assert capsys.readouterr() == ("", "")


def test_searches_show_their_best_and_their_failures(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        watcher = watch(progress, Limits(3))
        for number, acr in enumerate((0.25, None, 0.125)):
            watcher.trial("tpe", 0, trial(number, acr))
        watcher.trial("tpe", 0, replace(trial(3, 0.125), repeat_of=2))
        watcher.exams(2)
    shown = capsys.readouterr().err
    assert "trial 1 of tpe 0 failed: loss became [nan]" in shown
    assert "search best 0.2500" in shown
    assert "3/3" in shown
    assert "exams" in shown
    assert "0/2" in shown


def test_bars_count_forward_passes_where_these_are_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        watch(progress, Limits(None, 40)).trial("tpe", 0, trial(0, 0.25))
    assert "10/40" in capsys.readouterr().err


def test_a_bar_with_nothing_to_do_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.add("post-step", 0)
        progress.add("policies")
        progress.add("exam", 5)
        progress.update("policies", total=0)  # found out later
        progress.update("exam", 5, state="done")
    shown = capsys.readouterr().err
    assert "post-step" not in shown
    assert "policies" not in shown
    assert "5/5" in shown
    assert "done" in shown
