"""Averaged weights are what validation measures and a checkpoint offers; training keeps its own."""

from unittest.mock import Mock

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector
from torch.testing import assert_close

from lstm_lm.command_line.instantiate import build_callbacks, typed_entries
from lstm_lm.data.data_module import TextDataModule
from lstm_lm.errors import SettingsError
from lstm_lm.evaluation.score import evaluate, split_of_run
from lstm_lm.experiment import train
from lstm_lm.resume import resume
from lstm_lm.saved.checkpoint_file import load_checkpoint
from lstm_lm.saved.load_model import restore
from lstm_lm.training import weight_averaging
from lstm_lm.training.module import LanguageModelModule
from lstm_lm.training.weight_averaging import EMA, NTASGD

STEPS = 3 * 13
ADAM = "optimizer.name=adam", "optimizer.learning_rate=0.01", "model.dropout=0.2"
EMA_HALF = "callbacks=ema", "callbacks.ema.decay=0.5", "callbacks.ema.update_starting_at_step=36"
# What to type, and from the weights after each step the average at the end, worked out by hand.
AVERAGES = {
    "ema": (EMA_HALF, lambda at: 0.25 * at[37] + 0.25 * at[38] + 0.5 * at[39]),
    "tail": (
        # More than 0.9 of 39 steps are done from step 36 on.
        ["callbacks=tail_averaging", "callbacks.tail_averaging.share=0.1"],
        lambda at: (at[36] + at[37] + at[38] + at[39]) / 4,
    ),
    "triggered after step 26": (
        ["callbacks=nt_asgd"],
        lambda at: sum(at[step] for step in range(27, 40)) / 13,
    ),
    "triggered, every four steps": (
        ["callbacks=nt_asgd", "callbacks.nt_asgd.update_every_n_steps=4"],
        lambda at: (at[27] + at[31] + at[35] + at[39]) / 4,
    ),
}
every_average = pytest.mark.parametrize("typed, expected", AVERAGES.values(), ids=AVERAGES)


@pytest.fixture(autouse=True)
def second_validation_triggers(monkeypatch):
    monkeypatch.setattr(weight_averaging, "no_longer_improves", lambda losses, *_: len(losses) == 1)


@pytest.fixture
def weights_after(monkeypatch):
    """The weights of training after each step."""
    after = {}

    def on_train_batch_end(self, *_):
        after[self.global_step] = parameters_to_vector(self.parameters()).clone()

    monkeypatch.setattr(LanguageModelModule, "on_train_batch_end", on_train_batch_end)
    return after


@pytest.fixture
def weights_validated(monkeypatch):
    """The weights of each validation, by the number of steps before it."""
    validated = {}

    def on_validation_epoch_start(self):
        validated[self.global_step] = parameters_to_vector(self.parameters()).clone()
        original(self)

    original = LanguageModelModule.on_validation_epoch_start
    monkeypatch.setattr(LanguageModelModule, "on_validation_epoch_start", on_validation_epoch_start)
    return validated


def weights_in(folder, checkpoint):
    return parameters_to_vector(restore(folder, checkpoint).model.parameters()).detach()


def validated(config, folder):
    """The curve's validation loss by step, and that of the newest weights in the folder."""
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    curve = {event.step: event.value for event in events.Scalars("validation/loss")}
    model, nats, tokens, state = restore(folder, "last").model, 0.0, 0, None
    for batch in TextDataModule.from_config(config).val_dataloader():
        logits, state = model(batch.inputs, state)
        targets = batch.targets.flatten()
        nats += cross_entropy(logits.flatten(0, 1), targets, reduction="sum").item()
        tokens += len(targets)
    return curve, nats / tokens


@every_average
def test_an_average_is_validated_saved_and_scored_and_before_it_the_weights_of_training(
    typed, expected, tiny_run, tmp_path, weights_after, weights_validated
):
    config = tiny_run(*ADAM, *typed)
    summary = train(config, tmp_path)
    assert list(weights_validated) == [13, 26, STEPS]
    for step in 13, 26:
        assert torch.equal(weights_validated[step], weights_after[step])
    average = expected(weights_after)
    assert not torch.allclose(average, weights_after[STEPS])
    assert_close(weights_validated[STEPS], average)
    assert_close(weights_in(tmp_path, "last"), average)
    curve, loss = validated(config, tmp_path)
    assert curve[STEPS] == pytest.approx(loss, rel=1e-5)
    validation = TextDataModule.from_config(config).splits.validation
    scored = evaluate(restore(tmp_path, "last").model, validation)
    assert summary["validation/loss"] == pytest.approx(scored.loss, rel=1e-6)
    live = load_checkpoint(tmp_path / "checkpoints/last.ckpt")["current_model_state"]
    assert_close(torch.cat([part.flatten() for part in live.values()]), weights_after[STEPS])


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("ema", 38),
        ("tail", 38),
        ("triggered after step 26", 20),
        ("triggered, every four steps", 34),
    ],
)
def test_a_run_with_an_average_goes_on_exactly(
    name, step, tiny_run, assert_killed_run_goes_on_exactly
):
    config = tiny_run(*ADAM, *AVERAGES[name][0], "checkpoint.every_steps=5")
    assert_killed_run_goes_on_exactly(step, config)


# By hand: a loss is compared with the lowest of those before the latest five (or two).
HISTORIES = [
    (5, [5, 4, 3, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7], 9),
    (5, [5, 6, 7, 8, 9, 10, 11], 7),
    (5, [9, 8, 7, 6, 5, 4, 3, 2, 1], None),
    (5, [1, 2, 3, 4, 5, 0.9, 0.9], None),
    (2, [3, 1, 2, 1.5, 1.4, 1.3], 5),  # 1.5 < 3, the only one before 1 and 2; 1.4 > 1
    (2, [3, 1, 2, 0.9, 0.8, 1.2, 1.1], 6),
]


@pytest.mark.parametrize(("nonmono", "losses", "expected"), HISTORIES)
def test_the_average_begins_at_the_published_moment(nonmono, losses, expected, monkeypatch):
    monkeypatch.undo()
    callback = NTASGD(nonmono)
    for number, loss in enumerate(losses, start=1):
        trainer = Mock(
            Trainer,
            state=Mock(fn=TrainerFn.FITTING),
            sanity_checking=False,
            callback_metrics={"validation/loss": torch.tensor(loss)},
            global_step=number,
        )
        callback.on_validation_end(trainer, Mock(LightningModule))
    assert callback.first == expected


WRONG = {
    "callbacks.ema.decay=1": "decay must be at least 0 and below 1, not 1",
    "callbacks.ema.update_every_n_steps=0": "update_every_n_steps must be a whole number >= 1",
    "callbacks.tail_averaging.share=0": "share must be above 0 and at most 1, not 0",
    "callbacks.nt_asgd.nonmono=0": "nonmono must be a whole number >= 1, not 0",
}


def callbacks_of(config, tmp_path):
    return build_callbacks(config, tmp_path, typed_entries(config))


@pytest.mark.parametrize("typed", WRONG)
def test_what_cannot_be_averaged_is_one_line(typed, compose, tmp_path):
    name = typed.split(".")[1]
    with pytest.raises(SettingsError, match=f"callbacks.{name} cannot be created: {WRONG[typed]}"):
        callbacks_of(compose(f"callbacks={name}", typed), tmp_path)


def test_two_averages_are_refused(compose, tmp_path):
    for other in "nt_asgd", "swa":
        config = compose(f"callbacks=[ema,{other}]")
        message = f"callbacks.ema and callbacks.{other} both average the weights: choose one"
        with pytest.raises(SettingsError, match=message):
            callbacks_of(config, tmp_path)


SWA = "callbacks=swa", "callbacks.swa.annealing_epochs=1"


@pytest.mark.parametrize(("rate", "best"), [(1, STEPS), (50, 26)])  # of the last epoch
def test_the_average_that_lightning_makes_at_the_end_is_saved(rate, best, tiny_run, tmp_path):
    swa = f"callbacks.swa.swa_lrs={rate}.0", "callbacks.swa.swa_epoch_start=2"
    summary = train(tiny_run(*SWA, *swa), tmp_path)
    assert_files_have(summary, tmp_path)
    assert summary["best/step"] == best
    assert summary["best/validation/loss"] < summary["validation/loss"]
    resumed = resume(tmp_path, {"training.epochs": 4})  # a better one is not lost by that
    assert resumed["best/validation/loss"] <= summary["best/validation/loss"]
    assert_files_have(resumed, tmp_path)


def test_without_an_average_at_the_end_the_weights_of_training_stay(tiny_run, tmp_path):
    early = "training.steps=20", "callbacks.swa.swa_lrs=1.0", "callbacks.swa.swa_epoch_start=3"
    summary = train(tiny_run(*SWA, *early), tmp_path)
    assert_files_have(summary, tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("validation/loss")] == [13, 20]
    train(tiny_run(*SWA, "debug=fast"), tmp_path / "fast")
    with pytest.raises(SettingsError, match="callbacks.swa averages the last epochs: set training"):
        train(tiny_run(*SWA, "training.epochs=null", "training.steps=20"), tmp_path / "steps")


def assert_files_have(summary, folder):
    """Whether the checkpoints have the weights whose figures the summary has."""
    for checkpoint, name in ("last", "validation"), ("best", "best/validation"):
        run = restore(folder, checkpoint)
        loss = evaluate(run.model, split_of_run(run, "validation")).loss
        assert loss == pytest.approx(summary[f"{name}/loss"], rel=1e-12)


def test_a_growing_accumulation_leaves_schedule_and_tail_their_budget(tiny_run, tmp_path):
    growing = "scheduling={1:2,2:3}"
    config = tiny_run(
        "callbacks=[gradient_accumulation_schedule,tail_averaging]",
        f"+callbacks.gradient_accumulation_schedule.{growing}",
        "callbacks.tail_averaging.share=0.3",
        "optimizer.schedule=linear",
        "training.log_every=1",
    )
    steps = train(config, tmp_path)["steps"]
    assert steps == 13 + 7 + 5
    events = EventAccumulator(str(tmp_path)).Reload()
    rates = [event.value for event in events.Scalars("learning_rate")]
    assert rates[-1] == pytest.approx(1 / 39)  # the last group is the last of 39 batches
    state = load_checkpoint(tmp_path / "checkpoints/last.ckpt")["callbacks"]["TailAveraging"]
    assert steps - 6 <= state["first"] < steps


def test_a_new_budget_would_move_the_tail(tiny_run, tmp_path):
    train(tiny_run("callbacks=tail_averaging", "training.epochs=1"), tmp_path)
    with pytest.raises(SettingsError, match="callbacks.tail_averaging averages the last share"):
        resume(tmp_path, {"training.epochs": 2})


def test_a_plain_trainer_tests_the_average_that_a_checkpoint_offers(tiny_run, tmp_path):
    config = tiny_run("optimizer.learning_rate=2")
    data = TextDataModule.from_config(config)
    module = LanguageModelModule.from_config(config, vocabulary_size=len(data.vocabulary))
    kept = ModelCheckpoint(tmp_path, monitor="validation/loss")
    trainer = Trainer(
        max_epochs=2,
        callbacks=[EMA(0.9), kept],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    [of_best] = trainer.test(module, data, ckpt_path="best", verbose=False)
    alone = LanguageModelModule.load_from_checkpoint(kept.best_model_path)
    [of_file] = trainer.test(alone, data, verbose=False)
    assert of_best == of_file
