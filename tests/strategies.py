"""Random search spaces for hypothesis, and what belongs to them, spelled out without the code under test."""

from __future__ import annotations

from itertools import product

from hypothesis import strategies as st

from suite.contract.space import Layer, Pin, Policy, Precision, SearchSpace

BITS = st.integers(1, 8)


@st.composite
def spaces(draw: st.DrawFn, most_layers: int = 6, most_choices: int = 7) -> SearchSpace:
    """Spaces with random MACs, choices, pins and ties."""
    count = draw(st.integers(1, most_layers))
    names = [f"layer{position}" for position in range(count)]
    sizes = draw(st.lists(st.integers(1, 10**9), min_size=count, max_size=count))
    layers = tuple(
        Layer(name, "conv", macs=size, parameters=1 + size % 1009, biases=size % 11)
        for name, size in zip(names, sizes, strict=True)
    )
    choices = tuple(sorted(draw(st.sets(BITS, min_size=1, max_size=most_choices))))
    pins = draw(
        st.none()
        | st.dictionaries(st.sampled_from(names), st.builds(Pin, st.none() | BITS, st.none() | BITS), max_size=2)
    )
    pinned = {names[0], names[-1]} if pins is None else set(pins)
    labels = draw(st.lists(st.integers(0, count), min_size=count, max_size=count))
    group = {name: label for name, label in zip(names, labels, strict=True) if name not in pinned}
    ties = tuple(
        tuple(name for name in group if group[name] == label)
        for label in sorted(set(group.values()))
        if label > 0 and list(group.values()).count(label) > 1
    )
    return SearchSpace(layers, choices, pins, ties, draw(st.booleans()))


def belongs(space: SearchSpace, policy: Policy) -> bool:
    """Whether choices, pins and ties are respected, checked one by one."""
    precision = dict(zip((layer.name for layer in space.layers), policy.precisions, strict=True))
    pins = space.pins
    if pins is None:
        pins = {space.layers[0].name: Precision(8, 8), space.layers[-1].name: Precision(8, 8)}
    for name, (weight, activation) in precision.items():
        pinned_weight, pinned_activation = pins.get(name, (None, None))
        if weight not in (space.choices if pinned_weight is None else (pinned_weight,)):
            return False
        if activation not in (space.choices if pinned_activation is None else (pinned_activation,)):
            return False
        if space.tie_weight_activation and pinned_weight is pinned_activation is None and weight != activation:
            return False
    return all(len({precision[name] for name in group}) == 1 for group in space.ties)


def all_policies(space: SearchSpace, bits: tuple[int, ...] | None = None) -> list[Policy]:
    """Every policy of a small space: all combinations of ``bits`` (the choices and pinned ones), those that belong."""
    if bits is None:
        pinned = [bits for pin in space.pinned.values() for bits in pin if bits is not None]
        bits = tuple(sorted({*space.choices, *pinned}))
    precisions = [Precision(weight, activation) for weight, activation in product(bits, repeat=2)]
    every = (Policy(chosen) for chosen in product(precisions, repeat=len(space.layers)))
    return [policy for policy in every if belongs(space, policy)]


def naive_bops(space: SearchSpace, policy: Policy) -> int:
    """BOPs by the definition."""
    total = 0
    for position in range(len(space.layers)):
        weight, activation = policy.precisions[position]
        total += space.layers[position].macs * weight * activation
    return total
