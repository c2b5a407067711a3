"""Searchers by name, with options after it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from suite.errors import BitcertError
from suite.plugins import SEARCHERS, split_names
from suite.run.registry import make_searcher, predicting_names, searcher_names
from suite.studies.compare.run import searcher_slug
from suite.testing.toys import toy_problem


def test_lists_are_split_between_searchers_not_within_values() -> None:
    listed = "random,arq:reward=certified@0.25,0.5:episodes=64,haq"
    assert split_names(listed) == ("random", "arq:reward=certified@0.25,0.5:episodes=64", "haq")


def test_options_follow_a_name() -> None:
    text = "arq:reward=certified@0.25,0.5:episodes=64:relabel=true:gradient_norm=null"
    expected = {"reward": "certified@0.25,0.5", "episodes": 64, "relabel": True, "gradient_norm": None}
    assert SEARCHERS.parse(text) == ("arq", expected)
    assert SEARCHERS.parse("tpe") == ("tpe", {})


@pytest.mark.parametrize("text", ["arq:episodes", "arq:=3", "arq:episodes=3:episodes=4"])
def test_options_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BitcertError, match="NAME=VALUE"):
        SEARCHERS.parse(text)


def test_a_searcher_is_recorded_under_its_whole_name_with_its_options() -> None:
    searcher = make_searcher("tpe:startup=4", toy_problem(), seed=0, candidates=8)
    assert searcher.name == "tpe:startup=4"
    assert searcher.options == {"startup": 4, "candidates": 8}


def test_folders_of_searchers_bear_no_separators() -> None:
    assert searcher_slug("arq:reward=certified@0.25,0.5") == "arq_reward=certified_0.25_0.5"


def test_names_are_those_of_the_registry_and_listing_them_loads_nothing_heavy() -> None:
    assert searcher_names() == SEARCHERS.names()
    check = (
        "import sys, suite; suite.searcher_names(); "
        "sys.exit(any(name in sys.modules for name in ('optuna', 'torch', 'scipy', 'pydantic', 'gymnasium')))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_methods_that_predict_losses_are_told_by_their_class() -> None:
    assert predicting_names() == (
        "hawq-v1",
        "hawq-v2",
        "hawq-v3",
        "limpq",
        "sensitivity-greedy",
        "sensitivity-ilp",
        "certified-ilp",
        "interval-ilp",
        "delta-loss",
        "output-fisher",
        "fit",
        "clado",
    )


def test_unknown_options_are_refused_with_the_known_ones() -> None:
    with pytest.raises(BitcertError, match="unknown option of searcher tpe 'startups'; known: startup, candidates"):
        make_searcher("tpe:startups=4", toy_problem())
    with pytest.raises(BitcertError, match="unknown option of searcher random 'startup'; known: none"):
        make_searcher("random", toy_problem(), startup=4)


def test_a_second_objective_is_refused_where_it_is_not_supported() -> None:
    with pytest.raises(BitcertError, match=r"arq does not support a second objective; take '\+bops' off"):
        make_searcher("arq", toy_problem(objective="acr+bops"))
    with pytest.raises(BitcertError, match=r"take '\+bytes\+bops' off"):
        make_searcher("arq", toy_problem(objective="acr+bytes+bops"))
