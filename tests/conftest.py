import gc
import json
import os
import random
import runpy
import shutil
import sys
from pathlib import Path

import before_imports  # noqa: F401 (before Lightning, which imports Triton)
import fork_server
import hydra
import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter

from lstm_lm import files
from lstm_lm.command_line.settings import register, run_config
from lstm_lm.config import RunConfig
from lstm_lm.data import splits
from lstm_lm.experiment import train
from lstm_lm.machine import bfloat16_support
from lstm_lm.resume import resume
from lstm_lm.saved.checkpoint_file import load_checkpoint
from lstm_lm.saved.run_folder import REQUIRED_KEYS, RunFolder, as_yaml
from lstm_lm.sweep import job_process
from lstm_lm.training.module import LanguageModelModule

# More threads than one only get into each other's way on tests this small.
torch.set_num_threads(1)

fork_server.ENVIRONMENT.update(os.environ)


# TensorBoard reads a folder's files in the order of their names, which end in the second, the
# process and a number. Between processes seconds pass; here only the number tells them apart, and
# with equally many digits its order is right.
event_file_writer._global_uid = event_file_writer.AtomicCounter(10**6)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def users_cache(tmp_path_factory, monkeypatch) -> Path:
    """Not the user's own: no test leaves anything there, or is helped by what is there."""
    folder: Path = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(splits, "cache_folder", lambda: folder)
    return folder


@pytest.fixture(scope="session")
def real_texts() -> Path:
    root = os.environ.get("LSTM_LM_DATA")
    if not root:
        pytest.skip("needs the real texts: set LSTM_LM_DATA to a folder that has them")
    return Path(root)


@pytest.fixture
def text_file(tmp_path) -> str:
    """Two thousand words of four kinds: easy to learn, and no two lines alike."""
    words = random.Random(0).choices(["time", "traveller", "psychologist", "machine"], k=2000)
    lines = [" ".join(words[start : start + 10]) for start in range(0, len(words), 10)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    return str(path)


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a GPU")
    config.addinivalue_line("markers", "bf16: needs a processor with bfloat16 instructions")
    config.addinivalue_line("markers", "slow: takes over 10 seconds; left out unless asked for")
    config.addinivalue_line("markers", "ci: slow, but part of .ci/run")


def pytest_collection_modifyitems(items):
    # By nothing else than what the machine has: where it has bfloat16, no test of it is skipped.
    absent = {"gpu": not torch.cuda.is_available(), "bf16": not bfloat16_support("cpu").is_native}
    reasons = {"gpu": "needs a GPU", "bf16": "needs bfloat16 instructions"}
    for item in items:
        for name, is_absent in absent.items():
            if is_absent and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reasons[name]))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)  # the longest first


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # no later collection looks at all that was imported


def pytest_unconfigure():
    gc.unfreeze()  # for libraries that look for leaks at their end


CONF = str(Path(__file__).parents[1] / "conf")
SCRIPTS = Path(__file__).parents[1] / "scripts"
ODD_MACHINE = Path(__file__).parent / "odd_machine"


@pytest.fixture
def compose():
    """The config that a command line stands for."""
    register()

    def compose_overrides(*overrides: str) -> RunConfig:
        with hydra.initialize_config_dir(CONF, version_base="1.3"):
            return run_config(hydra.compose("train", list(overrides)), overrides)

    return compose_overrides


@pytest.fixture
def small_run(compose, text_file):
    """A run of a second or two, with whatever is to be different."""

    def small_run_with(*overrides: str) -> RunConfig:
        return compose(
            "data=text_file",
            f"data.path={text_file}",
            "data.max_tokens=6000",
            "data.batch_size=8",
            "data.num_steps=16",
            "model.embedding_size=8",
            "model.hidden_size=16",
            "training.epochs=2",
            "training.log_every=10",
            "samples.tokens=20",
            "device=cpu",
            *overrides,
        )

    return small_run_with


@pytest.fixture
def tiny_run(small_run):
    """Thirteen steps an epoch, three epochs, a third of a second."""

    def tiny_run_with(*overrides):
        return small_run(
            "data.max_tokens=2000",
            "data.evaluation_rows=4",
            "training.epochs=3",
            "checkpoint.every_minutes=null",
            *overrides,
        )

    return tiny_run_with


@pytest.fixture(scope="session")
def kept_runs():
    """Folders of runs that many tests use, and their texts, by how they were trained."""
    return {}


@pytest.fixture
def copy_of_run(kept_runs, tmp_path_factory):
    """The folder of a run as it was just trained; a test's own copy, with the test's own text.

    Nothing may be patched before: the next tests get the same run.
    """

    def copy_of_run_to(folder, config, how=train):
        own_text = str(config.data.path)
        key = how, as_yaml(config).replace(own_text, "")
        if key not in kept_runs:
            kept = tmp_path_factory.mktemp("kept") / "run"
            how(config, kept)
            kept_runs[key] = kept, own_text
        kept, text = kept_runs[key]
        shutil.copytree(kept, folder)
        settings = folder / "config.yaml"
        settings.write_text(settings.read_text().replace(text, own_text))
        return folder

    return copy_of_run_to


class Cut(BaseException):
    """Ends a run as a kill does: nothing more is saved."""


@pytest.fixture
def assert_killed_run_goes_on_exactly(tmp_path, assert_same_end, monkeypatch):
    """A run that is killed in a step, and resumed, ends with the same bits."""

    def assert_killed_in(step, config):
        def training_step(self, batch, batch_idx):
            if self.global_step == step:
                raise Cut
            return original(self, batch, batch_idx)

        train(config, tmp_path / "whole")
        original = LanguageModelModule.training_step
        with monkeypatch.context() as patch, pytest.raises(Cut):
            patch.setattr(LanguageModelModule, "training_step", training_step)
            train(config, tmp_path / "cut")
        resume(tmp_path / "cut", {})
        assert_same_end(tmp_path / "whole", tmp_path / "cut")

    return assert_killed_in


@pytest.fixture
def make_run():
    """A run's folder made by hand, as if it had been trained: a step is 100 tokens."""

    def make(
        folder: Path,
        status: str = "completed",
        validation: list[float] = (),
        best: float | None = None,
        settings: dict[str, object] | None = None,
        seconds_per_step: float = 0.1,
        **summary: object,
    ) -> Path:
        folder.mkdir(parents=True)
        config = OmegaConf.structured(RunConfig)
        for name, value in (settings or {}).items():
            OmegaConf.update(config, name, value)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
        steps = 10 * len(validation)
        figures = dict.fromkeys(REQUIRED_KEYS) | {
            "status": status,
            "epochs": len(validation),
            "steps": steps,
            "tokens": 100 * steps,
            "versions": {"torch": "2"},
            "device": "cpu (hand-made)",
        }
        if best is not None:
            figures |= {"best/validation/perplexity": best, "test/perplexity": best + 0.5}
        RunFolder(folder).record(**figures | summary)
        if validation:
            with SummaryWriter(str(folder)) as writer:
                for step, value in enumerate(validation, start=1):
                    writer.add_scalar("tokens", 1000 * step, 10 * step)
                    writer.add_scalar("tokens_per_second", 100 / seconds_per_step, 10 * step)
                    writer.add_scalar("train/perplexity", value, 10 * step)
                    writer.add_scalar("validation/perplexity", value, 10 * step)
        return folder

    return make


@pytest.fixture
def type_command(monkeypatch, capsys, tmp_path):
    """Run a script here and now, in an empty folder: exit code, output, errors.

    Of a sweep, the jobs are forked.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job_process, "subprocess", fork_server)

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS / script), *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        code = 0
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as exit_:
            code = exit_.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture
def file_system_refuses(monkeypatch):
    """Let what is named as in ``flock:ENOLCK,chmod:EPERM`` fail from then on."""
    refuse = runpy.run_path(str(ODD_MACHINE / "sitecustomize.py"))["refuse"]
    files.warn_of_no_locks.cache_clear()
    return lambda wanted: refuse(wanted, monkeypatch.setattr)


@pytest.fixture
def assert_same_end():
    """Whether two runs came to the same, to the last bit."""

    def assert_same_end_of(one: Path, other: Path) -> None:
        assert_same(end_of(one), end_of(other))

    return assert_same_end_of


def end_of(folder):
    """All that a run comes to, but for how fast it was and where it was cut off."""
    checkpoint = load_checkpoint(folder / "checkpoints/last.ckpt")
    everything = {"scalars": 0, "tensors": 0, "images": 0, "histograms": 0}
    events = EventAccumulator(str(folder), everything).Reload()
    curves = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag != "tokens_per_second"
    }
    texts = {
        tag: [(event.step, list(event.tensor_proto.string_val)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
    pictures = {
        tag: [(event.step, event.encoded_image_string) for event in events.Images(tag)]
        for tag in events.Tags()["images"]
    }
    histograms = {
        tag: [(event.step, event.histogram_value) for event in events.Histograms(tag)]
        for tag in events.Tags()["histograms"]
    }
    speeds = [event.step for event in events.Scalars("tokens_per_second")]
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("seconds", "tokens_per_second", "status"):
        del summary[name]
    del checkpoint["callbacks"]["RunCheckpoint"]["event_files"]
    own = checkpoint["lstm_lm"]
    for name in "seconds", "seconds_unread":
        del own["metrics"][name]
    for states in own["random"]:
        del states["python"]  # the type checker of these tests draws from it
    best = load_checkpoint(folder / "checkpoints/best.ckpt")["state_dict"]
    return dict(
        checkpoint=checkpoint,
        best=best,
        curves=curves,
        texts=texts,
        pictures=pictures,
        histograms=histograms,
        speeds=speeds,
        summary=summary,
    )


def assert_same(one, other, path="run"):
    assert type(one) is type(other), path
    match one:
        case dict():
            assert one.keys() == other.keys(), path
            for key in one:
                assert_same(one[key], other[key], f"{path}/{key}")
        case list() | tuple():
            assert len(one) == len(other), path
            for index, (left, right) in enumerate(zip(one, other, strict=True)):
                assert_same(left, right, f"{path}/{index}")
        case torch.Tensor():
            assert torch.equal(one, other), path
        case _:
            assert one == other, path
