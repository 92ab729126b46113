"""The compiling of the C++ kernels, and what can go wrong with it."""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths

from lstm_lm.errors import SettingsError
from lstm_lm.model.fused import cpp_kernels

ROOT = Path(__file__).parents[2]
# With fewer instructions to choose from, compiling takes half as long.
QUICK = {cpp_kernels.MARCH: "x86-64-v2"} if platform.machine() == "x86_64" else {}

LOAD = """
import logging
logging.basicConfig(level=logging.INFO)
from lstm_lm.model.fused.cpp_kernels import load_library
load_library().weight_gradients
"""


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lstm_lm"


@pytest.mark.slow
def test_processes_that_need_the_kernels_at_once_compile_them_once(empty_cache):
    # By its full name, and without the folder in which a virtual environment has its programs.
    outside = os.pathsep.join(
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not shutil.which("ninja", path=folder)
    )
    loading = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PATH": f"{outside}:{os.path.dirname(shutil.which('c++'))}"} | QUICK,
        )
        for _ in range(2)
    ]
    written = [process.communicate()[1] for process in loading]
    assert [process.returncode for process in loading] == [0, 0], written
    assert "".join(written).count("compiling the C++ kernels") == 1
    assert len(list(empty_cache.glob("kernels_*.so"))) == 1


def test_without_a_compiler_the_error_says_what_to_install(empty_cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        SettingsError, match=r"no program no-such-compiler, which CXX names: install one .*apt inst"
    ):
        cpp_kernels.load_library()
    assert not list(empty_cache.glob("*.so"))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "[ $1 = --version ] || echo a.h:3:1: error: no semicolon; [ $1 = --version ]",
            r"no semicolon\): mend that",
        ),
        ("exit 1", r"could not be compiled with .*c-- \(.*exit status 1.*\): mend that, or choose"),
    ],
)
def test_a_compiler_that_fails_is_told_in_one_line(
    empty_cache, tmp_path, monkeypatch, script, says
):
    compiler = tmp_path / "c--"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(SettingsError, match=says) as caught:
        cpp_kernels.load_library()
    assert "\n" not in str(caught.value)
    assert not list(empty_cache.glob("*.so"))


@pytest.mark.parametrize("damage", [b"", b"\x7fELF and no more"])
def test_a_damaged_library_is_compiled_anew(empty_cache, monkeypatch, damage):
    empty_cache.mkdir()
    library = empty_cache / f"kernels_{cpp_kernels.signature()}.so"
    library.write_bytes(b"as it was compiled")
    cpp_kernels.checksum_file(library).write_text(cpp_kernels.checksum(library))
    assert cpp_kernels.is_whole(library)
    library.write_bytes(damage)
    compiled = []
    monkeypatch.setattr(cpp_kernels, "compile_into", compiled.append)
    with pytest.raises(SettingsError, match="cannot load the compiled kernels"):
        cpp_kernels.load_library()  # as nothing was really compiled
    assert compiled == [library]


COMPILE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests in the background lack
from lstm_lm.model.fused import cpp_kernels
cpp_kernels.compile_into(cpp_kernels.cache_folder() / "kernels.so")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_compiler_does_not_outlive_who_asked_for_it(empty_cache, tmp_path, number):
    compiler, running = tmp_path / "slow", tmp_path / "running"
    compiler.write_text(
        f"#!/bin/sh\necho $$ > {running}.tmp; mv {running}.tmp {running}\nexec sleep 60\n"
    )
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "XDG_CACHE_HOME": str(empty_cache.parent)}
    asking = subprocess.Popen(
        [sys.executable, "-c", COMPILE], env=environment, stderr=subprocess.PIPE
    )
    wait_until(running.exists)
    asking.send_signal(number)
    asking.communicate()
    compiling = int(running.read_text())
    wait_until(lambda: not Path(f"/proc/{compiling}").exists())
    assert not list(empty_cache.glob("*.so"))


def wait_until(happened):
    until = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match="cannot be kept in .*file/lstm_lm: .*XDG_CACHE_HOME"):
        cpp_kernels.load_library()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is about x86-64 processors")
@pytest.mark.parametrize("march", ["haswell", pytest.param("x86-64-v2", marks=pytest.mark.slow)])
def test_kernels_for_lesser_processors_keep_the_contract(march):
    if march == "haswell" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        pytest.skip("here these are the kernels that all tests are about")
    tests = [str(ROOT / f"tests/model/test_{of}.py") for of in ("core_contract", "fused")]
    # No plug-in of the tests around: they would want to share these out.
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cpp", "-p", "no:xdist", *tests]
    environment = os.environ | {cpp_kernels.MARCH: march, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 100, done.stdout


def test_each_processor_has_a_library_of_its_own(monkeypatch):
    monkeypatch.setenv(cpp_kernels.MARCH, "haswell")
    haswell = cpp_kernels.library_file()
    monkeypatch.delenv(cpp_kernels.MARCH)
    assert cpp_kernels.library_file() != haswell


def test_instructions_that_the_processor_lacks_are_told_in_one_line(
    empty_cache, tmp_path, monkeypatch
):
    source, compiler = tmp_path / "recurrence.cpp", tmp_path / "c--"
    source.write_text("__attribute__((constructor)) void lacks() { __builtin_trap(); }")
    compiler.write_text(f'#!/bin/sh\nexec {shutil.which("c++")} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(cpp_kernels, "SOURCES", tmp_path)
    monkeypatch.setattr(cpp_kernels, "signature", lambda: "of_a_trap")
    monkeypatch.setenv(cpp_kernels.MARCH, "x86-64-v2" if QUICK else "native")
    with pytest.raises(
        SettingsError, match=r"-march=.* lacks: set LSTM_LM_CPP_MARCH to one"
    ) as told:
        cpp_kernels.load_library()
    assert "\n" not in str(told.value)
    assert not list(empty_cache.glob("*.so"))


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-g++") is None,
    reason="needs a compiler for Arm: apt install g++-aarch64-linux-gnu",
)
def test_the_kernels_compile_for_arm(tmp_path):
    flags = [flag for flag in cpp_kernels.flags() if not flag.startswith("-march")] + ["-O0"]
    headers = [f"-I{path}" for path in include_paths()]
    source = cpp_kernels.SOURCES / "recurrence.cpp"
    command = ["aarch64-linux-gnu-g++", "-std=c++20", "-fPIC", *flags, *headers, "-c", str(source)]
    done = subprocess.run([*command, "-o", tmp_path / "a.o"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
