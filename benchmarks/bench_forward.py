"""Quantized forward pass against the float one, batch 250, one thread; each optimization alone; switching policies.

With ``compile`` as an argument also what ``torch.compile`` would do, which takes a C++ compiler and half a minute.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.timing import measure, ratio
from suite.contract.space import SearchSpace
from suite.networks import build_network, trace_layers
from suite.networks.residual import ResidualBlock
from suite.quantize import QuantizedNetwork, calibrate
from suite.quantize.memory import arrange_channels_last, overwrite_inputs

Run = Callable[[Tensor], Tensor]
Pair = tuple[Run, Run]

BATCH, PART = 250, 50
NETWORKS = {"resnet8": ((1, 8, 8), 51), "resnet20": ((3, 32, 32), 9)}  # shape, rounds


def main() -> None:
    torch.set_num_threads(1)
    for name, (shape, rounds) in NETWORKS.items():
        compare(name, shape, rounds)


def compare(name: str, shape: tuple[int, int, int], rounds: int) -> None:
    network = build_network(name, 10, shape[0]).requires_grad_(False)
    space = SearchSpace(trace_layers(network, shape))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, *shape, generator=generator)
    images += 0.25 * torch.randn(images.shape, generator=generator)
    calibration = calibrate(network, [layer.name for layer in space.layers], [images])

    def quantized(
        change: Callable[[nn.Module], None] | None = None, *, fold: bool = True, fast: bool = False
    ) -> QuantizedNetwork:
        made = QuantizedNetwork(network, space.layers, calibration, fold=fold, fast=fast)
        if change is not None:
            change(made.network)
        made.set_policy(space.uniform(4))
        return made

    fast, plain = quantized(fast=True), quantized()
    kept: dict[str, Pair] = {
        "batch norms folded": (plain, quantized(fold=False)),
        "overwriting": (quantized(overwrite_inputs), plain),
        "channels last": (quantized(arrange_channels_last), plain),
        "all of these": (fast, quantized(fold=False)),
    }
    left_out: dict[str, Pair] = {
        "no ReLU before unsigned inputs": (quantized(_drop_inner_relus), plain),
        f"in parts of {PART} images": (_in_parts(fast), fast),
    }
    if "compile" in sys.argv:
        compiled = torch.compile(quantized(fast=True), dynamic=False)
        started = time.perf_counter()
        with torch.inference_mode():
            compiled(images)
        left_out[f"torch.compile, {time.perf_counter() - started:.1f} s"] = (compiled, fast)

    pairs: dict[str, Pair] = {"quantized / float": (fast, network), **kept, **left_out}
    alternatives = {str(id(run)): partial(run, images) for pair in pairs.values() for run in pair}
    with torch.inference_mode():
        seconds = measure(alternatives, rounds=rounds)
        policies = itertools.cycle([space.uniform(3), space.uniform(4)])
        switching = measure({"switch": lambda: fast.set_policy(next(policies))})

    def show(label: str) -> None:
        one, other = pairs[label]
        print(f"    {label}: {ratio(seconds, str(id(one)), str(id(other)))}")

    print(
        f"{name}, {len(space.layers)} layers, batch {BATCH}, "
        f"float {statistics.median(seconds[str(id(network))]) * 1e3:.1f} ms; target quantized / float <= 1.11"
    )
    show("quantized / float")
    print("  each alone, with / without")
    for label in kept:
        show(label)
    print("  left out, with / without")
    for label in left_out:
        show(label)
    print(f"  switching all layers to another policy: {statistics.median(switching['switch']) * 1e3:.2f} ms")


def _drop_inner_relus(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.relu1 = nn.Identity()  # type: ignore[assignment]


def _in_parts(network: nn.Module) -> Run:
    return lambda images: torch.cat([network(part) for part in images.split(PART)])


if __name__ == "__main__":
    main()
