"""The C++ kernels, compiled when first asked for and kept in the user's cache folder.

The name of the compiled file tells the sources, the processor's instructions and PyTorch's version
it is for, so that a folder shared by different computers or versions is never wrong.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ninja
import torch

from lstm_lm.atomic_file import replace_by_copy
from lstm_lm.errors import SettingsError
from lstm_lm.lock import waiting_for

SOURCES = Path(__file__).parent / "cpp"
FLAGS = ["-O3", "-march=native", "-Wno-unknown-pragmas", "-Wno-psabi"]
if sys.platform == "linux":
    FLAGS.append("-fopenmp")  # PyTorch's threads; Apple's compiler has none, and takes one

COMPILE = """
import sys
from torch.utils.cpp_extension import load
folder, source, *flags = sys.argv[1:]
load("kernels", [source], extra_cflags=flags, build_directory=folder, is_python_module=False)
"""

log = logging.getLogger(__name__)


def load_library() -> Any:
    """The operators of the kernels.

    Raises:
        SettingsError: if they are not compiled yet and cannot be.
    """
    library = cache_folder() / f"kernels_{signature()}.so"
    try:
        if not library.exists():
            library.parent.mkdir(parents=True, exist_ok=True)
            with waiting_for(library.parent / "compiling.lock"):
                if not library.exists():  # another process may have been quicker
                    compile_into(library)
        torch.ops.load_library(library)
    except OSError as error:
        raise SettingsError(
            f"cannot use the compiled kernels {library}: {error}. If the file is damaged, remove "
            "it; for another folder set XDG_CACHE_HOME"
        ) from error
    return torch.ops.lstm_lm


def compile_into(library: Path) -> None:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise SettingsError(
            f"model.backend=cpp needs a C++ compiler, and there is no {compiler}: install one (on "
            "Debian and Ubuntu: apt install g++; on macOS: xcode-select --install), or choose "
            "model.backend=torch"
        )
    log.info("compiling the C++ kernels for this machine, once: about half a minute …")
    with tempfile.TemporaryDirectory() as folder:
        # In another process, as cpp_extension also loads what it has compiled.
        command = [sys.executable, "-c", COMPILE, folder, str(SOURCES / "recurrence.cpp"), *FLAGS]
        compiling = subprocess.run(
            command, env=with_ninja(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if compiling.returncode != 0:
            # As it may be long, and what is wrong is said first.
            errors = [line for line in compiling.stdout.splitlines() if "error" in line.lower()]
            raise SettingsError(
                f"the C++ kernels could not be compiled with {compiler}: choose "
                f"model.backend=torch, or mend this: {(errors or ['no reason given'])[0]}"
            )
        replace_by_copy(library, Path(folder) / "kernels.so")


def signature() -> str:
    """Of all that the compiled file depends on."""
    sources = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    told = [*FLAGS, torch.__version__, platform.machine(), instructions(), sys.platform]
    return hashlib.sha256(sources + "\n".join(told).encode()).hexdigest()[:16]


def instructions() -> str:
    """What the processor can do, for which ``-march=native`` compiles."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def cache_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "lstm_lm"


def with_ninja() -> dict[str, str]:
    """The environment in which ninja is found, also when no virtual environment is activated."""
    path = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path}
