"""What does not fit into memory is refused with how much there is, before anything is killed."""

import math
import os
import resource
import subprocess
import sys
from contextlib import contextmanager

import pytest

from lstm_lm.errors import RunFailed, SettingsError
from lstm_lm.experiment import train
from lstm_lm.machine import format_bytes, memory
from lstm_lm.model import language_model
from lstm_lm.saved.load_model import restore
from lstm_lm.training.module import LanguageModelModule


@contextmanager
def room_for(more: int):
    """So many bytes beside what this process has taken already."""
    with open("/proc/self/statm") as stream:
        taken = int(stream.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/", {}, math.inf),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "1048576\n"}, 2**20),
        ("4:memory:/gone\n0::/", {"memory/memory.limit_in_bytes": "2097152"}, 2**21),
        ("4:memory:/a\n0::/", {"memory/a/memory.limit_in_bytes": "no number"}, math.inf),
    ],
)
def test_a_container_has_the_least_of_its_control_groups(groups, files, limit, tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{groups}\n")
    for name, content in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert memory(tmp_path) == min(limit, memory(tmp_path / "nothing"))


def test_a_limit_of_the_shell_counts():
    with room_for(2**30):
        assert memory() == resource.getrlimit(resource.RLIMIT_AS)[0]


def test_sizes_are_shown_in_units():
    sizes = {0: "0 bytes", 1023: "1,023 bytes", 1024: "1 KiB", 900 * 2**30: "900 GiB"}
    assert {number: format_bytes(number) for number in sizes} == sizes
    assert format_bytes(2.0**70) == "1.074e+09 TiB"


READ_WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from lstm_lm.config import DataConfig, Level, TextName
from lstm_lm.data.splits import read_splits
from lstm_lm.evaluation.score import split_of_text
from lstm_lm.saved.load_model import restore

path, run = sys.argv[1], restore(Path(sys.argv[2]), "last")
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for mebibytes, level in (10, Level.word), (42, Level.character), (42, Level.word):
    limit = taken + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        read_splits(DataConfig(text=TextName.file, path=path, level=level))
    except ValueError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
text = "time machine " * 2**24
resource.setrlimit(resource.RLIMIT_AS, (taken + 13 * 2**24, resource.RLIM_INFINITY))
try:
    split_of_text(run, text)
except ValueError as error:
    print(error)
"""


def test_a_text_for_which_no_memory_is_left_is_named(tiny_run, tmp_path):
    text = tmp_path / "large.txt"
    text.write_bytes(b"to be or not to be " * 2**20)  # 19 MiB
    train(tiny_run("training.steps=1"), tmp_path / "run")
    done = subprocess.run(  # in this process memory that was freed would do
        [sys.executable, "-c", READ_WITH_LITTLE_MEMORY, str(text), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    as_bytes, *as_tokens, to_evaluate = done.stdout.splitlines()
    assert as_bytes.startswith(f"cannot read {text}: its 19 MiB do not fit into the memory that is")
    assert len(as_tokens) == 2
    for line in as_tokens:
        assert line.startswith(f"{text} has 19 MiB, too much to tokenize in ")
        assert line.endswith("use a part of it, for example the output of head -c 1G")
    assert to_evaluate.startswith("the text has 208 MiB, too much to tokenize")


@pytest.mark.parametrize(
    "setting",
    [
        "model.hidden_size=1000000",
        "model.embedding_size=2000000000",
        "model.num_layers=100000000",
        "model.cell=transformer model.hidden_size=1000000",
    ],
)
def test_a_model_larger_than_memory_is_refused_before_it_is_made(setting, tiny_run, tmp_path):
    with pytest.raises(SettingsError, match="does not fit into memory.*choose a smaller model"):
        train(tiny_run(*setting.split()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_the_optimizer_keeps_is_counted(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(language_model, "memory", lambda: 50_000)  # weights of about 12,000 bytes
    train(tiny_run("training.steps=1"), tmp_path / "sgd")
    with pytest.raises(SettingsError, match="but there are only 48.83 KiB"):
        train(tiny_run("optimizer.name=adam", "model.hidden_size=24"), tmp_path / "adam")
    monkeypatch.setattr(language_model, "memory", lambda: 1000)
    with pytest.raises(SettingsError, match="with a vocabulary of .* it needs"):
        restore(tmp_path / "sgd", "last")


def test_memory_that_ends_in_a_step_is_named(tiny_run, tmp_path, monkeypatch):
    def fail(self, batch, batch_index):
        bytearray(2**62)

    monkeypatch.setattr(LanguageModelModule, "training_step", fail)
    with pytest.raises(RunFailed, match="out of memory .MemoryError.: try a smaller"):
        train(tiny_run(), tmp_path / "run")
