"""Policies and the search space, against enumeration."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from suite.contract.space import PARTS, Layer, Policy, Precision, SearchSpace, Slot
from suite.errors import BitcertError
from tests.strategies import BITS, all_policies, belongs, spaces

FALSE_ALARM = 1e-6
"""Probability that a statistical test of this file fails on correct code; the seeds are fixed."""


def _layers(count: int) -> tuple[Layer, ...]:
    return tuple(Layer(f"layer{position}", "conv", 100 + position, 10) for position in range(count))


SMALL = {
    "free": SearchSpace(_layers(2), (2, 4, 8), pins={}),
    "pinned": SearchSpace(_layers(4), (2, 3)),
    "one pinned": SearchSpace(_layers(3), (2, 4), pins={"layer1": Precision(8, 5)}),
    "tied layers": SearchSpace(_layers(3), (2, 3, 4), pins={}, ties=(("layer0", "layer2"),)),
    "tied weight and activation": SearchSpace(_layers(3), (3, 4, 8), pins={}, tie_weight_activation=True),
    "everything tied": SearchSpace(
        _layers(3), (2, 3, 5), pins={}, ties=(("layer2", "layer1"),), tie_weight_activation=True
    ),
    "nothing free": SearchSpace(_layers(2)),
}
each_small_space = pytest.mark.parametrize("space", SMALL.values(), ids=SMALL)


# Policies


@given(st.lists(st.builds(Precision, BITS, BITS)))
def test_a_policy_survives_json(precisions: list[Precision]) -> None:
    policy = Policy(tuple(precisions))
    text = policy.to_json()
    assert Policy.from_json(text) == policy
    assert json.loads(text) == {"weights": list(policy.weights), "activations": list(policy.activations)}


@given(st.lists(BITS, min_size=1), st.lists(BITS, min_size=1))
def test_policies_are_equal_by_value(weights: list[int], activations: list[int]) -> None:
    count = min(len(weights), len(activations))
    policy = Policy.from_bits(weights[:count], activations[:count])
    same = Policy.from_bits(np.array(weights[:count]).tolist(), tuple(activations[:count]))
    assert policy == same
    assert hash(policy) == hash(same)
    assert policy.weights == tuple(weights[:count])
    assert policy.activations == tuple(activations[:count])
    other = Policy.from_bits([weights[0] + 1, *weights[1:count]], activations[:count])
    assert policy != other


def test_a_policy_cannot_be_changed() -> None:
    policy = Policy.from_bits([2], [3])
    with pytest.raises(AttributeError):
        policy.precisions = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "w4a4",
        "[2, 2]",
        "3",
        "null",
        '{"weights": [2]}',
        '{"weights": 2, "activations": 2}',
        '{"weights": [2.5], "activations": [2]}',
        '{"weights": [true], "activations": [2]}',
        '{"weights": ["2"], "activations": [2]}',
        '{"weights": [[2]], "activations": [2]}',
        '{"weights": [0], "activations": [2]}',
        '{"weights": [33], "activations": [2]}',
        '{"weights": [-2], "activations": [2]}',
        '{"weights": [2], "activations": [NaN]}',
        '{"weights": [2], "activations": [2], "layers": 1}',
        '{"weights": [8], "weights": [2], "activations": [2]}',
        '{"weights": "2", "activations": [2]}',
        '{"weights": {}, "activations": {}}',
        '[["weights", [2]], ["activations", [2]]]',
        "[" * 100_000,
        '{"weights": [' + "9" * 10_000 + '], "activations": [2]}',
        '{"weights": [' + "2," * 600_000 + '2], "activations": [2]}',
    ],
)
def test_text_that_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(BitcertError, match="a policy is JSON like"):
        Policy.from_json(text)


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(BitcertError, match="got 2 and 1"):
        Policy.from_bits([2, 3], [2])
    with pytest.raises(BitcertError, match="got 1 and 2"):
        Policy.from_json('{"weights": [2], "activations": [2, 3]}')


# The space


@each_small_space
def test_the_space_holds_exactly_the_policies_that_respect_choices_pins_and_ties(space: SearchSpace) -> None:
    expected = all_policies(space)
    vectors = product(range(len(space.choices)), repeat=len(space.variables))
    decoded = [space.decode(vector) for vector in vectors]
    assert len(decoded) == len(set(decoded)) == space.cardinality
    assert set(decoded) == set(expected)


@each_small_space
def test_membership_is_that_of_the_rules(space: SearchSpace) -> None:
    bits = (2, 3, 5, 8) if len(space.layers) < 4 else (2, 8)
    precisions = [Precision(*pair) for pair in product(bits, repeat=2)]
    members = 0
    for chosen in product(precisions, repeat=len(space.layers)):
        policy = Policy(chosen)
        assert (policy in space) == belongs(space, policy)
        members += policy in space
    assert members > 0 or space is SMALL["one pinned"]


def test_what_is_no_policy_or_has_another_length_is_no_member() -> None:
    space = SMALL["free"]
    assert Policy.from_bits([2], [2]) not in space
    assert Policy.from_bits([2, 2, 2], [2, 2, 2]) not in space
    assert "policy" not in space
    assert ((2, 2), (2, 2)) not in space


@given(spaces(), st.data())
def test_encode_and_decode_are_inverse(space: SearchSpace, data: st.DataObject) -> None:
    indices = st.integers(0, len(space.choices) - 1)
    vector = data.draw(st.lists(indices, min_size=len(space.variables), max_size=len(space.variables)))
    policy = space.decode(vector)
    assert belongs(space, policy)
    assert policy in space
    assert space.encode(policy).tolist() == vector
    assert space.decode(space.encode(policy)) == policy


@given(spaces())
def test_variables_are_a_partition_of_the_free_slots_in_order(space: SearchSpace) -> None:
    slots = [slot for variable in space.variables for slot in variable]
    free = [
        Slot(position, part)
        for position, layer in enumerate(space.layers)
        for part in PARTS
        if layer.name not in space.pinned or getattr(space.pinned[layer.name], part) is None
    ]
    assert sorted(slots) == sorted(free)
    first = [min(slot.layer for slot in variable) for variable in space.variables]
    assert first == sorted(first)


def _ties_seen(members: list[Policy]) -> set[frozenset[tuple[int, int]]]:
    """The sets of slots, as (layer, part), that hold equal bits in every member and not always the same ones."""
    seen: dict[tuple[int, ...], set[tuple[int, int]]] = {}
    for layer, part in product(range(len(members[0].precisions)), (0, 1)):
        values = tuple(member.precisions[layer][part] for member in members)
        if len(set(values)) > 1:
            seen.setdefault(values, set()).add((layer, part))
    return {frozenset(slots) for slots in seen.values()}


@each_small_space
def test_variables_are_the_slots_that_always_agree(space: SearchSpace) -> None:
    variables = {frozenset((slot.layer, int(slot.part == "activation")) for slot in v) for v in space.variables}
    assert variables == _ties_seen(all_policies(space))


@each_small_space
def test_neighbours_differ_in_one_variable_by_one_step(space: SearchSpace) -> None:
    members = all_policies(space)
    variables = _ties_seen(members)
    for policy in members[:: max(1, len(members) // 20)]:
        expected = set()
        for other in members:
            changed = {
                (layer, part): space.choices.index(other.precisions[layer][part]) - space.choices.index(bits)
                for layer, precision in enumerate(policy.precisions)
                for part, bits in enumerate(precision)
                if other.precisions[layer][part] != bits
            }
            if frozenset(changed) in variables and set(changed.values()) in ({1}, {-1}):
                expected.add(other)
        found = list(space.neighbours(policy))
        assert len(found) == len(set(found))
        assert set(found) == expected


def test_neighbours_of_a_policy_from_elsewhere_are_refused() -> None:
    with pytest.raises(BitcertError, match="breaks a pin or a tie"):
        list(SMALL["tied layers"].neighbours(Policy.from_bits([2, 2, 3], [2, 2, 2])))
    with pytest.raises(BitcertError, match="breaks a pin or a tie"):
        SMALL["pinned"].encode(Policy.from_bits([2, 2, 2, 2], [2, 2, 2, 2]))
    with pytest.raises(BitcertError, match="outside the choices"):
        SMALL["free"].encode(Policy.from_bits([2, 3], [2, 2]))
    with pytest.raises(BitcertError, match="has 1 layers, the space 2"):
        SMALL["free"].encode(Policy.from_bits([2], [2]))


@pytest.mark.parametrize(
    ("vector", "message"),
    [([0], "expected 4 indices, got 1"), ([0, 0, 0, 3], "index 3 is outside 0..2"), ([-1, 0, 0, 0], "index -1")],
)
def test_vectors_out_of_range_are_refused(vector: list[int], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        SMALL["free"].decode(vector)


def test_uniform_keeps_the_pins() -> None:
    space = SearchSpace(_layers(4), (2, 3, 4), pins={"layer2": Precision(8, 5)})
    assert space.uniform(3) == Policy.from_bits([3, 3, 8, 3], [3, 3, 5, 3])
    assert space.uniform(2, 4) == Policy.from_bits([2, 2, 8, 2], [4, 4, 5, 4])
    assert SearchSpace(_layers(3)).uniform(6) == Policy.from_bits([8, 6, 8], [8, 6, 8])


def test_uniform_refuses_what_the_space_does_not_hold() -> None:
    with pytest.raises(BitcertError, match=r"5 bits are not among the choices \(2, 4, 8\)"):
        SMALL["free"].uniform(5)
    with pytest.raises(BitcertError, match="5 bits are not among the choices"):
        SMALL["free"].uniform(2, 5)
    with pytest.raises(BitcertError, match="w3a4 does not exist"):
        SMALL["tied weight and activation"].uniform(3, 4)


@each_small_space
def test_random_policies_are_uniform_on_the_space(space: SearchSpace) -> None:
    members = dict.fromkeys(all_policies(space), 0)
    rng = np.random.default_rng(5)
    for _ in range(20 * len(members)):
        members[space.random(rng)] += 1
    if len(members) > 1:
        assert stats.chisquare(list(members.values())).pvalue > FALSE_ALARM


def test_random_policies_follow_the_generator() -> None:
    space = SearchSpace(_layers(6))
    first, second = (
        [space.random(rng) for _ in range(5)] for rng in (np.random.default_rng(3), np.random.default_rng(3))
    )
    assert first == second
    assert first != [space.random(np.random.default_rng(4)) for _ in range(5)]


_FOUR = _layers(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ()}, "no quantizable layer"),
        ({"layers": (*_FOUR, Layer("layer1", "conv", 1, 1))}, "distinct names"),
        ({"layers": (*_FOUR, Layer("layer4", "conv", 0, 1))}, "at least one MAC"),
        ({"choices": ()}, "choices must be"),
        ({"choices": (4, 2)}, "choices must be ascending"),
        ({"choices": (2, 2)}, "without repetition"),
        ({"choices": (0, 2)}, r"bits must lie in 1\.\.8, got 0"),
        ({"choices": (8, 16)}, r"bits must lie in 1\.\.8, got 16"),
        ({"pins": {"layer1": Precision(8, 9)}}, r"bits must lie in 1\.\.8, got 9"),
        ({"pins": {"layer9": Precision(8, 8)}}, "no layer is called 'layer9'; layers: layer0, layer1"),
        ({"ties": (("layer1", "layer9"),)}, "no layer is called 'layer9'"),
        ({"ties": (("layer0", "layer1"),)}, "'layer0' is in more than one tie, or tied and pinned"),
        ({"ties": (("layer1", "layer2"), ("layer2", "layer1"))}, "'layer1' is in more than one tie"),
        ({"ties": (("layer1", "layer1"),)}, "'layer1' is in more than one tie"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(BitcertError, match=message):
        SearchSpace(**{"layers": _FOUR, **arguments})  # type: ignore[arg-type]
