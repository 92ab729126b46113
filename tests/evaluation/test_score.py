import dataclasses
import math

import numpy as np
import pytest
import torch

from lstm_lm.config import ModelConfig
from lstm_lm.data import batches
from lstm_lm.data.generated import Floor
from lstm_lm.data.splits import Split
from lstm_lm.evaluation import score
from lstm_lm.evaluation.score import AboveFloor, Score, evaluate
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
    monkeypatch.setattr(batches, "LARGEST_LOGITS", steps * VOCABULARY)
    text = split()
    score = evaluate(model, text)
    assert score.nats == pytest.approx(nats_by_hand(model, text.ids), rel=1e-12)
    assert (score.tokens, score.characters, score.bytes) == (49, 150, 200)
    assert score.unknown == (text.ids[1:] == 0).sum()


@pytest.mark.parametrize("length", [1, 7, 10, 48, 49, 99])
def test_resetting_the_state_scores_each_stretch_alone(model, length, monkeypatch):
    monkeypatch.setattr(score, "ROWS", 3)
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


def floor(tokens=50):
    nats = np.random.default_rng(0).uniform(0, 2, tokens)
    from_memory = np.arange(tokens) % 7 == 3
    return Floor(nats, from_memory, begins=np.arange(tokens) % 7 == 0)


def test_a_model_that_is_the_process_is_on_the_floor():
    known = floor()
    above = AboveFloor.of(torch.from_numpy(known.nats[1:]), known)
    assert above == pytest.approx((known.nats[1:].mean(), 0, 0))


def test_what_is_lost_beyond_the_floor_is_told_apart_by_memory():
    known = floor()
    lost = torch.from_numpy(known.nats + np.where(known.from_memory, 3.0, 1.0))[1:]
    memory = known.from_memory[1:].sum()
    above = AboveFloor.of(lost, known)
    assert above.gap == pytest.approx((3 * memory + 49 - memory) / 49)
    assert above.memory_gap == pytest.approx(3)


def test_losses_in_rows_are_compared_with_the_floor_of_the_same_tokens():
    known = floor(51)
    losses = torch.from_numpy(known.nats[1:]).view(5, 10).T + 0.5  # as rows of the text give them
    above = AboveFloor.of(losses, known, rows=5)
    assert (above.gap, above.memory_gap) == pytest.approx((0.5, 0.5))


def test_what_began_in_another_row_is_not_held_against_a_model():
    known = floor(51)
    losses = known.nats[1:].copy()
    losses[10:14] += 9.0  # the second row begins within the string of tokens 7 to 13
    above = AboveFloor.of(torch.from_numpy(losses).view(5, 10).T, known, rows=5)
    assert (above.gap, above.memory_gap) == (0, 0)
    losses[14] += 1.0
    assert AboveFloor.of(torch.from_numpy(losses).view(5, 10).T, known, rows=5).gap > 0


def test_what_began_before_a_reset_is_not_held_against_a_model():
    known = floor(51)
    losses = known.nats[1:].copy()
    losses[10:14] += 9.0  # the state is reset within the string of tokens 7 to 13
    losses[20:21] += 9.0  # and at the end of the next
    lost = torch.from_numpy(losses)
    above = AboveFloor.of(lost, known, reset_every=10)
    assert (above.gap, above.memory_gap) == (0, 0)
    assert AboveFloor.of(lost, known).gap > 0
    losses[14] += 1.0
    assert AboveFloor.of(lost, known, reset_every=10).gap > 0


def test_without_memory_there_is_no_gap_of_it():
    known = Floor(np.ones(5), np.zeros(5, bool), np.ones(5, bool))
    assert AboveFloor.of(torch.ones(4), known).memory_gap is None


@pytest.mark.parametrize("reset_every", [None, 7])
def test_a_score_tells_how_far_it_is_above_the_floor(model, reset_every):
    text = dataclasses.replace(split(), floor=floor())
    score = evaluate(model, text, reset_every)
    assert score.above_floor.floor + score.above_floor.gap == pytest.approx(score.loss)
    assert evaluate(model, split()).above_floor is None
