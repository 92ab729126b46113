import math

import pytest
import torch
from lightning import Trainer
from torch.nn.utils import clip_grad_norm_
from torch.testing import assert_close

from lstm_lm.config import OptimizerConfig, OptimizerName, Schedule, TrainingConfig
from lstm_lm.errors import Diverged, SettingsError
from lstm_lm.training.budget import Budget
from lstm_lm.training.optimization import (
    build_optimizer,
    build_plateau,
    build_schedule,
    clip_by_global_norm,
    learning_rate_factor,
)
from lstm_lm.training.step_log import StepLog


def with_gradients(*gradients):
    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return parameters


def test_gradients_are_scaled_to_the_largest_norm_taken_together():
    parameters = with_gradients(torch.tensor([3.0, 0.0]), torch.tensor([[4.0]]))
    assert clip_by_global_norm(parameters, 1.0).item() == 5.0
    assert_close(parameters[0].grad, torch.tensor([0.6, 0.0]))
    assert_close(parameters[1].grad, torch.tensor([[0.8]]))


@pytest.mark.parametrize("largest", [5.0, 100.0, None])
def test_smaller_gradients_are_left_as_they_are(largest):
    parameters = with_gradients(torch.tensor([3.0, 4.0]))
    assert clip_by_global_norm(parameters, largest).item() == 5.0
    assert parameters[0].grad.tolist() == [3.0, 4.0]


def test_zero_gradients_stay_zero():
    parameters = with_gradients(torch.zeros(3))
    assert clip_by_global_norm(parameters, 1.0).item() == 0.0
    assert parameters[0].grad.tolist() == [0.0] * 3


def test_clipping_is_that_of_torch_but_for_its_small_constant():
    gradients = torch.randn(3, 4), torch.randn(5)
    ours, theirs = with_gradients(*gradients), with_gradients(*gradients)
    clip_by_global_norm([*ours, torch.nn.Parameter(torch.zeros(1))], 0.5)
    clip_grad_norm_(theirs, 0.5)
    for our_one, their_one in zip(ours, theirs, strict=True):
        assert_close(our_one.grad, their_one.grad, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", list(OptimizerName))
def test_optimizers_take_their_settings(name):
    momentum = 0.9 if name is OptimizerName.sgd else 0.0
    config = OptimizerConfig(name, 0.5, momentum=momentum, weight_decay=0.1)
    optimizer = build_optimizer(with_gradients(torch.ones(2)), config)
    assert type(optimizer).__name__.lower() == name
    assert optimizer.defaults["lr"] == 0.5
    assert optimizer.defaults["weight_decay"] == 0.1
    assert optimizer.defaults.get("momentum", 0.0) == momentum


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.constant, [1, 1, 1, 1, 1]),
        (Schedule.linear, [1, 0.75, 0.5, 0.25, 0]),
        (Schedule.cosine, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
    ],
)
def test_learning_rate_over_the_budget(schedule, expected):
    config = OptimizerConfig(schedule=schedule)
    factors = [learning_rate_factor(config, quarter, quarter / 4) for quarter in range(5)]
    assert factors == pytest.approx(expected)


def learning_rates(config, steps, metric=None):
    optimizer = build_optimizer(with_gradients(torch.zeros(1)), config)
    schedule = build_schedule(optimizer, config, lambda step: 0.0)
    plateau = build_plateau(optimizer, config)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        if plateau is not None:
            plateau.step(metric)
    return rates


@pytest.mark.parametrize("schedule", list(Schedule))
def test_every_schedule_can_warm_up(schedule):
    config = OptimizerConfig(learning_rate=2.0, schedule=schedule, warmup_steps=4)
    patient = learning_rates(OptimizerConfig(**vars(config) | {"plateau_patience": 99}), 6, 1.0)
    assert patient == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


def test_the_learning_rate_falls_when_validation_no_longer_improves():
    config = OptimizerConfig(
        learning_rate=1.0,
        schedule=Schedule.plateau,
        plateau_factor=0.5,
        plateau_patience=1,
        warmup_steps=2,
    )
    # The first value is an improvement; then every second failure halves the rate.
    rates = learning_rates(config, 7, metric=3.0)
    assert rates == pytest.approx([0.5, 1, 1, 0.5, 0.5, 0.25, 0.25])


def test_the_budget_that_is_used_up_first_counts(monkeypatch):
    budget = Budget(TrainingConfig(epochs=3, steps=100, minutes=2), steps_per_epoch=10)
    assert [budget.spent(step) for step in (0, 15, 30, 99)] == [0, 0.5, 1, 1]
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    budget.load_state_dict({"seconds": 30.0})  # of an earlier process
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    budget.on_train_start(trainer)
    assert not trainer.should_stop
    now += 60
    assert budget.spent(15) == 0.75
    assert budget.state_dict() == {"seconds": 90.0}
    now += 90
    assert budget.spent(15) == 1


@pytest.mark.parametrize("settings", [{"steps": 0}, {"minutes": -1.0}, {"epochs": None}])
def test_a_budget_without_an_end_or_a_beginning_is_refused(settings):
    with pytest.raises(SettingsError):
        TrainingConfig(**settings)


def test_means_are_read_once():
    log = StepLog()
    for loss, norm in ((1.0, 10.0), (2.0, 30.0)):
        log.losses.append(torch.tensor(loss))
        log.gradient_norms.append(torch.tensor(norm))
    assert log.read(last_step=2) == (1.5, 20.0, 2)
    assert log.read(last_step=2) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_the_first_bad_step_is_named(what, bad):
    log = StepLog()
    for step in range(11, 21):
        is_bad = step >= 14
        log.losses.append(torch.tensor(bad if is_bad and what == "loss" else 1.0))
        log.gradient_norms.append(torch.tensor(bad if is_bad and what != "loss" else 1.0))
    with pytest.raises(Diverged, match=f"the {what} is not finite at step 14") as error:
        log.read(last_step=20)
    assert error.value.step == 14


def test_a_gradient_that_overflows_is_named_before_the_loss_that_it_spoils():
    log = StepLog()
    log.losses += map(torch.tensor, [1.0, 1.0, 1.0, math.nan])
    log.gradient_norms += map(torch.tensor, [1.0, 1.0, math.inf, math.nan])
    with pytest.raises(Diverged, match="the gradient norm is not finite at step 3"):
        log.read(last_step=4)


def test_a_step_cut_off_before_its_gradient_does_not_count():
    log = StepLog()
    log.losses += [torch.tensor(1.0), torch.tensor(5.0)]
    log.gradient_norms.append(torch.tensor(2.0))
    assert log.read(last_step=1) == (1.0, 2.0, 1)
