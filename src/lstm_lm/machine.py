"""Resources of this machine: devices, their native precisions, cores and memory.

Cores and memory are those that this process may use. Containers limit both by control groups.
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

# Features of CPUs that compute bfloat16 natively; one of them is enough.
X86, ARM = ("avx512_bf16", "amx_bf16"), ("bf16",)
# Limits under which oneDNN uses no AVX-512 at all, and those without bfloat16 instructions.
WITHOUT_AVX512 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"}
WITHOUT_BFLOAT16 = WITHOUT_AVX512 | {"AVX512_CORE", "AVX512_CORE_VNNI"}
ASK_GPU = "import torch; print(torch.cuda.is_bf16_supported(including_emulation=False))"
CPUINFO = Path("/proc/cpuinfo")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def choose_device(accelerator: Accelerator, devices: int = 1, local_rank: int = 0) -> torch.device:
    """The GPU or the CPU to train on.

    Args:
        devices: number of GPUs needed on this computer, one per process.
        local_rank: number of this process among those on this computer.

    Raises:
        SettingsError: if there are fewer GPUs than requested.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if accelerator is Accelerator.gpu and gpus == 0:
        raise SettingsError(
            "a GPU was requested, but PyTorch finds none here: choose the device cpu or auto"
        )
    if accelerator is Accelerator.cpu or gpus == 0:
        return torch.device("cpu")
    if devices > gpus:
        raise SettingsError(
            f"device.devices={devices} GPUs were requested, but PyTorch finds {gpus} here: "
            f"choose device.devices={gpus}, or device.accelerator=cpu"
        )
    return torch.device("cuda", local_rank) if devices > 1 else torch.device("cuda")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({processor_name()}, {torch.backends.cpu.get_cpu_capability()})"


class Bfloat16(NamedTuple):
    is_native: bool
    reason: str  # a clause that says why it is or is not native


def bfloat16_support(device: str, apart: bool = False) -> Bfloat16:
    """Support for bfloat16 on ``cpu`` or ``cuda``; where it is not native, it is slow or fails.

    Args:
        apart: ask the GPU in a separate process, because asking takes some of its memory.
    """
    if device == "cuda":
        if apart:
            is_native = gpu_has_bfloat16()
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
        return Bfloat16(False, f"{limit} disables this processor's {found[0]}")
    return Bfloat16(True, f"this processor has {found[0]}")


@cache
def gpu_has_bfloat16() -> bool:
    """True if the GPU has bfloat16 units, as a separate process finds.

    Raises:
        SettingsError: if that process fails.
    """
    command = [sys.executable, "-P", "-c", ASK_GPU]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SettingsError(
            f"cannot find out whether the GPU has bfloat16 units ({reason}): choose "
            "device.precision=32-true, or device=cpu"
        )
    return done.stdout.strip() == "True"


def onednn_limit() -> str:
    """The variable that limits oneDNN's instruction set, as ``NAME=VALUE``; empty if none."""
    for name in "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA":
        if os.environ.get(name):
            return f"{name}={os.environ[name].upper()}"
    return ""


def cpu_features() -> set[str]:
    """The processor's features, by their names in Linux."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # PyTorch 2.13
    if ask is None:
        names = set(f"{cpu_info('flags')} {cpu_info('Features')}".split())
    else:
        names = {name for name, value in ask().items() if value is True}
    linux_names = {"avx512_f": "avx512f", "neon": "asimd"}
    return {linux_names.get(name, name) for name in names}


def processor_name() -> str:
    return cpu_info("model name") or platform.processor() or platform.machine()


def leaves_avx512_unused() -> bool:
    """True if PyTorch's float32 products leave AVX-512 unused: MKL uses it only on Intel's CPUs."""
    has_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    by_mkl = torch.backends.mkl.is_available() and cpu_info("vendor_id") == "AuthenticAMD"
    return has_avx512 and by_mkl and onednn_limit().partition("=")[2] not in WITHOUT_AVX512


def cpu_info(key: str) -> str:
    """An entry of the first processor in /proc/cpuinfo; empty if there is none."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    named = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in named if name.strip() == key), "")


def resolve_precision(precision: str, device: str, apart: bool = False) -> tuple[str, str | None]:
    """The precision to train in and, for ``auto``, a line that says why it was chosen.

    Args:
        device, apart: as in :func:`bfloat16_support`.

    Raises:
        SettingsError: if the precision is not native to the device.
    """
    if precision not in (AUTO, "bf16-mixed"):
        return precision, None
    bfloat16 = bfloat16_support(device, apart)
    if precision == AUTO:
        chosen = "bf16-mixed" if bfloat16.is_native else "32-true"
        return chosen, f"precision {chosen}, as {bfloat16.reason}"
    if not bfloat16.is_native:
        raise SettingsError(
            f"device.precision=bf16-mixed cannot be used here, as {bfloat16.reason}: choose "
            "device.precision=32-true, or device.precision=auto for a new run"
        )
    return precision, None


def cpu_cores() -> int:
    """Number of cores that this process may use, by its affinity and a container's quota."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    # Rounded down: with one thread too many the quota runs out, and all threads stop until the
    # next period begins.
    return int(min(allowed, max(1, cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """CPU quota in cores, set by the control groups of this process; infinite if there is none."""
    quotas = [quota_of(folder, is_second) for folder, is_second in group_folders("cpu", root)]
    return min(quotas, default=float("inf"))


def quota_of(group: Path, is_second: bool) -> float:
    """CPU quota of one control group in cores; ``is_second`` if it is of version 2."""
    try:
        if is_second:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return float("inf") if quota == "max" or int(quota) < 0 else int(quota) / int(period)
    except (OSError, ValueError):  # no such limit, or an unreadable one
        return float("inf")


def limit_threads() -> None:
    """Limit PyTorch's threads to the number of cores, unless the user set OMP_NUM_THREADS."""
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cpu_cores():
        torch.set_num_threads(cpu_cores())


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for the next step, which needs the same again.

    Otherwise the system provides fresh pages for every large tensor. That took a quarter of a step
    with hidden size 512 on 64 rows of 100 tokens. Has no effect without the GNU library.
    """
    largest = 2**31 - 1
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option in M_MMAP_THRESHOLD, M_TRIM_THRESHOLD:
            set_option(option, largest)


def memory(root: Path = Path("/")) -> float:
    """Bytes that this process may use: all memory, or a limit of a container or ``ulimit -v``."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    limits += [limit_of(folder, is_second) for folder, is_second in group_folders("memory", root)]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min([*limits, math.inf if soft == resource.RLIM_INFINITY else soft])


def limit_of(group: Path, is_second: bool) -> float:
    try:
        text = (group / ("memory.max" if is_second else "memory.limit_in_bytes")).read_text()
        return math.inf if text.strip() == "max" else int(text)
    except (OSError, ValueError):  # no such limit, or an unreadable one
        return math.inf


def format_bytes(size: float) -> str:
    """A number of bytes as text: ``900 GiB``."""
    power = min(4, int(math.log2(max(size, 1)) / 10))
    return f"{size / 2 ** (10 * power):,.4g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def group_folders(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """Folders of this process's control groups and their parents; True for version 2.

    Args:
        controller: the limited resource, ``cpu`` or ``memory``.
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
