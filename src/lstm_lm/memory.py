"""How much memory there is, for what is too large to be noticed before it is full."""

import math
import os
import resource
from pathlib import Path

from lstm_lm.control_groups import group_folders


def memory(root: Path = Path("/")) -> float:
    """Bytes this process may use: less than there are in a container, or under ``ulimit -v``."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    limits += [limit_of(folder, is_second) for folder, is_second in group_folders("memory", root)]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min([*limits, math.inf if soft == resource.RLIM_INFINITY else soft])


def limit_of(group: Path, is_second: bool) -> float:
    try:
        text = (group / ("memory.max" if is_second else "memory.limit_in_bytes")).read_text()
        return math.inf if text.strip() == "max" else int(text)
    except (OSError, ValueError):  # no such limit, or not one that can be read
        return math.inf


def in_units(size: float) -> str:
    """``900 GiB``"""
    power = min(4, int(math.log2(max(size, 1)) / 10))
    return f"{size / 2 ** (10 * power):,.4g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
