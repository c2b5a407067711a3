"""An evaluation leaves its counts on the device until it is over: Python never waits for a GPU between two batches."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from suite.contract.trial import Fidelity
from suite.problems import load_problem

_WAITING = {
    "aten::item",
    "aten::is_nonzero",
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::_unique2",
    "aten::masked_select",
    "aten::repeat_interleave.Tensor",
}
"""Operations whose result has to be known on the host before Python goes on."""


class _Waits(TorchDispatchMode):
    """Counts them, and predictions of batches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits = self.batches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.waits += func.name() in _WAITING
        self.batches += func.name() == "aten::argmax"
        return func(*args, **(kwargs or {}))


def test_an_evaluation_waits_for_the_device_as_often_however_many_batches_there_are() -> None:
    problem = load_problem("digits", budget="w4a4", certify="fixed")
    policy = problem.space.uniform(3)
    problem.evaluate(policy, Fidelity(images=2, noise=32))  # calibrates and draws what is kept
    seen = []
    for noise in (64, 64 * 32):
        with _Waits() as waits, torch.no_grad():
            problem.evaluate(policy, Fidelity(images=16, noise=noise))
        seen.append(waits)
    few, many = seen
    assert many.batches >= 10 * few.batches
    assert many.waits == few.waits
