"""A quantized network that keeps what its first layers compute, for policies that begin alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.contract.space import Layer, Policy, Precision
from suite.errors import BitcertError
from suite.quantize.batch_norm import Statistics
from suite.quantize.calibration import Calibration
from suite.quantize.graph import called_module, trace
from suite.quantize.layer import QuantizedLayer
from suite.quantize.network import QuantizedNetwork


class PrefixNetwork(QuantizedNetwork):
    """A quantized network that computes, of every policy, only what differs from the policy before on the same batches.

    What reaches a layer depends on the precisions of the layers before it alone, recalibrated statistics included. So for every
    batch of a policy, in order, what reaches each layer is kept, and the next policy goes on from the first layer at which the two
    differ if it is given the same batches. Policies in lexicographic order share most: of all policies of six layers with four
    precisions each, about a fifth of the network is computed for each. Results are equal to the last bit, in any order. It
    costs memory: for every batch, a copy of what each layer reads.

    Args:
        network, layers, calibration: As for :class:`QuantizedNetwork`.

    Raises:
        BitcertError: If ``torch.fx`` cannot trace the network, a layer is not called exactly once, or a batch norm does not
            follow a layer; at the first batch, if the traced calls give other logits than the network.
    """

    def __init__(self, network: nn.Module, layers: Sequence[Layer], calibration: Calibration) -> None:
        super().__init__(network, layers, calibration)
        graph = trace(self.network, leaf=QuantizedLayer)
        if graph is None:
            raise BitcertError("the network cannot keep what its layers compute: torch.fx cannot trace the network")
        self._calls = _Calls(self.network, graph)
        if sorted(map(id, self._calls.layers)) != sorted(map(id, self._layers.values())):
            raise BitcertError("the network cannot keep what its layers compute: a layer is not called exactly once")
        if any(isinstance(module, _BatchNorm) for module in self.modules()):
            raise BitcertError(
                "the network cannot keep what its layers compute: a batch norm does not follow a quantized layer"
            )
        position = {layer: number for number, layer in enumerate(self._layers.values())}
        self._order = [position[layer] for layer in self._calls.layers]
        self._statistics: Statistics | None = None
        self._is_checked = False
        self._forget()

    def _forget(self) -> None:
        self._settled: tuple[Precision, ...] = ()
        self._for_inference, self._for_statistics = _Batches(), _Batches()
        self._batches = self._for_inference

    @property
    def _precisions(self) -> tuple[Precision, ...]:
        """Those of the present policy, in the order in which the layers are called."""
        assert self.policy is not None
        return tuple(self.policy.precisions[position] for position in self._order)

    def set_policy(self, policy: Policy) -> None:
        """As without kept values; batches are counted from the first again."""
        super().set_policy(policy)
        self._settled = self._settled[: _alike(self._settled, self._precisions)]
        self._for_inference.rewind()

    def update_statistics(self, batches: Iterable[Tensor], statistics: Statistics) -> None:
        """As without kept values; layers that the present statistics are right for keep them."""
        if statistics != self._statistics:
            self._forget()
            self._statistics = statistics
        self._batches = self._for_statistics
        self._batches.rewind()
        settled = self._calls.layers[: len(self._settled)]
        self._settled = ()
        try:
            self._measure_statistics(batches, statistics, settled)
        finally:
            self._batches = self._for_inference
        self._settled = self._precisions

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape ``(batch, C, H, W)``, to logits, shape ``(batch, classes)``."""
        kept, precisions = self._batches.next(images), self._precisions
        start = min(_alike(kept.precisions, precisions), len(kept.reaching) - 1)
        del kept.reaching[start + 1 :]
        kept.precisions = precisions
        logits = self._calls.go_on(images, kept.reaching)
        if not self._is_checked and self._batches is self._for_inference:
            if not torch.equal(super().forward(images.clone()), logits):
                raise BitcertError(
                    "the network cannot keep what its layers compute: the traced calls give other logits"
                )
            self._is_checked = True
        return logits


class _Kept:
    """What reached each layer when a batch was last seen.

    Attributes:
        images: The batch.
        precisions: Of the layers, in the order in which they are called.
        reaching: For each layer, in that order, what is read there or later.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()
        self.precisions: tuple[Precision, ...] = ()
        self.reaching: list[dict[fx.Node, Any]] = []


class _Batches:
    """The batches of a policy, in the order in which they come."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []
        self._next = 0

    def rewind(self) -> None:
        """Begin with the first again."""
        self._next = 0

    def next(self, images: Tensor) -> _Kept:
        """What is kept of the next batch, which is nothing if it is another one than before."""
        position, self._next = self._next, self._next + 1
        if position == len(self._kept):
            self._kept.append(_Kept(images))
        elif not _same(self._kept[position].images, images):
            self._kept[position] = _Kept(images)
        return self._kept[position]


class _Calls(fx.Interpreter):
    """Calls what the network's own ``forward`` calls, from any layer on.

    Attributes:
        layers: The quantized layers in the order in which they are called.
    """

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph=graph)
        self._nodes = list(graph.nodes)
        modules = {node: called_module(network, node) for node in self._nodes}
        layers = {node: module for node, module in modules.items() if isinstance(module, QuantizedLayer)}
        self.layers, self._layer_nodes = list(layers.values()), list(layers)
        self._read = {node: self._read_from(node) for node in self._layer_nodes}
        self._reaching: list[dict[fx.Node, Any]] = []

    def _read_from(self, layer: fx.Node) -> list[fx.Node]:
        start = self._nodes.index(layer)
        later = set(self._nodes[start:])
        return [node for node in self._nodes[:start] if later & set(node.users)]

    def go_on(self, images: Tensor, reaching: list[dict[fx.Node, Any]]) -> Tensor:
        """Compute logits from the last layer on that something is kept for; what reaches the next ones is appended.

        Layers may overwrite what they read, so what is kept are copies.
        """
        self._reaching, known = reaching, {}
        if reaching:
            before = self._nodes[: self._nodes.index(self._layer_nodes[len(reaching) - 1])]
            known = dict.fromkeys(before) | {node: _copy(value) for node, value in reaching[-1].items()}
        logits: Tensor = self.run(images, initial_env=known)
        return logits

    def run_node(self, n: fx.Node) -> Any:
        """Keep what reaches a layer that nothing is kept for yet, then call it."""
        if n in self._layer_nodes[len(self._reaching) : len(self._reaching) + 1]:
            self._reaching.append({node: _copy(self.env[node]) for node in self._read[n]})
        return super().run_node(n)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _alike(one: Sequence[Precision], other: Sequence[Precision]) -> int:
    """How many precisions two policies begin with that are equal."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.device == other.device and torch.equal(one, other)
