"""Runs whose settings suit the machine, and what another machine makes of them.

Detection is made to answer; the core is one that computes bfloat16 on every machine, if slowly.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_lm import machine
from lstm_lm.config import Backend
from lstm_lm.errors import SettingsError
from lstm_lm.experiment import train
from lstm_lm.machine import Bfloat16
from lstm_lm.model.fused import kernels
from lstm_lm.model.fused.kernels import backend_here, kernels_of
from lstm_lm.resume import resume, resume_or_train
from lstm_lm.saved.load_model import restore
from lstm_lm.saved.run_folder import RunFolder

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"
# What makes the libraries and the kernels those of a lesser x86-64 processor.
LESSER = {
    "AVX2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "LSTM_LM_CPP_MARCH": "haswell",
    },
    "no AVX": {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "LSTM_LM_CPP_MARCH": "x86-64-v2",
    },
}
EXPERIMENTS = sorted((Path(__file__).parents[2] / "conf/experiment").glob("*.yaml"))
SHORT = "training.steps=2", "samples.tokens=2", "model.core=scratch"


@pytest.fixture
def bfloat16(monkeypatch):
    """Say whether the machine has it."""

    def is_native(answer):
        told = Bfloat16(answer, "it is known")
        monkeypatch.setattr(machine, "bfloat16_support", lambda device, apart=False: told)

    return is_native


@pytest.fixture
def from_elsewhere(bfloat16, small_run, tmp_path):
    """The folder of a run in bf16-mixed, on a machine that has not got it."""
    bfloat16(True)
    folder = tmp_path / "elsewhere"
    train(small_run("device.precision=bf16-mixed", *SHORT), folder)
    bfloat16(False)
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def precisions(folder):
    """As the config and the summary have it."""
    summary = json.loads((folder / "summary.json").read_text())
    return RunFolder(folder).read_config().device.precision, summary["precision"]


@pytest.mark.parametrize(("is_native", "chosen"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_run_has_the_precision_that_was_chosen(
    is_native, chosen, bfloat16, small_run, tmp_path, caplog
):
    caplog.set_level("INFO")
    bfloat16(is_native)
    train(small_run("device.precision=auto", *SHORT), tmp_path / "run")
    assert precisions(tmp_path / "run") == (chosen, chosen)
    assert caplog.messages.count(f"precision {chosen}, as it is known") == 1


def test_a_precision_that_is_not_native_is_refused_before_anything_is_written(
    bfloat16, small_run, tmp_path
):
    bfloat16(False)
    with pytest.raises(
        SettingsError, match="as it is known: choose .*32-true, or device.precision=auto"
    ):
        train(small_run("device.precision=bf16-mixed", *SHORT), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_auto_on_resume_is_what_the_run_has(bfloat16, small_run, tmp_path):
    bfloat16(False)
    config = small_run("device.precision=auto", *SHORT)
    resume_or_train(config, tmp_path)
    bfloat16(True)
    config.training.steps = 3
    assert resume_or_train(config, tmp_path)["steps"] == 3
    assert precisions(tmp_path) == ("32-true", "32-true")
    resume(tmp_path, {"device.precision": "64-true", "training.steps": 4})
    resume(tmp_path, {"device.precision": "auto", "model.backend": "auto", "training.steps": 5})
    assert precisions(tmp_path) == ("64-true", "64-true")


def test_a_run_in_bfloat16_goes_on_elsewhere_in_full_precision_when_asked(from_elsewhere):
    before = contents(from_elsewhere)
    for changes in {}, {"device.precision": "auto"}:
        with pytest.raises(
            SettingsError, match="bf16-mixed cannot be .*choose device.precision=32-true"
        ):
            resume(from_elsewhere, changes | {"training.steps": 3})
    assert contents(from_elsewhere) == before
    assert resume(from_elsewhere, {})["status"] == "completed"  # nothing to do
    changes = {"device.precision": "32-true", "training.steps": 3}
    assert resume(from_elsewhere, changes)["steps"] == 3
    assert precisions(from_elsewhere) == ("32-true", "32-true")


@pytest.mark.parametrize("core", [(), ("model.core=builtin",)])
def test_a_run_in_bfloat16_is_used_elsewhere(core, from_elsewhere, type_command):
    run = str(from_elsewhere)
    code, output, errors = type_command("evaluate.py", run, *core)
    assert (code, errors) == (0, "") and "bits per character" in output
    code, output, errors = type_command(
        "generate.py", run, *core, "--prompt", "time", "--tokens", "3"
    )
    assert (code, errors) == (0, "") and output.startswith("time")
    code, output, errors = type_command("inspect_run.py", run)
    assert (code, errors) == (0, "") and "inside.html" in output


def test_a_run_starts_elsewhere_from_weights_trained_in_bfloat16(
    from_elsewhere, small_run, tmp_path
):
    config = small_run("device.precision=auto", f"init_from={from_elsewhere}", *SHORT)
    assert train(config, tmp_path / "run")["status"] == "completed"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="is about x86-64 processors")
@pytest.mark.parametrize(
    ("processor", "core"), [("AVX2", "builtin"), ("AVX2", "fused"), ("no AVX", "fused")]
)
def test_lesser_processors_train_too(processor, core, tmp_path):
    settings = "data.max_tokens=20000", "training.steps=2", "samples.tokens=5", "device=cpu"
    settings += f"model.core={core}", "device.precision=auto", f"hydra.run.dir={tmp_path / 'run'}"
    done = subprocess.run(
        [sys.executable, str(TRAIN), *settings],
        env=os.environ | LESSER[processor],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "precision 32-true, as " in done.stdout
    assert precisions(tmp_path / "run") == ("32-true", "32-true")


@pytest.fixture
def compiler(monkeypatch):
    """Say whether the machine has one."""

    def is_there(answer):
        def kernels_of_that_machine(backend, device):
            if backend is Backend.cpp and not answer:
                raise SettingsError("there is no compiler: choose model.backend=torch")
            return kernels_of(backend, device)

        monkeypatch.setattr(kernels, "kernels_of", kernels_of_that_machine)
        backend_here.cache_clear()

    yield is_there
    backend_here.cache_clear()


def test_a_fused_run_has_the_backend_that_was_chosen_and_keeps_it(
    compiler, small_run, tmp_path, caplog
):
    compiler(False)
    config = small_run("training.steps=2", "samples.tokens=2", "model.core=fused")
    assert train(config, tmp_path)["backend"] == "torch"
    warning = "warning: there is no compiler: choose model.backend=torch, which is slower and taken"
    assert caplog.text.count(warning) == 1
    compiler(True)
    resume(tmp_path, {"model.backend": "auto", "training.steps": 3})
    assert RunFolder(tmp_path).read_config().model.backend is Backend.torch
    assert [core.backend for core in restore(tmp_path).model.cores] == [Backend.torch]


def test_what_computes_a_fused_core_may_change(small_run, tmp_path):
    settings = "training.steps=2", "samples.tokens=2", "model.core=fused", "model.backend=cpp"
    before = train(small_run(*settings), tmp_path)
    after = resume(tmp_path, {"model.backend": "torch", "training.steps": 3})
    assert (before["backend"], after["backend"], after["steps"]) == ("cpp", "torch", 3)
    assert before["fingerprint"] == after["fingerprint"]


def test_another_core_is_not_bound_to_the_backend_of_the_run_s_own(make_run, tmp_path):
    folder = RunFolder(
        make_run(tmp_path / "run", settings={"model.core": "fused", "model.backend": "cpp"})
    )
    assert folder.read_config({"model.core": "builtin"}).model.backend is Backend.auto
    assert folder.read_config({"model.core": "fused"}).model.backend is Backend.cpp


@pytest.mark.parametrize("experiment", [path.stem for path in EXPERIMENTS])
def test_no_experiment_asks_for_what_a_machine_may_lack(experiment, compose):
    config = compose(f"experiment={experiment}")
    assert config.device.precision in ("auto", "32-true")
    assert config.model.backend in (Backend.auto, Backend.torch)
