"""Threads and memory of a process that computes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from suite.computing import torch_threads

_COUNT = """
import resource, torch
from suite.computing import keep_freed_memory, torch_threads

def faults():  # of writing 64 MiB, more than glibc ever keeps by itself
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults() for _ in range(10)))
with torch_threads(1):
    print(min(faults() for _ in range(10)))
print(keep_freed_memory())
"""
_OURS = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's memory can be asked to stay")


def _count(**environment: str) -> list[str]:
    """Page faults of a new process before and while it computes, and whether it keeps memory."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", _COUNT]
    return subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=True
    ).stdout.split()


def test_threads_are_those_asked_for_within_the_block_only() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@_OURS
def test_memory_that_is_freed_is_used_again() -> None:
    before, computing, kept = _count()
    assert int(before) > 0
    assert (computing, kept) == ("0", "True")


@_OURS
def test_thresholds_that_users_set_are_left_alone() -> None:
    _, computing, kept = _count(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert kept == "False"
    assert int(computing) > 0
