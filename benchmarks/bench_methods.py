"""Every certification method against Cohen's straightforward loop: forward passes, seconds, and what is certified.

The defaults take some minutes on one core; the tables in ``results/certification`` name their command. Forward passes of
the loop are images x (n0 + n) by definition; its seconds are these times what the loop takes a pass, measured in
the same run. Each method sees the same network, images and noise as its reference.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scipy import stats

import suite
from benchmarks.bench_certify import count
from suite.certify import (
    BaseRecord,
    Estimates,
    NoiseStream,
    NoisyClassifier,
    NoisyImages,
    certified_radius,
    certify_fixed,
    certify_incremental,
    certify_irs,
    certify_sequential,
    clopper_pearson_lower,
    design_scores,
    estimate,
    record_base,
)
from suite.certify.fixed import bound_counts
from suite.certify.sampling import label_counts, pick_classes
from suite.contract.cost import random_feasible
from suite.contract.space import Policy
from suite.data import ImageSplit
from suite.files import write_text
from suite.problems.vision import VisionProblem

N0, ALPHA = 100, 1e-3


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    method: str
    images: int
    passes: float
    loop_passes: float
    seconds: float
    loop_seconds: float
    outcome: str

    def text(self) -> str:
        fewer, faster = self.loop_passes / self.passes, self.loop_seconds / self.seconds
        return (
            f"| {self.method} | {self.images} | {self.passes / self.images:,.0f} | {fewer:.1f} | "
            f"{self.seconds:,.1f} | {self.loop_seconds:,.0f} | {faster:.1f} | {self.outcome} |"
        )


HEAD = """| method | images | passes per image | times fewer than the loop | seconds | loop's seconds | times faster | outcome |
| :--- | ---: | ---: | ---: | ---: | ---: | ---: | :--- |"""


class Bench:
    """The problem, the network of one policy, and a bar that counts forward passes."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        problem = suite.load_problem(
            arguments.problem, budget=arguments.budget, data=arguments.data, checkpoint=arguments.checkpoint
        )
        assert isinstance(problem, VisionProblem)
        self.problem = problem
        self.arguments = arguments
        torch.set_num_threads(problem.bench.threads)
        search, exam = problem.bench.dataset.splits["search"], problem.bench.dataset.splits["exam"]
        together = replace(
            exam, ids=np.concatenate([exam.ids, search.ids]), labels=np.concatenate([exam.labels, search.labels])
        )
        self.images = together
        self.policy = problem.space.uniform(arguments.bits)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.loop_seconds_a_pass = self._loop_seconds_a_pass()

    def split(self, images: int) -> ImageSplit:
        return self.images.subset(range(min(images, len(self.images))))

    def sampler(self, split: ImageSplit, policy: Policy | None, advance: Callable[[int], None]) -> NoisyClassifier:
        network = self.problem.network if policy is None else self.problem.bench.quantized(policy)
        return NoisyClassifier(network, self.problem.bench.noisy(split, seed=0), advance)

    def bar(self, title: str, passes: float) -> Callable[[int], None]:
        task = self.progress.add_task(title, total=passes)
        return lambda more: self.progress.update(task, advance=more)

    def row(self, method: str, images: int, passes: float, n: int, seconds: float, outcome: str) -> Row:
        loop = images * (N0 + n)
        return Row(method, images, passes, loop, seconds, loop * self.loop_seconds_a_pass, outcome)

    def _loop_seconds_a_pass(self) -> float:
        """Of the loop that goes image by image, batch norms as modules, in batches of 1,000."""
        image, network, stream = self.split(1).images()[0], self.problem.network, NoiseStream(0, "count")
        count(network, image, 0, 250, stream)
        started = time.perf_counter()
        count(network, image, 0, 1000, stream)
        return (time.perf_counter() - started) / 1000


def sequential(bench: Bench) -> Iterator[Row]:
    """Certified accuracy at the problem's radii, image by image."""
    arguments, radii = bench.arguments, bench.problem.radii
    for n, images in ((arguments.n, arguments.images), (arguments.large, arguments.large_images)):
        if not n:
            continue
        split = bench.split(images)
        advance = bench.bar(f"reference, n = {n:,}", len(split) * (N0 + n))
        sampler = bench.sampler(split, bench.policy, advance)
        started = time.perf_counter()
        fixed = certify_fixed(sampler, n0=N0, n=n, alpha=ALPHA)
        seconds = time.perf_counter() - started
        passes = float(fixed.forward_passes.sum())
        yield bench.row(f"fixed, n = {n:,}", len(split), passes, n, seconds, f"ACR {fixed.acr(split.labels):.4f}")
        advance = bench.bar(f"sequential, at most {n:,}", len(split) * n / 10)
        started = time.perf_counter()
        found = certify_sequential(bench.sampler(split, bench.policy, advance), radii=radii, n0=N0, n=n, alpha=ALPHA)
        seconds = time.perf_counter() - started
        outcome = "certified accuracy minus fixed's: " + " ".join(
            f"{share - fixed.certified_accuracy(split.labels, [radius])[radius]:+.3f} at {radius:g}"
            for radius, share in found.certified_accuracy(split.labels, radii).items()
        )
        passes = float(found.forward_passes.sum())
        yield bench.row(f"sequential, at most {n:,}", len(split), passes, n, seconds, outcome)


def aggregate(bench: Bench) -> Iterator[Row]:
    """A lower bound on the set's ACR."""
    arguments, problem = bench.arguments, bench.problem
    split = bench.split(arguments.set_images)
    n = arguments.set_n
    advance = bench.bar(f"reference of the set, n = {n:,}", len(split) * (N0 + n))
    sampler = bench.sampler(split, bench.policy, advance)
    chosen = sampler.counts("select", 0, N0).argmax(axis=1)
    started = time.perf_counter()
    counts = sampler.counts("count", 0, n)
    seconds = time.perf_counter() - started
    successes = pick_classes(counts, chosen)
    certificates = bound_counts(chosen, successes, sigma=problem.sigma, n0=N0, n=n, alpha=ALPHA)
    fixed = certificates.acr(split.labels)
    plain = Estimates(pick_classes(counts, split.labels), n, problem.sigma).acr
    yield bench.row(
        f"fixed, n = {n:,}", len(split), len(split) * (N0 + n), n, seconds, f"ACR {fixed:.4f} (uncorrected {plain:.4f})"
    )
    calibration = problem.bench.dataset.splits["calibration"]
    for few in (50, 100, 400):
        started = time.perf_counter()
        seen = estimate(bench.sampler(calibration, None, lambda _: None), calibration.labels, n=few)
        scores = design_scores(seen.probability, n=few, images=len(split), sigma=problem.sigma, alpha=ALPHA)
        designing = time.perf_counter() - started
        started = time.perf_counter()
        successes = label_counts(bench.sampler(split, bench.policy, lambda _: None), split.labels, "count", 0, few)
        seconds = time.perf_counter() - started
        outcome = (
            f"ACR >= {scores.bound(successes).acr:.4f}; scores designed in {designing:.1f} s, once for all policies"
        )
        yield bench.row(f"aggregate, n = {few}", len(split), len(split) * few, n, seconds, outcome)


def ranking(bench: Bench) -> Iterator[Row]:
    """The order of random feasible policies."""
    arguments, problem = bench.arguments, bench.problem
    split, n = bench.split(arguments.ranking_images), arguments.ranking_n
    rng = np.random.default_rng(0)
    policies = [random_feasible(problem.space, problem.budget, rng) for _ in range(arguments.policies)]
    advance = bench.bar(f"reference of the ranking, n = {n:,}", len(policies) * len(split) * n)
    noisy = problem.bench.noisy(split, seed=0, memory=2**30)
    shares = [share for share in (200, 100, 50, 20, 10) if n // share]
    reference = np.zeros(len(policies))
    few = {share: np.zeros(len(policies)) for share in shares}
    certified = np.zeros(len(policies))
    seconds = dict.fromkeys([1, *shares], 0.0)
    for position, policy in enumerate(policies):
        sampler = NoisyClassifier(problem.bench.quantized(policy), noisy, advance)
        started, counted, before = time.perf_counter(), np.zeros(len(split), dtype=np.int64), 0
        for share in [*shares, 1]:
            counted = counted + label_counts(sampler, split.labels, "count", before, n // share)
            before = n // share
            seconds[share] += time.perf_counter() - started
            score = Estimates(counted, n // share, problem.sigma).acr
            (reference if share == 1 else few[share])[position] = score
        p_lower = clopper_pearson_lower(counted, n, ALPHA)
        certified[position] = certified_radius(p_lower, problem.sigma).mean()
    spread = f"{reference.min():.3f} to {reference.max():.3f}"
    yield bench.row(
        f"{len(policies)} policies, fixed, n = {n:,}",
        len(policies) * len(split),
        len(policies) * len(split) * n,
        n,
        seconds[1],
        f"ACR {spread}; certified ACR: tau {stats.kendalltau(reference, certified).statistic:.3f}",
    )
    for share in shares:
        tau, tau_certified = (float(stats.kendalltau(few[share], order).statistic) for order in (reference, certified))
        kept = np.intersect1d(np.argsort(-few[share])[:4], np.argsort(-reference)[:4])
        yield bench.row(
            f"{len(policies)} policies, ranking, n = {n // share}",
            len(policies) * len(split),
            len(policies) * len(split) * (n // share),
            n,
            seconds[share],
            f"tau {tau:.3f} ({tau_certified:.3f} against the certified ACR); {len(kept)} of the best 4 among its best 4",
        )


def incremental(bench: Bench) -> Iterator[Row]:
    """When a base of 10 n samples pays: the float network, and neighbours that differ in a few layers."""
    arguments, problem = bench.arguments, bench.problem
    split, n = bench.split(arguments.incremental_images), arguments.incremental_n
    rng = np.random.default_rng(0)

    def base(policy: Policy | None) -> BaseRecord:
        advance = bench.bar("base", len(split) * 10 * (N0 + n))
        return record_base(bench.sampler(split, policy, advance), n0=10 * N0, n=10 * n)

    def compared(title: str, policy: Policy, record: BaseRecord) -> Row:
        silent = bench.sampler(split, policy, lambda _: None)
        fixed, full = (certify_incremental(silent, [], n0=N0, n=size, alpha=ALPHA) for size in (n, 10 * n))
        irs = certify_irs(silent, record, n=n, alpha=ALPHA)
        started = time.perf_counter()
        found = certify_incremental(silent, [record], n0=N0, n=n, alpha=ALPHA)
        seconds = time.perf_counter() - started
        differ = float((silent.predictions("select", 0, N0) != record.select[:, :N0]).mean())
        acr = [certificates.acr(split.labels) for certificates in (found, irs, fixed, full)]
        outcome = (
            f"differs in {differ:.2%} of predictions; ACR {acr[0]:.4f}, irs {acr[1]:.4f}, "
            f"fixed {acr[2]:.4f} at n and {acr[3]:.4f} at 10 n"
        )
        return bench.row(title, len(split), float(found.forward_passes.sum()), 10 * n, seconds, outcome)

    float_base = base(None)
    for bits in (8, 6, 5, 4, 3):
        policy = problem.space.uniform(bits)
        yield compared(f"incremental, {bits} bits from float, n = {n:,}", policy, float_base)
    for bits in (8, 6, 4, 3):
        policy = problem.space.uniform(bits)
        record = base(policy)
        for changes in (1, 2, 4):
            vector = np.array(problem.space.encode(policy))
            vector[rng.permutation(len(vector))[:changes]] -= 1
            title = f"incremental, {changes} of {len(vector)} bits of w{bits}a{bits} lowered, n = {n:,}"
            yield compared(title, problem.space.decode(vector), record)


def throughput(bench: Bench) -> Iterator[Row]:
    """Noisy images per second, quantized against float, both through the suite."""
    split = bench.split(10)
    noisy = NoisyImages(split.images(), sigma=bench.problem.sigma, ids=split.ids, memory=2**28)
    quantized, plain = (
        NoisyClassifier(network, noisy)
        for network in (bench.problem.bench.quantized(bench.policy), bench.problem.network)
    )
    seconds: dict[str, list[float]] = {"quantized": [], "float": []}
    for _ in range(7):
        for name, sampler in (("quantized", quantized), ("float", plain)):
            started = time.perf_counter()
            sampler.counts("count", 0, 100)
            seconds[name].append(time.perf_counter() - started)
    ratio = float(np.median(np.array(seconds["float"]) / np.array(seconds["quantized"])))
    taken = float(np.median(seconds["quantized"]))
    yield replace(
        bench.row("throughput", len(split), len(split) * 100, 100 - N0, taken, f"{ratio:.2f} of the float network's"),
        loop_passes=len(split) * 100,
        loop_seconds=len(split) * 100 * bench.loop_seconds_a_pass,
    )


SECTIONS = {
    "throughput": throughput,
    "sequential": sequential,
    "aggregate": aggregate,
    "incremental": incremental,
    "ranking": ranking,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--problem", default="digits")
    parser.add_argument("--data", help="folder with the images")
    parser.add_argument("--checkpoint", help="pretrained network")
    parser.add_argument("--budget", default="w3a3", help="budget of the random policies")
    parser.add_argument("--bits", type=int, default=3, help="bits of the uniform policy that is certified")
    parser.add_argument("--images", type=int, default=20, help="images that are certified one by one")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=0, help="a second, larger n; 0 for none")
    parser.add_argument("--large-images", type=int, default=20, help="images that are certified with the larger n")
    parser.add_argument("--set-images", type=int, default=100, help="images of the aggregate bound")
    parser.add_argument("--set-n", type=int, default=10_000, help="of its reference")
    parser.add_argument("--policies", type=int, default=10)
    parser.add_argument("--ranking-images", type=int, default=20)
    parser.add_argument("--ranking-n", type=int, default=2_000, help="of its reference")
    parser.add_argument("--incremental-images", type=int, default=5)
    parser.add_argument("--incremental-n", type=int, default=1_000, help="samples; the bases have ten times as many")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="comma-separated")
    parser.add_argument("--out", type=Path, help="also write the table as Markdown, and its rows as JSON beside it")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("data", "checkpoint", "out")}
    title = f"{arguments.problem}, sigma = {bench.problem.sigma:g}, uniform {arguments.bits}/{arguments.bits} bits"
    print(f"{title}\n\n{HEAD}", flush=True)
    rows = []
    with bench.progress:
        for section in arguments.sections.split(","):
            for row in SECTIONS[section](bench):
                rows.append(row)
                print(row.text(), flush=True)
                if arguments.out:
                    table = "\n".join([f"# {title}\n", HEAD, *(row.text() for row in rows)])
                    write_text(arguments.out, table + "\n")
                    content = {"settings": settings, "rows": [asdict(row) for row in rows]}
                    write_text(arguments.out.with_suffix(".json"), json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
