"""Losses in each mode, by one model; every mode switched on to no effect is a plain score."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from lstm_lm.config import Backend, Cell, CoreName, ModelConfig
from lstm_lm.errors import SettingsError
from lstm_lm.evaluation import monte_carlo_dropout, neural_cache
from lstm_lm.evaluation.dynamic_evaluation import DynamicEvaluation, root_mean_squares
from lstm_lm.evaluation.modes import Modes
from lstm_lm.evaluation.monte_carlo_dropout import (
    MonteCarloDropout,
    has_dropout,
    monte_carlo_losses,
)
from lstm_lm.evaluation.neural_cache import NeuralCache
from lstm_lm.evaluation.score import text_losses
from lstm_lm.evaluation.scorer import adaptive_losses, mean_of_probabilities
from lstm_lm.model.core import detach
from lstm_lm.model.language_model import LanguageModel

VOCABULARY = 7
SCRATCH = ModelConfig(
    core=CoreName.scratch, hidden_size=6, num_layers=2, embedding_size=4, tie_weights=True
)
CONFIGS = {
    "scratch": SCRATCH,
    "builtin": ModelConfig(core=CoreName.builtin, hidden_size=6, second_bias=False),
    "fused": ModelConfig(core=CoreName.fused, backend=Backend.torch, cell=Cell.gru, hidden_size=6),
    "transformer": ModelConfig(cell=Cell.transformer, hidden_size=6, heads=1, context=5),
}
SGD = DynamicEvaluation("sgd", 0.5, segment=7, decay=0.1)
RMS = DynamicEvaluation("rms", 0.01, segment=7, decay=0.1)
CACHE = NeuralCache(window=11, theta=2.0, weight=0.3)
every_core = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
gpu = pytest.param("cuda", marks=pytest.mark.gpu)
every_device = pytest.mark.parametrize("device", ["cpu", gpu])


def build(config=SCRATCH):
    return LanguageModel(config, VOCABULARY).double().eval()


def text(tokens=60, seed=1):
    return torch.randint(VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(seed))


def roots_of(model):
    return [torch.rand_like(w) for w in model.parameters() if w.requires_grad]


def dynamic_losses_by_hand(model, ids, settings, roots):
    model, trained, losses, state = copy.deepcopy(model), copy.deepcopy(model), [], None
    mean = sum(root.mean() for root in roots) / len(roots)
    for inputs, targets in zip(ids[:-1].split(7), ids[1:].split(7), strict=True):
        logits, state = model(inputs.unsqueeze(1), state)
        state = detach(state)
        losses.append(cross_entropy(logits[:, 0], targets, reduction="none").detach())
        model.zero_grad()
        cross_entropy(logits[:, 0], targets).backward()
        pairs = zip(model.parameters(), trained.parameters(), strict=True)
        learned = (pair for pair in pairs if pair[0].requires_grad)
        for (weight, start), root in zip(learned, roots, strict=True):
            scale, decay = 1.0, settings.decay
            if settings.rule == "rms":
                scale, decay = 1 / (root + 2e-5), (settings.decay * root / mean).clamp(max=1)
            weight.data += (
                decay * (start - weight.data) - settings.learning_rate * weight.grad * scale
            )
    return torch.cat(losses)


@every_core
@pytest.mark.parametrize("settings", [SGD, RMS], ids=["sgd", "rms"])
def test_dynamic_evaluation_is_a_step_of_the_rule_after_each_segment(config, settings):
    model, ids = build(config), text()
    roots = roots_of(model)
    expected = dynamic_losses_by_hand(model, ids, settings, roots)
    losses = adaptive_losses(model, ids, Modes(settings), roots)
    torch.testing.assert_close(losses, expected)
    assert (losses - text_losses(model, ids)).abs().max() > 1e-3


@every_device
@every_core
def test_modes_without_effect_give_the_plain_score(config, device):
    model, ids = build(config).to(device), text()
    plain = text_losses(model, ids)
    for modes in (
        Modes(replace(SGD, learning_rate=0.0, decay=0.0)),
        Modes(replace(RMS, learning_rate=0.0)),
        Modes(neural_cache=replace(CACHE, weight=0.0)),
        Modes(replace(SGD, learning_rate=0.0), replace(CACHE, weight=0.0), temperature=1.0),
    ):
        torch.testing.assert_close(adaptive_losses(model, ids, modes, roots_of(model)), plain)
    without_dropout = monte_carlo_losses(model, ids, MonteCarloDropout(3), steps=7)
    torch.testing.assert_close(without_dropout, plain)
    assert text_losses(model, ids, temperature=1.0).equal(plain)


@every_device
@pytest.mark.parametrize(
    "modes",
    [Modes(SGD), Modes(RMS), Modes(neural_cache=CACHE), Modes(SGD, CACHE, temperature=0.8)],
    ids=["sgd", "rms", "cache", "all"],
)
def test_the_text_after_a_token_does_not_change_its_loss(modes, device):
    model, ids = build().to(device), text()
    roots = roots_of(model)
    losses = adaptive_losses(model, ids, modes, roots)
    for last in 1, 6, 7, 8, 30:  # within segments and at both of their ends
        changed = torch.cat([ids[: last + 1], (ids[last + 1 :] + 3) % VOCABULARY])
        after = adaptive_losses(model, changed, modes, roots)
        torch.testing.assert_close(after[:last], losses[:last])
        assert not torch.allclose(after[last:], losses[last:])


@every_device
@every_core
def test_the_model_stays_as_it_is(config, device):
    model, ids = build(replace(config, dropout=0.5, locked_dropout=True)).to(device), text()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    roots = root_mean_squares(model, ids)
    for modes in Modes(SGD, CACHE), Modes(RMS):
        adaptive_losses(model, ids, modes, roots)
    monte_carlo_losses(model, ids, MonteCarloDropout(2), steps=7)
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(module.training for module in model.modules())
    assert torch.get_rng_state().equal(random)


def test_root_mean_squares_are_those_of_segments_of_rows_side_by_side(monkeypatch):
    model, ids = build(), text(121)
    expected, state = [0.0 for _ in model.parameters()], None
    rows = ids[:120].view(6, 20).T, ids[1:].view(6, 20).T
    logits, state = model(rows[0], state)
    cross_entropy(logits.flatten(0, 1), rows[1].flatten()).backward()
    expected = [weight.grad.abs() for weight in model.parameters()]
    torch.testing.assert_close(root_mean_squares(model, ids), expected)
    monkeypatch.setattr("lstm_lm.evaluation.dynamic_evaluation.ROWS", 2)  # three segments each
    longer = [root.square().sum() for root in root_mean_squares(model, ids)]
    whole = [root.square().sum() for root in expected]
    assert all(several > one for several, one in zip(longer, whole, strict=True))


def cache_losses_by_hand(model, ids, settings, temperature):
    features, state = [], None
    model.output.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    logits, _ = model(ids[:-1].unsqueeze(1), state)
    hidden, losses = features[0][:, 0], []
    for t, following in enumerate(ids[1:].tolist()):
        p = (logits[t, 0] / temperature).softmax(0)
        remembered = range(max(0, t - settings.window), t)
        if remembered:
            similar = {i: (settings.theta * hidden[t] @ hidden[i]).exp() for i in remembered}
            found = sum(similar[i] for i in remembered if ids[i + 1] == following)
            p = (1 - settings.weight) * p + settings.weight * found / sum(similar.values())
        losses.append(-p[following].log())
    return torch.stack(losses).detach()


@pytest.mark.parametrize("window", [1, 11, 500])
@pytest.mark.parametrize("scores", [1, 30, 2**22])
def test_the_neural_cache_is_that_of_the_paper(window, scores, monkeypatch):
    monkeypatch.setattr(neural_cache, "LARGEST_SCORES", scores)
    model, ids, settings = build(), text(), replace(CACHE, window=window)
    losses = adaptive_losses(model, ids, Modes(neural_cache=settings, temperature=0.7))
    torch.testing.assert_close(losses, cache_losses_by_hand(model, ids, settings, 0.7))


def test_monte_carlo_dropout_is_the_mean_of_the_probabilities_of_the_passes(monkeypatch):
    model, ids = build(replace(SCRATCH, dropout=0.5)), text()
    settings = MonteCarloDropout(passes=3, seed=5)
    losses = monte_carlo_losses(model, ids, settings, steps=100, temperature=0.7)
    torch.manual_seed(5)
    logits, _ = model.train()(ids[:-1].unsqueeze(1).expand(-1, 3))
    mean = (logits / 0.7).softmax(-1).mean(1)
    torch.testing.assert_close(losses, -mean[range(59), ids[1:]].log().detach())
    model.eval()
    assert monte_carlo_losses(model, ids, settings, 100, 0.7).equal(losses)
    assert not monte_carlo_losses(model, ids, replace(settings, seed=6), 100, 0.7).equal(losses)
    # With two rows at a time three passes are still three, and none of them counts twice.
    monkeypatch.setattr(monte_carlo_dropout, "LARGEST_LOGITS", 2 * 100 * VOCABULARY)
    parts = monte_carlo_losses(model, ids, settings, steps=100, temperature=0.7)
    torch.manual_seed(5)
    passes = [model.train()(ids[:-1].unsqueeze(1).expand(-1, rows))[0] for rows in (2, 1)]
    mean = (torch.cat(passes, 1) / 0.7).softmax(-1).mean(1)
    torch.testing.assert_close(parts, -mean[range(59), ids[1:]].log().detach())


def test_passes_of_monte_carlo_dropout_share_no_dropped_weights():
    model, ids = build(replace(SCRATCH, weight_drop=0.5)), text()
    losses = monte_carlo_losses(model, ids, MonteCarloDropout(passes=2, seed=5), steps=100)
    torch.manual_seed(5)
    passes = [model.train()(ids[:-1].unsqueeze(1))[0] for _ in range(2)]
    mean = torch.cat(passes, 1).softmax(-1).mean(1)
    torch.testing.assert_close(losses, -mean[range(59), ids[1:]].log().detach())


@pytest.mark.parametrize(("layers", "drops"), [(1, False), (2, True)])
def test_dropout_between_layers_needs_two_of_them(layers, drops):
    config = ModelConfig(num_layers=layers, dropout=0.5, output_dropout=0.0)
    assert has_dropout(LanguageModel(config, 7)) == drops


def test_the_temperature_divides_the_logits():
    model, ids = build(), text()
    logits, _ = model(ids[:-1].unsqueeze(1))
    expected = cross_entropy(logits[:, 0] / 0.5, ids[1:], reduction="none").detach()
    torch.testing.assert_close(text_losses(model, ids, temperature=0.5), expected)
    reset = text_losses(model, ids, reset_every=59, temperature=0.5)
    torch.testing.assert_close(reset, expected)
    assert not torch.allclose(text_losses(model, ids, reset_every=9, temperature=0.5), expected)


def test_an_ensemble_is_the_mean_of_the_probabilities():
    probabilities = torch.tensor([[0.5, 0.1], [0.25, 0.3]], dtype=torch.float64)
    mean = mean_of_probabilities(-probabilities.log())
    torch.testing.assert_close(mean, -torch.tensor([0.375, 0.2], dtype=torch.float64).log())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda: DynamicEvaluation("adam"), "the rule must be one of sgd, rms, not adam"),
        (lambda: DynamicEvaluation("sgd", -1), "learning_rate must be >= 0 and finite, not -1"),
        (lambda: DynamicEvaluation("sgd", float("nan")), "not nan"),
        (lambda: DynamicEvaluation(segment=0), "segment must be at least 1 token, not 0"),
        (lambda: DynamicEvaluation(decay=1.5), "decay must be from 0 to 1, not 1.5"),
        (lambda: NeuralCache(window=0), "window must be at least 1 token, not 0"),
        (lambda: NeuralCache(theta=float("inf")), "theta must be >= 0 and finite, not inf"),
        (lambda: NeuralCache(weight=1.0), "lambda must be at least 0 and below 1, not 1.0"),
        (lambda: MonteCarloDropout(0), "at least 1 pass, not 0"),
        (lambda: MonteCarloDropout(1, seed=-1), "the seed must be from 0"),
        (lambda: Modes(temperature=0.0), "temperature must be positive and finite, not 0.0"),
        (lambda: Modes(SGD, None, MonteCarloDropout(2)), "Monte-Carlo dropout cannot be combined"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, reason):
    with pytest.raises(SettingsError, match=reason):
        wrong()
