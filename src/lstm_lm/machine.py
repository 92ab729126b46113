"""What this machine has: devices, the precisions they compute natively, cores and memory.

Cores and memory are those that this process may use: containers limit both by control groups.
"""

import ctypes
import math
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from lstm_lm.config import AUTO, Accelerator
from lstm_lm.errors import SettingsError

# What a CPU has that computes bfloat16 natively: one of these.
X86, ARM = ("avx512_bf16", "amx_bf16"), ("bf16",)
# The limits under which oneDNN takes no AVX-512 at all, and none of its bfloat16 instructions.
WITHOUT_AVX512 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"}
WITHOUT_BFLOAT16 = WITHOUT_AVX512 | {"AVX512_CORE", "AVX512_CORE_VNNI"}
ASK_GPU = "import torch; print(torch.cuda.is_bf16_supported(including_emulation=False))"
CPUINFO = Path("/proc/cpuinfo")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as glibc's malloc.h has them


def choose_device(accelerator: Accelerator, devices: int = 1, local_rank: int = 0) -> torch.device:
    """The GPU or the CPU.

    Args:
        devices: how many of this computer's GPUs are needed, one for each process.
        local_rank: which of these processes asks.

    Raises:
        SettingsError: if more GPUs are asked for than there are.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator is Accelerator.gpu and gpus == 0:
        raise SettingsError(
            "a GPU was asked for, but PyTorch finds none here: choose the device cpu or auto"
        )
    if accelerator is Accelerator.cpu or gpus == 0:
        return torch.device("cpu")
    if devices > gpus:
        raise SettingsError(
            f"device.devices={devices} GPUs were asked for, but PyTorch finds {gpus} here: "
            f"choose device.devices={gpus}, or device.accelerator=cpu"
        )
    return torch.device("cuda", local_rank) if devices > 1 else torch.device("cuda")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({processor_name()}, {torch.backends.cpu.get_cpu_capability()})"


class Bfloat16(NamedTuple):
    is_native: bool
    reason: str  # a clause: why it is, or is not


def bfloat16_of(device: str, apart: bool = False) -> Bfloat16:
    """Whether bfloat16 is native to ``cpu`` or ``cuda``: elsewhere it is slow, or fails.

    Args:
        apart: ask a GPU in a process of its own, as asking takes some of its memory.
    """
    if device == "cuda":
        if apart:
            is_native = answer_of_gpu()
        else:
            is_native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Bfloat16(is_native, f"this GPU has {'' if is_native else 'no '}bfloat16 units")
    names = X86 if platform.machine().lower() in ("x86_64", "amd64") else ARM
    found = [name for name in names if name in cpu_features()]
    if not found:
        missing = ", ".join(names)
        return Bfloat16(False, f"this processor has no bfloat16 instructions ({missing})")
    limit = onednn_limit()
    if limit.partition("=")[2] in WITHOUT_BFLOAT16:
        return Bfloat16(False, f"{limit} leaves out this processor's {found[0]}")
    return Bfloat16(True, f"this processor has {found[0]}")


@cache
def answer_of_gpu() -> bool:
    """
    Raises:
        SettingsError: if the GPU does not answer.
    """
    command = [sys.executable, "-P", "-c", ASK_GPU]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SettingsError(
            f"the GPU does not say whether it has bfloat16 units ({reason}): choose "
            "device.precision=32-true, or device=cpu"
        )
    return done.stdout.strip() == "True"


def onednn_limit() -> str:
    """The variable that keeps oneDNN from some instructions, as ``NAME=VALUE``; empty if none."""
    for name in "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA":
        if os.environ.get(name):
            return f"{name}={os.environ[name].upper()}"
    return ""


def cpu_features() -> set[str]:
    """What the processor can do, by the names that Linux has for it."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # PyTorch 2.13
    if ask is None:
        names = set(f"{cpu_info('flags')} {cpu_info('Features')}".split())
    else:
        names = {name for name, value in ask().items() if value is True}
    linux_names = {"avx512_f": "avx512f", "neon": "asimd"}
    return {linux_names.get(name, name) for name in names}


def processor_name() -> str:
    return cpu_info("model name") or platform.processor() or platform.machine()


def multiplies_slowly() -> bool:
    """Whether PyTorch's products of float32 leave AVX-512 unused: MKL takes it on Intel's alone."""
    has_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    by_mkl = torch.backends.mkl.is_available() and cpu_info("vendor_id") == "AuthenticAMD"
    return has_avx512 and by_mkl and onednn_limit().partition("=")[2] not in WITHOUT_AVX512


def cpu_info(key: str) -> str:
    """What Linux says of the first processor; empty if nothing."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    named = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in named if name.strip() == key), "")


def precision_here(precision: str, device: str, apart: bool = False) -> tuple[str, str | None]:
    """The precision to train in, and, where ``auto`` left that open, a line that says why.

    Args:
        device, apart: as of :func:`bfloat16_of`.

    Raises:
        SettingsError: if it is not native to the device.
    """
    if precision not in (AUTO, "bf16-mixed"):
        return precision, None
    bfloat16 = bfloat16_of(device, apart)
    if precision == AUTO:
        chosen = "bf16-mixed" if bfloat16.is_native else "32-true"
        return chosen, f"precision {chosen}, as {bfloat16.reason}"
    if not bfloat16.is_native:
        raise SettingsError(
            f"device.precision=bf16-mixed cannot be used here, as {bfloat16.reason}: choose "
            "device.precision=32-true, or device.precision=auto for a new run"
        )
    return precision, None


def cores() -> int:
    """How many this process may use: fewer than there are by affinity, or a container's quota."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    # Rounded down: with a thread more than there is time for, all of them are stopped until the
    # next period begins.
    return int(min(allowed, max(1, cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """Of how many cores the time may be used, by the control groups that this process is in."""
    quotas = [quota_of(folder, is_second) for folder, is_second in group_folders("cpu", root)]
    return min(quotas, default=float("inf"))


def quota_of(group: Path, is_second: bool) -> float:
    """
    Args:
        is_second: whether the group is of the second version of control groups.
    """
    try:
        if is_second:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return float("inf") if quota == "max" or int(quota) < 0 else int(quota) / int(period)
    except (OSError, ValueError):  # no such limit, or not one that can be read
        return float("inf")


def limit_threads() -> None:
    """Have PyTorch use no more threads than cores, unless the user has said how many."""
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next step, which asks for the same again.

    Else every large tensor comes as fresh pages from the system: of a step with hidden size 512 on
    64 rows of 100 tokens that took a quarter. Without the GNU library nothing changes.
    """
    largest = 2**31 - 1
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option in M_MMAP_THRESHOLD, M_TRIM_THRESHOLD:
            set_option(option, largest)


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


def group_folders(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """Of its groups and all above them, and whether each is of the second version.

    Args:
        controller: of what they set limits, ``cpu`` or ``memory``.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for mount in {controller, controllers} if controllers else {""}:
            for group in (Path(path), *Path(path).parents):
                yield root / "sys/fs/cgroup" / mount / str(group).lstrip("/."), not controllers
