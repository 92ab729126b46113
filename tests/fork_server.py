"""Python programs as child processes, without the seconds in which each imports PyTorch.

``Popen`` and ``run`` are those of ``subprocess``. But where a new interpreter would make no
difference, a server forks the child: one process that has imported Lightning and this package and
done nothing else. The child has the arguments, the environment, the folder, the streams and the
session of a new process; its signals, its exit code and its id are those of any child.

Left to new interpreters are flags, what the environment changes before the first line of code,
and whatever a test is about in the start and the end of a process.
"""

import atexit
import contextlib
import ctypes
import functools
import importlib
import inspect
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from subprocess import PIPE, STDOUT  # noqa: F401 (for those who use this module as subprocess)

LIMIT = 2**20  # bytes of a request
ROOM = "-" * 10000  # in the server's command line, for those of its children
# Numbers of Linux's prctl.
SET_NAME, SET_SUBREAPER = 15, 36

# The server's; tests may change their own.
ENVIRONMENT = dict(os.environ)
# What a process reads of its environment before its first line of code, or while it imports.
AT_START = "PYTHON LC_ LANG LD_ TORCH_ ATEN_ KMP_ GOMP_ MALLOC_ CUDA_".split()
AT_START += "RANK LOCAL_RANK SLURM_PROCID JSM_NAMESPACE_RANK".split()  # by Lightning
FORKS_BEAR = {"CUDA_VISIBLE_DEVICES": "", "TORCH_CPP_LOG_LEVEL": "ERROR", "SLURM_PROCID": "0"}
USUAL = {"preexec_fn": None, "shell": False, "process_group": -1, "umask": -1}
# What commands of this package import first.
PRELOADED = "lstm_lm.experiment", "hydra", "torch.utils.tensorboard", "tqdm.contrib.logging"
PIPES = "p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"


class Popen(subprocess.Popen):
    """As ``subprocess.Popen``, but forked by the server where that makes no difference.

    Args:
        forks: whether the child, too, has what it starts forked; as this process, if None.
    """

    of_children = False

    def __init__(self, *arguments, forks=None, **more):
        self.forks = self.of_children if forks is None else forks
        super().__init__(*arguments, **more)

    def _execute_child(self, *arguments):
        call = inspect.signature(super()._execute_child).bind(*arguments).arguments
        environment = dict(os.environ if call["env"] is None else call["env"])
        if not can_be_forked(call, environment):
            return super()._execute_child(*arguments)
        request = {
            "command": [os.fspath(word) for word in call["args"]],
            "environment": environment,
            "folder": os.path.abspath(call["cwd"] or "."),
            "session": call["start_new_session"],
            "forks": self.forks,
        }
        given = [call[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [own if number == -1 else number for own, number in enumerate(given)]
        self.pid = server().fork(request, streams)
        self._child_created = True
        self._close_pipe_fds(*(call[name] for name in PIPES))


def run(command, *, input=None, capture_output=False, timeout=None, check=False, **more):
    """As ``subprocess.run``, with ``Popen`` of this module."""
    if capture_output:
        more |= {"stdout": PIPE, "stderr": PIPE}
    if input is not None:
        more["stdin"] = PIPE
    with Popen(command, **more) as process:
        try:
            output, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


def can_be_forked(call, environment):
    python, first = [*map(os.fspath, call["args"]), ""][:2]
    return (
        python == sys.executable
        and (first in ("-c", "-m", "-P") or first.endswith(".py"))
        and not call["pass_fds"]
        and all(call.get(name, value) == value for name, value in USUAL.items())
        and at_start(environment) == at_start(ENVIRONMENT)
        and server() is not None
    )


def at_start(environment):
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(tuple(AT_START)) and FORKS_BEAR.get(name) != value
    }


@functools.cache
def server():
    """This process's server; None where a fork is not as good as a new interpreter."""
    import torch

    if not sys.platform.startswith("linux") or torch.cuda.is_available():
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, str(theirs.fileno()), ROOM],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env=ENVIRONMENT | {"OPENBLAS_NUM_THREADS": "1"},  # as threads are not forked
    )
    theirs.close()
    assert ours.recv(LIMIT) == b"ready", "the fork server did not start"
    atexit.register(process.wait)
    atexit.register(ours.close)  # by which it ends
    return Server(ours)


class Server:
    """A server as its client sees it; it ends when this process does."""

    def __init__(self, channel):
        self.channel = channel

    def fork(self, request, streams):
        """The id of a new child of this process."""
        prctl(SET_SUBREAPER, 1)  # the child's parent ends, and this process takes its place
        try:
            socket.send_fds(self.channel, [json.dumps(request).encode()], streams)
            return int(self.channel.recv(LIMIT))
        finally:
            prctl(SET_SUBREAPER, 0)


def prctl(number, value):
    assert ctypes.CDLL(None).prctl(number, value, 0, 0, 0) == 0


def main():
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import_all()
    assert len(os.listdir("/proc/self/task")) == 1, "threads are not forked"
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.send(b"ready")
    set_by_imports = {name: os.environ[name] for name in os.environ.keys() - ENVIRONMENT.keys()}
    live(serve(channel), set_by_imports)


def import_all():
    """What commands of this package import, in the way they do it."""
    from lstm_lm.process import slow_imports

    with slow_imports():
        for name in PRELOADED:
            importlib.import_module(name)


def serve(channel):
    """Fork a child for each request; return the request in the child."""
    while True:
        message, streams, _, _ = socket.recv_fds(channel, LIMIT, 3)
        if not message:
            os._exit(0)
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            parent = os.getpid()
            if child := os.fork():
                os.write(writer, str(child).encode())
                os._exit(0)
            while os.getppid() == parent:  # until the client is
                time.sleep(0.001)
            for own, number in enumerate(streams):
                os.dup2(number, own)
            channel.detach()
            os.closerange(3, 1000)
            return json.loads(message)
        os.waitpid(between, 0)  # then the child is the client's
        channel.send(os.read(reader, 100))
        for number in (reader, writer, *streams):
            os.close(number)


def live(request, set_by_imports):
    """Be the process that was asked for, to its end."""
    if request["forks"]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            ours.close()
            for own in range(3):
                os.dup2(os.open(os.devnull, os.O_RDWR), own)
            prctl(SET_NAME, b"fork server")
            live(serve(theirs) | {"forks": True}, set_by_imports)
        theirs.close()
        own_server = Server(ours)
        globals()["server"] = lambda: own_server
        Popen.of_children = True
        subprocess.Popen = Popen
    new_streams()
    name_process(request["command"])
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup would ignore
    if request["session"]:
        os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(set_by_imports | request["environment"])
    if threads := request["environment"].get("OMP_NUM_THREADS"):
        sys.modules["torch"].set_num_threads(int(threads))
    code = exit_code(lambda: execute(request["command"][1:]))
    # As an interpreter ends, but that would take all modules to pieces, for a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in sys.stdout, sys.stderr:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def new_streams():
    """As an interpreter opens them when it starts."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old, mode = getattr(sys, name), "w" if number else "r"
        new = open(number, mode, encoding=old.encoding, errors=old.errors, closefd=False)
        new.reconfigure(line_buffering=name == "stderr" or os.isatty(number))
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def name_process(command):
    """Let others see the command in /proc."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    shown = "\0".join([*command, ""]).encode()[: end - start]
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def execute(command):
    """Run a program as ``python`` does."""
    is_safe = command[0] == "-P"
    how, *sys.argv = command[is_safe:]
    if how == "-c":
        code, sys.argv[0] = sys.argv[0], "-c"
        sys.path[:0] = [""] * (not is_safe)
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif how == "-m":
        sys.path[:0] = [os.getcwd()] * (not is_safe)
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv.insert(0, how)
        sys.path.insert(0, str(Path(how).parent.absolute()))
        runpy.run_path(how, run_name="__main__")


def exit_code(program):
    """Run a program; what it leaves an interpreter with."""
    try:
        program()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
