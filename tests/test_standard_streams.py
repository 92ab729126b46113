"""What programs print to streams that are closed, full, left, or know few characters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_lm.experiment import train

SCRIPTS = Path(__file__).parents[1] / "scripts"
# Opens a file before it prints, in itself and in another process.
PROGRAM = """
import logging, subprocess, sys
from lstm_lm.errors import RunFailed, SettingsError
from lstm_lm.process import printing, run_program
def main():
    with open("result.txt", "w") as result:
        print("printed")
        print("complained", file=sys.stderr)
        logging.warning("logged")
        subprocess.run([sys.executable, "-c", "print('printed, too')"], check=True)
        sys.stdin.read()
        result.write("a result")
    {more}
run_program(main)
"""
EVERY_SCRIPT = sorted(path.name for path in SCRIPTS.glob("*.py"))


@pytest.fixture
def shell(tmp_path):
    """A command line in an empty folder, after which the shell's own redirections come."""

    def run(redirections, *command, **environment):
        words = ["-c", f'"$@" {redirections}', "shell", *map(str, command)]
        return subprocess.run(
            ["bash", *words],
            cwd=tmp_path,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )

    return run


def program(more="pass"):
    return sys.executable, "-c", PROGRAM.format(more=more)


@pytest.mark.parametrize(
    "closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&-", "<&- >&- 2>&-"], ids=repr
)
def test_what_is_printed_to_closed_streams_lands_in_no_file(closed, shell, tmp_path):
    done = shell(closed, *program())
    assert done.returncode == 0
    assert (tmp_path / "result.txt").read_text() == "a result"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ("print('more', flush=True)", 1, b"error: cannot write: No space left on device\n"),
        ("raise SettingsError('wrong')", 2, b"error: wrong\n"),
        ("raise RunFailed('failed')", 1, b"error: failed\n"),
        (
            "\n    with printing():\n        print('more')",
            0,
            b"warning: cannot print: No space left on device\n",
        ),
    ],
)
def test_a_full_disk_is_an_error_of_a_program_that_is_there_to_print(
    more, code, said, unbuffered, shell, tmp_path
):
    source = f"from lstm_lm.process import *\ndef main():\n    {more}\nrun_program(main)"
    done = shell("> /dev/full", sys.executable, "-c", source, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (code, said)
    both = shell("> /dev/full 2>&1", sys.executable, "-c", source, PYTHONUNBUFFERED=unbuffered)
    assert both.returncode == code


def test_a_file_that_cannot_be_written_is_named_and_nobody_is_told_of_printing(shell):
    done = shell("", *program("open('/no/such/folder', 'w')"))
    assert done.returncode == 1
    assert done.stderr.endswith(b"error: [Errno 2] No such file or directory: '/no/such/folder'\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", "utf-8"])
def test_what_an_encoding_lacks_is_escaped_wherever_it_is_printed(encoding, shell):
    more = "print('語\\udcff'); logging.warning('語\\udcff'); raise RunFailed('語\\udcff')"
    done = shell("", *program(more), PYTHONIOENCODING=encoding)
    shown = "語\\udcff" if encoding == "utf-8" else "\\u8a9e\\udcff"
    assert done.returncode == 1
    assert shown.encode() in done.stdout
    assert done.stderr.count(shown.encode()) == 2


def test_a_reader_that_has_seen_enough_is_no_error(shell):
    source = "from lstm_lm.process import *\ndef main():\n    while True: print('more')"
    command = sys.executable, "-c", f"{source}\nrun_program(main)"
    done = shell("| head -n 1; exit ${PIPESTATUS[0]}", *command)
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 1)


@pytest.mark.parametrize("script", EVERY_SCRIPT)
def test_every_script_helps_without_docstrings_and_streams(script, shell):
    command = sys.executable, "-OO", SCRIPTS / script, "--help"
    done = shell("", *command)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"usage:" in done.stdout or b"Powered by Hydra" in done.stdout
    assert shell("<&- >&- 2>&-", *command).returncode == 0


def test_scripts_say_what_they_do(shell):
    for script in "evaluate.py", "generate.py", "compare.py", "inspect_run.py":
        source = (SCRIPTS / script).read_text()
        done = shell("", sys.executable, SCRIPTS / script, "--help", COLUMNS="200")
        assert source.splitlines()[0].strip('"') in done.stdout.decode()


TEXT = "l'été où la forêt s'achève " * 300


@pytest.mark.parametrize(
    ("redirections", "environment"),
    [("<&- >&- 2>&-", {}), ("> /dev/full", {}), ("", {"PYTHONIOENCODING": "ascii"})],
)
def test_a_run_is_completed_whatever_becomes_of_what_it_prints(
    redirections, environment, shell, tmp_path
):
    (tmp_path / "é.txt").write_text(TEXT)
    settings = "data.batch_size=8", "data.num_steps=16", "model.hidden_size=16", "training.steps=20"
    text = "data=text_file", "data.path='é.txt'", "device=cpu"
    command = sys.executable, SCRIPTS / "train.py", *settings, *text, "hydra.run.dir='accé'"
    done = shell(redirections, *command, **environment)
    assert done.returncode == 0
    summary = json.loads((tmp_path / "accé/summary.json").read_text())
    assert summary["status"] == "completed"
    if environment:
        assert b"run folder   acc\\xe9" in done.stdout
    else:
        said = (
            b"warning: cannot print: No space left on device\n" if "full" in redirections else b""
        )
        assert (done.stdout, done.stderr) == (b"", said)


@pytest.mark.parametrize(
    ("redirections", "code"), [(">&- 2>&-", 0), ("> /dev/full", 1), ("> printed.txt", 0)]
)
def test_a_text_is_written_to_any_stream(redirections, code, shell, tiny_run, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    train(tiny_run("training.epochs=1"), tmp_path / "run")
    more = "--prompt", "l'été ", "--tokens", "50"
    generate = sys.executable, SCRIPTS / "generate.py", tmp_path / "run", *more
    done = shell(redirections, *generate, PYTHONIOENCODING="ascii")
    assert done.returncode == code
    assert done.stderr == (b"error: cannot write: No space left on device\n" if code else b"")
    if redirections == "> printed.txt":
        assert (tmp_path / "printed.txt").read_text().startswith("l'\\xe9t\\xe9 ")
