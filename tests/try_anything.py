"""Try the programs in odd situations, at random: none may end in a traceback, hang or lose a run.

python tests/try_anything.py                             # 2,000 tries
python tests/try_anything.py --tries 24 --seed 7
python tests/try_anything.py --only 1234 --keep odd      # one of them again, to be looked at

Each try is a program, started as a shell would, and some of these at once: streams that are closed
or full, encodings, what schedulers set, file systems that refuse something, odd names and texts,
settings. To be quick it is forked from a process that has imported everything; a sweep's jobs are
processes of their own.
"""

import argparse
import contextlib
import importlib
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SCRIPTS = Path(__file__).parents[1].absolute() / "scripts"
ODD_MACHINE = SCRIPTS.parent / "tests" / "odd_machine"
SECONDS = 100  # that a try may take
SMALL = [
    *("device=cpu", "data=text_file", "data.batch_size=4", "data.num_steps=8"),
    *("model.hidden_size=6", "model.embedding_size=4", "samples.tokens=8", "hydra.launcher.jobs=2"),
]
PLAIN = "the time traveller held in his hand a glittering framework\n" * 12
TEXTS: dict[str, bytes] = {
    "plain": PLAIN.encode(),
    "one long line": PLAIN.replace("\n", " ").encode(),
    "carriage returns": PLAIN.replace("\n", "\r").encode(),
    "both ends of lines": PLAIN.replace("\n", "\r\n").encode(),
    "ends of paragraphs": PLAIN.replace(" ", "\u2029\x1c\x85").encode(),
    "byte order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "utf-16": PLAIN.encode("utf-16"),
    "not utf-8": PLAIN.encode() + b"\xff\xfe",
    "zero bytes": PLAIN.replace("a", "\0").encode(),
    "other alphabets": ("Машина времени 时间机器 آلة الزمن 🕰️ " * 20).encode(),
    "another alphabet held out": (PLAIN + "Машина времени " * 6).encode(),
    "combining marks": ("e\u0301\u0302\u200d" * 150).encode(),
    "dollars and braces": ("a ${HOME} $x_{ b} \\${c} " * 30).encode(),
    "only ends of lines": b"\n" * 700,
    "one letter": b"a" * 700,
    "tiny": b"ab",
    "empty": b"",
    "only a mark": b"\xef\xbb\xbf",
    "one of each": "".join(chr(n) for n in range(1, 0xD800, 80)).encode(),
    "brackets": b"[{(" * 300,
}
FILES = ["missing", "a folder", "a pipe", "a device", "unreadable"]  # in place of a text
NAMES = ["run", "a b", "a=b,c", "it's", "Ünï", "машина", "-x", "${x}", "%s", "a\nb", "#", "[1]"]
NAMES += ["~", "'", '"', "é" * 60, "x" * 250, b"\xff\xfe".decode(errors="surrogateescape"), "..."]
NAMES += ["~nobody", "{a}", "a,b", "null", "\u202eab", "語" * 80]
STREAMS = ["0<&-", "1>&-", "2>&-", "all closed", "1>/dev/full", "2>/dev/full", "reader gone"]
STREAMS += ["all full"]
ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "utf-16"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
]
SCHEDULERS = [
    "SLURM_JOB_ID=7 SLURM_JOB_NAME=train SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_LOCALID=0",
    "SLURM_JOB_ID=7 SLURM_JOB_NAME=train SLURM_NTASKS=4 SLURM_PROCID=3 SLURM_NODELIST=a[1-4]",
    "SLURM_JOB_ID= SLURM_NTASKS= SLURM_PROCID= SLURM_STEP_NUM_TASKS=",
    "SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=2 SLURM_NTASKS=4",
    "WORLD_SIZE=4 RANK=0",
    "WORLD_SIZE=4 RANK=1 LOCAL_RANK=1 MASTER_ADDR=nowhere MASTER_PORT=1",
    "WORLD_SIZE=1 RANK=0 LOCAL_RANK=0 TORCHELASTIC_RUN_ID=a",
    "WORLD_SIZE= RANK= LOCAL_RANK= MASTER_PORT= NODE_RANK=",
    "WORLD_SIZE=many RANK=first LOCAL_RANK=-1",
    "LOCAL_RANK=0",
    "LSB_JOBID=7 LSB_DJOB_RANKFILE=/nowhere JSM_NAMESPACE_RANK=1 JSM_NAMESPACE_SIZE=2",
    "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 PMI_RANK=1 PMI_SIZE=2",
    "KUBERNETES_PORT=tcp://a MASTER_ADDR=a MASTER_PORT=1 WORLD_SIZE=2 RANK=1",
    "PL_TRAINER_MAX_EPOCHS=3",
    "PL_GLOBAL_SEED=x OMP_NUM_THREADS= CUDA_VISIBLE_DEVICES=",
]
REFUSALS = [
    *("flock:ENOSYS", "flock:ENOLCK", "fsync_directory:EINVAL", "open_directory:EACCES"),
    *(
        "link:EPERM",
        "chmod:EPERM",
        "symlink:EPERM",
        "flock:ENOLCK,fsync_directory:EINVAL,link:EPERM",
    ),
    *("replace:EXDEV", "replace:EACCES", "rename:EACCES", "fsync:EIO", "truncate:EIO"),
]
SETTINGS = [
    *(["model.cell=gru"], ["model.core=scratch"], ["data.level=word"], ["data.order=random"]),
    *(["optimizer.learning_rate=1e9"], ["training.epochs=0"], ["nonsense=1"], ["seed=-1"]),
    *(["logger=[tensorboard,csv]"], ["logger=none"], ["callbacks=early_stopping"]),
    *(["inside.every_epochs=1"], ["callbacks=ema"], ["data.validation_size=1"]),
    *(["data.minimum_count=4"], ["hydra.job.chdir=true"], ["samples.prompts=['a \\${x}']"]),
    *(["samples.prompts=['Ж']"], ["debug=fast"], ["training.log_every=${data.num_steps}"]),
    *(["trainer.accumulate_grad_batches=2"], ["data.max_tokens=60"], ["checkpoint.every_steps=1"]),
    *(["model.hidden_size=1000000000"], ["data.reset_every=5"], ["init_from=nowhere"]),
    *(["optimizer.name=muon"], ["callbacks=nt_asgd"], ["data.variable_num_steps=true"]),
    ["callbacks=[ema,tail_averaging]"],
    ["device.devices=2", "data.batch_size=3"],
    ["device.devices=2"],
    ["logger=csv", "callbacks=[early_stopping,ema]"],
]
# How often a try has each. Most have one to three.
SHARES = {
    "streams": 0.25,
    "encoding": 0.25,
    "scheduler": 0.25,
    "refusal": 0.3,
    "names": 0.3,
    "text": 0.3,
    "settings": 0.25,
    "two at once": 0.05,
    "killed": 0.08,
}
ACTIONS = {"start": 28, "resume": 28, "sweep": 13, "evaluate": 11, "generate": 10, "compare": 10}
ACTIONS["inspect"] = 8
ENDS = 0, 1, 2, 130, 143  # the exit codes that are promised


class Situation:
    """What one try is, drawn by its number."""

    def __init__(self, seed: int, number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        self.number = number
        self.action = draw.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        has = {kind for kind, share in SHARES.items() if draw.random() < share}
        self.kinds = {self.action} | has
        self.streams = draw.choice(STREAMS) if "streams" in has else ""
        self.variables: dict[str, str] = {}
        if "encoding" in has:
            self.variables |= draw.choice(ENCODINGS)
        if "scheduler" in has:
            self.variables |= dict(one.split("=", 1) for one in draw.choice(SCHEDULERS).split())
        if "refusal" in has:
            self.variables["REFUSE"] = draw.choice(REFUSALS)
        names = [*NAMES, "run", "run"] if "names" in has else ["run"]
        self.run, self.file, self.folder = (draw.choice(names) for _ in range(3))
        self.text = draw.choice([*TEXTS, *FILES]) if "text" in has else "plain"
        self.settings = draw.choice(SETTINGS) if "settings" in has else []
        self.run_before = draw.choice(["completed", "killed"])
        self.ends_after = draw.uniform(0.05, 4) if "killed" in has else None  # seconds
        self.logs = ["log", "log2"] if "two at once" in has else ["log"]
        self.is_fresh = draw.random() < 0.04  # a process of its own, with Python's own start
        self.flags = draw.choice([[], ["-OO"], ["-X", "utf8=0"], ["-W", "error"]])

    def __str__(self) -> str:
        variables = " ".join(f"{name}={value}" for name, value in self.variables.items())
        parts = [
            f"{self.number}: {self.action}",
            self.streams,
            variables,
            f"text {self.text} in {self.file!r}, run {self.run!r}, in {self.folder!r}",
            " ".join(self.settings),
            "two at once" if "two at once" in self.kinds else "",
            f"killed after {self.ends_after:.2f} s" if self.ends_after else "",
            f"python {' '.join(self.flags)}" if self.is_fresh else "",
        ]
        return ", ".join(filter(None, parts))

    def arguments(self, text: str) -> list[str]:
        """The program and what is typed for it."""
        path = setting("data.path", text)
        match self.action:
            case "start":
                where = setting("hydra.run.dir", self.run)
                return ["train.py", *SMALL, path, "training.epochs=2", where, *self.settings]
            case "resume":
                typed = [one for one in self.settings if not one.startswith(("data", "model"))]
                return ["train.py", setting("resume", self.run), "training.epochs=3", *typed]
            case "sweep":
                where = setting("hydra.sweep.dir", self.run)
                budget = "seed=1", "training.steps=3"
                return ["train.py", "-m", *SMALL, path, *budget, where, *self.settings]
            case "evaluate":
                return [
                    "evaluate.py",
                    self.run,
                    *([] if self.text == "plain" else ["--text", text]),
                ]
            case "generate":
                prompt = (
                    TEXTS.get(self.text, b"the ")[:20].decode(errors="replace").replace("\0", "")
                )
                return ["generate.py", self.run, "--prompt", prompt, "--tokens", "30"]
            case "inspect":
                return ["inspect_run.py", self.run, "--tokens", "40", "--text-path", text]
        return ["compare.py", self.run]


def setting(key: str, value: str) -> str:
    """As it is typed for Hydra."""
    escaped = value.replace("${", "\\${").replace("'", "\\'")
    return f"{key}='{escaped}'"


class Tries:
    """Tries in a folder, each forked from this process, which must never compute anything."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed = root, seed
        self.ends = root / "ends"
        self.plain_text = root / "plain.txt"
        self.plain_text.write_bytes(TEXTS["plain"])
        self.runs = {name: root / name for name in ("completed", "killed")}

    def train_runs(self) -> None:
        """The runs that are resumed, evaluated and compared."""
        for name, folder in self.runs.items():
            epochs = "training.epochs=1000" if name == "killed" else "training.epochs=2"
            typed = *SMALL, epochs, "checkpoint.every_steps=3", f"hydra.run.dir={folder}"
            command = ["train.py", *typed, f"data.path={self.plain_text}"]
            process = fork(Program(command, self.root, self.root / f"{name}.log"))
            while name == "killed" and not (folder / "checkpoints/best.ckpt").exists():
                time.sleep(0.05)
            if name == "killed":
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)

    def attempt(self, number: int) -> tuple[Situation, int | None, list[str]]:
        """A try, its exit code, and what is wrong with how it ended."""
        situation = Situation(self.seed, number)
        folder = self.root / f"{number}"
        here = folder / situation.folder if situation.folder not in ("..", "~") else folder / "run"
        here.mkdir(parents=True)
        text = self.write_text(situation, here)
        if situation.action not in ("start", "sweep"):
            with contextlib.suppress(OSError):  # some names are no names
                shutil.copytree(self.runs[situation.run_before], here / situation.run)
        command = situation.arguments(text)
        how = situation.variables, situation.streams, situation.flags
        programs = [Program(command, here, folder / log, *how) for log in situation.logs]
        processes = [(start if situation.is_fresh else fork)(program) for program in programs]
        wrong = []
        for process in processes:
            code = wait(process, situation.ends_after or SECONDS)
            if code is None and not situation.ends_after:
                wrong.append(f"it hangs: {' '.join(command)}")
            elif code not in (*ENDS, None):
                wrong.append(f"it ends with {code}")
        printed = [*folder.glob("log*.[12]"), *here.rglob("log.txt")]
        outputs = {file: file.read_text(errors="replace").replace("\0", "") for file in printed}
        for file, output in outputs.items():
            if "Traceback (most" in output or "Logging error" in output:
                wrong.append(f"{file.name}: {output[output.rfind('Traceback') :][-1500:]}")
        errors = outputs.get(folder / f"{situation.logs[-1]}.2", "")
        is_heard = not any(part in situation.streams for part in ("2>", "all"))
        said = errors + (outputs[folder / f"{situation.logs[-1]}.1"] if code == 1 else "")
        says_why = any(word in said for word in ("error: ", "failed", "diverged"))
        if is_heard and code in (1, 2) and not says_why:
            wrong.append(f"it does not say why it ends with {code}: {errors[-500:]}")
        is_whole = situation.action == "resume" or (situation.action == "start" and code == 0)
        if is_whole and (here / situation.run / "config.yaml").exists():
            words = "-c", CHECK, str(here / situation.run)
            if wait(fork(Program(words, self.root, folder / "check"))) != 0:
                wrong.append(f"the run is lost: {(folder / 'check.2').read_text()[-800:]}")
        return situation, code, wrong

    def write_text(self, situation: Situation, here: Path) -> str:
        """What is typed for it."""
        file = here / situation.file
        if situation.file in ("~", "..", situation.run) or len(os.fsencode(file.name)) > 250:
            file = here / "text"
        match situation.text:
            case "a folder":
                file.mkdir()
            case "a pipe":
                os.mkfifo(file)
            case "a device":
                return "/dev/zero"
            case "unreadable":
                file.symlink_to(file.name)
            case name if name in TEXTS:
                file.write_bytes(TEXTS[name])
        return file.name


class Program(NamedTuple):
    words: Sequence[str]  # of the command, the script first
    here: Path
    logs: Path  # without the ending: what it prints is in .1 and .2
    variables: dict[str, str] = {}
    streams: str = ""
    flags: Sequence[str] = ()  # of Python

    @property
    def environment(self) -> dict[str, str]:
        return self.variables | {"PYTHONPATH": str(ODD_MACHINE)}


def start(program: Program) -> int:
    """As a process of its own; its number."""
    before = [os.dup(number) for number in range(3)]
    script, *arguments = program.words
    try:
        redirect(program.streams, program.logs)
        return subprocess.Popen(
            [sys.executable, *program.flags, str(SCRIPTS / script), *arguments],
            cwd=program.here,
            env=os.environ | program.environment,
            start_new_session=True,
        ).pid
    finally:
        for number, copy in enumerate(before):
            os.dup2(copy, number)
            os.close(copy)


def fork(program: Program) -> int:
    """The same without Python's own start and its flags, ten times as quick."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        os.chdir(program.here)
        os.environ.update(program.environment)
        redirect(program.streams, program.logs)
        open_streams(os.environ.get("PYTHONIOENCODING", "utf-8"))
        code = run_here(program.words)
    finally:
        os._exit(code)


# Whether a run can be read, and gone on with.
CHECK = """
import sys
from pathlib import Path
from lstm_lm.saved.checkpoint_file import load_newest
from lstm_lm.saved.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.read_config(), folder.read_summary(), load_newest(folder.last, folder.previous)
"""


def redirect(streams: str, logs: Path) -> None:
    """Let the standard streams be what a shell would make of it; by default files."""
    targets = {
        0: os.open(os.devnull, os.O_RDONLY),
        **{n: os.open(logs.with_suffix(f".{n}"), os.O_WRONLY | os.O_CREAT, 0o666) for n in (1, 2)},
    }
    if streams == "reader gone":
        reader, targets[1] = os.pipe()
        os.close(reader)
    if "full" in streams:
        for number in (1, 2) if streams == "all full" else (int(streams[0]),):
            targets[number] = os.open("/dev/full", os.O_WRONLY)
    for number, target in targets.items():
        os.dup2(target, number)
        os.close(target)
    for number in range(3):
        if streams == "all closed" or streams in (f"{number}<&-", f"{number}>&-"):
            os.close(number)


def open_streams(encoding: str) -> None:
    """As Python does when it starts."""
    name, _, errors = encoding.partition(":")
    for number, stream in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            setattr(sys, stream, None)
            continue
        how = "backslashreplace" if number == 2 else errors or "strict"
        lines = 1 if number == 2 else -1
        mode = "w" if number else "r"
        setattr(sys, stream, open(number, mode, lines, encoding=name, errors=how))


def run_here(command: Sequence[str]) -> int:
    """A program in this process; its exit code."""
    from lightning.pytorch.utilities import rank_zero_only

    from lstm_lm.process import drop_malformed_rank_variables

    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(
            number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
        )
    drop_malformed_rank_variables()  # and then what Lightning does when it is imported
    rank_zero_only.rank = next(  # type: ignore[attr-defined]
        (
            int(os.environ[name])
            for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")
            if name in os.environ
        ),
        0,
    )
    sys.path.insert(0, str(ODD_MACHINE))
    importlib.import_module("sitecustomize").refuse(os.environ.get("REFUSE", ""))
    sys.argv = [str(SCRIPTS / command[0]), *command[1:]]
    try:
        if command[0] == "-c":
            sys.argv = list(command[1:])
            exec(command[1])
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        # Also where nobody could read that.
        code = 99
    for stream in sys.stdout, sys.stderr:
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            code = 120  # as Python's
    return code


def wait(process: int, seconds: float = SECONDS) -> int | None:
    """The exit code; None, if it had to be killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the tries")
    parser.add_argument("--jobs", type=int, default=1, help="tries at once")
    parser.add_argument("--keep", type=Path, help="a new folder for all that is written")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported
    for name in (
        "experiment",
        "api",
        "report.report",
        "command_line.compose",
        "inside.page",
        "sweep.run_sweep",
    ):
        importlib.import_module(f"lstm_lm.{name}")
    root = arguments.keep or Path(tempfile.mkdtemp(prefix="try_anything_"))
    root.mkdir(parents=True, exist_ok=True)
    tries = Tries(root.absolute(), arguments.seed)
    tries.train_runs()
    numbers = arguments.only or range(arguments.first, arguments.first + arguments.tries)
    workers = []
    for part in range(arguments.jobs):
        if (worker := os.fork()) == 0:
            os._exit(work(tries, numbers[part :: arguments.jobs], bool(arguments.keep)))
        workers.append(worker)
    codes = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
    kinds = Counter(kind for n in numbers for kind in Situation(arguments.seed, n).kinds)
    had = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    print(f"{len(numbers)} tries with seed {arguments.seed}: {had}")
    ends = Counter(tries.ends.read_text().splitlines())
    print(f"exit codes: {', '.join(f'{end} {count}x' for end, count in sorted(ends.items()))}")
    if not arguments.keep:
        shutil.rmtree(root, ignore_errors=True)
    return max(codes)


def work(tries: Tries, numbers: Sequence[int], is_kept: bool) -> int:
    code = 0
    for number in numbers:
        situation, end, wrong = tries.attempt(number)
        with open(tries.ends, "a") as file:
            file.write(f"{situation.action}: {end}\n")
        for what in wrong:
            print(f"{situation}\n  {what}", flush=True)
            code = 1
        if not is_kept:
            shutil.rmtree(tries.root / f"{number}", ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
