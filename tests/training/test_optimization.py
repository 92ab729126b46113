import math

import pytest
import torch
from torch.nn.utils import clip_grad_norm_
from torch.testing import assert_close

from lstm_lm.config import OptimizerConfig, OptimizerName, Schedule, TrainingConfig
from lstm_lm.errors import SettingsError
from lstm_lm.training.metrics import TrainingMetrics
from lstm_lm.training.optimization import (
    build_optimizer,
    build_schedule,
    clip_by_global_norm,
    learning_rate_factor,
)


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


@pytest.mark.parametrize("schedule", list(Schedule))
def test_every_schedule_can_warm_up(schedule):
    config = OptimizerConfig(learning_rate=2.0, schedule=schedule, warmup_steps=4)
    optimizer = build_optimizer(with_gradients(torch.zeros(1)), config)
    scheduler = build_schedule(optimizer, config, lambda step: 0.0)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


@pytest.mark.parametrize("settings", [{"steps": 0}, {"minutes": -1.0}, {"epochs": None}])
def test_a_budget_without_an_end_or_a_beginning_is_refused(settings):
    with pytest.raises(SettingsError):
        TrainingConfig(**settings)


def measured(losses, norms):
    metrics = TrainingMetrics()
    metrics.losses += map(torch.tensor, losses)
    metrics.gradient_norms += map(torch.tensor, norms)
    return metrics


def itself(values):
    return values


def test_means_are_read_once():
    metrics = measured([1.0, 2.0], [10.0, 30.0])
    assert metrics.read(2, itself)[:2] == (1.5, 20.0)
    assert metrics.read(2, itself) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient norm"])
@pytest.mark.parametrize("batches", [1, 3])  # of which gradients are accumulated
def test_the_first_bad_step_is_named(what, bad, batches):
    steps = range(11, 21)
    losses = [bad if step >= 14 and what == "loss" else 1.0 for step in steps]
    norms = [bad if step >= 14 and what != "loss" else 1.0 for step in steps]
    metrics = measured([loss for loss in losses for _ in range(batches)], norms)
    metrics.fetch(20, itself)
    assert metrics.not_finite == (what, 14)


def test_a_gradient_that_overflows_is_named_before_the_loss_that_it_spoils():
    metrics = measured([1.0, 1.0, 1.0, math.nan], [1.0, 1.0, math.inf, math.nan])
    metrics.fetch(4, itself)
    assert metrics.not_finite == ("gradient norm", 3)
