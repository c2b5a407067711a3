"""Searchers by name, with options after it."""

from __future__ import annotations

import pytest

from suite.errors import BitcertError
from suite.run.registry import make_searcher, parse_searcher, split_searchers
from suite.studies.compare.run import searcher_slug
from suite.testing.toys import toy_problem


def test_lists_are_split_between_searchers_not_within_values() -> None:
    listed = "random,arq:reward=certified@0.25,0.5:episodes=64,haq"
    assert split_searchers(listed) == ("random", "arq:reward=certified@0.25,0.5:episodes=64", "haq")


def test_options_follow_a_name() -> None:
    text = "arq:reward=certified@0.25,0.5:episodes=64:relabel=true:gradient_norm=null"
    expected = {"reward": "certified@0.25,0.5", "episodes": 64, "relabel": True, "gradient_norm": None}
    assert parse_searcher(text) == ("arq", expected)
    assert parse_searcher("tpe") == ("tpe", {})


@pytest.mark.parametrize("text", ["arq:episodes", "arq:=3", "arq:episodes=3:episodes=4"])
def test_options_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BitcertError, match="NAME=VALUE"):
        parse_searcher(text)


def test_a_searcher_is_recorded_under_its_whole_name_with_its_options() -> None:
    searcher = make_searcher("tpe:startup=4", toy_problem(), seed=0, candidates=8)
    assert searcher.name == "tpe:startup=4"
    assert searcher.options == {"startup": 4, "candidates": 8}


def test_folders_of_searchers_bear_no_separators() -> None:
    assert searcher_slug("arq:reward=certified@0.25,0.5") == "arq_reward=certified_0.25_0.5"
