"""How networks compute in a process: its threads, and the memory that it keeps."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_LARGEST, IDLE = 256 * 2**20, 512 * 2**20
"""Bytes of the largest block that a process keeps when it is freed, and of those that it keeps in all at the end of its heap."""

_CHOSEN_BY_USERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run a block with a fixed number of threads, in a process that keeps freed memory."""
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, to use it again.

    Every layer allocates its output. glibc returns blocks of some megabytes to the system as soon as they are free, and the system
    fills each page with zeros when it is touched again: up to a third of the time of a step. Blocks of up to 256 MiB are kept
    instead, as long as no more than 512 MiB lie idle at the end of the heap.

    Returns:
        Whether it does: not with another library than glibc, nor where the environment sets these thresholds.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _CHOSEN_BY_USERS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # glibc before 2.35 takes no threshold above 32 MiB
    largest = mallopt(_MMAP_THRESHOLD, _LARGEST) or mallopt(_MMAP_THRESHOLD, 2**25)
    return bool(largest and mallopt(_TRIM_THRESHOLD, IDLE))
