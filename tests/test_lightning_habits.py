"""What hands that know Lightning type, does here what it does everywhere, and resumes exactly.

Trainers are plain ones, on the module and the data module alone, or those of the command line.
Each run that trains is also killed, at an instant drawn once by its test's name, and goes on.
"""

import contextlib
import copy
import csv
import functools
import itertools
import json
import os
import random
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fork_server
import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    timer,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.tuner import Tuner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector
from torch.testing import assert_close

from lstm_lm.data import batches
from lstm_lm.data.data_module import TextDataModule
from lstm_lm.errors import Stopped
from lstm_lm.evaluation.score import evaluate
from lstm_lm.experiment import train
from lstm_lm.model.core import detach
from lstm_lm.resume import resume
from lstm_lm.saved.checkpoint_file import load_checkpoint
from lstm_lm.training import session
from lstm_lm.training.module import LanguageModelModule

STEPS_PER_EPOCH = 13
MODEL = {"embedding_size": 8, "hidden_size": 16, "num_layers": 2, "dropout": 0.3}
ADAM = {"name": "adam", "learning_rate": 0.01, "schedule": "cosine", "warmup_steps": 4}


class Killed(BaseException):
    """Where the process is thought to end without being able to do anything more."""


# Where a process can end, and how often a run comes by.
HOOKS = (
    "on_train_batch_start",
    "training_step",
    "on_after_backward",
    "optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_validation_start",
    "validation_step",
    "on_validation_end",
    "on_save_checkpoint",
)


@contextlib.contextmanager
def watched(is_last: Callable[[int, str, int], bool] = lambda *_: False) -> Iterator[list[Any]]:
    """Each call of a module's hooks: its name and step, and the batch; one may be the last.

    Args:
        is_last: by the number of the call, its name and its step.
    """
    calls: list[Any] = []

    def watch(name, original):
        @functools.wraps(original)
        def hook(self, *arguments, **named):
            calls.append((name, self.global_step, self.trainer.fit_loop.batch_idx))
            if is_last(len(calls) - 1, name, self.global_step):
                raise Killed
            return original(self, *arguments, **named)

        return hook

    with pytest.MonkeyPatch.context() as patch:
        for name in HOOKS:
            original = getattr(LanguageModelModule, name)
            patch.setattr(LanguageModelModule, name, watch(name, original))
        yield calls


@contextlib.contextmanager
def killed(hook: str, step: int) -> Iterator[None]:
    """A run that ends in a hook at this step, or the next at which the hook is called."""
    with watched(lambda _, name, at: name == hook and at >= step), pytest.raises(Killed):
        yield


class Points(Logger):
    """Keeps what a logger is given."""

    name = version = "points"

    def __init__(self):
        super().__init__()
        self.all = []

    def log_hyperparams(self, *_, **__): ...

    def log_metrics(self, metrics, step=None):
        self.all += [(step, name, value) for name, value in metrics.items()]

    def of(self, name):
        return {step: value for step, found, value in self.all if found == name}

    def after(self, step):
        """What this project measured after a step, but for how fast it was."""
        own = "learning_rate", "gradient_norm", "tokens"
        return [p for p in self.all if p[0] > step and ("/" in p[1] or p[1] in own)]


class Seen(Callback):
    """Keeps the batches that are trained on, and counts all."""

    def __init__(self):
        self.batches, self.counts = [], Counter()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches.append((trainer.current_epoch, batch_idx, batch.inputs.clone()))

    def on_train_batch_end(self, *_):
        self.counts["train"] += 1

    def on_validation_batch_end(self, *_):
        self.counts["validation"] += 1

    def on_test_batch_end(self, *_):
        self.counts["test"] += 1

    def on_predict_batch_end(self, *_):
        self.counts["predict"] += 1

    def ids(self, epoch):
        return torch.stack([inputs for at, _, inputs in self.batches if at == epoch])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Where a Trainer leaves files that nobody named a folder for."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data_of(text_file):
    """Thirteen batches an epoch."""

    def data_with(**settings):
        small = {"max_tokens": 2000, "batch_size": 8, "num_steps": 16, "evaluation_rows": 4}
        return TextDataModule(text_file, seed=2, **small | settings)

    return data_with


@pytest.fixture
def fit(data_of, tmp_path):
    """What comes of a module that a plain Trainer trains.

    Given a number of steps, a stock ModelCheckpoint saves after every so many.
    """

    def fit_with(make_trainer, ckpt_path=None, every=None, model=MODEL, optimizer=ADAM, **settings):
        points, seen, data = Points(), Seen(), data_of(**settings)
        saving = ModelCheckpoint(
            tmp_path / "saved", "{step}", every_n_train_steps=every, save_top_k=-1
        )
        module = LanguageModelModule(len(data.vocabulary), model, optimizer)
        trainer = make_trainer(callbacks=[seen, saving] if every else [seen], logger=points)
        trainer.fit(module, data, ckpt_path=ckpt_path)
        return SimpleNamespace(trainer=trainer, module=module, data=data, points=points, seen=seen)

    return fit_with


@pytest.fixture
def assert_resumes_exactly(fit, tmp_path, request):
    """Whether a run, killed and resumed by ``fit(ckpt_path=…)``, ends as it does without; the run.

    A stock ModelCheckpoint saves a step that is validated before its validation, so curves are
    compared from the next step on.
    """

    def assert_resumes_exactly_with(make_trainer, every=3, **settings):
        seed_everything(1, verbose=False)
        with watched() as calls:
            whole = fit(make_trainer, every=every, **settings)
        remove_files(tmp_path / "saved")
        chance = random.Random(request.node.name)
        instant = chance.choice([n for n, (_, step, _) in enumerate(calls) if step > every])
        seed_everything(1, verbose=False)
        with watched(lambda number, *_: number == instant), pytest.raises(Killed):
            fit(make_trainer, every=every, **settings)
        newest = max((tmp_path / "saved").glob("*.ckpt"), key=step_of)
        seed_everything(99, verbose=False)  # as another process would have it
        resumed = fit(make_trainer, newest, every=every, **settings)
        assert_equal(state_of(resumed), state_of(whole))
        count = len(resumed.seen.batches)
        assert count >= whole.trainer.global_step - step_of(newest)
        assert_equal(resumed.seen.batches, whole.seen.batches[len(whole.seen.batches) - count :])
        assert resumed.points.after(step_of(newest)) == whole.points.after(step_of(newest))
        return whole

    return assert_resumes_exactly_with


def remove_files(folder):
    for path in folder.iterdir():
        path.unlink()


def step_of(path):
    return int(re.fullmatch(r"step=(\d+)", path.stem)[1])


def state_of(run):
    trainer, (optimizer,) = run.trainer, run.trainer.optimizers
    return {
        "weights": dict(run.module.state_dict()),
        "optimizer": optimizer.state_dict(),
        "schedule": [entry.scheduler.state_dict() for entry in trainer.lr_scheduler_configs],
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
    }


def assert_equal(one, other):
    assert_close(one, other, rtol=0, atol=0)


def plain(**arguments):
    """A Trainer without what is only to be looked at."""
    return Trainer(
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **arguments,
    )


# Budgets.


def test_max_epochs_counts_epochs(assert_resumes_exactly):
    run = assert_resumes_exactly(lambda **more: plain(max_epochs=2, **more))
    assert (run.trainer.current_epoch, run.trainer.global_step) == (2, 2 * STEPS_PER_EPOCH)
    assert list(run.points.of("validation/loss")) == [13, 26]
    assert [epoch for epoch, *_ in run.seen.batches] == 13 * [0] + 13 * [1]
    assert not torch.equal(run.seen.ids(0), run.seen.ids(1))
    assert run.points.of("tokens")[26] == 26 * 8 * 16


def test_max_steps_counts_steps(assert_resumes_exactly):
    run = assert_resumes_exactly(lambda **more: plain(max_steps=20, max_epochs=-1, **more))
    assert run.trainer.global_step == len(run.seen.batches) == 20
    assert run.seen.batches[-1][:2] == (1, 6)
    assert run.points.of("learning_rate")[20] < run.points.of("learning_rate")[10]


def test_max_time_counts_seconds(assert_resumes_exactly, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=lambda: clock.now))

    class OneSecondPerStep(Callback):
        def on_train_batch_start(self, *_):
            clock.now += 1

    def make_trainer(callbacks, **more):
        callbacks = [OneSecondPerStep(), *callbacks]
        return plain(max_time={"seconds": 20}, max_epochs=-1, callbacks=callbacks, **more)

    run = assert_resumes_exactly(make_trainer)
    assert run.trainer.global_step == 20
    assert run.points.of("learning_rate")[20] == pytest.approx(0, abs=1e-4)  # all time is used up


def test_fast_dev_run_tries_one_batch_of_everything_and_keeps_nothing(fit, tmp_path):
    run = fit(lambda **more: plain(fast_dev_run=True, default_root_dir=tmp_path / "root", **more))
    assert run.seen.counts == {"train": 1, "validation": 1}
    assert run.trainer.global_step == 1
    assert not (tmp_path / "root").exists() and run.points.all == []


# Which batches.


def test_overfit_batches_are_the_same_in_every_epoch_and_learned_by_heart(assert_resumes_exactly):
    run = assert_resumes_exactly(
        lambda **more: plain(overfit_batches=2, max_epochs=60, check_val_every_n_epoch=20, **more),
        every=10,
        model={**MODEL, "dropout": 0.0, "num_layers": 1},
        optimizer={"name": "adam", "learning_rate": 0.03},
        batch_size=2,
        num_steps=8,
    )
    assert run.trainer.global_step == 120
    for epoch in range(1, 60):
        assert_equal(run.seen.ids(epoch), run.seen.ids(0))
    assert run.points.of("train/loss")[1] > 2
    assert run.points.of("train/loss")[120] < 0.1


def test_limits_count_batches(assert_resumes_exactly, monkeypatch):
    monkeypatch.setattr(batches, "LARGEST_LOGITS", 256)  # a few tokens in each batch of validation
    run = assert_resumes_exactly(
        lambda **more: plain(
            limit_train_batches=5,
            limit_val_batches=3,
            limit_test_batches=2,
            limit_predict_batches=4,
            max_epochs=2,
            num_sanity_val_steps=0,
            **more,
        )
    )
    assert run.trainer.global_step == 10
    assert run.seen.counts == {"train": 10, "validation": 6}
    run.trainer.test(run.module, run.data, verbose=False)
    assert len(run.trainer.predict(run.module, run.data)) == 4
    assert run.seen.counts["test"] == 2


def test_a_limit_can_be_a_share(assert_resumes_exactly):
    run = assert_resumes_exactly(
        lambda **more: plain(limit_train_batches=0.5, max_epochs=3, **more)
    )
    assert run.trainer.global_step == 3 * 6


# When to validate.


def test_half_a_val_check_interval_validates_twice_an_epoch(assert_resumes_exactly):
    run = assert_resumes_exactly(lambda **more: plain(val_check_interval=0.5, max_epochs=2, **more))
    assert list(run.points.of("validation/loss")) == [6, 12, 19, 25]


def test_check_val_every_n_epoch_validates_every_second_epoch(assert_resumes_exactly):
    run = assert_resumes_exactly(
        lambda **more: plain(check_val_every_n_epoch=2, max_epochs=4, **more)
    )
    assert list(run.points.of("validation/loss")) == [26, 52]


# Gradients.


def test_accumulated_gradients_make_fewer_steps(assert_resumes_exactly):
    run = assert_resumes_exactly(
        lambda **more: plain(accumulate_grad_batches=2, max_epochs=3, **more)
    )
    assert len(run.seen.batches) == 3 * STEPS_PER_EPOCH
    assert run.trainer.global_step == 3 * 7
    steps = [step for step, name, _ in run.points.all if name == "train/loss"]
    assert steps == list(range(1, 22))  # one point for each


def test_accumulated_gradients_are_the_mean_of_the_batches(fit):
    run = fit(
        lambda **more: plain(accumulate_grad_batches=2, max_steps=1, **more),
        model={**MODEL, "dropout": 0.0},
        optimizer={"name": "sgd", "learning_rate": 1e-9, "clip_norm": None},
    )
    module, state, loss = run.module, None, 0.0
    module.zero_grad()
    for batch in itertools.islice(run.data.train_dataloader().batches_of_epoch(0), 2):
        logits, state = module(batch.inputs, state)
        state = detach(state)
        loss += cross_entropy(logits.flatten(0, 1), batch.targets.flatten()) / 2
    loss.backward()
    norm = torch.cat([weight.grad.flatten() for weight in module.parameters()]).norm()
    assert run.points.of("train/loss")[1] == pytest.approx(loss.item(), rel=1e-5)
    assert run.points.of("gradient_norm")[1] == pytest.approx(norm.item(), rel=1e-5)


def test_gradient_clip_val_bounds_each_step(assert_resumes_exactly):
    class Moves(Callback):
        def on_train_start(self, trainer, module):
            self.weights, self.lengths = parameters_to_vector(module.parameters()).clone(), []

        def on_train_batch_end(self, trainer, module, *_):
            weights = parameters_to_vector(module.parameters()).clone()
            self.lengths.append((weights - self.weights).norm())
            self.weights = weights

    def make_trainer(callbacks, **more):
        callbacks = [Moves(), *callbacks]
        return plain(gradient_clip_val=0.05, max_epochs=2, callbacks=callbacks, **more)

    run = assert_resumes_exactly(make_trainer, optimizer={"name": "sgd", "learning_rate": 0.5})
    assert min(run.points.of("gradient_norm").values()) > 0.05  # before they are clipped
    lengths = torch.stack(run.trainer.callbacks[0].lengths)
    assert_close(lengths, torch.full((26,), 0.5 * 0.05), rtol=1e-3, atol=0)


# Callbacks.


def test_early_stopping_stops_when_validation_no_longer_improves(assert_resumes_exactly):
    def make_trainer(callbacks, **more):
        stopping = EarlyStopping("validation/loss", min_delta=10, patience=2)
        return plain(max_epochs=10, callbacks=[stopping, *callbacks], **more)

    run = assert_resumes_exactly(make_trainer, every=5)
    assert (run.trainer.current_epoch, run.trainer.global_step) == (3, 3 * STEPS_PER_EPOCH)


def test_the_best_checkpoints_by_validation_loss_are_kept(assert_resumes_exactly, tmp_path):
    folders, made = iter(["whole", "cut", "cut"]), []

    def make_trainer(callbacks, **more):
        folder = tmp_path / next(folders)
        made.append(ModelCheckpoint(folder, "{step}", monitor="validation/loss", save_top_k=2))
        return plain(max_epochs=5, callbacks=[*callbacks, made[-1]], **more)

    rates = {"name": "sgd", "learning_rate": 30, "clip_norm": None}  # too large for a steady fall
    run = assert_resumes_exactly(make_trainer, every=5, optimizer=rates)
    losses = run.points.of("validation/loss")
    assert list(losses) == [13, 26, 39, 52, 65]
    best = sorted(losses, key=losses.get)[:2]  # which they are depends on how a processor rounds
    whole, _, resumed = made
    assert {step_of(path) for path in (tmp_path / "whole").iterdir()} == set(best)
    assert step_of(Path(whole.best_model_path)) == best[0]
    scores = [sorted(end.best_k_models.values()) for end in (whole, resumed)]
    assert scores[0] == scores[1] == pytest.approx([losses[step] for step in best])


def test_learning_rate_monitor_shows_the_schedule(assert_resumes_exactly):
    def make_trainer(callbacks, **more):
        monitor = LearningRateMonitor("step")
        return plain(max_epochs=2, callbacks=[monitor, *callbacks], **more)

    run = assert_resumes_exactly(make_trainer)
    shown, own = run.points.of("lr-Adam"), run.points.of("learning_rate")
    assert len(shown) == 26
    assert list(shown.values()) == list(own.values())
    assert max(own.values()) < 0.01 and own[26] < own[4] / 10


def test_weight_averaging_validates_and_keeps_the_average(assert_resumes_exactly):
    class ByHand(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            weights = parameters_to_vector(module.parameters()).clone()
            before = getattr(self, "average", weights)
            self.average = 0.9 * before + 0.1 * weights

    def make_trainer(callbacks, **more):
        callbacks = [ByHand(), EMAWeightAveraging(decay=0.9), *callbacks]
        return plain(max_epochs=2, callbacks=callbacks, **more)

    run = assert_resumes_exactly(make_trainer)
    average = run.trainer.callbacks[0].average
    assert_close(parameters_to_vector(run.module.parameters()), average)
    (figures,) = run.trainer.validate(run.module, run.data, verbose=False)
    assert figures["validation/loss"] == pytest.approx(run.points.of("validation/loss")[26])


# Loggers.


def rows_of(file):
    """What a CSV file has, by step and name; none but this project's figures of the run."""
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {
        (int(row["step"]), name): float(value)
        for row in rows
        for name, value in row.items()
        if value and ("/" in name or name in ("learning_rate", "gradient_norm", "tokens"))
    }


def events_of(folder):
    """The same of TensorBoard's files."""
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return {
        (event.step, tag): event.value
        for tag in events.Tags()["scalars"]
        if "/" in tag or tag in ("learning_rate", "gradient_norm", "tokens")
        for event in events.Scalars(tag)
    }


def points_of(run):
    return {(step, name): value for step, name, value in run.points.after(-1)}


def after(points, step):
    return {point: value for point, value in points.items() if point[0] > step}


def assert_going_on(resumed, whole):
    """Whether a resumed run's points are the last of the whole one's."""
    first = min(step for step, _ in resumed)
    assert 3 < first < 26 and after(resumed, first) == after(whole, first)


def test_csv_logger_has_each_point(assert_resumes_exactly, tmp_path):
    def make_trainer(logger, **more):
        return plain(max_epochs=2, logger=[CSVLogger(tmp_path, name="csv"), logger], **more)

    run = assert_resumes_exactly(make_trainer)
    whole, _, resumed = (
        rows_of(tmp_path / f"csv/version_{number}/metrics.csv") for number in range(3)
    )
    assert whole == points_of(run)
    assert {(13, "validation/loss"), (26, "validation/perplexity"), (1, "train/loss")} <= {*whole}
    assert_going_on(resumed, whole)


def test_tensorboard_logger_has_each_point(assert_resumes_exactly, tmp_path):
    def make_trainer(logger, **more):
        return plain(max_epochs=2, logger=[TensorBoardLogger(tmp_path), logger], **more)

    run = assert_resumes_exactly(make_trainer)
    whole, _, resumed = (
        events_of(tmp_path / f"lightning_logs/version_{number}") for number in range(3)
    )
    assert whole == pytest.approx(points_of(run), rel=1e-6)
    assert_going_on(resumed, whole)


def test_two_loggers_have_the_same_points(assert_resumes_exactly, tmp_path):
    def make_trainer(logger, **more):
        two = [TensorBoardLogger(tmp_path, name="one"), CSVLogger(tmp_path, name="two")]
        return plain(max_epochs=2, logger=[*two, logger], val_check_interval=0.5, **more)

    assert_resumes_exactly(make_trainer)
    for number in range(3):
        events = events_of(tmp_path / f"one/version_{number}")
        rows = rows_of(tmp_path / f"two/version_{number}/metrics.csv")
        assert events and events == pytest.approx(rows, rel=1e-6)


# To look closer.


def test_the_profiler_times_each_step(assert_resumes_exactly, tmp_path):
    def make_trainer(**more):
        profiler = SimpleProfiler(dirpath=tmp_path, filename="profile")
        return plain(profiler=profiler, max_epochs=2, **more)

    run = assert_resumes_exactly(make_trainer)
    assert len(run.trainer.profiler.recorded_durations["run_training_batch"]) == 26
    assert "run_training_batch" in (tmp_path / "fit-profile.txt").read_text()


def test_detect_anomaly_names_the_operation(assert_resumes_exactly, fit):
    class Overflow(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == 2:
                next(module.model.parameters()).data.fill_(float("inf"))

    def make_trainer(callbacks, **more):
        return plain(detect_anomaly=True, max_steps=5, callbacks=callbacks, **more)

    with pytest.raises(RuntimeError, match="Backward.* returned nan values"):
        fit(lambda callbacks, **more: make_trainer([Overflow(), *callbacks], **more))
    run = assert_resumes_exactly(make_trainer, every=1)
    assert run.trainer.global_step == 5


# Without training.


def test_validate_scores_the_validation_text(fit):
    run = fit(lambda **more: plain(max_epochs=1, **more), evaluation_rows=1)
    (figures,) = plain(logger=False).validate(run.module, run.data, verbose=False)
    score = evaluate(run.module.model.eval(), run.data.splits.validation)
    assert figures["validation/loss"] == pytest.approx(score.loss, rel=1e-6)
    assert figures["validation/perplexity"] == pytest.approx(score.perplexity, rel=1e-5)
    bits = figures["validation/bits_per_character"]
    assert bits == pytest.approx(score.bits_per_character, rel=1e-6)
    assert figures["validation/loss"] == pytest.approx(run.points.of("validation/loss")[13])


def test_test_scores_every_token_of_the_test_text(fit):
    run = fit(lambda **more: plain(max_epochs=1, **more))
    (figures,) = plain(logger=False).test(run.module, run.data, verbose=False)
    score = evaluate(run.module.model.eval(), run.data.splits.test)
    assert figures["test/loss"] == pytest.approx(score.loss, rel=1e-6)
    assert score.tokens == len(run.data.splits.test.ids) - 1


def test_predict_gives_log_probabilities_of_the_next_token(fit, monkeypatch):
    monkeypatch.setattr(batches, "LARGEST_LOGITS", 256)  # several batches
    run = fit(lambda **more: plain(max_epochs=1, **more))
    parts = plain(logger=False).predict(run.module, run.data)
    assert len(parts) > 5
    predicted, ids = torch.cat(parts), run.data.splits.test.ids.long()
    assert predicted.shape == (len(ids) - 1, 1, len(run.data.vocabulary))
    assert_close(predicted.exp().sum(-1), torch.ones(len(ids) - 1, 1))
    score = evaluate(run.module.model.eval(), run.data.splits.test)
    assert -predicted[:, 0].gather(1, ids[1:, None]).mean().item() == pytest.approx(score.loss)


# Checkpoints.


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("core", ["scratch", "builtin", "fused"])
def test_a_module_is_loaded_from_a_checkpoint_alone_and_can_be_copied(
    core, precision, fit, tmp_path
):
    model = {**MODEL, "core": core} | ({"backend": "torch"} if core == "fused" else {})
    run = fit(lambda **more: plain(max_steps=3, precision=precision, **more), model=model)
    file = tmp_path / "some.ckpt"
    run.trainer.save_checkpoint(file)
    loaded = LanguageModelModule.load_from_checkpoint(file, weights_only=True)
    copied = copy.deepcopy(run.module)
    ids = run.data.splits.test.ids[:20, None].long()
    run.module.eval()
    for module in loaded.eval(), copied.eval():
        assert_close(module(ids), run.module(ids))
        assert module.hparams["optimizer"] == run.module.hparams["optimizer"]
        assert module.learning_rate == ADAM["learning_rate"]
    with torch.no_grad():
        next(copied.parameters()).zero_()
    assert_close(loaded(ids), run.module(ids))


def test_fit_goes_on_from_the_last_file(fit, tmp_path):
    def make_trainer(callbacks, **more):
        last = ModelCheckpoint(tmp_path / "last", every_n_train_steps=5, save_last=True)
        return plain(max_epochs=2, callbacks=[*callbacks, last], **more)

    seed_everything(1, verbose=False)
    whole = fit(make_trainer)
    remove_files(tmp_path / "last")
    seed_everything(1, verbose=False)
    with killed("optimizer_step", random.Random(0).randrange(15, 20)):
        fit(make_trainer)
    seed_everything(99, verbose=False)
    resumed = fit(make_trainer, ckpt_path="last")
    assert resumed.seen.batches[0][:2] == (1, 2) and len(resumed.seen.batches) == 11
    assert_equal(state_of(resumed), state_of(whole))


# What the Tuner finds.


def test_lr_find_sets_the_learning_rate_that_training_then_uses(data_of, tmp_path):
    data = data_of()
    module = LanguageModelModule(len(data.vocabulary), MODEL, {"name": "adam"})
    before, weights = module.learning_rate, copy.deepcopy(module.state_dict())
    points = Points()
    trainer = plain(max_epochs=1, default_root_dir=tmp_path, logger=points)
    found = Tuner(trainer).lr_find(module, data, min_lr=1e-4, num_training=30)
    assert module.learning_rate == found.suggestion() != before
    assert_equal(dict(module.state_dict()), dict(weights))
    trainer.fit(module, data)
    assert trainer.global_step == STEPS_PER_EPOCH
    assert set(points.of("learning_rate").values()) == {module.learning_rate}
    assert module.hparams["optimizer"]["learning_rate"] == module.learning_rate


def test_the_batch_size_that_is_found_is_that_of_training(data_of, tmp_path):
    data = data_of(batch_size=4)
    module = LanguageModelModule(len(data.vocabulary), MODEL, ADAM)
    seen = Seen()
    trainer = plain(max_epochs=1, default_root_dir=tmp_path, logger=False, callbacks=[seen])
    Tuner(trainer).scale_batch_size(module, datamodule=data, init_val=2, max_trials=4)
    assert data.batch_size == data.config.batch_size == 16
    trainer.fit(module, data)
    assert {inputs.shape for _, _, inputs in seen.batches} == {(16, 16)}
    assert trainer.global_step == 6


# Several devices.

SCRIPT = """
import sys

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lstm_lm.data.data_module import TextDataModule
from lstm_lm.training import session
from lstm_lm.training.module import LanguageModelModule

text, folder, devices = sys.argv[1], sys.argv[2], int(sys.argv[3])
strategy = "ddp" if devices > 1 else "auto"


class Killed(BaseException): ...


class Killer(Callback):
    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_step == 17:
            raise Killed


def train(name, seed, dropout, ckpt_path=None, callbacks=()):
    seed_everything(seed, verbose=False)
    data = TextDataModule(text, max_tokens=2000, batch_size=8, num_steps=16, evaluation_rows=4)
    model = {"embedding_size": 8, "hidden_size": 16, "num_layers": 2, "dropout": dropout}
    module = LanguageModelModule(len(data.vocabulary), model, {"name": "adam"})
    module.learning_rate = 0.01
    saving = ModelCheckpoint(f"{folder}/{name}", "{step}", every_n_train_steps=5, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_epochs=2,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        callbacks=[*callbacks, saving], logger=CSVLogger(folder, name, ""),
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    assert trainer.world_size == devices
    trainer.save_checkpoint(f"{folder}/{name}.ckpt")


train("even", 1, 0.0)
if devices > 1:
    train("whole", 1, 0.3)
    try:
        train("cut", 1, 0.3, callbacks=[Killer()])
    except Killed:
        train("resumed", 99, 0.3, ckpt_path=f"{folder}/cut/step=15.ckpt")
"""


def test_two_devices_learn_what_one_does_and_resume_exactly(text_file, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    for devices in "1", "2":
        command = [sys.executable, tmp_path / "train.py", text_file, tmp_path / devices, devices]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}

        fork_server.run(command, check=True, timeout=300, env=environment, capture_output=True)
    one, two = (torch.load(tmp_path / n / "even.ckpt", weights_only=True) for n in "12")
    assert one["global_step"] == two["global_step"] == 26
    assert_close(two["state_dict"], one["state_dict"], rtol=1e-3, atol=1e-5)
    rows = [rows_of(tmp_path / n / "even/metrics.csv") for n in "12"]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
    whole, resumed = (
        torch.load(tmp_path / "2" / f"{name}.ckpt", weights_only=True)
        for name in ("whole", "resumed")
    )
    for part in "state_dict", "optimizer_states", "global_step":
        assert_equal(resumed[part], whole[part])
    kept, again = (rows_of(tmp_path / f"2/{name}/metrics.csv") for name in ("whole", "resumed"))
    assert after(again, 15) == after(kept, 15)


# The command line.


@pytest.fixture
def command(type_command, text_file, tmp_path):
    """A small run by the command line; its folder and output."""

    def run(*typed):
        small = (
            "data=text_file",
            f"data.path={text_file}",
            "data.max_tokens=2000",
            "data.batch_size=8",
            "data.num_steps=16",
            "data.evaluation_rows=4",
            "model.hidden_size=16",
            "training.epochs=2",
            "training.log_every=1",
            "samples.tokens=5",
            "device=cpu",
        )
        code, output, errors = type_command("train.py", *small, "hydra.run.dir=run", *typed)
        assert (code, errors) == (0, "")
        return tmp_path / "run", output

    return run


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_logger_chooses_loggers(command):
    folder, _ = command("logger=[tensorboard,csv]")
    rows, events = rows_of(folder / "metrics.csv"), events_of(folder)
    assert {(1, "train/loss"), (13, "validation/loss"), (26, "validation/loss")} <= {*rows}
    assert rows == pytest.approx({point: events[point] for point in rows}, rel=1e-6)


def test_without_a_logger_there_are_no_curves(command):
    folder, _ = command("logger=none")
    assert summary_of(folder)["steps"] == 26
    assert not list(folder.glob("events*")) and not list(folder.glob("metrics*"))


def test_callbacks_choose_callbacks(command):
    stopping = "patience=1", "min_delta=10"
    typed = (f"callbacks.early_stopping.{setting}" for setting in stopping)
    folder, _ = command("callbacks=[early_stopping,lr_monitor]", "training.epochs=10", *typed)
    assert (summary_of(folder)["epochs"], summary_of(folder)["steps"]) == (2, 26)
    events = EventAccumulator(str(folder)).Reload()
    assert [event.value for event in events.Scalars("lr-SGD")]


def test_debug_fast_tries_everything_and_keeps_nothing(command):
    folder, output = command("debug=fast")
    assert not folder.exists()
    assert "nothing is saved" in output


def test_debug_overfit_learns_a_batch_by_heart(command):
    adam = "optimizer.name=adam", "optimizer.learning_rate=0.03", "data.batch_size=2"
    with watched() as calls:
        folder, _ = command("debug=overfit", "training.epochs=200", *adam)
    assert {batch for name, _, batch in calls if name == "training_step"} == {0}
    losses = [value for (_, name), value in events_of(folder).items() if name == "train/loss"]
    assert len(losses) == 200 and losses[0] > 2 and losses[-1] < 0.1


def test_debug_limit_shortens_epochs(command):
    folder, _ = command("debug=limit", "trainer.limit_train_batches=4")
    assert (summary_of(folder)["epochs"], summary_of(folder)["steps"]) == (2, 8)


def test_debug_profile_prints_where_the_time_goes(command):
    _, output = command("debug=profile")
    assert re.search(r"run_training_batch\s+\|\s+\S+\s+\|\s+26\s", output)


def test_debug_anomaly_has_pytorch_look_at_each_gradient(command, monkeypatch):
    def on_after_backward(self):
        modes.append(torch.is_anomaly_enabled())

    modes = []
    monkeypatch.setattr(LanguageModelModule, "on_after_backward", on_after_backward)
    command("debug=anomaly", "training.epochs=1")
    assert modes == 13 * [True]


def test_trainer_arguments_reach_the_trainer(command):
    folder, _ = command("trainer.accumulate_grad_batches=2", "trainer.val_check_interval=6")
    assert summary_of(folder)["steps"] == 2 * 7
    steps = [step for step, name in events_of(folder) if name == "validation/loss"]
    assert steps == [3, 6, 10, 13, 14]


# Runs of this project: whatever they are given, they go on exactly, curves included.


EVERYTHING = (
    "model.num_layers=2",
    "model.dropout=0.3",
    "optimizer.name=adam",
    "optimizer.learning_rate=0.01",
    "optimizer.schedule=cosine",
    "optimizer.warmup_steps=4",
    "training.log_every=7",
    "checkpoint.every_steps=3",
)
STOPPING = (
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=1",
    "callbacks.early_stopping.min_delta=10",
)
AVERAGING = "callbacks=ema", "callbacks.ema.decay=0.9"
TAIL = "callbacks=tail_averaging", "callbacks.tail_averaging.share=0.5"
GROWING = (
    "callbacks=gradient_accumulation_schedule",
    "+callbacks.gradient_accumulation_schedule.scheduling={1:2,2:3}",
)
GIVEN = {
    "two validations an epoch": ["trainer.val_check_interval=0.5"],
    "validation every five batches": ["trainer.val_check_interval=5"],
    "accumulation": ["trainer.accumulate_grad_batches=2"],
    "accumulation and validation between": [
        "trainer.accumulate_grad_batches=2",
        "trainer.val_check_interval=3",
    ],
    "early stopping": [*STOPPING, "training.epochs=9"],
    "early stopping in mid-epoch": [
        *STOPPING,
        "training.epochs=9",
        "trainer.val_check_interval=0.5",
    ],
    "average": AVERAGING,
    "average and two validations an epoch": [*AVERAGING, "trainer.val_check_interval=0.5"],
    "average and accumulation": [*AVERAGING, "trainer.accumulate_grad_batches=2"],
    "average in double precision": [*AVERAGING, "device.precision=64-true"],
    "tail average and two validations an epoch": [*TAIL, "trainer.val_check_interval=0.5"],
    "varying windows and accumulation": [
        "data.variable_num_steps=true",
        "trainer.accumulate_grad_batches=2",
    ],
    "growing accumulation": GROWING,
    "overfit": ["debug=overfit", "training.epochs=30", "training.validate_every=10"],
    "limit": ["debug=limit", "trainer.limit_train_batches=7"],
    "share": ["trainer.limit_train_batches=0.5"],
    "steps": ["training.epochs=null", "training.steps=20"],
    "epochs and steps": ["training.epochs=3", "training.steps=1000"],
    "sanity validation": ["trainer.num_sanity_val_steps=2"],
}


@pytest.fixture
def assert_run_resumes_exactly(tmp_path, assert_same_end):
    """Whether a run, killed as is said, comes to the same when it is resumed.

    Args:
        killing: with the calls of the whole run, what kills another.
    """

    def assert_run_resumes_exactly_with(config, killing):
        seed_everything(99, verbose=False)
        with watched() as calls:
            train(config, tmp_path / "whole")
        with killing(calls):
            train(config, tmp_path / "cut")
        seed_everything(98, verbose=False)
        resume(tmp_path / "cut", {})
        assert_same_end(tmp_path / "whole", tmp_path / "cut")
        return tmp_path / "whole", tmp_path / "cut"

    return assert_run_resumes_exactly_with


@contextlib.contextmanager
def killed_at(instant):
    with watched(lambda number, *_: number == instant), pytest.raises(Killed):
        yield


@pytest.mark.parametrize("given", GIVEN)
def test_whatever_is_given_a_run_goes_on_exactly(
    given, tiny_run, request, assert_run_resumes_exactly
):
    chance = random.Random(request.node.name)
    assert_run_resumes_exactly(
        tiny_run(*EVERYTHING, *GIVEN[given]),
        lambda calls: killed_at(chance.randrange(len(calls))),
    )


def assert_same_lines(one, other):
    """Whether two CSV files have the same rows, equally often."""

    def lines(file):
        with open(file, newline="") as text:
            rows = list(csv.DictReader(text))
        return [{n: v for n, v in row.items() if n != "tokens_per_second"} for row in rows]

    assert lines(one) == lines(other)


def test_a_run_with_two_loggers_goes_on_in_both(tiny_run, assert_run_resumes_exactly):
    whole, cut = assert_run_resumes_exactly(
        tiny_run(
            *EVERYTHING,
            "logger=[tensorboard,csv]",
            "callbacks=lr_monitor",
            "callbacks.lr_monitor.logging_interval=step",
        ),
        lambda calls: killed("on_after_backward", 20),
    )
    assert_same_lines(whole / "metrics.csv", cut / "metrics.csv")
    rows, events = rows_of(whole / "metrics.csv"), events_of(whole)
    assert {(7, "train/loss"), (39, "validation/loss")} <= {*rows}
    assert rows == pytest.approx({point: events[point] for point in rows}, rel=1e-6)


@pytest.mark.parametrize("budget", ["training.epochs=3", "training.steps=20"])
def test_a_budget_of_steps_counts_epochs_after_one_that_was_complete(
    budget, tiny_run, assert_run_resumes_exactly
):
    settings = "training.steps=1000", budget, "callbacks=lr_monitor"
    assert_run_resumes_exactly(
        tiny_run(*EVERYTHING, *settings), lambda calls: killed("training_step", STEPS_PER_EPOCH)
    )


# When a state may be saved, and from where a run goes on: one rule a test.


def last_of(folder):
    return load_checkpoint(folder / "checkpoints/last.ckpt")


def test_a_loader_asks_for_its_position_when_iteration_begins(data_of):
    loader = data_of().train_dataloader()
    position = [0, 0]
    loader.position = lambda: tuple(position)
    position[:] = [3, 5]  # as Lightning does when it restores its counters
    expected = list(loader.batches_of_epoch(3))[5:]
    assert_equal([batch.inputs for batch in loader], [batch.inputs for batch in expected])


def test_lightning_takes_the_loader_for_one_that_goes_on_in_mid_epoch(fit, tmp_path):
    run = fit(lambda **more: plain(max_steps=5, **more), every=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = fit(lambda **more: plain(max_steps=9, **more), tmp_path / "saved/step=5.ckpt")
    assert not [warning for warning in caught if "not resumable" in str(warning.message)]
    assert [at for _, at, _ in run.seen.batches + again.seen.batches] == list(range(9))


def test_numbers_drawn_while_a_run_is_set_up_change_nothing(assert_resumes_exactly):
    class Drawing(Callback):
        def setup(self, trainer, module, stage):
            self.is_resumed = trainer.ckpt_path is not None

        def on_fit_start(self, *_):
            torch.rand(3 if self.is_resumed else 5)

        on_sanity_check_start = on_sanity_check_end = on_fit_start

    def make_trainer(callbacks, **more):
        return plain(max_epochs=1, callbacks=[Drawing(), *callbacks], **more)

    assert_resumes_exactly(make_trainer)


def test_a_step_that_is_validated_is_saved_after_its_validation(tiny_run, tmp_path):
    config = tiny_run("trainer.val_check_interval=0.5", "checkpoint.every_steps=1")
    with killed("validation_step", 6):
        train(config, tmp_path)
    assert last_of(tmp_path)["global_step"] == 5
    with killed("training_step", 6):
        resume(tmp_path, {})
    saved = last_of(tmp_path)
    assert saved["global_step"] == saved["callbacks"]["RunCheckpoint"]["validated_step"] == 6


def test_the_last_step_of_an_epoch_is_saved_when_the_epoch_has_ended(tiny_run, tmp_path):
    config = tiny_run(*STOPPING, "checkpoint.every_steps=1")
    with killed("on_train_epoch_end", STEPS_PER_EPOCH):
        train(config, tmp_path)
    assert last_of(tmp_path)["global_step"] == 12
    with killed("training_step", STEPS_PER_EPOCH):
        resume(tmp_path, {})
    saved = last_of(tmp_path)
    assert saved["global_step"] == saved["callbacks"]["RunCheckpoint"]["best_step"] == 13
    (stopping,) = (v for k, v in saved["callbacks"].items() if k.startswith("EarlyStopping"))
    assert stopping["best_score"] == saved["callbacks"]["RunCheckpoint"]["best_loss"]


def test_nothing_is_saved_while_gradients_accumulate(tiny_run, tmp_path):
    between = "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=3"
    with watched() as calls:
        train(tiny_run(*between, "checkpoint.every_steps=1"), tmp_path)
    saved = [(step, batch) for name, step, batch in calls if name == "on_save_checkpoint"]
    assert len(saved) == 21 == len({step for step, _ in saved})
    assert all(batch % 2 == 1 or batch == 12 for _, batch in saved)


def test_a_budget_that_ends_in_mid_epoch_leaves_a_file_from_which_training_goes_on(
    tiny_run, tmp_path, assert_same_end
):
    budget = "training.epochs=null", "training.steps=30"
    train(tiny_run(*budget), tmp_path / "whole")
    with watched() as calls:
        train(tiny_run(*budget, "training.steps=20"), tmp_path / "more")
    assert [step for name, step, _ in calls if name == "on_save_checkpoint"] == [13, 20]
    resume(tmp_path / "more", {"training.steps": 30})
    one, other = last_of(tmp_path / "whole"), last_of(tmp_path / "more")
    for part in "state_dict", "optimizer_states", "global_step":
        assert_equal(other[part], one[part])


def test_a_signal_saves_and_does_not_validate_once_more(tiny_run, tmp_path, monkeypatch):
    def on_after_backward(self):
        if self.global_step == 19:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(LanguageModelModule, "on_after_backward", on_after_backward)
    with watched() as calls, pytest.raises(Stopped):
        train(tiny_run(), tmp_path)
    assert last_of(tmp_path)["global_step"] == 20
    assert {step for name, step, _ in calls if name == "validation_step"} == {13}


def test_a_run_that_early_stopping_ended_trains_nothing_when_resumed(tiny_run, tmp_path):
    summary = train(tiny_run(*STOPPING, "training.epochs=9"), tmp_path)
    assert (summary["status"], summary["steps"]) == ("completed", 26)
    with watched() as calls:
        assert resume(tmp_path, {}) == summary
    assert calls == []


AFTER_TRAINING = {
    "early stopping": [*STOPPING, "training.epochs=9"],
    "early stopping in mid-epoch": [
        *STOPPING,
        "training.epochs=9",
        "trainer.val_check_interval=0.5",
    ],
    "average": AVERAGING,
    "average and accumulation": [*AVERAGING, "trainer.accumulate_grad_batches=2"],
    "tail average": TAIL,
    "steps": ["training.epochs=null", "training.steps=20"],
    "steps and two loggers": [
        "training.epochs=null",
        "training.steps=20",
        "logger=[tensorboard,csv]",
        "callbacks=lr_monitor",
    ],
    "average and steps": [*AVERAGING, "training.epochs=null", "training.steps=20"],
}


@pytest.mark.parametrize("given", AFTER_TRAINING)
def test_a_run_killed_when_training_was_done_comes_to_the_same(
    given, tiny_run, assert_run_resumes_exactly, monkeypatch
):
    @contextlib.contextmanager
    def killed_while_scoring(_):
        def final_figures(*_):
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(session, "final_figures", final_figures)
            yield

    config = tiny_run(*EVERYTHING, *AFTER_TRAINING[given])
    folders = assert_run_resumes_exactly(config, killed_while_scoring)
    if "csv" in config.logger:
        assert_same_lines(*(folder / "metrics.csv" for folder in folders))


def test_the_training_loss_of_an_epoch_counts_the_batches_before_a_cut(tiny_run, tmp_path):
    config = tiny_run("training.epochs=1", "checkpoint.every_steps=5", "training.log_every=1")
    with killed("training_step", 11):
        train(config, tmp_path)
    summary = resume(tmp_path, {})
    losses = [v for (_, name), v in events_of(tmp_path).items() if name == "train/loss"]
    assert len(losses) == 13
    mean = torch.tensor(losses).mean()
    assert summary["train/perplexity"] == pytest.approx(mean.exp().item(), rel=1e-5)


def test_nothing_is_saved_while_validation_has_the_average_for_weights(tiny_run, tmp_path):
    config = tiny_run(*AVERAGING, "trainer.val_check_interval=0.5", "checkpoint.every_steps=1")
    with killed("validation_step", 6):
        train(config, tmp_path)
    assert last_of(tmp_path)["global_step"] == 5
    with killed("training_step", 6):
        resume(tmp_path, {})
    saved = last_of(tmp_path)
    assert saved["global_step"] == 6
    average, weights = saved["state_dict"], saved["current_model_state"]
    parts = [torch.cat([part.flatten() for part in state.values()]) for state in (average, weights)]
    assert 0 < (parts[0] - parts[1]).norm() < parts[0].norm()
    before = load_checkpoint(tmp_path / "checkpoints/previous.ckpt")["state_dict"]
    for name, part in average.items():
        assert_close(part, 0.9 * before[name] + 0.1 * weights[name])


def test_a_schedule_of_accumulation_holds_in_the_epoch_that_is_resumed(
    tiny_run, assert_run_resumes_exactly
):
    assert_run_resumes_exactly(
        tiny_run(*EVERYTHING, *GROWING), lambda calls: killed("training_step", 18)
    )
