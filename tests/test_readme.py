"""README.md and docs/: commands and programs are run, cut short; files, links and maps exist."""

import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import fork_server
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import lstm_lm

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TRANSLATED = (ROOT / "README.zh.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCE = ROOT / "src/lstm_lm"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands_of(page: str) -> list[str]:
    lines = "".join(blocks(page, "sh")).replace("\\\n", "").splitlines()
    return [line.split("  #")[0].strip() for line in lines]


COMMANDS = list(
    dict.fromkeys(c for page in PAGES[:1] + PAGES[2:] for c in commands_of(page.read_text()))
)
INSTALL, FIRST = commands_of(README)[:2]
OF_SWEEPS = r" -m (?!benchmarks)|sweep=|experiment=(claim|ablate)"
SWEEPS = [c for c in COMMANDS if re.search(OF_SWEEPS, c)]
# They start processes of their own, or libraries read their variables when they are imported.
PROCESSES = [c for c in COMMANDS if "device=ddp" in c or re.match("[A-Z]", c)]
OTHERS = [
    c
    for c in COMMANDS
    if c.startswith("python ") and c != FIRST and c not in SWEEPS and c not in PROCESSES
]

SHORT = ["data.max_tokens=20000", "training.steps=2", "samples.tokens=5"]
TINY = ["data.max_tokens=20000", "model.hidden_size=8", "training.epochs=1", "samples.tokens=5"]
PRINTED = {
    "--help": "hidden_size",
    "debug=fast": "nothing is saved",
    "train.py": "run folder   ",
    "evaluate.py": "bits per character",
    "generate.py": "The statement ",
    "compare.py": "best run again      ",
    "inspect_run.py": "page   run/inside.html",
    "benchmarks": "are medians over the rounds",
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of one short epoch."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    lstm_lm.train(lstm_lm.compose([*TINY, "device=cpu"]), folder)
    return folder


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The current folder: it looks like the checkout, so nothing is left in the real one."""
    for name in ("scripts", "benchmarks", "conf", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUN", "run")
    monkeypatch.setenv("RUNS", "./run")
    return tmp_path


def cut_short(command: str) -> list[str]:
    """What is typed, with fewer steps and less text."""
    words = shlex.split(os.path.expandvars(command))
    if "benchmarks" in words:
        return [*words, "--quick", "--rounds", "1", "--shapes", "tiny", "--threads", "1"]
    if "--tune" in words:
        return [*words, "--tune-tokens", "200"]
    if "scripts/train.py" not in words or "--help" in words or "resume=run" in words:
        return words
    return words + SHORT


def in_a_process(words: list[str]) -> str:
    assert words[0] == "python"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words[1:]]
    done = fork_server.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def masked(text: str) -> str:
    """Numbers are 0, and columns are not aligned."""
    return re.sub(r"\d[\d,.]*", "0", re.sub(" +", " ", text))


def test_the_first_command_prints_what_the_readme_shows(checkout):
    shown = re.escape(masked(blocks(README, "text")[0])).replace("…\\\n", "(?:.*\n)*?")
    printed = masked(in_a_process(cut_short(FIRST)))
    assert re.match(shown, printed), printed


def slow_if(is_slow: bool, command: str):
    return pytest.param(command, marks=pytest.mark.slow) if is_slow else command


def test_every_command_is_run_but_for_those_of_others():
    left = set(COMMANDS) - {FIRST, *SWEEPS, *PROCESSES, *OTHERS}
    assert left == {INSTALL, "tensorboard --logdir outputs"}


@pytest.mark.parametrize("command", [slow_if("benchmarks cores" in c, c) for c in OTHERS])
def test_command(command, checkout, trained, request, monkeypatch, capsys):
    if "data=time_machine" in command or "experiment=" in command:
        request.getfixturevalue("real_texts")
    if "$RUN" in command:
        shutil.copytree(trained, "run")
    _, *words = cut_short(command)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit) as end:
        if words[0] == "-m":
            monkeypatch.syspath_prepend(ROOT)
            monkeypatch.setattr(sys, "argv", words[1:])
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            monkeypatch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
    output = capsys.readouterr()
    assert end.value.code == 0, output.err
    assert next(text for part, text in PRINTED.items() if part in command) in output.out


@pytest.mark.slow
@pytest.mark.parametrize("command", PROCESSES)
def test_command_of_several_processes(command, checkout):
    output = in_a_process(cut_short(command))
    assert next(text for part, text in PRINTED.items() if part in command) in output


def jobs(command: str) -> list[list[str]]:
    """The first and the last job of a sweep, as Hydra takes them from what is typed."""
    typed = [word for word in shlex.split(command)[2:] if word != "-m"]
    for word in list(typed):
        group, _, name = word.partition("=")
        if group in ("sweep", "experiment"):
            settings = OmegaConf.load(ROOT / f"conf/{group}/{name}.yaml")
            params = OmegaConf.select(settings, "hydra.sweeper.params", default={})
            typed += [f"{key}={value}" for key, value in params.items()]
    overrides = OverridesParser.create().parse_overrides(typed)
    values = [
        list(o.sweep_string_iterator()) if o.is_sweep_override() else [o.get_value_string()]
        for o in overrides
    ]
    assert any(len(several) > 1 for several in values), command
    keys = [o.key_or_group for o in overrides]
    return [[f"{k}={v[which]}" for k, v in zip(keys, values, strict=True)] for which in (0, -1)]


@pytest.mark.parametrize("command", SWEEPS)
def test_jobs_of_a_sweep_can_be_trained(command, compose):
    for job in jobs(command):
        compose(*(setting for setting in job if not setting.startswith("hydra.")))


@pytest.mark.slow
def test_a_sweep(checkout):
    (command,) = (c for c in commands_of(README) if c in SWEEPS)
    output = in_a_process(cut_short(command))
    assert output.count("  completed  epoch") == 4


def test_programs(checkout):
    programs = [code for page in PAGES for code in blocks(page.read_text(), "python")]
    code = "\n".join(programs).replace("training.epochs=", "training.steps=")
    code = code.replace("compose([", 'compose(["data.max_tokens=20000", ')
    Path("programs.py").write_text(code.replace("max_epochs=3", "max_epochs=1"))
    output = in_a_process(["python", "programs.py"])
    assert re.match(r"outputs/\S+ [\d.]+\nThe statement ", output)
    assert "test/perplexity" in output


def test_the_readme_is_one_page():
    for page in README, TRANSLATED:
        assert len(page.splitlines()) <= 150
    assert max(map(len, README.splitlines())) <= 120


def test_the_translation_has_the_same_commands_figures_and_pictures():
    for part in r"\(docs/\w+\.png\)", r"\| ([\d., ]+) (?=\|)":
        assert re.findall(part, TRANSLATED) == re.findall(part, README) != []
    assert commands_of(TRANSLATED) == commands_of(README)
    assert blocks(TRANSLATED, "text")[0] == blocks(README, "text")[0]


def test_speeds_of_the_readme_are_those_of_the_page_on_cores():
    cores = (ROOT / "docs/cores.md").read_text()
    rows = re.findall(r"^\| (\d+, \d+ steps.*?) \| (.*) \|$", README, re.M)
    assert len(rows) == 4
    for shape, speeds in rows:
        row = cores.partition(f"| {shape} | 2 | ")[2].partition("\n")[0]
        scratch, _, fused, *bf16 = re.findall(r"(\d\.\d\d) \(", row)
        assert speeds.split(" | ") == [scratch, fused, *bf16]


def test_installing_and_checking_commands_are_those_that_ci_runs():
    ci = (ROOT / ".ci/run").read_text()
    contributing = commands_of((ROOT / "CONTRIBUTING.md").read_text())
    install = next(command for command in contributing if command.startswith("pip install"))
    assert install == INSTALL.replace(" .", " '.[dev]'")
    assert install.replace("install", "install --quiet", 1) in ci
    for check in "ruff check .", "ruff format --check .", "mypy":
        assert check in contributing and check in ci


def names_of(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.zh.md"], ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_section(page):
    for link in re.findall(r"\]\(((?!https?:)[^)]+)\)", page.read_text()):
        name, _, section = link.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), link
        if section:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert section in map(names_of, headings), link


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.zh.md"], ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page):
    folders = "benchmarks|conf|docs|scripts|src|tests"
    for name in re.findall(rf"(?<![\w/.])(?:{folders})/[\w/.]*\w", page.read_text()):
        assert (ROOT / name).exists(), name


def test_every_picture_is_shown():
    shown = "".join(page.read_text() for page in PAGES)
    for picture in (ROOT / "docs").glob("*.png"):
        assert picture.name in shown


def test_every_page_is_in_the_index_and_opens_with_a_command():
    for page in PAGES[1:]:
        assert f"({page.relative_to(ROOT)})" in README or page.stem.endswith(".zh"), page
    for page in PAGES[2:]:
        before = page.read_text().split("## ")[0].replace("    python", "```sh")
        assert "```sh" in before or page.stem.startswith(("claims", "results")), page


def entries(folder: Path) -> set[str]:
    """First-level modules and packages."""
    packages = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    return packages | {path.name for path in folder.glob("*.py")}


@pytest.mark.parametrize("page", [README, TRANSLATED], ids=["README.md", "README.zh.md"])
def test_the_map_is_that_of_the_tree(page):
    tree = blocks(page, "text")[1]
    above, _, inside = tree.partition("src/lstm_lm/\n")
    inside, below = re.fullmatch(r"((?:  .*\n)+)(.*)", inside, re.DOTALL).groups()
    assert set(re.findall(r"^  (\S+)  +\S", inside, re.M)) == entries(SOURCE)
    for name in re.findall(r"^(\S+)  +\S", above + below, re.M):
        assert (ROOT / name).is_dir(), name


def test_the_map_of_the_package_is_that_of_the_tree():
    names = {Path(name).stem for name in entries(SOURCE)} - {"__init__", "__main__"}
    assert set(re.findall(r"^    (\w+)  +\S", lstm_lm.__doc__, re.M)) == names
