"""``evaluate`` with modes, as it is typed."""

import hashlib
import json
from pathlib import Path

import pytest

import lstm_lm
from lstm_lm.evaluation.dynamic_evaluation import DynamicEvaluation
from lstm_lm.evaluation.modes import Modes
from lstm_lm.evaluation.score import split_of_run, text_losses
from lstm_lm.files import locked
from lstm_lm.saved.run_folder import RunFolder

SGD = ["--dynamic-evaluation", "sgd"]


@pytest.fixture
def run(tiny_run, copy_of_run, tmp_path, monkeypatch):
    """A run, and the commands below are typed beside it."""
    monkeypatch.chdir(tmp_path)
    config = tiny_run("model.dropout=0.5", "device.precision=64-true")
    return lstm_lm.load_run(copy_of_run(Path("run"), config))


@pytest.fixture
def evaluate(type_command, run):
    def type_and_check(*arguments):
        code, output, errors = type_command("evaluate.py", "run", *arguments)
        assert (code, errors) == (0, "")
        return output

    return type_and_check


def summary():
    return json.loads(Path("run/summary.json").read_text())


def test_a_score_in_a_mode_is_named_and_recorded_apart(evaluate, run):
    before = summary()
    output = evaluate(*SGD, "--learning-rate", "0.5", "--temperature", "0.9")
    score = run.evaluate(modes=Modes(DynamicEvaluation("sgd", 0.5), temperature=0.9))
    assert score.loss != pytest.approx(before["test/loss"])
    assert "mode                dynamic evaluation + temperature\n" in output
    options = (
        "--dynamic-evaluation sgd --learning-rate 0.5 --segment 20 --decay 0.002 --temperature 0.9"
    )
    assert f"options             {options}\n" in output
    assert f"loss                {score.loss:.6f} nats per token" in output
    assert evaluate(*options.split()) == output
    after = summary()
    assert after.items() >= before.items()
    added = {name: value for name, value in after.items() if name not in before}
    name = "test/dynamic_evaluation+temperature"
    assert all(key.startswith(f"{name}/") for key in added)
    assert added[f"{name}/loss"] == pytest.approx(score.loss)
    assert added[f"{name}/settings"] == {
        "dynamic_evaluation": {"rule": "sgd", "learning_rate": 0.5, "segment": 20, "decay": 0.002},
        "temperature": 0.9,
        "checkpoint": "best",
        "reset_every": None,
    }
    run.resume(["training.epochs=4"])  # the weights are others then
    assert name not in "".join(summary())


def test_a_text_of_ones_own_is_not_recorded(evaluate, run, text_file):
    before = summary()
    assert "recorded" not in evaluate("--neural-cache", "--text", text_file)
    assert summary() == before


def test_an_ensemble_of_a_run_with_itself_is_that_run(evaluate, run):
    output = evaluate("--ensemble", "run", "run", "--reset-every", "50")
    assert "mode                ensemble\n" in output
    assert f"loss                {run.evaluate(reset_every=50).loss:.6f}" in output
    assert summary()["test/ensemble/settings"]["ensemble"] == [str(Path("run").absolute())] * 2


def test_runs_that_predict_other_tokens_are_no_ensemble(type_command, run, tiny_run, tmp_path):
    Path("other.txt").write_text("another text\n" * 300)
    for name, settings in {
        "words": ["data.level=word", "data.batch_size=2"],
        "text": [f"data.path={tmp_path}/other.txt", "data.batch_size=2"],
        "split": ["data.validation_size=120", "data.test_size=80"],
    }.items():
        lstm_lm.train(tiny_run(*settings, "training.steps=2"), name)
    for name, reason in {
        "words": "run and words cannot be an ensemble: data.level is character and word",
        "text": "run and text cannot be an ensemble: their vocabularies differ, with",
        "split": "split has another test text than run: an ensemble needs runs on the same text",
        "nowhere": "nowhere is not a run's folder",
    }.items():
        code, output, errors = type_command("evaluate.py", "run", "--ensemble", name)
        assert (code, output, errors.count("\n")) == (2, "", 1)
        assert reason in errors
    code, output, errors = type_command("evaluate.py", "split", "--monte-carlo-dropout", "2")
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "split was trained without dropout: leave out Monte-Carlo dropout" in errors


def test_monte_carlo_dropout_is_repeatable(evaluate):
    typed = "--monte-carlo-dropout", "3", "--seed", "4"
    output = evaluate(*typed)
    assert "mode                monte carlo dropout\n" in output
    assert evaluate(*typed) == output != evaluate(*typed[:2])


def test_the_test_text_changes_nothing_that_is_tuned(evaluate, run):
    """Another test text is put in its place, with the run's record of the whole."""
    modes = *SGD, "--neural-cache", "--window", "100", "--temperature", "--tune"
    tuned, score = (evaluate(*modes, "--tune-tokens", "50").split("text     ")[n] for n in (0, 1))
    path = Path(run.config.data.path)
    text = path.read_text()
    assert "chosen" in tuned
    whole = text[:2000]
    test = whole[-100:]
    path.write_text(whole.removesuffix(test) + test[::-1] + text[2000:])
    folder = RunFolder(Path("run"))
    folder.values = folder.read_summary()
    folder.record(text_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    again = evaluate(*modes, "--tune-tokens", "50")
    assert again.split("text     ")[0] == tuned
    assert again.split("text     ")[1] != score


@pytest.mark.parametrize("place", ["training", "validation"])
def test_tuning_prints_what_it_tried_and_how_to_repeat_it(place, evaluate):
    output = evaluate(*SGD, "--decay", "0.01", "--tune", "--tune-on", place, "--tune-tokens", "60")
    end = {"training": "end", "validation": "beginning"}[place]
    assert output.startswith(f"tuning              60 tokens from the {end} of the {place} text\n")
    (chosen,) = (line for line in output.splitlines() if line.endswith("  chosen"))
    options = chosen.removesuffix("  chosen").split(maxsplit=1)[1]
    settings = summary()["test/dynamic_evaluation/settings"]
    assert settings["tuned"] == ["dynamic_evaluation.learning_rate", "dynamic_evaluation.segment"]
    assert settings["tuned_on"] == place
    assert evaluate(*options.split()) == "text    " + output.partition("text    ")[2]


def test_the_temperature_is_tuned_with_the_resets_of_the_score(evaluate, run):
    typed = "--temperature", "--tune", "--tune-on", "training", "--tune-tokens", "60"
    output = evaluate(*typed, "--reset-every", "4")
    (first,) = (line for line in output.splitlines() if "  --temperature 1 " in f"{line} ")
    losses = text_losses(run.model, split_of_run(run, "training").ids[-61:], 4)
    assert float(first.split()[0]) == pytest.approx(losses.mean().item(), abs=6e-5)


def test_what_cannot_be_recorded_is_still_printed(type_command, run):
    before = summary()
    with locked(Path("run/.lock")):
        code, output, errors = type_command("evaluate.py", "run", *SGD)
    assert code == 0 and "perplexity" in output and "recorded" not in output
    assert errors == (
        "warning: the score is not recorded: another process is training in run: wait until it "
        "ends\n"
    )
    assert summary() == before


MISTAKES = {
    "--dynamic-evaluation sgd --learning-rate nan": "learning_rate must be >= 0 and finite, not n",
    "--dynamic-evaluation rms --segment -3": "segment must be at least 1 token, not -3",
    "--monte-carlo-dropout 0": "Monte-Carlo dropout needs at least 1 pass, not 0",
    "--temperature -1": "the temperature must be positive and finite, not -1.0",
    "--temperature": "--temperature without a number needs --tune",
    "--learning-rate 1": "--learning-rate has no effect without --dynamic-evaluation",
    "--neural-cache --seed 1": "--seed has no effect without --monte-carlo-dropout",
    "--lambda 0.1": "--lambda has no effect without --neural-cache",
    "--neural-cache --tune-on training": "--tune-on has no effect without --tune",
    "--tune": "--tune has nothing to choose",
    "--temperature 2 --tune": "--tune has nothing to choose",
    "--neural-cache --tune --tune-tokens 0": "tuning needs at least 1 token, not 0",
    "--neural-cache --tune --split validation": "use --tune-on training",
    "--neural-cache --reset-every 9": "neural cache cannot be combined with resets of the state",
    "--neural-cache --monte-carlo-dropout 9": "Monte-Carlo dropout cannot be combined",
}


def test_mistakes_are_refused_in_one_line_and_nothing_is_recorded(type_command, run):
    before = summary()
    for typed, reason in MISTAKES.items():
        code, output, errors = type_command("evaluate.py", "run", *typed.split())
        assert (code, output, errors.count("\n")) == (2, "", 1), typed
        assert reason in errors, typed
    diverging = [*SGD, "--learning-rate", "1e308"]
    code, output, errors = type_command("evaluate.py", "run", *diverging)
    assert (code, output) == (1, "")
    assert errors == "error: dynamic evaluation diverged: choose a learning rate below 1e+308\n"
    assert summary() == before
