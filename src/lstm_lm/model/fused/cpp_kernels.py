"""The kernels on a CPU, in C++: called here, and compiled when first asked for.

Rows of the batch are shared out among threads, weights are packed once a sequence, and gates are
computed while their sums lie in the cache; see cpp/sequence.h for how. Results do not depend on the
number of threads.

What was compiled is kept in the user's cache folder. The name of the file has a hash of the
sources, the processor's instructions and PyTorch's version, so that computers and versions can
share a folder. Beside it lies its checksum: a library that was cut short ends the process with
SIGBUS when it is loaded, before anything can be said.

The kernels are compiled for the processor at hand. ``LSTM_LM_CPP_MARCH=haswell`` compiles them for
one with AVX2 only, to test or measure those kernels elsewhere; it takes any name that the compiler
knows.
"""

import hashlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ninja
import torch
from torch import Tensor

from lstm_lm.config import Cell
from lstm_lm.errors import SettingsError
from lstm_lm.files import cache_folder, copy_atomically, wait_for_lock, write_atomically
from lstm_lm.model.fused.torch_kernels import (
    Saved,
    State,
    Tensors,
    Weights,
    allocate_states,
    contiguous_copy,
)

SOURCES = Path(__file__).parent / "cpp"
MARCH = "LSTM_LM_CPP_MARCH"
REMEDY = "Set XDG_CACHE_HOME to another folder, or choose model.backend=torch"

COMPILE = """
import os, signal, sys
from torch.utils.cpp_extension import load
from lstm_lm.process import on_parent_exit
on_parent_exit(lambda: os.killpg(0, signal.SIGTERM))
folder, source, *flags = sys.argv[1:]
import torch
load("kernels", [source], extra_cflags=flags, build_directory=folder, is_python_module=False)
# Try each dtype here, as an instruction that the processor lacks ends the process.
zeros = torch.zeros(17, 16, 16)
for dtype in torch.float32, torch.bfloat16:
    inputs, weights = zeros[1:].to(dtype), [*zeros[:2], zeros[0, 0]]
    torch.ops.lstm_lm.rnn_forward(inputs, weights, zeros.to(dtype, copy=True))
"""

log = logging.getLogger(__name__)

operators = torch.ops.lstm_lm  # there are none before load_library


def forward(cell: Cell, inputs: Tensor, weights: Weights, state: State) -> Saved:
    *layer, bias_hh = weights
    states = allocate_states(inputs, state)
    given = inputs.contiguous(), contiguous(layer)
    if cell is Cell.rnn:
        operators.rnn_forward(*given, *states)
        return tuple(states)
    gates = inputs.new_empty(*inputs.shape[:2], 4 * state[0].shape[-1])
    if bias_hh is None:
        operators.lstm_forward(*given, *states, gates)
    else:
        operators.gru_forward(*given, bias_hh.contiguous(), *states, gates)
    return *states, gates


def backward(
    cell: Cell, grad_outputs: Tensor, grad_state: State, weight_hh: Tensor, saved: Saved
) -> tuple[Tensors, State]:
    grad_state = tuple(map(contiguous_copy, grad_state))  # becomes that of the first state
    shape = *grad_outputs.shape[:2], len(weight_hh)
    grad_sums = [grad_outputs.new_empty(shape) for _ in range(2 if cell is Cell.gru else 1)]
    given = grad_outputs.contiguous(), weight_hh.contiguous()
    match cell:
        case Cell.lstm:
            _, *cells_and_gates = saved
            operators.lstm_backward(*given, *cells_and_gates, *grad_state, *grad_sums)
        case Cell.gru:
            past_gates = torch.zeros_like(*grad_state)  # the kernel's own, from step to step
            operators.gru_backward(*given, *saved, *grad_state, past_gates, *grad_sums)
        case Cell.rnn:
            operators.rnn_backward(*given, *saved, *grad_state, *grad_sums)
    return tuple(grad_sums), grad_state


def weight_gradients(
    grad_sums: Tensor, factors: Sequence[Tensor], dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    sums = grad_sums.shape[-1]
    gradients = [grad_sums.new_empty(sums, f.shape[-1], dtype=dtype) for f in factors]
    bias = grad_sums.new_empty(sums, dtype=dtype)
    operators.weight_gradients(grad_sums.contiguous(), contiguous(factors), gradients, bias)
    return gradients, bias


def contiguous(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


def load_library() -> Any:
    """The kernels as PyTorch's operators.

    Raises:
        SettingsError: if they are not compiled yet and cannot be.
    """
    library = library_file()
    try:
        if not is_whole(library):
            library.parent.mkdir(parents=True, exist_ok=True)
            lock = library.parent / "compiling.lock"
            with wait_for_lock(lock, "waiting for another process that compiles the C++ kernels …"):
                if not is_whole(library):  # the other process may have compiled it
                    compile_into(library)
    except OSError as error:
        raise SettingsError(
            f"the compiled kernels cannot be kept in {library.parent}: {error.strerror}. {REMEDY}"
        ) from error
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise SettingsError(f"cannot load the compiled kernels: {error}. {REMEDY}") from error
    return torch.ops.lstm_lm


def library_file() -> Path:
    return cache_folder() / f"kernels_{signature()}.so"


def compiler() -> str:
    return os.environ.get("CXX") or "c++"


def flags() -> list[str]:
    march = os.environ.get(MARCH) or "native"
    # PyTorch's threads; Apple's compiler has no OpenMP, and the kernels take one thread there.
    threads = ["-fopenmp"] if sys.platform == "linux" else []
    return ["-O3", f"-march={march}", "-Wno-unknown-pragmas", "-Wno-psabi", *threads]


def is_whole(library: Path) -> bool:
    """True if the library is as it was compiled."""
    try:
        return checksum_file(library).read_text() == checksum(library)
    except OSError:
        return False


def checksum_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def checksum(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def compile_into(library: Path) -> None:
    if shutil.which(compiler()) is None:
        missing = f"program {compiler()}, which CXX names" if os.environ.get("CXX") else compiler()
        raise SettingsError(
            f"model.backend=cpp needs a C++ compiler, and there is no {missing}: install one (on "
            "Debian and Ubuntu: apt install g++; on macOS: xcode-select --install), or choose "
            "model.backend=torch"
        )
    log.info("compiling the C++ kernels for this machine, once: about half a minute …")
    with tempfile.TemporaryDirectory() as folder:
        # In another process, as cpp_extension loads what it has compiled.
        command = [sys.executable, "-c", COMPILE, folder, str(SOURCES / "recurrence.cpp"), *flags()]
        code, output = run(command)
        if code == -signal.SIGILL:
            raise SettingsError(
                f"compiled with {flags()[1]} the C++ kernels use instructions that this processor "
                f"lacks: set {MARCH} to one that has no more than it, for instance x86-64-v2, or "
                "choose model.backend=torch"
            )
        if code != 0:
            raise SettingsError(
                f"the C++ kernels could not be compiled with {compiler()} "
                f"({first_error(output)}): mend that, or choose model.backend=torch"
            )
        copy_atomically(library, Path(folder) / "kernels.so")
        write_atomically(checksum_file(library), checksum(library).encode())


def run(command: list[str]) -> tuple[int, str]:
    """Exit code and output of a program that ends, with all it started, if this process does.

    The program must watch its standard input, as :mod:`lstm_lm.process` does: that is closed
    when this process is gone, and when the block below is left by an error.
    """
    # A session of its own, as a terminal's Ctrl-C would look as if compiling had failed.
    with subprocess.Popen(
        command,
        env=with_ninja(),
        text=True,
        errors="replace",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as program:
        assert program.stdout is not None
        output = program.stdout.read()
        return program.wait(), output


def first_error(output: str) -> str:
    """The first error in a compiler's output, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if " error: " in line]
    return next(iter(errors or lines[-1:]), "no reason given")


def signature() -> str:
    """A hash of all that the compiled file depends on."""
    sources = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    settings = [*flags(), torch.__version__, platform.machine(), instructions(), sys.platform]
    return hashlib.sha256(sources + "\n".join(settings).encode()).hexdigest()[:16]


def instructions() -> str:
    """The instruction sets of the processor, for which ``-march=native`` compiles."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def with_ninja() -> dict[str, str]:
    """The environment with ninja in its path, also where no virtual environment is activated."""
    path = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path}
