import math

import pytest
import torch

from lstm_lm import evaluation
from lstm_lm.config import ModelConfig
from lstm_lm.data import windows
from lstm_lm.data.splits import Split
from lstm_lm.evaluation import Score, evaluate
from lstm_lm.model.language_model import LanguageModel

VOCABULARY = 9


@pytest.fixture
def model():
    return LanguageModel(ModelConfig(hidden_size=8), VOCABULARY).double().eval()


def split(tokens=50):
    return Split(torch.randint(VOCABULARY, (tokens,)), characters=3 * tokens, bytes=4 * tokens)


def nats_by_hand(model, ids):
    """One token after the other, the state carried."""
    nats, state = 0.0, None
    for id_, following in zip(ids[:-1], ids[1:], strict=True):
        logits, state = model(id_.view(1, 1), state)
        nats -= logits.log_softmax(-1)[0, 0, following].item()
    return nats


@pytest.mark.parametrize("steps", [1, 7, 49, 1000])
def test_every_token_but_the_first_counts_once(model, steps, monkeypatch):
    monkeypatch.setattr(windows, "LARGEST_LOGITS", steps * VOCABULARY)
    text = split()
    score = evaluate(model, text)
    assert score.nats == pytest.approx(nats_by_hand(model, text.ids), rel=1e-12)
    assert (score.tokens, score.characters, score.bytes) == (49, 150, 200)
    assert score.unknown == (text.ids[1:] == 0).sum()


@pytest.mark.parametrize("length", [1, 7, 10, 48, 49, 99])
def test_resetting_the_state_scores_each_stretch_alone(model, length, monkeypatch):
    monkeypatch.setattr(evaluation, "ROWS", 3)
    text = split()
    stretches = [text.ids[start : start + length + 1] for start in range(0, 49, length)]
    expected = sum(nats_by_hand(model, stretch) for stretch in stretches)
    assert evaluate(model, text, reset_every=length).nats == pytest.approx(expected, rel=1e-12)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(model):
    for parameter in model.parameters():
        parameter.data.zero_()
    assert evaluate(model, split()).perplexity == pytest.approx(VOCABULARY)


def test_units():
    score = Score(nats=100 * math.log(8), tokens=100, characters=150, bytes=300, unknown=0)
    assert score.perplexity == pytest.approx(8)
    assert score.bits_per_character == pytest.approx(2)
    assert score.bits_per_byte == pytest.approx(1)
    assert Score(1e9, 1, 1, 1, 0).perplexity == math.inf
