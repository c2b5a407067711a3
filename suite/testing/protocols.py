"""What every protocol and post-step has to pass."""

from __future__ import annotations

import copy
import functools
import json
from abc import ABC, abstractmethod
from pathlib import Path

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

    def request(self, state: Path | None = None) -> Request:
        """What is asked for: of a protocol itself, of a post-step after post-training quantization."""
        preparation = self.make()
        if isinstance(preparation, Protocol):
            return Request(preparation, steps=self.steps if preparation.default_steps else 0)
        return Request(PROTOCOLS.make("ptq"), seed=1, state=state)

    def prepared(self, bench: Workbench, bits: int = 3) -> tuple[Prepared, Tensor]:
        """A uniform policy's network, and its logits on fixed images."""
        prepared = self.make().prepare(bench, bench.space.uniform(bits), self.request())
        images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return prepared, prepared.network(images).clone()

    def test_the_same_seed_prepares_the_same_network_whatever_came_before(self) -> None:
        bench = _shared_bench(type(self))
        _, first = self.prepared(bench)
        self.prepared(bench, bits=5)
        torch.manual_seed(12345)
        for other in (bench, self.bench()):
            torch.testing.assert_close(self.prepared(other)[1], first, rtol=0, atol=0)

    def test_the_network_is_ready_to_be_measured(self) -> None:
        prepared, logits = self.prepared(_shared_bench(type(self)))
        assert not prepared.network.training
        assert logits.shape == (6, 10)
        assert logits.isfinite().all()
        assert json.dumps(prepared.record, allow_nan=False)

    def test_the_float_network_is_left_as_it_was(self) -> None:
        bench = _shared_bench(type(self))
        before = copy.deepcopy(bench.network.state_dict())
        self.prepared(bench)
        for name, values in bench.network.state_dict().items():
            torch.testing.assert_close(values, before[name], rtol=0, atol=0)

    def test_forward_passes_are_charged(self) -> None:
        bench, preparation = _shared_bench(type(self)), self.make()
        prepared, _ = self.prepared(bench)
        assert type(prepared.forward_passes) is int
        assert prepared.forward_passes >= 0
        if isinstance(preparation, Protocol):
            assert prepared.forward_passes == preparation.forward_passes(bench, self.request().steps)

    def test_global_random_state_is_not_changed(self) -> None:
        before = torch.get_rng_state()
        self.prepared(self.bench())
        assert torch.equal(torch.get_rng_state(), before)


@functools.cache
def _shared_bench(conformance: type[PreparationConformance]) -> Workbench:
    """One workbench for the tests of a class, which may come in any order and leave it as it was."""
    return conformance().bench()
