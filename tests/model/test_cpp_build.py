"""The compiling of the C++ kernels, and what can go wrong with it."""

import os
import shutil
import subprocess
import sys

import pytest

from lstm_lm.errors import SettingsError
from lstm_lm.model.fused import cpp_build

LOAD = """
import logging
logging.basicConfig(level=logging.INFO)
from lstm_lm.model.fused.cpp_build import load_library
load_library().weight_gradients
"""


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lstm_lm"


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
            env={**os.environ, "PATH": f"{outside}:{os.path.dirname(shutil.which('c++'))}"},
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
        SettingsError, match=r"there is no no-such-compiler: install one .*apt inst"
    ):
        cpp_build.load_library()
    assert not list(empty_cache.glob("*.so"))


def test_a_compiler_that_fails_is_told_in_one_line(empty_cache, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(SettingsError, match="could not be compiled with false") as caught:
        cpp_build.load_library()
    assert "\n" not in str(caught.value)
    assert not list(empty_cache.glob("*.so"))


def test_a_damaged_library_is_named(empty_cache):
    empty_cache.mkdir()
    library = empty_cache / f"kernels_{cpp_build.signature()}.so"
    library.write_bytes(b"\x7fELF and no more")
    with pytest.raises(SettingsError, match=r"kernels_\w+\.so: .*remove it"):
        cpp_build.load_library()


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match="cannot use the compiled kernels .*file/lstm_lm"):
        cpp_build.load_library()
