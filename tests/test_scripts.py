"""The commands as a user types them, mistakes included."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fork_server
import pytest
import torch
from hydra._internal import hydra as hydra_runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lstm_lm.data import corpora, splits
from lstm_lm.saved.run_folder import RunFolder

SCRIPTS = Path(__file__).parents[1] / "scripts"


SMALL = [
    "data.batch_size=8",
    "data.num_steps=16",
    "model.hidden_size=16",
    "training.steps=20",
    "samples.tokens=10",
    "device=cpu",
    "hydra.run.dir=runs/one",
]


@pytest.fixture
def run_folder(type_command, compose, copy_of_run, text_file):
    settings = [setting for setting in SMALL if not setting.startswith("hydra.")]
    config = compose("data=text_file", f"data.path={text_file}", *settings)
    copy_of_run(Path("runs/one"), config)
    return "runs/one"


def test_a_run_ends_with_its_figures_and_what_to_type_next(type_command, text_file):
    code, output, errors = type_command(
        "train.py", "data=text_file", f"data.path={text_file}", *SMALL
    )
    assert (code, errors) == (0, "")
    assert re.search(r"validation +\d+\.\d{4} +\d\.\d{4}  final weights", output)
    assert re.search(r"test +\d+\.\d{4} +\d\.\d{4}  best weights", output)
    assert re.search(r"[\d,]+ tokens per second", output)
    assert "run folder   runs/one" in output
    assert "tensorboard --logdir runs" in output
    assert Path("runs/one/summary.json").exists()


@pytest.mark.slow
def test_a_default_run_has_nothing_to_warn_of(tmp_path):
    command = [sys.executable, "-W", "error", str(SCRIPTS / "train.py")]
    short = ["data.max_tokens=20000", "training.epochs=1", "model.hidden_size=16"]
    done = subprocess.run([*command, *short], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_tensorboard_nobody_is_sent_there(type_command, text_file):
    code, output, _ = type_command(
        "train.py", "data=text_file", f"data.path={text_file}", *SMALL, "logger=csv"
    )
    assert code == 0 and "tensorboard --logdir" not in output
    assert Path("runs/one/metrics.csv").exists()


def test_a_run_gives_its_best_validation_loss_to_whoever_searches(
    type_command, text_file, monkeypatch
):
    returned = []

    def run_and_note(*arguments, **options):
        returned.append(run_job(*arguments, **options))
        return returned[0]

    run_job = hydra_runs.run_job
    monkeypatch.setattr(hydra_runs, "run_job", run_and_note)
    type_command("train.py", "data=text_file", f"data.path={text_file}", *SMALL)
    summary = json.loads(Path("runs/one/summary.json").read_text())
    assert returned[0].return_value == summary["best/validation/loss"]


BAD_SETTINGS = {
    "model.hiden_size=3": "no setting model.hiden_size; did you mean model.hidden_size",
    "seed=1,2": "seed=1,2 gives several values: -m trains with each of them",
    "epochs=3": "no setting epochs; did you mean training.epochs",
    "+model.layers=3": "no setting model.layers; did you mean model.num_layers",
    "data=time_machin": "no data=time_machin; did you mean time_machine",
    "experiment=d2l_skratch": "no experiment=d2l_skratch; did you mean d2l_scratch",
    "device=tpu": "no device=tpu; did you mean gpu, cpu?",
    "model.cell=lstmm": "'lstmm', expected one of [lstm, gru, rnn, transformer]",
    "model.hidden_size=big": "model.hidden_size: Value 'big'",
    "model.hidden_size=0": "model.hidden_size must be positive and finite, not 0",
    "model.num_layers=-1": "model.num_layers must be positive and finite, not -1",
    "data.batch_size=0": "data.batch_size must be positive and finite, not 0",
    "optimizer.learning_rate=nan": "optimizer.learning_rate must be positive and finite, not nan",
    "optimizer.momentum=1": "optimizer.momentum must be at least 0 and below 1",
    "training.epochs=null": "training would never end",
    "samples.prompts=['']": "an empty prompt",
    "device.precision=16": "must be one of auto, 32-true, 64-true, bf16-mixed, not 16",
    "device.devices=0": "device.devices must be positive and finite, not 0",
    "device.devices=3": "data.batch_size=32 cannot be divided evenly among 3 processes",
    "device.nodes=2": "device.nodes=2 needs torchrun or srun",
    "seed=-1": "seed must be from 0",
    "seed=5000000000": "seed must be from 0",
    "data.validation_size=inf": "data.validation_size must be positive and finite, not inf",
    "optimizer.learning_rate=1e300": "optimizer.learning_rate must be positive and finite",
    "model.hidden_size=100000000": "the model does not fit into memory",
    "model.hidden_size=???": "model.hidden_size",
    "data.root=${nope}": "nope",
    "hydra.run.dir=/proc/no/such": "No such file or directory",
    "data=text_file": "data=text_file needs data.path=",
    "data.path=x": "data.path needs data=text_file",
    "data.max_tokens=100": "use a longer text, a smaller data.batch_size or data.num_steps",
    "data.max_tokens=3": "too short to hold out",
    "data.batch_size=[1": "cannot read 'data.batch_size=[1': settings are given as key=value",
    "epochs": "cannot read 'epochs': settings are given as key=value",
}


@pytest.mark.parametrize("setting", BAD_SETTINGS)
def test_a_mistake_is_one_clear_line_and_leaves_nothing_behind(setting, type_command, tmp_path):
    code, output, errors = type_command("train.py", setting)
    assert code == 2
    assert BAD_SETTINGS[setting] in errors
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert output == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_mistake_too(type_command, tmp_path):
    code, _, errors = type_command("train.py", "device=gpu")
    assert (code, errors.count("\n")) == (2, 1)
    assert "PyTorch finds none here" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"some text \xff\xfe", "is not UTF-8: byte 10 is 0xff"),
        (b"too short", "too short"),
    ],
)
def test_a_bad_text_is_one_clear_line(content, reason, type_command, tmp_path):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    code, _, errors = type_command("train.py", "data=text_file", f"data.path={path}")
    assert (code, errors.count("\n")) == (2, 1)
    assert reason in errors
    assert [found.name for found in tmp_path.iterdir()] == ([path.name] if path.exists() else [])


def test_a_diverging_run_exits_with_one(type_command, text_file):
    code, _, errors = type_command(
        "train.py",
        "data=text_file",
        f"data.path={text_file}",
        *SMALL,
        "optimizer.learning_rate=1e38",
        "optimizer.clip_norm=null",
    )
    assert code == 1
    assert errors.startswith("error: diverged: the ") and errors.count("\n") == 1


def test_figures_with_the_state_reset_are_reported_too(type_command, text_file):
    _, output, _ = type_command(
        "train.py", "data=text_file", f"data.path={text_file}", *SMALL, "data.reset_every=50"
    )
    assert re.search(r"test +\d+\.\d{4} +\d\.\d{4}  best weights, state reset every 50", output)


def test_a_text_that_is_a_variant_is_named_in_every_output(
    type_command, text_file, tmp_path, monkeypatch
):
    note = "a variant of a well-known text"
    found = corpora.find_corpus
    monkeypatch.setattr(splits, "find_corpus", lambda *known: replace(found(*known), note=note))
    text = "data=text_file", f"data.path={text_file}"
    assert type_command("train.py", *text, *SMALL)[1].count(note) == 2  # at start and end
    assert json.loads(Path("runs/one/summary.json").read_text())["text_note"] == note
    events = EventAccumulator("runs/one").Reload()
    assert note in str(events.Tensors("text/text_summary")[0].tensor_proto.string_val)
    assert note in type_command("evaluate.py", "runs/one")[1]
    assert note not in type_command("evaluate.py", "runs/one", "--text", text_file)[1]
    assert note in type_command("generate.py", "runs/one", "--prompt", "t", "--tokens", "1")[2]


@pytest.mark.parametrize("content", ["model: [", "model: {cell: lstmm}", "- 1"])
def test_a_damaged_config_is_one_clear_line(content, type_command, run_folder):
    Path(run_folder, "config.yaml").write_text(content)
    code, _, errors = type_command("evaluate.py", run_folder)
    assert (code, errors.count("\n")) == (2, 1)
    assert "config.yaml is damaged" in errors


def test_evaluating_changes_nothing_and_gives_the_figures_of_the_run(
    type_command, run_folder, tmp_path
):
    summary = json.loads(Path(run_folder, "summary.json").read_text())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, output, errors = type_command("evaluate.py", run_folder)
    assert (code, errors) == (0, "")
    assert f"perplexity          {summary['test/perplexity']:.6g}" in output
    assert f"bits per byte       {summary['test/bits_per_byte']:.6f}" in output
    code, output, _ = type_command(
        "evaluate.py", run_folder, "--split", "validation", "--checkpoint", "last"
    )
    assert f"loss                {summary['validation/loss']:.6f}" in output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_evaluating_a_text_of_ones_own(type_command, run_folder, tmp_path):
    (tmp_path / "other.txt").write_text("time machine 42")
    code, output, _ = type_command("evaluate.py", run_folder, "--text", "other.txt")
    assert code == 0
    assert "other.txt: 14 tokens, 2 of them unknown" in output
    _, reset, _ = type_command(
        "evaluate.py", run_folder, "--text", "other.txt", "--reset-every", "2"
    )
    assert reset != output


def test_looking_inside(type_command, run_folder, tmp_path):
    code, output, errors = type_command("inspect_run.py", run_folder, "--split", "validation")
    assert (code, output, errors) == (0, f"page   {run_folder}/inside.html\n", "")
    run = tmp_path / run_folder
    assert "runs/one, validation text" in (run / "inside.html").read_text()
    code, _, _ = type_command("inspect_run.py", run_folder, "--output", "page.html", "--skip", "9")
    assert code == 0 and (tmp_path / "page.html").exists()
    (tmp_path / "other.txt").write_text("time 42")
    _, output, _ = type_command("inspect_run.py", run_folder, "--text", "other.txt")
    assert output.endswith("2 of 7 tokens are not in the vocabulary, shown as �\n")
    folder = RunFolder(run)
    folder.values = folder.read_summary()
    folder.record(test_is_validation=True, text_note="a text in another order")
    assert type_command("inspect_run.py", run_folder)[0] == 0
    says = "runs/one, test text, which is the validation text, a text in another order"
    assert says in (run / "inside.html").read_text()


def test_generating(type_command, run_folder):
    arguments = "generate.py", run_folder, "--prompt", "time "
    code, output, errors = type_command(*arguments, "--tokens", "30")
    assert (code, errors, len(output)) == (0, "", len("time ") + 30 + 1)
    assert output.startswith("time ")
    assert type_command(*arguments, "--tokens", "30")[1] == output
    assert type_command(*arguments, "--tokens", "30", "--seed", "1")[1] != output
    greedy = type_command(*arguments, "--greedy")[1]
    assert type_command(*arguments, "--greedy", "--seed", "1")[1] == greedy
    several = type_command(*arguments, "--tokens", "5", "--samples", "3")[1]
    assert several.startswith("--- 1\ntime ") and "\n--- 3\ntime " in several


def test_generating_warns_of_tokens_that_the_vocabulary_lacks(type_command, run_folder):
    code, output, errors = type_command("generate.py", run_folder, "--prompt", "Time 4")
    assert code == 0
    assert errors == "warning: not in the vocabulary, taken as <unk>: 'T', '4'\n"


def test_words_are_streamed_with_their_blanks_and_lines(type_command, text_file):
    type_command(
        "train.py",
        "data=text_file",
        f"data.path={text_file}",
        "data.level=word",
        *SMALL,
        "data.num_steps=8",
        "training.steps=100",
    )
    code, output, _ = type_command("generate.py", "runs/one", "--prompt", "time", "--tokens", "50")
    assert code == 0
    words = re.fullmatch(
        r"time(?:[ \n](?:time|traveller|psychologist|machine|<unk>)|\n)*\n", output
    )
    assert words, output
    assert "  " not in output and " \n" not in output and "\n " not in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["generate.py", "nowhere", "--prompt", "a"], "nowhere is not a run's folder"),
        (["evaluate.py", "nowhere"], "nowhere is not a run's folder"),
        (["evaluate.py", "runs/one", "--text", "missing.txt"], "cannot read missing.txt"),
        (["evaluate.py", "runs/one", "--text", ""], "cannot read"),
        (["inspect_run.py", "runs/one", "--text", ""], "cannot read"),
        (["evaluate.py", "runs/one", "--reset-every", "0"], "reset_every must be at least 1 token"),
        (["inspect_run.py", "nowhere"], "nowhere is not a run's folder"),
        (["inspect_run.py", "runs/one", "--tokens", "1"], "--tokens at least 2"),
        (["inspect_run.py", "runs/one", "--skip", "100000"], "--skip leaves too few"),
        (["inspect_run.py", "runs/one", "--output", "no/page.html"], "cannot write no/page.html"),
        (["generate.py", "runs/one", "--prompt", ""], "at least one token"),
        (["generate.py", "runs/one", "--prompt", "a", "--tokens", "-5"], "tokens must be >= 0"),
        (["generate.py", "runs/one", "--prompt", "a", "--top-p", "2"], "top-p must be above 0"),
    ],
)
def test_mistakes_in_the_other_commands(arguments, reason, type_command, run_folder):
    code, output, errors = type_command(*arguments)
    assert (code, output) == (2, "")
    assert reason in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("script", ["train.py", "generate.py"])
def test_a_reader_that_goes_away_is_no_error(script, run_folder, text_file, tmp_path):
    command = [sys.executable, str(SCRIPTS / script)]
    if script == "train.py":
        command += "data=text_file", f"data.path={text_file}", *SMALL, "hydra.run.dir=piped"
    else:
        command += run_folder, "--prompt", "t", "--tokens", "100000"
    # One of them in a new interpreter, which also flushes at its end.
    start = fork_server.Popen if script == "train.py" else subprocess.Popen
    with start(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    if script == "train.py":
        assert json.loads((tmp_path / "piped/summary.json").read_text())["status"] == "completed"


def test_without_a_best_checkpoint_the_last_is_suggested(type_command, run_folder):
    Path(run_folder, "checkpoints/best.ckpt").unlink()
    code, _, errors = type_command("evaluate.py", run_folder)
    assert (code, errors.count("\n")) == (2, 1)
    assert "has no best checkpoint: choose --checkpoint last" in errors
    assert type_command("evaluate.py", run_folder, "--checkpoint", "last")[0] == 0


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "generate.py", "inspect_run.py"])
def test_help_needs_no_torch(script):
    code = (
        "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], None, '__main__')"
    )
    command = [sys.executable, "-X", "importtime", "-c", code, str(SCRIPTS / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "hidden_size" in done.stdout or "usage:" in done.stdout
    assert not re.search(r"\| +(torch|lightning)$", done.stderr, re.MULTILINE)
