"""With windows of varying length, each step's learning rate is that of its window."""

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lstm_lm.data.data_module import TextDataModule
from lstm_lm.experiment import train
from lstm_lm.saved.checkpoint_file import load_checkpoint
from lstm_lm.training.module import LanguageModelModule

VARYING = "data.variable_num_steps=true", "training.log_every=1"
LINEAR = "optimizer.name=adam", "optimizer.learning_rate=0.01", "optimizer.schedule=linear"


def curve(folder, name):
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return [event.value for event in events.Scalars(name)]


def lengths_of(config, epochs=3):
    loader = TextDataModule.from_config(config).train_dataloader()
    batches = [batch for number in range(epochs) for batch in loader.batches_of_epoch(number)]
    return [len(batch.inputs) for batch in batches]


def test_the_rate_is_scaled_by_the_windows_length_and_the_schedule_is_not(tiny_run, tmp_path):
    monitor = f"+callbacks.x._target_={LearningRateMonitor.__module__}.LearningRateMonitor"
    config = tiny_run(*VARYING, *LINEAR, monitor, "+callbacks.x.logging_interval=step")
    summary = train(config, tmp_path)
    lengths = lengths_of(config)
    steps = summary["steps"]
    assert steps == len(lengths) and len(set(lengths)) > 5
    schedule = [0.01 * (1 - step / steps) for step in range(steps)]
    expected = [rate * length / 16 for rate, length in zip(schedule, lengths, strict=True)]
    assert curve(tmp_path, "learning_rate") == pytest.approx(expected, rel=1e-5)
    assert curve(tmp_path, "lr-Adam") == pytest.approx(schedule, rel=1e-5, abs=1e-9)
    assert summary["tokens"] == 8 * sum(lengths)


def test_without_a_schedule_the_rate_is_the_same_again_after_each_step(tiny_run, tmp_path):
    config = tiny_run(*VARYING, "optimizer.learning_rate=0.5", "trainer.accumulate_grad_batches=2")
    train(config, tmp_path)
    (optimizer,) = load_checkpoint(tmp_path / "checkpoints/last.ckpt")["optimizer_states"]
    assert [group["lr"] for group in optimizer["param_groups"]] == [0.5]
    lengths = lengths_of(config, epochs=1)
    pairs = [lengths[start : start + 2] for start in range(0, len(lengths), 2)]
    expected = [0.5 * sum(pair) / len(pair) / 16 for pair in pairs]
    assert curve(tmp_path, "learning_rate")[: len(pairs)] == pytest.approx(expected, rel=1e-5)


def test_the_rate_is_scaled_without_this_modules_clipping(tiny_run, tmp_path, monkeypatch):
    rates = []

    def clip(self, optimizer, *_, **__):
        rates.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(LanguageModelModule, "configure_gradient_clipping", clip)
    config = tiny_run(*VARYING, "optimizer.learning_rate=0.5", "training.epochs=1")
    train(config, tmp_path)
    assert rates == pytest.approx([0.5 * length / 16 for length in lengths_of(config, 1)])


def test_the_training_loss_is_the_mean_over_tokens(tiny_run, tmp_path):
    config = tiny_run(*VARYING, "training.epochs=1")
    summary = train(config, tmp_path)
    lengths = torch.tensor(lengths_of(config, epochs=1)).double()
    losses = torch.tensor(curve(tmp_path, "train/loss")).double()
    mean = (losses * lengths).sum() / lengths.sum()
    assert summary["train/perplexity"] == pytest.approx(mean.exp().item(), rel=1e-5)


@pytest.mark.parametrize("optimizer", [LINEAR, ("optimizer.name=muon", "callbacks=tail_averaging")])
def test_a_run_with_varying_windows_goes_on_exactly(
    optimizer, tiny_run, assert_killed_run_goes_on_exactly
):
    config = tiny_run(*VARYING, *optimizer, "training.log_every=7", "checkpoint.every_steps=9")
    assert_killed_run_goes_on_exactly(20, config)
