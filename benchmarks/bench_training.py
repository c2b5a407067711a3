"""A training step of a base network by precision, memory layout and compilation, in images per second.

The limit is what convolutions compute, so each rate is also given as multiply-adds in relation to those of a large matrix product
in the same precision. ``python -m benchmarks.bench_training [NETWORK ...]``; batch 128, 32 x 32, one thread.
"""

from __future__ import annotations

import sys
from statistics import median

import torch
from torch.nn import functional

from benchmarks.timing import measure, ratio
from suite.networks import build_network, initialize, network_layers

BATCH, SIZE, ROUNDS = 128, 2048, 7
SHAPE = (3, 32, 32)
PASSES = 3
"""A forward pass, and twice as much work backward."""

VARIANTS = {
    "float32": (torch.float32, False, False),
    "float32, channels last": (torch.float32, True, False),
    "float32, channels last, compiled": (torch.float32, True, True),
    "bfloat16": (torch.bfloat16, False, False),
    "bfloat16, channels last": (torch.bfloat16, True, False),
    "bfloat16, channels last, compiled": (torch.bfloat16, True, True),
}


class Step:
    """One optimizer step on random images."""

    def __init__(self, name: str, precision: torch.dtype, channels_last: bool, compiled: bool) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        network = build_network(name, 10, SHAPE[0])
        initialize(network, 0)
        network = network.train().to(memory_format=layout)
        self._images = torch.rand(BATCH, *SHAPE).contiguous(memory_format=layout)
        self._labels = torch.randint(0, 10, (BATCH,))
        self._optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
        self._network = torch.compile(network) if compiled else network
        self._precision = precision

    def __call__(self) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._precision == torch.bfloat16):
            loss = functional.cross_entropy(self._network(self._images).float(), self._labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()


def main() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ["resnet20"]:
        compare(name)


def compare(name: str) -> None:
    """Time all variants of one network, interleaved with matrix products."""
    macs = sum(layer.macs for layer in network_layers(name, 10, SHAPE))
    factors = {precision: torch.rand(SIZE, SIZE).to(precision) for precision in (torch.float32, torch.bfloat16)}
    steps = {variant: Step(name, *given) for variant, given in VARIANTS.items()}
    products = {str(precision): lambda factor=factor: factor @ factor for precision, factor in factors.items()}
    seconds = measure({**steps, **products}, rounds=ROUNDS, warmup=2)
    fastest = {precision: SIZE**3 / median(seconds[str(precision)]) for precision in factors}
    for variant, (precision, _, _) in VARIANTS.items():
        taken = median(seconds[variant])
        share = PASSES * macs * BATCH / taken / fastest[precision]
        speed = ratio(seconds, "float32", to=variant)
        print(
            f"{name}, {variant:<34} {BATCH / taken:6.0f} images/s, {share:.0%} of a product's rate; float32 takes {speed}"
        )


if __name__ == "__main__":
    main()
