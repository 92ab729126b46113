import json
import math
import os
import signal
from importlib import import_module

import pytest
import torch
from lightning import LightningModule
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.testing import assert_close

from lstm_lm.config import Backend, Order, Schedule
from lstm_lm.data import batches
from lstm_lm.data.splits import read_splits
from lstm_lm.errors import Diverged, RunFailed, SettingsError, Stopped
from lstm_lm.evaluation.score import evaluate, split_of_run
from lstm_lm.experiment import train
from lstm_lm.generation import generate
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.saved.fingerprint import fingerprint
from lstm_lm.saved.load_model import restore
from lstm_lm.training import callbacks, session
from lstm_lm.training.module import LanguageModelModule


def curve(folder, tag):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def weights(folder, checkpoint="last"):
    return torch.load(folder / f"checkpoints/{checkpoint}.ckpt", weights_only=True)["state_dict"]


def test_a_run_leaves_a_folder_that_says_everything(small_run, tmp_path):
    folder = tmp_path / "run"
    summary = train(small_run("training.epochs=3"), folder)
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["status"] == "completed"
    assert (summary["epochs"], summary["steps"]) == (3, summary["tokens"] // (8 * 16))
    for key in ("validation", "best/validation", "test"):
        assert summary[f"{key}/perplexity"] == pytest.approx(math.exp(summary[f"{key}/loss"]))
        assert summary[f"{key}/bits_per_character"] == pytest.approx(
            summary[f"{key}/loss"] / math.log(2)
        )
    assert 1 < summary["validation/perplexity"] < summary["vocabulary"]
    for name in ("train/perplexity", "tokens_per_second", "seconds", "parameters", "threads"):
        assert summary[name] > 0
    assert len(summary["fingerprint"]) == 16 and len(summary["text_sha256"]) == 64
    assert {path.name for path in folder.iterdir() if "tfevents" not in path.name} == {
        "config.yaml",
        "vocabulary.json",
        "summary.json",
        "checkpoints",
        "hparams.yaml",
        ".lock",
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "last.ckpt",
        "previous.ckpt",
        "best.ckpt",
    }


def test_a_generated_text_has_its_floor_in_figures_and_curves(compose, tmp_path):
    settings = ["data.max_tokens=6000", "data.lag=2", "data.batch_size=8", "data.num_steps=20"]
    model = ["model.hidden_size=16", "model.embedding_size=8", "training.epochs=2", "device=cpu"]
    summary = train(compose("data=recall", *settings, *model, "samples.tokens=5"), tmp_path)
    floor = (math.log(8) + 2 * math.log(4)) / 5  # of a string of five symbols
    for part in ("validation", "best/validation", "test"):
        assert summary[f"{part}/floor"] == pytest.approx(floor, rel=0.01)
        assert summary[f"{part}/floor"] + summary[f"{part}/gap"] == pytest.approx(
            summary[f"{part}/loss"]
        )
        assert summary[f"{part}/memory_gap"] > summary[f"{part}/gap"] > 0
    losses, floors = curve(tmp_path, "validation/loss"), curve(tmp_path, "floor/loss")
    gaps = curve(tmp_path, "validation/gap")
    assert len(losses) == len(curve(tmp_path, "validation/memory_gap")) == 2
    for (step, loss), (at, lowest), (_, gap) in zip(losses, floors, gaps, strict=True):
        assert step == at and lowest == pytest.approx(floor, rel=0.01)
        assert 0 < gap < loss - lowest  # without what began in another row


def test_curves_are_over_optimizer_steps_without_gaps_or_nan(small_run, tmp_path):
    folder = tmp_path / "run"
    summary = train(small_run(), folder)
    events = EventAccumulator(str(folder)).Reload()
    expected = {
        f"{split}/{name}"
        for split in ("train", "validation")
        for name in ("loss", "perplexity", "bits_per_character", "bits_per_byte")
    } | {"learning_rate", "gradient_norm", "tokens", "tokens_per_second"}
    expected |= {"best/validation/perplexity", "final/validation/perplexity", "test/perplexity"}
    assert set(events.Tags()["scalars"]) == expected
    for tag in expected:
        assert all(math.isfinite(value) for _, value in curve(folder, tag))
    steps = [step for step, _ in curve(folder, "train/loss")]
    per_epoch = summary["steps"] // 2
    assert steps == sorted({*range(10, summary["steps"] + 1, 10), per_epoch, 2 * per_epoch})
    assert [step for step, _ in curve(folder, "validation/loss")] == [per_epoch, 2 * per_epoch]
    assert curve(folder, "tokens")[-1] == (summary["steps"], summary["tokens"])
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    assert "sample 1/text_summary" in events.Tags()["tensors"]


CORES = ["scratch", "builtin", "fused model.backend=torch", "fused model.backend=cpp"]
TWO_STEPS = "training.steps=2", "samples.tokens=2"


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_swapping_the_core_leaves_the_curves_unchanged(cell, small_run, tmp_path):
    for core in CORES:
        settings = f"model.cell={cell} device.precision=64-true model.core={core}"
        train(small_run(*settings.split()), tmp_path / core.split("=")[-1])
    builtin = tmp_path / "builtin"
    for other in ("scratch", "torch", "cpp"):
        for tag in ("train/loss", "validation/loss", "gradient_norm"):
            ours = dict(curve(tmp_path / other, tag))
            assert len(ours) > 1
            assert ours == pytest.approx(dict(curve(builtin, tag)), rel=1e-6)
        for name, weight in weights(tmp_path / other).items():
            assert_close(weight, weights(builtin)[name], rtol=1e-9, atol=1e-9)


def test_the_summary_names_the_core_and_its_backend(small_run, tmp_path):
    named = []
    for core in CORES:
        config = small_run("training.steps=1", *f"model.core={core}".split())
        summary = train(config, tmp_path / core.split("=")[-1])
        named.append((summary["core"], summary["backend"]))
    assert named == [("scratch", None), ("builtin", None), ("fused", "torch"), ("fused", "cpp")]


def triton_with_its_kernels():
    """Triton, its kernels made already, as how they are run is decided then."""
    triton = pytest.importorskip("triton")
    import_module("lstm_lm.model.fused.triton_kernels")
    return triton


def test_a_backend_that_cannot_be_is_refused_before_anything_is_written(
    small_run, tmp_path, monkeypatch
):
    config = small_run("model.core=fused", "model.backend=triton", "device.accelerator=cpu")
    triton = triton_with_its_kernels()
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(SettingsError, match="model.backend=triton needs a GPU, and the device is"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_whose_backend_cannot_be_here_is_used_with_another(
    small_run, tmp_path, monkeypatch, caplog
):
    triton = triton_with_its_kernels()
    config = small_run("model.core=fused", "model.backend=triton", "model.cell=rnn", *TWO_STEPS)
    train(config, tmp_path / "run")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    run = restore(tmp_path / "run")
    assert "needs a GPU" in caplog.text and "Using model.backend=torch" in caplog.text
    assert [core.backend for core in run.model.cores] == [Backend.torch]
    assert run.model(torch.zeros(3, 2, dtype=torch.long))[0].isfinite().all()


@pytest.mark.parametrize("order", list(Order))
def test_the_same_seed_gives_the_same_run_whatever_is_watched(order, small_run, tmp_path):
    common = f"data.order={order}", "model.dropout=0.3", "training.epochs=2"
    train(small_run(*common), tmp_path / "a")
    torch.rand(5)
    watched = "training.log_every=3", "training.validate_every=2", "samples.tokens=5"
    train(small_run(*common, *watched), tmp_path / "b")
    train(small_run(*common, "seed=1"), tmp_path / "c")
    for name, weight in weights(tmp_path / "a").items():
        assert torch.equal(weight, weights(tmp_path / "b")[name])
        assert not torch.equal(weight, weights(tmp_path / "c")[name])


@pytest.mark.parametrize("order", list(Order))
def test_the_state_is_carried_exactly_where_batches_are_consecutive(
    order, small_run, tmp_path, monkeypatch
):
    calls = []

    def spy(self, ids, state=None):
        features = run_cores(self, ids, state)
        if self.training:
            calls.append((state, features.state))
        return features

    run_cores = LanguageModel.run_cores
    monkeypatch.setattr(LanguageModel, "run_cores", spy)
    steps = train(small_run(f"data.order={order}"), tmp_path / "run")["steps"]
    assert len(calls) == steps > 60
    for index, (start, _) in enumerate(calls):
        if order is Order.random or index % (steps // 2) == 0:
            assert start is None
        else:
            before = calls[index - 1][1]
            assert torch.equal(start[0].hidden, before[0].hidden)
            assert torch.equal(start[0].cell, before[0].cell)
            assert not start[0].hidden.requires_grad and before[0].hidden.requires_grad


def test_validation_carries_the_state_along_each_row(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "LARGEST_LOGITS", 1000)  # several batches
    config = small_run("data.evaluation_rows=3", "training.epochs=1")
    train(config, tmp_path / "run")
    run = restore(tmp_path / "run", "last")
    ids = read_splits(config.data, run.vocabulary).validation.ids.long()
    inputs, targets = batches.as_rows(ids, 3)
    logits, _ = run.model(inputs)  # the whole rows at once
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    ((_, loss),) = curve(tmp_path / "run", "validation/loss")
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_training_perplexity_is_the_mean_over_the_last_epoch(small_run, tmp_path, monkeypatch):
    losses = []

    def spy(self, batch, batch_index):
        loss = training_step(self, batch, batch_index)
        losses.append(loss.item())
        return loss

    training_step = LanguageModelModule.training_step
    monkeypatch.setattr(LanguageModelModule, "training_step", spy)
    summary = train(small_run(), tmp_path / "run")
    last_epoch = losses[len(losses) // 2 :]
    expected = math.exp(sum(last_epoch) / len(last_epoch))
    assert summary["train/perplexity"] == pytest.approx(expected, rel=1e-6)


def test_samples_are_written_without_dropout(small_run, tmp_path, monkeypatch):
    modes = []

    def spy(model, *arguments, **settings):
        modes.append(model.training)
        return generate(model, *arguments, **settings)

    monkeypatch.setattr(callbacks, "generate", spy)
    train(small_run("model.dropout=0.5"), tmp_path / "run")
    assert modes == [False, False]


def test_final_figures_are_those_of_the_stored_weights(small_run, tmp_path):
    folder = tmp_path / "run"
    summary = train(small_run(), folder)
    for checkpoint, key in (("last", "validation"), ("best", "best/validation")):
        run = restore(folder, checkpoint)
        loss = evaluate(run.model, split_of_run(run, "validation")).loss
        assert loss == pytest.approx(summary[f"{key}/loss"], rel=1e-12)
    run = restore(folder)
    loss = evaluate(run.model, split_of_run(run, "test")).loss
    assert loss == pytest.approx(summary["test/loss"], rel=1e-12)


def test_best_is_the_lowest_validation_loss_and_not_the_last(small_run, tmp_path):
    folder = tmp_path / "run"
    # Memorises a tiny training text, so that held-out text gets ever less likely.
    config = small_run(
        "data.max_tokens=400",
        "data.validation_size=100",
        "data.test_size=100",
        "data.batch_size=2",
        "training.epochs=60",
        "training.validate_every=5",
        "optimizer.name=adam",
        "optimizer.learning_rate=0.03",
    )
    summary = train(config, folder)
    losses = dict(curve(folder, "validation/loss"))
    assert summary["best/step"] == min(losses, key=losses.get) < summary["steps"]
    assert summary["best/validation/loss"] < summary["validation/loss"]


def test_the_last_step_is_validated_whatever_the_interval(small_run, tmp_path):
    folder = tmp_path / "run"
    summary = train(small_run("training.steps=7", "training.validate_every=100"), folder)
    assert (summary["steps"], summary["best/step"], summary["epochs"]) == (7, 7, 0)
    assert summary["best/validation/loss"] == summary["validation/loss"]
    assert [step for step, _ in curve(folder, "validation/loss")] == [7]


@pytest.mark.parametrize(
    "precision", [pytest.param("bf16-mixed", marks=pytest.mark.bf16), "64-true"]
)
@pytest.mark.parametrize("core", CORES)
def test_other_precisions_learn_the_same(core, precision, small_run, tmp_path):
    settings = f"model.core={core}".split()
    config = small_run(*settings, f"device.precision={precision}")
    losses = train(config, tmp_path / "run")["validation/loss"]
    expected = train(small_run(*settings), tmp_path / "full")["validation/loss"]
    assert losses == pytest.approx(expected, rel=1e-2)
    kind = torch.float64 if precision == "64-true" else torch.float32
    assert {weight.dtype for weight in weights(tmp_path / "run").values()} == {kind}
    assert restore(tmp_path / "run").model.output.weight.dtype == kind


@pytest.mark.parametrize("schedule", list(Schedule))
def test_the_learning_rate_follows_its_schedule(schedule, small_run, tmp_path):
    overrides = [f"optimizer.schedule={schedule}", "optimizer.warmup_steps=10"]
    if schedule is Schedule.multistep:
        overrides.append("optimizer.milestones=[1]")
    train(small_run(*overrides, "training.log_every=1"), tmp_path / "run")
    rates = [rate for _, rate in curve(tmp_path / "run", "learning_rate")]
    assert rates[0] < rates[5] < max(rates)
    match schedule:
        case Schedule.constant:
            assert rates[-1] == 1.0
        case Schedule.linear | Schedule.cosine:
            assert 0 < rates[-1] < 0.02
        case Schedule.multistep:  # in the second of two epochs
            half = len(rates) // 2
            assert set(rates[10:half]) == {1.0}
            assert rates[half + 1 :] == pytest.approx([0.1] * (len(rates) - half - 1))


def test_minutes_end_a_run(small_run, tmp_path):
    config = small_run("training.epochs=null", "training.minutes=0.02", "optimizer.schedule=linear")
    summary = train(config, tmp_path / "run")
    assert summary["status"] == "completed" and summary["steps"] > 0
    rates = [rate for _, rate in curve(tmp_path / "run", "learning_rate")]
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.5 < rates[0] <= 1


def test_a_diverging_run_says_so_and_keeps_its_last_good_checkpoint(
    small_run, tmp_path, monkeypatch
):
    folder, bad_step = tmp_path / "run", 135  # in the second epoch
    config = small_run("training.epochs=4")

    def poison(self, batch, batch_index):
        loss = training_step(self, batch, batch_index)
        if self.global_step == bad_step - 1:
            self.metrics.losses[-1] = loss.detach() * math.nan
        return loss * math.nan if self.global_step >= bad_step - 1 else loss

    training_step = LanguageModelModule.training_step
    monkeypatch.setattr(LanguageModelModule, "training_step", poison)
    with pytest.raises(Diverged, match=f"at step {bad_step}"):
        train(config, folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["diverged_step"]) == ("diverged", bad_step)
    for checkpoint in ("last", "best"):
        assert all(weight.isfinite().all() for weight in weights(folder, checkpoint).values())


def test_weights_that_no_step_has_used_yet_are_checked_before_they_are_saved(
    small_run, tmp_path, monkeypatch
):
    def spoil(self, *arguments):  # after the third update
        LightningModule.optimizer_step(self, *arguments)
        if self.global_step == 2:
            self.model.output.bias.data[0] = math.inf

    monkeypatch.setattr(LanguageModelModule, "optimizer_step", spoil)
    with pytest.raises(Diverged, match="weight model.output.bias is not finite at step 3"):
        train(small_run("training.steps=3", "training.validate_every=9"), tmp_path / "run")
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "diverged"
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_weights_too_large_to_predict_with_are_no_result(small_run, tmp_path):
    config = small_run(
        "training.steps=1",
        "training.validate_every=9",
        "optimizer.learning_rate=1e38",
        "optimizer.clip_norm=null",
    )
    with pytest.raises(Diverged, match="validation perplexity"):
        train(config, tmp_path / "run")
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "diverged"


def test_sigterm_while_the_final_figures_are_made_leaves_a_true_status(
    small_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(session, "final_figures", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as error:
        train(small_run("training.steps=3"), tmp_path / "run")
    assert error.value.code == 143
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("interrupted", 3)


def test_running_out_of_memory_says_what_to_do(small_run, tmp_path, monkeypatch):
    def fail(self, batch, batch_index):
        torch.empty(2**60)

    monkeypatch.setattr(LanguageModelModule, "training_step", fail)
    with pytest.raises(RunFailed, match="out of memory .* smaller data.batch_size"):
        train(small_run(), tmp_path / "run")
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"


def test_a_learning_rate_beyond_reason_diverges(small_run, tmp_path):
    config = small_run("optimizer.learning_rate=1e38", "optimizer.clip_norm=null")
    with pytest.raises(Diverged, match="smaller optimizer.learning_rate"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_step_and_leaves_its_weights_and_a_true_status(
    number, code, small_run, tmp_path, monkeypatch
):
    def interrupt(self, batch, batch_index):
        if self.global_step == 12:
            os.kill(os.getpid(), number)
        return training_step(self, batch, batch_index)

    training_step = LanguageModelModule.training_step
    monkeypatch.setattr(LanguageModelModule, "training_step", interrupt)
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as error:
        train(small_run("training.epochs=50"), tmp_path / "run")
    assert error.value.code == code
    assert signal.getsignal(number) == before
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("interrupted", 13)
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 13


def test_an_error_leaves_a_true_status(small_run, tmp_path, monkeypatch):
    def fail(self, batch, batch_index):
        raise RuntimeError("broken")

    monkeypatch.setattr(LanguageModelModule, "training_step", fail)
    with pytest.raises(RuntimeError, match="broken"):
        train(small_run(), tmp_path / "run")
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"


def test_a_folder_holds_one_run(small_run, tmp_path):
    train(small_run("training.steps=1"), tmp_path / "run")
    before = (tmp_path / "run/summary.json").read_bytes()
    with pytest.raises(SettingsError, match="has a run already"):
        train(small_run("training.steps=1"), tmp_path / "run")
    assert (tmp_path / "run/summary.json").read_bytes() == before


@pytest.mark.parametrize(
    "overrides",
    [
        ["device=gpu"],
        ["data.batch_size=100000"],
        ["data.path=/no/such/file"],
        ["data.level=word", "samples.prompts=[' ']"],
        ["model.hidden_size=100000000"],
        ["trainer.profiler=nonsense"],
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(overrides, small_run, tmp_path):
    if overrides == ["device=gpu"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SettingsError):
        train(small_run(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_fingerprint_is_what_is_trained(small_run):
    original = fingerprint(small_run(), "text")
    for same in (
        "training.epochs=9",
        "device.precision=64-true",
        "data.root=/else",
        "samples.tokens=3",
    ):
        assert fingerprint(small_run(same), "text") == original
    for other in (
        "seed=1",
        "model.hidden_size=17",
        "optimizer.learning_rate=2",
        "data.num_steps=9",
    ):
        assert fingerprint(small_run(other), "text") != original
    assert fingerprint(small_run(), "another text") != original


def test_what_is_no_run_is_refused(small_run, tmp_path):
    with pytest.raises(SettingsError, match="is not a run's folder: it has no config.yaml"):
        restore(tmp_path)
    train(small_run("training.steps=1"), tmp_path / "run")
    (tmp_path / "run/checkpoints/best.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(SettingsError, match="best.ckpt is damaged: its checksum"):
        restore(tmp_path / "run")
    (tmp_path / "run/checkpoints/best.ckpt").unlink()
    with pytest.raises(SettingsError, match="has no best checkpoint"):
        restore(tmp_path / "run")
    (tmp_path / "run/vocabulary.json").write_text("{")
    with pytest.raises(SettingsError, match="is damaged"):
        restore(tmp_path / "run", "last")


def test_a_text_that_has_changed_since_is_refused(small_run, tmp_path):
    config = small_run("training.steps=1")
    train(config, tmp_path / "run")
    with open(config.data.path, "a") as text:
        text.write("more")
    with pytest.raises(SettingsError, match="not the one this run was trained on"):
        split_of_run(restore(tmp_path / "run"), "test")
