"""Images per second on one core, and sizes: float networks, quantized ones, and integer networks in torch and ONNX Runtime.

All alternatives of a network are interleaved in one run; printed are medians. ``python -m benchmarks.bench_engines [NETWORK ...]``
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from suite.contract.space import SearchSpace
from suite.networks import build_network, trace_layers
from suite.quantize import QuantizedNetwork, Statistics, calibrate, execute_float
from suite.quantize.integer import OnnxNetwork, integer_network, onnx_model

NETWORKS = {
    "resnet8": ((1, 8, 8), 10, 250),
    "resnet20": ((3, 32, 32), 10, 250),
    "mobilenet_v2": ((3, 224, 224), 1_000, 10),
}
ROUNDS = 9
BITS = 4


def main() -> None:
    """Print one table."""
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or list(NETWORKS)
    print("| one core | " + " | ".join(chosen) + " |\n|---" * 1 + "|---:" * len(chosen) + "|")
    rows: dict[str, list[float]] = {}
    for name in chosen:
        for row, found in measure(name).items():
            rows.setdefault(row, []).append(found)
    for row, figures in rows.items():
        print(f"| {row} | " + " | ".join(f"{figure:,.0f}" for figure in figures) + " |", flush=True)


def measure(name: str) -> dict[str, float]:
    """Images per second of every way to run a network with uniform bits except for its first and last layer; sizes."""
    shape, classes, batch = NETWORKS[name]
    torch.manual_seed(0)
    network = build_network(name, classes, shape[0]).eval().requires_grad_(False)
    space = SearchSpace(trace_layers(network, shape))
    images = torch.rand(batch, *shape) + 0.25 * torch.randn(batch, *shape)
    calibration = calibrate(network, [layer.name for layer in space.layers], [images])

    def quantized(bits: int) -> QuantizedNetwork:
        made = QuantizedNetwork(network, space.layers, calibration)
        made.set_policy(space.uniform(bits))
        made.update_statistics([images], Statistics())
        return made

    low, high = quantized(BITS), quantized(8)
    integers = {bits: integer_network(made, [images]) for bits, made in ((BITS, low), (8, high))}
    graphs = {bits: onnx_model(made, shape, classes) for bits, made in integers.items()}
    models = {bits: OnnxNetwork(graph) for bits, graph in graphs.items()}
    for bits, made in integers.items():
        assert torch.equal(made(images), models[bits](images))
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "torch, float": network,
        f"torch, quantized to {BITS} bits": low,
        "ONNX Runtime, float": execute_float(network, "onnx", [images], 1, None),
        f"integer network of {BITS} bits, torch": integers[BITS],
        f"integer network of {BITS} bits, ONNX Runtime": models[BITS],
        "integer network of 8 bits, ONNX Runtime": models[8],
    }
    seconds: dict[str, list[float]] = {row: [] for row in runs}
    with torch.no_grad():
        for _ in range(ROUNDS):
            for row, run in runs.items():
                started = time.process_time()
                run(images)
                seconds[row].append(time.process_time() - started)
    making = []
    for _ in range(ROUNDS):
        started = time.process_time()
        OnnxNetwork(onnx_model(integers[BITS], shape, classes))
        making.append(time.process_time() - started)
    return {
        **{f"images/s: {row}": batch / statistics.median(found[1:]) for row, found in seconds.items()},
        f"ms: graph and session of a policy of {BITS} bits": 1000 * statistics.median(making[1:]),
        "bytes: parameters in 32-bit floating point": 4 * sum(part.numel() for part in network.parameters()),
        f"bytes: ONNX model of {BITS} bits": graphs[BITS].ByteSize(),
        "bytes: ONNX model of 8 bits": graphs[8].ByteSize(),
    }


if __name__ == "__main__":
    main()
