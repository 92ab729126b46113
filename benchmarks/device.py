"""The device to measure on: its preparation, description and timing."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.rows import count
from lstm_lm.config import Accelerator
from lstm_lm.errors import SettingsError
from lstm_lm.machine import (
    bfloat16_support,
    choose_device,
    cpu_cores,
    cpu_features,
    device_name,
    keep_freed_memory,
    onednn_limit,
    processor_name,
)
from lstm_lm.model.fused.cpp_kernels import MARCH

# Instruction sets by which speeds differ.
INSTRUCTIONS = (
    *("avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16"),
    *("asimd", "sve", "bf16"),  # of Arm
)

log = logging.getLogger(__name__)


def prepare(name: str) -> torch.device:
    """Prepare PyTorch for measurements; return the device of this name, ``cpu`` or ``cuda``.

    Raises:
        SettingsError: if there is no GPU.
    """
    keep_freed_memory()  # as training does
    if name == "cpu":
        return choose_device(Accelerator.cpu)
    device = choose_device(Accelerator.gpu)
    # cuDNN's cells use TF32 by default, matrix products do not. Use this switch: Lightning reads
    # it, and PyTorch raises an error there once the newer switch was set.
    torch.set_float32_matmul_precision("high")
    return device


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Description of the machine for JSON: processor, instruction sets, cores, versions."""
    features = cpu_features()
    known: dict[str, Any] = {
        "processor": processor_name(),
        "instructions": [name for name in INSTRUCTIONS if name in features],
        "used_by_pytorch": torch.backends.cpu.get_cpu_capability(),
        "onednn_limit": onednn_limit(),
        "kernels_for": os.environ.get(MARCH),
        "cores": cpu_cores(),
        "cores_in_total": os.cpu_count(),
        "torch": torch.__version__,
    }
    return known | ({"gpu": device_name(device)} if device.type == "cuda" else {})


def in_one_line(machine: dict[str, Any]) -> str:
    """Description of the machine for readers, from :func:`describe_machine`."""
    number, total = machine["cores"], machine["cores_in_total"]
    parts = [
        machine.get("gpu"),
        machine["processor"],
        f"{' '.join(machine['instructions'])} (PyTorch uses {machine['used_by_pytorch']})",
        machine["onednn_limit"],
        machine["kernels_for"] and f"C++ kernels for {machine['kernels_for']}",
        f"{number} of {total} cores" if number != total else count(number, "core"),
        f"PyTorch {machine['torch']}",
    ]
    return ", ".join(filter(None, parts))


def native(precisions: Sequence[str], device: str) -> list[str]:
    """The precisions that are native to the device; logs which one is left out.

    Raises:
        SettingsError: if none is left.
    """
    bfloat16 = bfloat16_support(device)
    if "bf16-mixed" not in precisions or bfloat16.is_native:
        return list(precisions)
    left = [precision for precision in precisions if precision != "bf16-mixed"]
    if not left:
        raise SettingsError(
            f"bf16-mixed cannot be measured here, as {bfloat16.reason}: choose --precisions 32-true"
        )
    log.warning("bf16-mixed is left out, as %s", bfloat16.reason)
    return left


def finish(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time that ``work`` takes on the device."""
    finish(device)
    began = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - began
