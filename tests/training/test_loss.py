import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from lstm_lm.config import CoreName, LossConfig, ModelConfig
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.training.loss import TrainingLoss

IDS, TARGETS = torch.randint(7, (2, 6, 3))


@pytest.fixture
def model():
    return LanguageModel(ModelConfig(hidden_size=8, dropout=0.5), 7).double()


def losses(model, features, **terms):
    return TrainingLoss(LossConfig(**terms), 8).double()(model, features, TARGETS)


def test_each_term_is_that_of_its_paper(model):
    features = model.run_cores(IDS)
    outputs, dropped = features.outputs, features.dropped
    logits = model.output(dropped).flatten(0, 1)
    plain = cross_entropy(logits, TARGETS.flatten())
    smoothed = cross_entropy(logits, TARGETS.flatten(), label_smoothing=0.2)
    expected = {
        "label_smoothing": (0.2, smoothed),
        "activation_regularization": (2, plain + 2 * dropped.pow(2).mean()),
        "temporal_activation_regularization": (
            3,
            plain + 3 * (outputs[1:] - outputs[:-1]).pow(2).mean(),
        ),
    }
    for name, (value, with_term) in expected.items():
        found = losses(model, features, **{name: value})
        assert_close(found.next_token, plain)
        assert_close(found.trained, with_term)
    assert not torch.equal(outputs, dropped)  # so that it matters which of them a term is about
    without = losses(model, features)
    assert without.trained is without.next_token


def test_label_smoothing_is_computed_in_float32():
    # On a CPU autocast leaves log_softmax in bfloat16. Not every processor has oneDNN's LSTM in it.
    model = LanguageModel(ModelConfig(hidden_size=8, core=CoreName.scratch), 7)
    smoothed = TrainingLoss(LossConfig(label_smoothing=0.2), 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = smoothed(model, model.run_cores(IDS), TARGETS)
        logits = model.output(model.run_cores(IDS).dropped).float().flatten(0, 1)
    assert_close(found.trained, cross_entropy(logits, TARGETS.flatten(), label_smoothing=0.2))


def test_tokens_further_ahead_are_predicted_from_the_same_features(model):
    features = model.eval().run_cores(IDS)
    loss = TrainingLoss(LossConfig(multi_token_weight=0.6, tokens_ahead=3), 8).double()
    for head in loss.heads:
        torch.nn.init.eye_(head.weight)
        torch.nn.init.zeros_(head.bias)
    found = loss(model, features, TARGETS)
    logits = model.output(features.dropped)
    further = [
        cross_entropy(logits[:-ahead].flatten(0, 1), TARGETS[ahead:].flatten()) for ahead in (1, 2)
    ]
    assert_close(found.trained, found.next_token + 0.6 * sum(further) / 2)


def test_a_window_of_one_step_has_no_changes(model):
    features = model.run_cores(IDS[:1])
    loss = TrainingLoss(LossConfig(temporal_activation_regularization=1), 8).double()
    assert loss(model, features, TARGETS[:1]).trained.isfinite()
