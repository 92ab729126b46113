"""A child that the tests' server forks is what a new interpreter would be."""

import json
import os
import signal
import subprocess
import sys

import fork_server
import pytest

STATE = """
import json, os, signal, sys, threading
if "torch" in sys.modules: print("forked", file=sys.stderr)
json.dump({
    "arguments": sys.argv, "folder": os.getcwd(), "environment": os.environ["OF_TEST"],
    "path": sys.path, "name": __name__, "parent": os.getppid(), "own": os.getsid(0) == os.getpid(),
    "read": sys.stdin.read(), "threads": len(os.listdir("/proc/self/task")),
    "command": open("/proc/self/cmdline").read().rstrip("\\0"),
    "files": sorted(os.listdir("/proc/self/fd")), "buffered": sys.stdout.line_buffering,
    "signals": [str(signal.getsignal(number)) for number in (2, 15, 1, 13)],
}, sys.stdout)
"""
pytestmark = pytest.mark.skipif(fork_server.server() is None, reason="needs Linux and no GPU")


@pytest.mark.parametrize("how", ["file", "code", "module", "safe module"])
def test_a_program_finds_itself_as_in_a_new_interpreter(how, tmp_path):
    (tmp_path / "state.py").write_text(STATE)
    command = {
        "file": ["state.py"],
        "code": ["-c", STATE],
        "module": ["-m", "state"],
        "safe module": ["-P", "-m", "json.tool", "-h"],
    }[how]
    states = []
    for run in fork_server.run, subprocess.run:
        done = run(
            [sys.executable, *command, "an argument"],
            cwd=tmp_path,
            env=os.environ | {"OF_TEST": "a value"},
            input="a line\n",
            capture_output=True,
            text=True,
            start_new_session=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ("forked\n" if run is fork_server.run and how[0] != "s" else "")
        states.append(done.stdout)
    if how[0] == "s":
        assert states[0] == states[1]
        return
    forked, new = map(json.loads, states)
    assert forked == new


@pytest.mark.parametrize(
    ("code", "returned", "said"),
    [
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('why')", 1, "why\n"),
        ("raise ValueError('why')", 1, "ValueError: why\n"),
        ("import atexit; atexit.register(print, 'end', file=sys.stderr)", 0, "end\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
    ],
)
def test_a_program_ends_as_in_a_new_interpreter(code, returned, said):
    for run in fork_server.run, subprocess.run:
        command = [sys.executable, "-c", f"import sys\n{code}"]
        done = run(command, capture_output=True, text=True)
        assert done.returncode == returned
        assert done.stderr.endswith(said) and bool(done.stderr) == bool(said)


def test_what_a_forked_process_starts_can_be_forked_too(tmp_path):
    code = (
        "import subprocess, sys\n"
        "inner = 'import sys; print(\"torch\" in sys.modules); raise SystemExit(7)'\n"
        "sys.exit(subprocess.run([sys.executable, '-c', inner]).returncode)"
    )
    with fork_server.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, forks=True
    ) as process:
        assert process.communicate()[0] == "True\n"
    assert process.returncode == 7


@pytest.mark.parametrize("name", ["PYTHONPATH", "LC_ALL", "ATEN_CPU_CAPABILITY", "LOCAL_RANK"])
def test_what_an_interpreter_reads_at_its_start_needs_a_new_one(name):
    command = [sys.executable, "-c", "import sys; print('torch' in sys.modules)"]
    done = fork_server.run(command, env=os.environ | {name: "1"}, capture_output=True, text=True)
    assert done.stdout == "False\n"
