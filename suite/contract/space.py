"""Which policies exist: precisions, layers, policies, and the search space they form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from suite.contract.per_mac import MAX_BITS, MIN_BITS, PerMac, check_per_mac
from suite.errors import BitcertError

DEFAULT_CHOICES = tuple(range(2, MAX_BITS + 1))
FLOAT_BITS = 32
LayerKind = Literal["conv", "linear", "state"]
LAYER_KINDS: tuple[LayerKind, ...] = get_args(LayerKind)
Part = Literal["weight", "activation"]
PARTS: tuple[Part, ...] = get_args(Part)
_MOST_TEXT = 1_000_000  # characters of a policy: enough for 100,000 layers


class Precision(NamedTuple):
    """Bits of one layer's weights and of its input activations."""

    weight: int
    activation: int


class Pin(NamedTuple):
    """Fixed bits of one layer's weights, of its input activations, or of both; None where they are free."""

    weight: int | None
    activation: int | None


@dataclass(frozen=True, slots=True)
class Layer:
    """One quantizable layer of a network, with the cost of one image passing through it.

    Attributes:
        name: Qualified module name in the network.
        kind: ``"conv"``, ``"linear"``, or ``"state"``: what a recurrent network remembers from step to step, multiplied by its
            leak at every step. Its weights are the leaks, its input activations the state, and it has one MAC per neuron and step.
        macs: Multiply-accumulates for one image, summed over all calls of the module.
        parameters: Number of weights, biases not counted.
        biases: Number of biases, kept in 32 bits.
        in_channels, out_channels: Channels (features for a linear layer).
        kernel: Kernel height and width; ``(1, 1)`` for a linear layer.
        stride: Stride along height and width; ``(1, 1)`` for a linear layer.
        groups: Number of channel groups; equal to ``in_channels`` for a depthwise convolution.
        input_size: Height and width of the input; ``(1, 1)`` for a linear layer.
    """

    name: str
    kind: LayerKind
    macs: int
    parameters: int
    biases: int = 0
    in_channels: int = 1
    out_channels: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    input_size: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True)
class Policy:
    """A precision for every layer, in execution order; immutable, hashable, equal by value."""

    precisions: tuple[Precision, ...]

    @classmethod
    def from_bits(cls, weights: Sequence[int], activations: Sequence[int]) -> Policy:
        """Build a policy from one list of weight bits and one of activation bits, equally long."""
        if len(weights) != len(activations):
            raise BitcertError(
                f"a policy needs as many weight bits as activation bits, got {len(weights)} and {len(activations)}"
            )
        return cls(tuple(map(Precision, map(int, weights), map(int, activations))))

    @property
    def flat(self) -> tuple[int, ...]:
        """Weight bits of all layers, then their activation bits."""
        return self.weights + self.activations

    @property
    def weights(self) -> tuple[int, ...]:
        """Weight bits, one per layer."""
        return tuple([precision.weight for precision in self.precisions])

    @property
    def activations(self) -> tuple[int, ...]:
        """Activation bits, one per layer."""
        return tuple([precision.activation for precision in self.precisions])

    def to_dict(self) -> dict[str, list[int]]:
        """As ``{"weights": [...], "activations": [...]}``."""
        return {"weights": list(self.weights), "activations": list(self.activations)}

    def to_json(self) -> str:
        """Write :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Policy:
        """Read what :meth:`to_json` wrote.

        Raises:
            BitcertError: If it is anything else: other, missing or repeated keys, or bits that are not integers in 1..32.
        """
        try:
            content = json.loads(text, object_pairs_hook=_without_repetition) if len(text) <= _MOST_TEXT else None
        except (ValueError, RecursionError):
            content = None
        return cls.from_dict(content)

    @classmethod
    def from_dict(cls, content: object) -> Policy:
        """Read what :meth:`to_dict` made and JSON kept.

        Raises:
            BitcertError: As :meth:`from_json`.
        """
        if isinstance(content, dict) and content.keys() == {"weights", "activations"}:
            lists = [content["weights"], content["activations"]]
            if all(type(bits) is list for bits in lists) and all(
                type(value) is int and 1 <= value <= FLOAT_BITS for bits in lists for value in bits
            ):
                return cls.from_bits(*lists)
        raise BitcertError(
            f'a policy is JSON like {{"weights":[8,3],"activations":[8,4]}}, bits in 1..{FLOAT_BITS}, got {repr(content)[:80]}'
        )


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is repeated")
    return dict(pairs)


_FREE = Pin(None, None)


class Slot(NamedTuple):
    """One number of a policy: the weight or the activation bits of the layer at an index."""

    layer: int
    part: Part


@dataclass(frozen=True)
class SearchSpace:
    """All policies of a network: every free number takes one of ``choices``, pins and ties respected.

    A *variable* is a set of slots that always hold the same bits: one slot, or several that are tied. Policies and
    integer vectors (an index into ``choices`` for each variable) convert with :meth:`encode` and :meth:`decode`.

    Args:
        layers: The network's layers in execution order.
        choices: Bits a free slot may take, ascending, within 1..8.
        pins: Layer name -> fixed bits of its weights and of its inputs, None for bits that are free. By default the first and
            the last layer at 8/8.
        ties: Groups of layer names that share their weight bits and share their activation bits.
        tie_weight_activation: Whether each layer's weight and activation bits are one variable.
        per_mac: Bit operations of one MAC by weight and activation bits; None for their product.

    Raises:
        BitcertError: On an empty network, bits out of range, unknown or repeated names, a layer without MACs, a tie to
            a pinned layer, or a cost per MAC that falls when bits are raised.
    """

    layers: tuple[Layer, ...]
    choices: tuple[int, ...] = DEFAULT_CHOICES
    pins: Mapping[str, Pin | Precision] | None = None
    ties: tuple[tuple[str, ...], ...] = ()
    tie_weight_activation: bool = False
    per_mac: PerMac | None = None

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        pinned = frozenset(self.pinned.items())
        return hash((self.layers, self.choices, pinned, self.ties, self.tie_weight_activation, self.per_mac))

    def __post_init__(self) -> None:
        if not self.layers:
            raise BitcertError("the network has no quantizable layer: bitcert quantizes Conv2d and Linear modules")
        names = [layer.name for layer in self.layers]
        for layer in self.layers:
            if names.count(layer.name) > 1 or layer.macs < 1:
                raise BitcertError(f"layers need distinct names and at least one MAC, got {layer}")
        if list(self.choices) != sorted(set(self.choices)) or not self.choices:
            raise BitcertError(f"choices must be ascending and without repetition, got {self.choices}")
        for bits in (*self.choices, *(bits for pin in self.pinned.values() for bits in pin if bits is not None)):
            if not MIN_BITS <= bits <= MAX_BITS:
                raise BitcertError(f"bits must lie in {MIN_BITS}..{MAX_BITS}, got {bits}")
        tied = [name for group in self.ties for name in group]
        for name in (*self.pinned, *tied):
            if name not in names:
                raise BitcertError(f"no layer is called {name!r}; layers: {', '.join(names)}")
        for name in tied:
            if tied.count(name) > 1 or name in self.pinned:
                raise BitcertError(f"layer {name!r} is in more than one tie, or tied and pinned; give it one of them")
        if self.per_mac is not None:
            check_per_mac(self.per_mac)

    @cached_property
    def pinned(self) -> Mapping[str, Pin]:
        """Fixed bits by layer name: ``pins``, or the first and the last layer at 8/8."""
        if self.pins is None:
            return {self.layers[0].name: Pin(8, 8), self.layers[-1].name: Pin(8, 8)}
        return {name: Pin(*pin) for name, pin in self.pins.items() if tuple(pin) != _FREE}

    def pin(self, layer: int) -> Pin:
        """The fixed bits of the layer at an index."""
        return self.pinned.get(self.layers[layer].name, _FREE)

    def fill(self, layer: int, precision: Precision) -> Precision:
        """A precision of the layer at an index, with the bits that are pinned in their place."""
        weight, activation = self.pin(layer)
        return Precision(
            precision.weight if weight is None else weight, precision.activation if activation is None else activation
        )

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """Which bits are free, shape ``(2, layers)``, weights first."""
        return np.array([[bits is None for bits in self.pin(layer)] for layer in range(len(self.layers))]).T

    @cached_property
    def free_layers(self) -> tuple[int, ...]:
        """Indices of the layers whose weights or inputs are free."""
        return tuple(np.flatnonzero(self.free.any(axis=0)).tolist())

    @cached_property
    def variables(self) -> tuple[tuple[Slot, ...], ...]:
        """The free decisions, each the slots it sets, in execution order of their first slot."""
        index = {layer.name: position for position, layer in enumerate(self.layers)}
        group_of = {index[name]: min(index[other] for other in group) for group in self.ties for name in group}
        members: dict[tuple[int, str], list[Slot]] = {}
        for position, part in product(range(len(self.layers)), PARTS):
            if getattr(self.pin(position), part) is None:
                leader = group_of.get(position, position)
                key = (leader, "both" if self.tie_weight_activation else part)
                members.setdefault(key, []).append(Slot(position, part))
        return tuple(tuple(slots) for slots in members.values())

    @cached_property
    def flat_variables(self) -> tuple[tuple[int, ...], ...]:
        """``variables`` with slots numbered flat: the layer's index for its weight, layers + index for its activation."""
        count = len(self.layers)
        return tuple(tuple(slot.layer + count * (slot.part == "activation") for slot in v) for v in self.variables)

    @cached_property
    def variable_of(self) -> Mapping[int, int]:
        """The variable that sets each free slot, by the slot's flat number."""
        return {slot: variable for variable, slots in enumerate(self.flat_variables) for slot in slots}

    def deciders(self, layer: int) -> tuple[int, int]:
        """The variables that set the weights and the inputs of a layer with a choice.

        Where one of them is pinned, the other's variable stands in: nothing changes along it.
        """
        weight, inputs = (self.variable_of.get(slot, -1) for slot in (layer, layer + len(self.layers)))
        return (inputs if weight < 0 else weight), (weight if inputs < 0 else inputs)

    @cached_property
    def _fixed(self) -> tuple[tuple[int, int], ...]:
        """(flat number, bits) of every pinned slot."""
        return tuple(
            (position + part * len(self.layers), bits)
            for position in range(len(self.layers))
            for part, bits in enumerate(self.pin(position))
            if bits is not None
        )

    @property
    def cardinality(self) -> int:
        """Number of policies in the space, whatever they cost."""
        return int(len(self.choices) ** len(self.variables))

    def __contains__(self, policy: object) -> bool:
        if not isinstance(policy, Policy) or len(policy.precisions) != len(self.layers):
            return False
        bits = policy.flat
        for number, fixed in self._fixed:
            if bits[number] != fixed:
                return False
        for slots in self.flat_variables:
            value = bits[slots[0]]
            if value not in self.choices or any(bits[slot] != value for slot in slots[1:]):
                return False
        return True

    def encode(self, policy: Policy) -> NDArray[np.int64]:
        """Turn a policy into one index into ``choices`` per variable, shape ``(len(variables),)``.

        Raises:
            BitcertError: If the policy does not belong to the space.
        """
        if len(policy.precisions) != len(self.layers):
            raise BitcertError(f"the policy has {len(policy.precisions)} layers, the space {len(self.layers)}")
        if policy not in self:
            raise BitcertError(
                f"the policy holds bits outside the choices {self.choices} or breaks a pin or a tie: {policy.to_json()}"
            )
        bits = policy.flat
        return np.array([self.choices.index(bits[slots[0]]) for slots in self.flat_variables], dtype=np.int64)

    def decode(self, vector: Sequence[int] | NDArray[np.integer]) -> Policy:
        """Turn one index into ``choices`` per variable into a policy; pinned slots are filled in.

        Raises:
            BitcertError: If the length is wrong or an index is out of range.
        """
        if len(vector) != len(self.variables):
            raise BitcertError(f"expected {len(self.variables)} indices, got {len(vector)}")
        bits = [0] * (2 * len(self.layers))
        for number, fixed in self._fixed:
            bits[number] = fixed
        for slots, position in zip(self.flat_variables, map(int, vector), strict=True):
            if not 0 <= position < len(self.choices):
                raise BitcertError(f"index {position} is outside 0..{len(self.choices) - 1}")
            for slot in slots:
                bits[slot] = self.choices[position]
        return Policy.from_bits(bits[: len(self.layers)], bits[len(self.layers) :])

    def uniform(self, bits: int, activation: int | None = None) -> Policy:
        """The policy with ``bits`` for every free weight and ``activation`` (default ``bits``) for every free input."""
        activation = bits if activation is None else activation
        wanted = {"weight": bits, "activation": activation}
        for value in (bits, activation):
            if value not in self.choices:
                raise BitcertError(f"{value} bits are not among the choices {self.choices}")
        if self.tie_weight_activation and bits != activation:
            raise BitcertError(f"this space ties weight and activation bits; w{bits}a{activation} does not exist in it")
        return self.decode([self.choices.index(wanted[slots[0].part]) for slots in self.variables])

    def random(self, rng: np.random.Generator) -> Policy:
        """Draw uniformly from all policies of the space, affordable or not (see ``suite.contract.cost.random_feasible``)."""
        return self.decode(rng.integers(len(self.choices), size=len(self.variables)))

    def neighbours(self, policy: Policy) -> Iterator[Policy]:
        """Yield the policies that differ in one variable by one step of ``choices``."""
        vector = self.encode(policy)
        for variable in range(len(vector)):
            for step in (-1, 1):
                if 0 <= vector[variable] + step < len(self.choices):
                    neighbour = vector.copy()
                    neighbour[variable] += step
                    yield self.decode(neighbour)
