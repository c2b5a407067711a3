"""Measured latency as a cost: monotone, bound to its network, and a wall for every searcher."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.contract.cost import Cost, parse_budget
from suite.contract.latency import (
    Entry,
    Latency,
    LatencyTable,
    LayerLatency,
    layer_latency,
    monotone,
    read_latency,
    write_latency,
)
from suite.contract.space import Layer, Precision, SearchSpace
from suite.errors import BitcertError
from suite.files import write_sealed
from suite.plugins import COSTS
from suite.run.registry import make_searcher
from suite.testing import costs
from suite.testing.costs import CostConformance
from suite.testing.toys import SPACES, drive, problem_on, small_layers

BITS = [Precision(*bits) for bits in product(range(1, 9), repeat=2)]
LAYERS = small_layers(6)


def made_table(layers: tuple[Layer, ...] = LAYERS, seed: int = 0) -> LatencyTable:
    """Layers whose kernels depend on bytes meeting bytes and on clipped inputs, as on a processor without VNNI."""
    rng = np.random.default_rng(seed)
    of = {bits: 2 if bits == (8, 8) else int(bits.activation == 8) for bits in BITS}
    rows = []
    for layer in layers:
        plain = int(rng.integers(500, 5000))
        rows.append(layer_latency(layer, of, {0: plain + int(rng.integers(1, 90)), 1: plain, 2: 2 * plain}))
    return LatencyTable(tuple(rows), constant=1234)


def graded_table(layers: tuple[Layer, ...] = LAYERS) -> LatencyTable:
    """Layers with another time for every precision."""
    kernels = {bits: number for number, bits in enumerate(BITS)}
    times = {number: 100 * bits.weight + 37 * bits.activation**2 for bits, number in kernels.items()}
    return LatencyTable(tuple(layer_latency(layer, kernels, times) for layer in layers), constant=50)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    write_latency(Path("t.json"), made_table(), {"batch": 250})
    return "t.json"


@given(st.dictionaries(st.sampled_from(BITS), st.integers(0, 1000), min_size=1))
def test_monotone_is_the_smallest_table_above_the_measured_one_that_never_falls(measured: dict[Precision, int]) -> None:
    expected, changed = dict(measured), True
    while changed:  # raise what is too low until nothing is
        changed = False
        for low, high in product(expected, repeat=2):
            if low[0] <= high[0] and low[1] <= high[1] and expected[low] > expected[high]:
                expected[high], changed = expected[low], True
    assert monotone(measured) == expected
    assert monotone(expected) == expected


def test_a_table_says_how_much_was_raised() -> None:
    layer = layer_latency(
        LAYERS[0], {Precision(2, 2): 0, Precision(2, 8): 1, Precision(8, 8): 2}, {0: 100, 1: 80, 2: 200}
    )
    assert layer.entries == (Entry(2, 2, 0, 100, 100), Entry(2, 8, 1, 80, 100), Entry(8, 8, 2, 200, 200))
    changes = LatencyTable((layer,), 0).changes()
    assert changes["entries"] == 3
    assert changes["changed"] == 1
    assert changes["largest_increase"] == 0.25
    assert changes["mean_increase"] == pytest.approx(0.25 / 3)


def test_a_table_is_read_back_as_it_was_written(table: str) -> None:
    found, about = read_latency(Path(table))
    assert found == made_table()
    assert about["batch"] == 250
    assert about["monotone"]["changed"] > 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: b"", "not JSON"),
        (lambda content: content[: len(content) // 2], "not JSON"),
        (lambda content: content.replace(b'"constant": 1234', b'"constant": 1233'), "checksum"),
        (lambda content: b'{"weights": [2], "activations": [2]}', "no checksum"),
        (lambda content: b"\xff\xfe\x00", "not JSON"),
    ],
)
def test_damaged_files_are_refused_in_one_line(table: str, spoil: Callable[[bytes], bytes], message: str) -> None:
    Path(table).write_bytes(spoil(Path(table).read_bytes()))
    with pytest.raises(BitcertError, match=message) as caught:
        COSTS.make(f"latency:table={table}")
    assert "\n" not in str(caught.value)


def _rows(content: dict[str, Any]) -> list[list[int]]:
    rows: list[list[int]] = content["table"]["layers"][0]["entries"]
    return rows


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content.update(kind="a journal"), "is not a latency table"),
        (lambda content: content.update(schema=99), "schema 99"),
        (lambda content: content.pop("table"), "measure it again"),
        (lambda content: content["table"].update(constant=-1), "fall or are negative"),
        (lambda content: content["table"].update(constant="1"), "constant"),
        (lambda content: _rows(content)[0].__setitem__(4, 10**6), "fall or are negative"),
        (lambda content: _rows(content)[0].pop(), "measure it again"),
    ],
)
def test_foreign_files_are_refused_in_one_line(
    table: str, spoil: Callable[[dict[str, Any]], object], message: str
) -> None:
    content = json.loads(Path(table).read_text(encoding="utf-8"))
    del content["sha256"]
    spoil(content)
    write_sealed(Path(table), content)
    with pytest.raises(BitcertError, match=message) as caught:
        COSTS.make(f"latency:table={table}")
    assert "\n" not in str(caught.value)
    assert table in str(caught.value)


def test_a_table_of_another_network_is_refused_in_one_line(table: str) -> None:
    wider = (replace(LAYERS[0], out_channels=99), *LAYERS[1:])
    for layers, message in (
        (LAYERS[:5], "it has a layer 'layer5'"),
        (small_layers(7), "'layer6': it has no such layer"),
        (wider, "'layer0': it was measured for another one"),
    ):
        with pytest.raises(BitcertError, match=message) as caught:
            parse_budget(f"latency:table={table}<=10000", SearchSpace(layers))
        assert "for another network" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_precision_that_was_not_measured_is_refused_before_a_search(table: str) -> None:
    full, _ = read_latency(Path(table))
    few = tuple(
        LayerLatency(row.layer, tuple(e for e in row.entries if e.weight in (2, 4) or e[:2] == (8, 8)))
        for row in full.layers
    )
    write_latency(Path(table), LatencyTable(few, 0), {})
    text = f"latency:table={table}<=10000000"
    parse_budget(text, SearchSpace(LAYERS, (2, 4)))
    with pytest.raises(BitcertError, match=r"no entry for layer 'layer1' at 3/2 bits.*--precisions"):
        parse_budget(text, SearchSpace(LAYERS, (2, 3, 4)))
    with pytest.raises(BitcertError, match="no entry for layer 'layer0' at 3/3 bits"):
        parse_budget(text, SearchSpace(LAYERS, (2, 4), pins={"layer0": Precision(3, 3)}))


def test_a_cost_is_the_sum_of_entries_and_the_constant_in_microseconds(table: str) -> None:
    space, found = SearchSpace(LAYERS, pins={}), made_table()
    policy = space.random(np.random.default_rng(0))
    cost = Latency(table)
    by_hand = 1234 + sum(
        next(e.nanoseconds for e in row.entries if (e.weight, e.activation) == bits)
        for row, bits in zip(found.layers, policy.precisions, strict=True)
    )
    assert cost.total(space, policy) == by_hand
    assert cost.units(by_hand) == -(-by_hand // 1000)
    most = cost.total(space, space.uniform(8))
    assert not parse_budget(f"latency:table={table}<={most // 1000}", space).allows(space, space.uniform(8))
    assert parse_budget(f"latency:table={table}<={most // 1000 + 1}", space).allows(space, space.uniform(8))


def test_costs_are_equal_only_with_the_same_content_and_need_no_file_once_made(table: str) -> None:
    before = Latency(table)
    assert before == Latency(table)
    write_latency(Path(table), made_table(seed=1), {})
    assert before != Latency(table)
    Path(table).unlink()
    assert pickle.loads(pickle.dumps(before)) == before  # noqa: S301


@pytest.mark.parametrize(
    "searcher", ["uniform", "random", "random-filled", "evolution", "arq", "haq", "sensitivity-ilp"]
)
@pytest.mark.parametrize("made", [made_table, graded_table])
def test_searchers_run_unchanged_under_a_latency_budget(
    table: str, searcher: str, made: Callable[[], LatencyTable]
) -> None:
    write_latency(Path(table), made(), {})
    cost, space = Latency(table), SearchSpace(LAYERS)
    least, most = (cost.total(space, space.uniform(bits)) for bits in (2, 8))
    limit = cost.units((least + most) // 2)
    problem = problem_on(space, f"latency:table={table}<={limit}")
    trials = drive(make_searcher(searcher, problem, seed=0), problem, 12)
    assert trials
    assert all(cost.total(space, trial.policy) <= 1000 * limit < most for trial in trials)


class TestLatency(CostConformance):
    @pytest.fixture(autouse=True)
    def spaces_of_the_table(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Spaces over the layers of the table, which knows no others."""
        monkeypatch.chdir(tmp_path)
        write_latency(Path("t.json"), graded_table(), {})
        spaces = [replace(space, layers=LAYERS) for space in SPACES.values()]
        monkeypatch.setattr(costs, "random_spaces", lambda: iter(spaces))

    def make(self) -> Cost:
        return Latency("t.json")


class TestLatencyOfFewKernels(TestLatency):
    @pytest.fixture(autouse=True)
    def few_kernels(self, spaces_of_the_table: None) -> None:
        write_latency(Path("t.json"), made_table(), {})
