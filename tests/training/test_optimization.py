import copy
import math

import pytest
import torch
from torch.nn.utils import clip_grad_norm_, parameters_to_vector
from torch.testing import assert_close

from lstm_lm.config import (
    Cell,
    ModelConfig,
    OptimizerConfig,
    OptimizerName,
    Schedule,
    TrainingConfig,
)
from lstm_lm.errors import SettingsError
from lstm_lm.machine import Bfloat16
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.training import muon
from lstm_lm.training.metrics import TrainingMetrics
from lstm_lm.training.muon import orthogonalized
from lstm_lm.training.optimization import (
    build_optimizer,
    build_schedule,
    clip_by_global_norm,
    core_matrices,
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


OF_ADAM = {"beta1": 0.7, "beta2": 0.6}
SETTINGS = {
    "sgd": {"momentum": 0.9, "nesterov": True},
    "rmsprop": {"alpha": 0.8},
    "adam": OF_ADAM,
    "adamw": OF_ADAM,
}
every_muon = pytest.mark.parametrize(
    "bfloat16", [pytest.param(True, marks=pytest.mark.bf16), False], ids=["bfloat16", "without"]
)


@pytest.mark.parametrize("name", SETTINGS)
def test_optimizers_take_their_settings(name):
    config = OptimizerConfig(OptimizerName(name), 0.5, weight_decay=0.1, **SETTINGS[name])
    optimizer = build_optimizer(with_gradients(torch.ones(2)), config)
    assert type(optimizer).__name__.lower() == name
    taken = optimizer.defaults | dict(
        zip(("beta1", "beta2"), optimizer.defaults.get("betas", ()), strict=False)
    )
    expected = {"lr": 0.5, "weight_decay": 0.1, **SETTINGS[name]}
    assert {setting: taken[setting] for setting in expected} == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": OptimizerName.adam, "momentum": 0.9}, "momentum needs optimizer.name=sgd"),
        ({"name": OptimizerName.adamw, "alpha": 0.9}, "alpha needs optimizer.name=rmsprop"),
        ({"beta1": 0.0}, "beta1 needs optimizer.name=adam or adamw or muon, not sgd"),
        ({"nesterov": True}, "nesterov needs optimizer.momentum above 0"),
        ({"name": OptimizerName.adam, "beta2": 1.0}, "beta2 must be at least 0 and below 1"),
    ],
)
def test_settings_of_other_optimizers_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        OptimizerConfig(**settings)


def test_muon_takes_the_matrices_of_the_cores_and_adamw_the_rest():
    config = ModelConfig(hidden_size=6, embedding_size=5, num_layers=2)
    optimizer = optimizer_of(LanguageModel(config, vocabulary_size=9))
    shapes = [[tuple(w.shape) for w in group["params"]] for group in optimizer.param_groups]
    assert shapes[0] == [(24, 5), (24, 6), (24, 6), (24, 6)]
    assert shapes[1] == [(9, 5), (24,), (24,), (24,), (24,), (9, 6), (9,)]


@pytest.mark.parametrize("cell", list(Cell))
def test_the_matrix_of_one_hot_input_is_an_embedding(cell):
    config = ModelConfig(cell, hidden_size=8, embedding_size=None, num_layers=2)
    model = LanguageModel(config, vocabulary_size=9)
    assert {weight.shape[1] for weight in core_matrices(model)} <= {8, 32}


def optimizer_of(model, **settings):
    config = OptimizerConfig(OptimizerName.muon, 0.01, **settings)
    return build_optimizer(model.parameters(), config, matrices=core_matrices(model))


def stepped(optimizer, model, steps):
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=draw)
        optimizer.step()
    return parameters_to_vector(model.parameters()).detach()


@every_muon
def test_muon_and_adamw_step_as_torchs_do(bfloat16, monkeypatch):
    monkeypatch.setattr(muon, "bfloat16_support", lambda _: Bfloat16(bfloat16, ""))
    config = ModelConfig(hidden_size=16, embedding_size=8)
    model = LanguageModel(config, vocabulary_size=9)
    theirs = copy.deepcopy(model)
    matrices = core_matrices(theirs)
    rest = [w for w in theirs.parameters() if not any(w is matrix for matrix in matrices)]
    both = (
        torch.optim.Muon(matrices, 0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, 0.01, betas=(0.8, 0.9), weight_decay=0.1, fused=True),
    )
    ours = optimizer_of(model, weight_decay=0.1, beta1=0.8, beta2=0.9)
    result = stepped(ours, model, range(3))
    for step in range(3):
        for optimizer in both:
            stepped(optimizer, theirs, [step])
    error = 0 if bfloat16 else 2e-3  # torch's rounds to 8 bits
    assert_close(result, parameters_to_vector(theirs.parameters()), rtol=0, atol=error)


def test_muon_goes_on_from_its_state():
    model = LanguageModel(ModelConfig(hidden_size=16, embedding_size=8), vocabulary_size=9)
    optimizer = optimizer_of(model)
    stepped(optimizer, model, [0, 1])
    again = copy.deepcopy(model)
    resumed = optimizer_of(again)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(stepped(optimizer, model, [2]), stepped(resumed, again, [2]))


def test_orthogonalized_singular_values_are_near_one():
    for shape in (12, 5), (5, 12):
        matrix = orthogonalized(torch.randn(shape), (3.4445, -4.7750, 2.0315), 5, 1e-7)
        assert matrix.shape == shape
        values = torch.linalg.svdvals(matrix)
        assert 0.6 < values.min() and values.max() < 1.3


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.constant, [1, 1, 1, 1, 1]),
        (Schedule.linear, [1, 0.75, 0.5, 0.25, 0]),
        (Schedule.cosine, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
        (Schedule.one_cycle, [0.1, 0.6, 0.9, 0.4, 0]),
    ],
)
def test_learning_rate_over_the_budget(schedule, expected):
    config = OptimizerConfig(schedule=schedule)
    factors = [learning_rate_factor(config, quarter, quarter / 4) for quarter in range(5)]
    assert factors == pytest.approx(expected)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_every_schedule_can_warm_up(schedule):
    milestones = [9] if schedule is Schedule.multistep else []
    config = OptimizerConfig(
        learning_rate=2.0, schedule=schedule, warmup_steps=4, milestones=milestones
    )
    optimizer = build_optimizer(with_gradients(torch.zeros(1)), config)
    scheduler = build_schedule(optimizer, config, lambda step: 0.0, lambda: 0.0)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    after = 0.2 if schedule is Schedule.one_cycle else 2.0  # at the beginning of the budget
    assert rates == pytest.approx([after * share for share in (0.25, 0.5, 0.75, 1, 1, 1)])


def test_one_cycle_is_full_at_45_percent_and_low_at_90():
    config = OptimizerConfig(schedule=Schedule.one_cycle)
    factors = [learning_rate_factor(config, 0, spent) for spent in (0.45, 0.9, 0.95)]
    assert factors == pytest.approx([1, 0.1, 0.05])


@pytest.mark.parametrize("settings", [{"steps": 0}, {"minutes": -1.0}, {"epochs": None}])
def test_a_budget_without_an_end_or_a_beginning_is_refused(settings):
    with pytest.raises(SettingsError):
        TrainingConfig(**settings)


def measured(losses, norms):
    metrics = TrainingMetrics()
    metrics.losses += map(torch.tensor, losses)
    metrics.lengths += [1.0] * len(losses)
    metrics.gradient_norms += map(torch.tensor, norms)
    return metrics


def itself(values):
    return values


def test_losses_count_by_the_lengths_of_their_batches():
    metrics = measured([1.0, 4.0], [0.0, 0.0])
    metrics.lengths = [1.5, 0.5]
    assert metrics.read(2, itself).loss == metrics.epoch_loss == 1.75


def test_batches_of_older_checkpoints_are_equally_long():
    metrics = measured([1.0, 2.0], [0.0, 0.0])
    metrics.fetch(2, itself)
    state = metrics.state_dict()
    del state["lengths"]
    resumed = TrainingMetrics()
    resumed.load_state_dict(state)
    assert resumed.epoch_loss == resumed.read(2, itself).loss == 1.5


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


def test_multistep_is_torchs_over_epochs():
    config = OptimizerConfig(schedule=Schedule.multistep, milestones=[2, 3, 5], gamma=0.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3, 5], 0.5)
    for epoch in range(7):
        for done in epoch, epoch + 0.99:
            assert learning_rate_factor(config, 9, 0.1, done) == optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    "settings", [{"milestones": [3]}, {"schedule": Schedule.multistep}, {"milestones": [0]}]
)
def test_milestones_belong_to_multistep(settings):
    with pytest.raises(SettingsError, match="optimizer.milestones"):
        OptimizerConfig(**settings)


def test_gamma_belongs_to_multistep():
    with pytest.raises(SettingsError, match="optimizer.gamma needs optimizer.schedule=multistep"):
        OptimizerConfig(gamma=0.5)
