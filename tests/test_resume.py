"""A run that was cut off and resumed ends with the same bits as one that never stopped."""

import io
import itertools
import json
import os
import random
import signal

import numpy
import pytest
import torch
from lightning import LightningModule, seed_everything

from lstm_lm.errors import Stopped
from lstm_lm.experiment import train
from lstm_lm.resume import resume
from lstm_lm.training import checkpoint
from lstm_lm.training.checkpoint import RunCheckpoint
from lstm_lm.training.module import LanguageModelModule, random_states, set_random_states

STEPS_PER_EPOCH = 13


class Cut(BaseException):
    """Where the process is thought to end without being able to do anything more."""


# Where a run can end. Each takes monkeypatch and the step in the middle of which it is.


def before_the_step(patch, step):
    def training_step(self, batch, batch_idx):
        if self.global_step == step:
            raise Cut
        return original(self, batch, batch_idx)

    original = LanguageModelModule.training_step
    patch.setattr(LanguageModelModule, "training_step", training_step)


def after_the_gradients(patch, step):
    def on_after_backward(self):
        if self.global_step == step:
            raise Cut

    patch.setattr(LanguageModelModule, "on_after_backward", on_after_backward)


def in_the_update(patch, step):
    def optimizer_step(self, *arguments):
        LightningModule.optimizer_step(self, *arguments)
        if self.global_step == step:
            raise Cut

    patch.setattr(LanguageModelModule, "optimizer_step", optimizer_step)


def before_saving(patch, step):
    def save(self, trainer, module):
        if trainer.global_step >= step:
            raise Cut
        original(self, trainer, module)

    original = RunCheckpoint.save
    patch.setattr(RunCheckpoint, "save", save)


def after_saving(patch, step):
    def save(self, trainer, module):
        original(self, trainer, module)
        if trainer.global_step >= step:
            raise Cut

    original = RunCheckpoint.save
    patch.setattr(RunCheckpoint, "save", save)


def before_best_is_copied(patch, step):
    def copy(path, original_file):
        if current["step"] >= step:
            raise Cut
        original(path, original_file)

    def save(self, trainer, module):
        current["step"] = trainer.global_step
        original_save(self, trainer, module)

    current, original, original_save = {}, checkpoint.copy_atomically, RunCheckpoint.save
    patch.setattr(RunCheckpoint, "save", save)
    patch.setattr(checkpoint, "copy_atomically", copy)


def in_validation(patch, step):
    def validation_step(self, batch, batch_idx):
        if self.global_step >= step:
            raise Cut
        original(self, batch, batch_idx)

    original = LanguageModelModule.validation_step
    patch.setattr(LanguageModelModule, "validation_step", validation_step)


def after_validation(patch, step):
    def on_validation_end(self, trainer, *arguments):
        original(self, trainer, *arguments)
        if trainer.global_step >= step:
            raise Cut

    original = RunCheckpoint.on_validation_end
    patch.setattr(RunCheckpoint, "on_validation_end", on_validation_end)


def by_a_signal(patch, step):
    def training_step(self, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    original = LanguageModelModule.training_step
    patch.setattr(LanguageModelModule, "training_step", training_step)


def by_a_signal_in_validation(patch, step):
    def validation_step(self, batch, batch_idx):
        if self.global_step == step and batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, batch, batch_idx)

    original = LanguageModelModule.validation_step
    patch.setattr(LanguageModelModule, "validation_step", validation_step)


MOMENTS = {
    "mid-epoch": (before_the_step, 20),
    "in the last epoch": (before_the_step, 37),
    "before anything was saved": (before_the_step, 2),
    "in the last batch of an epoch": (after_the_gradients, 2 * STEPS_PER_EPOCH - 1),
    "in the first batch of an epoch": (after_the_gradients, STEPS_PER_EPOCH),
    "in the update": (in_the_update, 20),
    "right before a save": (before_saving, 20),
    "right after a save": (after_saving, 20),
    "right after the save at the end of an epoch": (after_saving, 2 * STEPS_PER_EPOCH),
    "before the best is copied": (before_best_is_copied, STEPS_PER_EPOCH),
    "in validation": (in_validation, 2 * STEPS_PER_EPOCH),
    "after validation": (after_validation, 2 * STEPS_PER_EPOCH),
    "in the last validation": (in_validation, 3 * STEPS_PER_EPOCH),
    "by a signal": (by_a_signal, 20),
    "by a signal in the last batch of an epoch": (by_a_signal, 2 * STEPS_PER_EPOCH - 1),
    "by a signal in validation": (by_a_signal_in_validation, 2 * STEPS_PER_EPOCH),
}


def cut_off(config, folder, place):
    where, step = MOMENTS[place]
    with pytest.MonkeyPatch.context() as patch:
        where(patch, step)
        with pytest.raises((Cut, Stopped)):
            train(config, folder)
    assert json.loads((folder / "summary.json").read_text())["status"] in ("failed", "interrupted")


def disturb_random_states():
    """As another process would have them."""
    seed_everything(99, verbose=False)


def assert_goes_on_exactly(config, tmp_path, assert_same_end, place):
    disturb_random_states()
    train(config, tmp_path / "whole")
    cut_off(config, tmp_path / "cut", place)
    disturb_random_states()
    resume(tmp_path / "cut", {})
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


EVERYTHING = (
    "model.num_layers=2",
    "model.dropout=0.3",
    "optimizer.name=adamw",
    "optimizer.learning_rate=1",  # too large, so that not every validation is the best
    "optimizer.schedule=cosine",
    "optimizer.warmup_steps=17",
    "training.log_every=7",
    "checkpoint.every_steps=5",
    "inside.every_epochs=2",
)


@pytest.mark.parametrize("place", MOMENTS)
def test_an_lstm_goes_on_exactly_wherever_it_was_cut_off(
    place, tiny_run, tmp_path, assert_same_end
):
    assert_goes_on_exactly(tiny_run(*EVERYTHING), tmp_path, assert_same_end, place)


def test_double_precision_goes_on_exactly(tiny_run, tmp_path, assert_same_end):
    config = tiny_run("device.precision=64-true", "checkpoint.every_steps=5")
    assert_goes_on_exactly(config, tmp_path, assert_same_end, "mid-epoch")


def test_all_random_states_are_put_back():
    def draw():
        return random.random(), float(numpy.random.normal()), torch.rand(()).item()

    draw()  # of NumPy's normal numbers every second is kept for later
    states = random_states()
    expected = [draw() for _ in range(3)]
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    set_random_states(torch.load(file, weights_only=True))
    assert [draw() for _ in range(3)] == expected


REGULARIZED = (
    "model.dropout=0.4",
    "model.input_dropout=0.2",
    "model.embedding_dropout=0.1",
    "model.locked_dropout=true",
    "model.weight_drop=0.5",
    "model.tie_weights=true",
    "model.skip_connections=true",
    "loss.label_smoothing=0.1",
    "loss.activation_regularization=2",
    "loss.temporal_activation_regularization=1",
    "loss.multi_token_weight=0.3",
)

FACTORS = {
    "model.cell": ["lstm", "gru", "rnn"],
    "core": ["scratch", "builtin", "fused backend=torch", "fused backend=cpp"],
    "data.order": ["consecutive", "random"],
    "regularized": [False, True],
    "optimizer": [
        "name=sgd momentum=0.9",
        "name=rmsprop learning_rate=0.01",
        "name=muon learning_rate=0.01",
    ],
    "optimizer.schedule": ["constant", "cosine", "multistep optimizer.milestones=[1,2]"],
    "training.log_every": [1, 4, 50],
    "checkpoint.every_steps": ["null", 3],
    # One of each kind of folder that is left behind, and one in the update, which is each
    # optimizer's own; an LSTM is cut off at all moments.
    "place": [
        "mid-epoch",
        "in the update",
        "right after a save",
        "before the best is copied",
        "in validation",
        "by a signal",
    ],
}


def pairwise(factors):
    """Cases in which every two values of different factors meet: greedily few."""
    names, cases = list(factors), []
    missing = {
        ((one, a), (two, b))
        for one, two in itertools.combinations(names, 2)
        for a in factors[one]
        for b in factors[two]
    }
    draw = random.Random(0)
    while missing:
        candidates = []
        for _ in range(50):
            (one, a), (two, b) = draw.choice(sorted(missing, key=str))
            case = {name: draw.choice(factors[name]) for name in names} | {one: a, two: b}
            met = missing & set(itertools.combinations(case.items(), 2))
            candidates.append((len(met), len(candidates), case, met))
        _, _, case, met = max(candidates)
        cases.append(case)
        missing -= met
    return cases


CASES = pairwise(FACTORS)


def test_the_cases_are_few_and_meet_in_all_pairs():
    assert len(CASES) <= 33
    met = set().union(*(itertools.combinations(case.items(), 2) for case in CASES))
    for (one, values), (two, others) in itertools.combinations(FACTORS.items(), 2):
        for a, b in itertools.product(values, others):
            assert ((one, a), (two, b)) in met


def test_a_transformer_goes_on_exactly(tiny_run, tmp_path, assert_same_end):
    model = ["model.cell=transformer", "model.heads=2", "model.context=9", "model.dropout=0.2"]
    config = tiny_run(
        *model, "model.num_layers=2", "optimizer.name=adam", "optimizer.learning_rate=0.01"
    )
    assert_goes_on_exactly(config, tmp_path, assert_same_end, "mid-epoch")


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_whatever_is_trained_goes_on_exactly(case, tiny_run, tmp_path, assert_same_end):
    case = dict(case)
    place, optimizer, core = case.pop("place"), case.pop("optimizer"), case.pop("core")
    settings = list(REGULARIZED) if case.pop("regularized") else []
    settings += [part for name, value in case.items() for part in f"{name}={value}".split()]
    settings += [f"model.{setting}" for setting in f"core={core}".split()]
    settings += [f"optimizer.{setting}" for setting in optimizer.split()]
    config = tiny_run("model.num_layers=2", *settings)
    assert_goes_on_exactly(config, tmp_path, assert_same_end, place)
