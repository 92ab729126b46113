"""How much other programs worked while something was measured.

    others  =  what all programs used of this machine's cores  −  what this one used

in cores, steal included, which is what a virtual machine's neighbors take. Linux alone tells.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

STAT = Path("/proc/stat")
ALLOWED = 0.15  # cores used by others, if all are measured
ALLOWED_PER_FREE_CORE = 0.5  # more, as memory and clock rates are shared


class Reading(NamedTuple):
    """Seconds, each counted from some moment on."""

    clock: float
    all_programs: float | None  # on the cores that this one may use; None where nobody tells
    this_program: float  # all its threads, and children that have ended


def read() -> Reading:
    try:
        used = cpu_seconds(STAT.read_text(), os.sched_getaffinity(0))
    except OSError:
        used = None
    return Reading(time.perf_counter(), used, sum(os.times()[:4]))


def cpu_seconds(stat: str, numbers: set[int]) -> float:
    """What was used of these cores since the machine started, from what /proc/stat says."""
    ticks = 0
    for line in stat.splitlines():
        name, *columns = line.split()
        if name.removeprefix("cpu").isdigit() and int(name.removeprefix("cpu")) in numbers:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, columns[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def others(before: Reading, after: Reading) -> float | None:
    """How many cores other programs used between two readings; None where nobody tells."""
    if before.all_programs is None or after.all_programs is None:
        return None
    used = after.all_programs - before.all_programs
    own = after.this_program - before.this_program
    return max(0.0, (used - own) / (after.clock - before.clock))


def allowed(threads: int) -> float:
    """How many cores others may use while so many threads are measured."""
    measured = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads
    return ALLOWED + ALLOWED_PER_FREE_CORE * max(0, measured - threads)
