"""What this machine, or the container or job that runs here, may use: processors and memory."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that programs can take here without swapping: of the system, or of the container if that has less.

    Systems without ``/proc/meminfo`` are asked for their physical memory.
    """
    meminfo, container = Path("/proc/meminfo"), _CGROUPS / "memory.max"
    found = re.search(r"^MemAvailable: +(\d+) kB$", meminfo.read_text(), re.MULTILINE) if meminfo.is_file() else None
    system = 1024 * int(found[1]) if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = container.read_text().strip() if container.is_file() else "max"
    return system if most == "max" else min(system, int(most))


def assigned_cores() -> int:
    """Processors that this process may be scheduled on: fewer than the machine has in a Slurm job, or under ``taskset``."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def core_limit(cgroups: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> float:
    """Processors' worth of time that control groups allow, ``docker run --cpus 2`` for instance; infinite without a limit.

    Args:
        cgroups: Where control groups are mounted.
        membership: The file that says which one this process is in.
    """
    own = re.search(r"^0::/(.*)$", membership.read_text(), re.MULTILINE) if membership.is_file() else None
    folder = cgroups / (own[1] if own else "")
    files = [place / "cpu.max" for place in (folder, *folder.parents) if place.is_relative_to(cgroups)]
    limits = [file.read_text().split() for file in files if file.is_file()]
    return min((int(quota) / int(period) for quota, period in limits if quota != "max"), default=math.inf)
