import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lstm_lm import machine
from lstm_lm.errors import SettingsError
from lstm_lm.machine import (
    Bfloat16,
    bfloat16_support,
    cpu_cores,
    cpu_features,
    cpu_quota,
    limit_threads,
    resolve_precision,
)

PAGES_OF_TEN_STEPS = """
import resource
import sys
import torch
from lstm_lm.machine import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()

def step():
    torch.ones(16, 1024, 1024)  # 64 MiB

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(5):  # until the heap is as large as it needs to be
    step()
before = pages()
for _ in range(10):
    step()
print(pages() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="is about the GNU C library")
def test_freed_memory_is_kept_for_the_next_step():
    anew, kept = (
        int(subprocess.check_output([sys.executable, "-c", PAGES_OF_TEN_STEPS, *arguments]))
        for arguments in ([], ["keep"])
    )
    assert kept < anew / 5


@pytest.mark.parametrize(
    ("capability", "vendor", "limit", "is_slow"),
    [
        ("AVX512", "AuthenticAMD", "", True),
        ("AVX512", "AuthenticAMD", "ONEDNN_MAX_CPU_ISA=DEFAULT", True),
        ("AVX512", "AuthenticAMD", "ONEDNN_MAX_CPU_ISA=AVX2", False),
        ("AVX512", "GenuineIntel", "", False),
        ("AVX2", "AuthenticAMD", "", False),
        ("DEFAULT", "", "", False),
    ],
)
def test_pytorch_multiplies_slowly_on_amd_s_avx512_alone(
    capability, vendor, limit, is_slow, monkeypatch
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(machine, "cpu_info", lambda key: vendor)
    monkeypatch.setattr(machine, "onednn_limit", lambda: limit)
    assert machine.leaves_avx512_unused() is is_slow


needs_cpuinfo = pytest.mark.skipif(not machine.CPUINFO.exists(), reason="is about Linux")


@pytest.fixture
def no_limit(monkeypatch):
    """As if oneDNN might use every instruction."""
    for name in "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA":
        monkeypatch.delenv(name, raising=False)


@needs_cpuinfo
def test_bfloat16_is_native_where_linux_names_an_instruction_for_it(no_limit):
    words = set(machine.CPUINFO.read_text().split())
    named = words & ({"avx512_bf16", "amx_bf16"} if platform.machine() == "x86_64" else {"bf16"})
    assert bfloat16_support("cpu").is_native == bool(named)


@needs_cpuinfo
def test_processors_are_known_without_pytorch_too(monkeypatch):
    known = cpu_features()
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    names = {"avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"}
    assert cpu_features() & names == known & names


@pytest.mark.parametrize(
    ("processor", "features", "is_native", "reason"),
    [
        ("x86_64", {"avx2", "avx512_bf16"}, True, "this processor has avx512_bf16"),
        ("AMD64", {"amx_bf16"}, True, "this processor has amx_bf16"),
        ("x86_64", {"avx2"}, False, "no bfloat16 instructions (avx512_bf16, amx_bf16)"),
        ("aarch64", {"asimd", "bf16"}, True, "this processor has bf16"),
        ("arm64", {"asimd"}, False, "this processor has no bfloat16 instructions (bf16)"),
    ],
)
def test_the_reason_names_the_instruction(
    processor, features, is_native, reason, monkeypatch, no_limit
):
    monkeypatch.setattr(platform, "machine", lambda: processor)
    monkeypatch.setattr(machine, "cpu_features", lambda: features)
    bfloat16 = bfloat16_support("cpu")
    assert bfloat16.is_native == is_native and reason in bfloat16.reason


@pytest.mark.parametrize(
    ("name", "value", "is_native"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", False),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core_vnni", False),
        ("DNNL_MAX_CPU_ISA", "AVX2", False),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", True),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", True),
        ("ONEDNN_MAX_CPU_ISA", "AVX10_1_512", True),
    ],
)
def test_instructions_that_onednn_must_not_use_do_not_count(
    name, value, is_native, monkeypatch, no_limit
):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(machine, "cpu_features", lambda: {"avx512_bf16"})
    monkeypatch.setenv(name, value)
    bfloat16 = bfloat16_support("cpu")
    assert bfloat16.is_native == is_native
    assert (
        is_native
        or bfloat16.reason == f"{name}={value.upper()} disables this processor's avx512_bf16"
    )


def test_auto_is_the_fastest_precision_that_is_native(monkeypatch):
    for is_native, chosen in (True, "bf16-mixed"), (False, "32-true"):
        monkeypatch.setattr(
            machine, "bfloat16_support", lambda *_, n=is_native: Bfloat16(n, "it is so")
        )
        assert resolve_precision("auto", "cpu") == (chosen, f"precision {chosen}, as it is so")
        for typed in "32-true", "64-true":
            assert resolve_precision(typed, "cpu") == (typed, None)
    with pytest.raises(SettingsError, match="as it is so: choose device.precision=32-true, or"):
        resolve_precision("bf16-mixed", "cpu")


@pytest.mark.gpu
def test_a_gpu_answers_the_same_from_a_process_of_its_own():
    assert bfloat16_support("cuda", apart=True) == bfloat16_support("cuda")


def write_files(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/", {"cpu.max": "max 100000"}, float("inf")),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, 0.5),
        ("0::/a/b", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "300000 100000"}, 3.0),
        ("0::/elsewhere", {"cpu.max": "200000 100000"}, 2.0),
        (
            "4:memory:/\n2:cpu,cpuacct:/a\n0::/",
            {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        (
            "2:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            float("inf"),
        ),
        ("0::/", {"cpu.max": "what?"}, float("inf")),
    ],
)
def test_the_quota_is_the_least_of_a_process_s_control_groups(groups, files, quota, tmp_path):
    write_files(tmp_path, {"proc/self/cgroup": groups + "\n"})
    write_files(tmp_path / "sys/fs/cgroup", files)
    assert cpu_quota(tmp_path) == quota


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path) == float("inf")


def test_a_quota_counts_as_its_whole_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    for quota, number in (float("inf"), 4), (9.0, 4), (2.9, 2), (0.3, 1):
        monkeypatch.setattr(machine, "cpu_quota", lambda q=quota: q)
        assert cpu_cores() == number


def test_threads_follow_the_quota_unless_the_user_says_how_many(monkeypatch):
    monkeypatch.setattr(machine, "cpu_cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        for before, after in (3, 2), (1, 1):
            torch.set_num_threads(before)
            limit_threads()
            assert torch.get_num_threads() == after
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        torch.set_num_threads(3)
        limit_threads()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
