"""What every protocol and post-step has to pass."""

from __future__ import annotations

import copy
import functools
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from suite.plugins import PROTOCOLS
from suite.problems import load_problem
from suite.protocols.protocol import Preparation, Prepared, Protocol, Request
from suite.workbench import Workbench, workbench_of


class PreparationConformance(ABC):
    """The same network for the same seed, paid for, and made without changing the float network; on ``digits``."""

    steps: int = 4
    """Finetuning steps of a protocol that finetunes."""

    @abstractmethod
    def make(self) -> Preparation:
        """Build the protocol or post-step under test; one that trains, with few steps."""

    def bench(self) -> Workbench:
        """Network and data of the problem ``digits``."""
        return workbench_of(load_problem("digits", budget="w3a3"), "a conformance test")

    def request(self) -> Request:
        """What is asked for: of a protocol itself, of a post-step after post-training quantization."""
        preparation = self.make()
        if isinstance(preparation, Protocol):
            return Request(preparation, steps=self.steps if preparation.default_steps else 0)
        return Request(PROTOCOLS.make("ptq"), seed=1)

    def prepared(self, bench: Workbench, bits: int = 3) -> tuple[Prepared, Tensor]:
        """A uniform policy's network, and its logits on fixed images."""
        prepared = self.make().prepare(bench, bench.space.uniform(bits), self.request())
        images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return prepared, prepared.network(images).clone()

    def test_the_same_seed_prepares_the_same_network_whatever_came_before(self) -> None:
        first = _first(type(self))
        self.prepared(first.bench, bits=5)
        torch.manual_seed(12345)
        for other in (first.bench, self.bench()):
            torch.testing.assert_close(self.prepared(other)[1], first.logits, rtol=0, atol=0)

    def test_the_network_is_ready_to_be_measured(self) -> None:
        first = _first(type(self))
        assert not first.training
        assert first.logits.shape == (6, 10)
        assert first.logits.isfinite().all()
        assert json.dumps(first.prepared.record, allow_nan=False)

    def test_the_float_network_is_left_as_it_was(self) -> None:
        before, after = _first(type(self)).float_states
        assert before.keys() == after.keys()
        for name, values in after.items():
            torch.testing.assert_close(values, before[name], rtol=0, atol=0)

    def test_forward_passes_are_charged(self) -> None:
        first, preparation = _first(type(self)), self.make()
        assert type(first.prepared.forward_passes) is int
        assert first.prepared.forward_passes >= 0
        if isinstance(preparation, Protocol):
            expected = preparation.forward_passes(first.bench, self.request().steps)
            assert first.prepared.forward_passes == expected

    def test_global_random_state_is_not_changed(self) -> None:
        before, after = _first(type(self)).random_states
        assert torch.equal(after, before)


@dataclass(frozen=True, eq=False)
class _First:
    """The first preparation on a workbench, and what was there before and after it.

    Attributes:
        bench: The workbench, which the tests of a class share: they may come in any order and leave it as it was.
        prepared, logits: What :meth:`PreparationConformance.prepared` returned.
        training: Whether the network was in training mode.
        float_states: State of the float network, before and after.
        random_states: Of torch's global generator, before the workbench was made and after.
    """

    bench: Workbench
    prepared: Prepared
    logits: Tensor
    training: bool
    float_states: tuple[dict[str, Tensor], dict[str, Tensor]]
    random_states: tuple[Tensor, Tensor]


@functools.cache
def _first(conformance: type[PreparationConformance]) -> _First:
    random_state = torch.get_rng_state()
    bench = conformance().bench()
    float_state = copy.deepcopy(bench.network.state_dict())
    prepared, logits = conformance().prepared(bench)
    float_states = float_state, copy.deepcopy(bench.network.state_dict())
    training = prepared.network.training
    return _First(bench, prepared, logits, training, float_states, (random_state, torch.get_rng_state()))
