"""The network of an entry, made again: from its policy where that is all it takes, else from the weights beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from suite.board.schema import LARGEST_WEIGHTS
from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.files import json_sha256
from suite.kept import KeptState
from suite.protocols import NoPostStep, PostStep, Protocol, Request, protocol_for
from suite.quantize.stored import restore_network, store_network
from suite.store import Store
from suite.workbench import BenchProblem, bare

PURPOSE = "network to certify again"


def needs_weights(problem: BenchProblem, post_step: PostStep, finetune_steps: int) -> bool:
    """Whether the network depends on more than the float network and the policy: on training, or on a supernet."""
    protocol = protocol_for(problem.protocol, finetune_steps)
    quantized_only = isinstance(post_step, NoPostStep) and finetune_steps == 0
    return not quantized_only or protocol.starting_point(problem.bench) is not problem.bench


def train_and_store(
    problem: BenchProblem,
    policy: Policy,
    post_step: PostStep,
    path: Path,
    *,
    finetune_steps: int,
    seed: int,
    on_step: Callable[[int], None] | None = None,
    state: KeptState | None = None,
) -> int:
    """Prepare a policy's network and write it to a file; returns the forward passes that it took."""
    bench, protocol = problem.bench, protocol_for(problem.protocol, finetune_steps)
    with bench.fixed_threads():
        prepared = post_step.prepare(bench, policy, Request(protocol, finetune_steps, seed, state, on_step))
        _store(problem, policy, path).write(store_network(bare(prepared.network)))
    return prepared.forward_passes


def stored_network(problem: BenchProblem, policy: Policy, path: Path) -> nn.Module:
    """The network in a file, executed by the problem's engine.

    Raises:
        BitcertError: If the file is missing, too large, damaged, of another network or policy, or its weights lie on no level of
            the policy.
    """
    if path.exists() and path.stat().st_size > LARGEST_WEIGHTS:
        raise BitcertError(f"{path.name} is larger than {LARGEST_WEIGHTS:,} bytes")
    bench = problem.bench
    groups: Mapping[str, Mapping[str, Tensor]] = _store(problem, policy, path).read().groups
    with bench.fixed_threads():
        like = bench.trainable(policy).freeze()
        network = restore_network(like, groups, problem.space, policy, bench.calibration)
        return bench.executed_by_engine(network)


def quantized_network(problem: BenchProblem, policy: Policy) -> nn.Module:
    """The network as the problem's protocol makes it of the policy."""
    protocol: Protocol = protocol_for(problem.protocol, 0)
    with problem.bench.fixed_threads():
        return NoPostStep().deploy(problem.bench, policy, Request(protocol)).network


def file_sha256(path: Path) -> str:
    """SHA-256 of a file; raises BitcertError if there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BitcertError(f"the weights cannot be read: {error}") from None


def _store(problem: BenchProblem, policy: Policy, path: Path) -> Store:
    identity: dict[str, Any] = {
        "network_sha256": problem.bench.network_sha256,
        "policy": json_sha256(policy.to_dict()),
        "version": 1,
    }
    return Store(path, "network", identity, remedy="submit the run again")
