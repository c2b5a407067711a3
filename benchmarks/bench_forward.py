"""Quantized forward pass against the float one, batch 250, one thread; and what switching a policy costs."""

from __future__ import annotations

import itertools
import statistics

import torch

from benchmarks.timing import measure, ratio
from suite.networks import build_network, trace_layers
from suite.quantize import QuantizedNetwork, calibrate
from suite.space import SearchSpace

BATCH = 250
NETWORKS = {"resnet8": (1, 8, 8), "resnet20": (3, 32, 32)}


def main() -> None:
    torch.set_num_threads(1)
    for name, shape in NETWORKS.items():
        compare(name, shape)


def compare(name: str, shape: tuple[int, int, int]) -> None:
    network = build_network(name, 10, shape[0]).requires_grad_(False)
    space = SearchSpace(trace_layers(network, shape))
    images = torch.rand(BATCH, *shape, generator=torch.Generator().manual_seed(0))
    calibration = calibrate(network, [layer.name for layer in space.layers], [images])
    folded, plain = (QuantizedNetwork(network, space.layers, calibration, fold=fold) for fold in (True, False))
    for quantized in (folded, plain):
        quantized.set_policy(space.uniform(4))
    with torch.inference_mode():
        seconds = measure(
            {
                "float": lambda: network(images),
                "quantized": lambda: folded(images),
                "unfolded": lambda: plain(images),
            },
            rounds=9,
        )
        policies = itertools.cycle([space.uniform(3), space.uniform(4)])
        switching = measure({"switch": lambda: folded.set_policy(next(policies))})
    print(
        f"{name}, {len(space.layers)} layers, batch {BATCH}, float {statistics.median(seconds['float']) * 1e3:.1f} ms"
    )
    print(f"  quantized / float: {ratio(seconds, 'quantized', 'float')}   target <= 1.3")
    print(f"  the same with batch norms as modules: {ratio(seconds, 'unfolded', 'float')}")
    print(f"  switching all layers to another policy: {statistics.median(switching['switch']) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
