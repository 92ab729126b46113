"""Measure how many cores other programs use during a measurement.

    others  =  cores that all programs use  −  cores that this one uses

Steal is included: the time that a virtual machine's neighbors take. Only Linux reports it.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

STAT = Path("/proc/stat")
ALLOWED = 0.15  # cores that others may use if the measurement uses all
ALLOWED_PER_FREE_CORE = 0.5  # in addition; not 1, because memory and clock rates are shared


class Reading(NamedTuple):
    """Clock and CPU times in seconds; only differences have a meaning."""

    clock: float
    all_programs: float | None  # on the cores this program may use; None if the system hides it
    this_program: float  # all its threads, and children that have ended


def read() -> Reading:
    try:
        used = cpu_seconds(STAT.read_text(), os.sched_getaffinity(0))
    except OSError:
        used = None
    return Reading(time.perf_counter(), used, sum(os.times()[:4]))


def cpu_seconds(stat: str, numbers: set[int]) -> float:
    """Seconds that these cores worked since the machine started, from the text of /proc/stat."""
    ticks = 0
    for line in stat.splitlines():
        name, *columns = line.split()
        if name.removeprefix("cpu").isdigit() and int(name.removeprefix("cpu")) in numbers:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, columns[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def others(before: Reading, after: Reading) -> float | None:
    """Number of cores that other programs used between two readings; None if unknown."""
    if before.all_programs is None or after.all_programs is None:
        return None
    used = after.all_programs - before.all_programs
    own = after.this_program - before.this_program
    return max(0.0, (used - own) / (after.clock - before.clock))


def allowed(threads: int) -> float:
    """Number of cores that others may use during a measurement with so many threads."""
    measured = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads
    return ALLOWED + ALLOWED_PER_FREE_CORE * max(0, measured - threads)
