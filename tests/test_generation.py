from itertools import islice

import pytest
import torch

from lstm_lm.config import ModelConfig
from lstm_lm.errors import SettingsError
from lstm_lm.generation import draw, generate
from lstm_lm.model.language_model import LanguageModel

PROMPT = [1, 2, 3]


@pytest.fixture
def model():
    return LanguageModel(ModelConfig(hidden_size=16), 30).eval()


def take(model, tokens=40, **settings):
    return list(islice(generate(model, PROMPT, **settings), tokens))


def greedy_by_hand(model, tokens):
    """The whole text run through the model anew for every token."""
    ids = list(PROMPT)
    for _ in range(tokens):
        logits, _ = model(torch.tensor(ids).unsqueeze(1))
        ids.append(logits[-1, 0].argmax().item())
    return ids[len(PROMPT) :]


def test_greedy_takes_the_likeliest_token_each_time(model):
    expected = [[id_] for id_ in greedy_by_hand(model, 20)]
    assert take(model, 20, temperature=0) == expected
    assert take(model, 20, top_k=1) == expected
    assert take(model, 20, top_p=1e-6) == expected
    assert take(model, 20, temperature=1e-4) == expected
    assert take(model, 20, temperature=1e-45) == expected


def test_the_seed_decides(model):
    assert take(model, seed=1) == take(model, seed=1) != take(model, seed=2)


def test_the_global_random_state_is_left_alone(model):
    before = torch.get_rng_state()
    take(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_differ_and_come_together(model):
    steps = take(model, samples=3)
    assert {len(ids) for ids in steps} == {3}
    assert len(set(zip(*steps, strict=True))) == 3


def frequencies(probabilities, **settings):
    settings = {"temperature": 1.0, "top_k": None, "top_p": None} | settings
    logits = torch.tensor(probabilities).log().expand(20_000, -1)
    drawn = draw(logits, generator=torch.Generator().manual_seed(0), **settings)
    return torch.bincount(drawn, minlength=len(probabilities)) / len(drawn)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 99}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),  # 0.4 falls short, 0.3 more reaches it
        ({"top_p": 0.8}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_tokens_are_drawn_in_proportion(settings, expected):
    drawn = frequencies([0.1, 0.4, 0.2, 0.3], **settings)
    torch.testing.assert_close(drawn, torch.tensor(expected), rtol=0, atol=0.015)
    assert all(drawn[torch.tensor(expected) == 0] == 0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"temperature": -1.0}, "temperature must be >= 0"),
        ({"temperature": float("nan")}, "temperature must be >= 0"),
        ({"seed": 2**64}, "the seed must be from 0"),
        ({"top_k": 0}, "top-k must be at least 1"),
        ({"top_p": 0.0}, "top-p must be above 0"),
        ({"top_p": 1.5}, "top-p must be above 0 and at most 1"),
        ({"samples": 0}, "samples must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(model, settings, reason):
    with pytest.raises(SettingsError, match=reason):
        take(model, **settings)


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(SettingsError, match="at least one token"):
        next(generate(model, []))
