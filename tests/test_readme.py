"""The commands and the program of the README, run as written; only training is cut short."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import fork_server
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands_of(page):
    return [
        line.split("  #")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        for line in block.splitlines()
    ]


def python_of(page):
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


COMMANDS = commands_of(README)
SHORT = "training.steps=2 samples.tokens=5 hydra.run.dir=runs/one hydra.sweep.dir=runs/several"


def scripts(name):
    return [command for command in COMMANDS if f"scripts/{name}.py" in command]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder that looks like the checkout, so that nothing is left in the real one."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("scripts", "conf", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(command, folder, is_new=False, **variables):
    """What a command line prints.

    Args:
        is_new: whether Python is to be a new process in any case, and not forked.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | variables
    how = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    if is_new or not re.fullmatch(r"python [^|&;<>]+", command):
        done = subprocess.run(["bash", "-c", command], **how)
    else:
        words = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], **how).stdout
        _, *arguments = words.rstrip("\0").split("\0")
        done = fork_server.run([sys.executable, *arguments], forks=True, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout


def slow_if(is_slow, command):
    return pytest.param(command, marks=pytest.mark.slow) if is_slow else command


@pytest.mark.parametrize(
    "command", [slow_if("sweep=" in c, c) for c in scripts("train") if "resume" not in c]
)
def test_training_commands(command, folder, request):
    if "data=time_machine" in command or "experiment=" in command:
        request.getfixturevalue("real_texts")
    command = command.split("&& ")[-1]  # what comes before installs
    (folder / "runs").mkdir(exist_ok=True)
    if "--help" in command:
        assert "hidden_size" in run(command, folder)
        return
    if "$RUN" in command:
        request.getfixturevalue("run_folder")
    fewer = "optimizer.learning_rate=1" if "sweep=" in command else ""  # three of nine
    output = run(f"{command} {SHORT} {fewer}", folder, RUN="run")
    jobs = 3 if "sweep=" in command else 4 if "-m" in shlex.split(command) else None
    if "debug=fast" in command:
        assert "went through; nothing is kept" in output
        return
    if jobs is None:
        assert output.count("run folder   runs/") == 1
    else:
        assert output.count("  completed  epoch") == jobs
    run("rm -r runs", folder)


@pytest.fixture(scope="module")
def run_folder(folder):
    run("python scripts/train.py training.steps=2 hydra.run.dir=run", folder, is_new=True)
    return "run"


def test_commands_that_go_on(folder, run_folder):
    commands = [command for command in scripts("train") if "resume" in command]
    ends = ["is complete, with 0 epochs, 2 steps", "goes on after step 2", "run     outputs/job"]
    for command, steps, end in zip(commands, (2, 3, 3), ends, strict=True):
        assert end in run(f"{command} training.steps={steps} samples.tokens=5", folder, RUN="run")


@pytest.mark.parametrize("command", scripts("compare"))
def test_comparing_commands(command, folder, run_folder):
    output = run(command, folder, RUN=run_folder, RUNS=f"./{run_folder}")
    assert "best run again      python scripts/train.py -cd " in output


@pytest.mark.parametrize("command", [slow_if("cores" in c, c) for c in scripts("benchmark")])
def test_measuring_commands(command, folder):
    tiny = f"{command} --quick --shapes tiny --threads 1"
    assert "are medians over the rounds" in run(tiny, folder)


@pytest.mark.parametrize("command", scripts("evaluate") + scripts("generate"))
def test_commands_that_need_a_run(command, folder, run_folder):
    output = run(command, folder, RUN=run_folder)
    assert "bits per character" in output if "evaluate" in command else "The statement " in output


def test_the_program(folder):
    code, _ = python_of(README)
    code = code.replace("training.epochs=", "training.steps=")
    (folder / "program.py").write_text(code)
    output = run("python program.py", folder, is_new=True).splitlines()
    assert re.fullmatch(r"outputs/\S+ [\d.]+", output[0])
    assert output[1].startswith("The statement ")
    run("rm -r outputs", folder)


def test_the_program_with_a_trainer_of_ones_own(folder):
    _, code = python_of(README)
    (folder / "trainer.py").write_text(code.replace("max_epochs=3", "max_epochs=1"))
    assert "test/perplexity" in run("python trainer.py", folder)


@pytest.mark.parametrize("command", scripts("inspect_run"))
def test_commands_that_look_inside(command, folder, run_folder):
    assert "page   run/inside.html" in run(command, folder, RUN=run_folder)


def test_the_translation_has_the_same_commands_and_pictures():
    translated = (ROOT / "README.zh.md").read_text()
    assert commands_of(translated) == COMMANDS
    assert python_of(translated) == python_of(README)
    pictures = re.compile(r"\]\((docs/\w+\.png)\)")
    assert sorted(pictures.findall(translated)) == sorted(pictures.findall(README))


def test_the_installing_commands_are_those_that_ci_runs():
    installs = [command.split(" && ")[0] for command in COMMANDS if "pip install" in command]
    assert installs == [
        "pip install -c constraints.txt -e .",
        "pip install -c constraints.txt -e '.[dev]'",
    ]
    assert installs[1].replace("install", "install --quiet", 1) in (ROOT / ".ci/run").read_text()


def test_every_file_and_section_that_is_linked_to_is_there():
    sections = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", README, re.M)}
    for link in re.findall(r"\]\(((?!https?:)[^)]+)\)", README):
        if link.startswith("#"):
            assert link[1:] in sections, link
        else:
            assert (ROOT / link).exists(), link
