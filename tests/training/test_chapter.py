"""The d2l_* experiments against the chapter's own equations, written out here once more."""

import math
import random
import re
from collections import Counter

import pytest
import torch
from lightning import seed_everything
from torch.testing import assert_close

from lstm_lm.data.batches import epoch_generator
from lstm_lm.experiment import train
from lstm_lm.model.language_model import LanguageModel

UPDATES, BATCH, STEPS, VOCABULARY = 20, 32, 35, 28


def lstm(x, state, w):
    hidden, cell = state
    i = torch.sigmoid(x @ w["W_xi"] + hidden @ w["W_hi"] + w["b_i"])
    f = torch.sigmoid(x @ w["W_xf"] + hidden @ w["W_hf"] + w["b_f"])
    o = torch.sigmoid(x @ w["W_xo"] + hidden @ w["W_ho"] + w["b_o"])
    candidate = torch.tanh(x @ w["W_xc"] + hidden @ w["W_hc"] + w["b_c"])
    cell = f * cell + i * candidate
    return o * torch.tanh(cell), cell


def gru(x, state, w):
    (hidden,) = state
    z = torch.sigmoid(x @ w["W_xz"] + hidden @ w["W_hz"] + w["b_z"])
    r = torch.sigmoid(x @ w["W_xr"] + hidden @ w["W_hr"] + w["b_r"])
    candidate = torch.tanh(x @ w["W_xh"] + (r * hidden) @ w["W_hh"] + w["b_h"])
    return (z * hidden + (1 - z) * candidate,)


def rnn(x, state, w):
    (hidden,) = state
    return (torch.tanh(x @ w["W_xh"] + hidden @ w["W_hh"] + w["b_h"]),)


# cell → (one step, the letters of its gates in the order of torch.nn, the size of its state)
CHAPTER = {
    "d2l_scratch": (lstm, "ifco", 2),
    "d2l_gru_scratch": (gru, "rzh", 1),
    "d2l_rnn_scratch": (rnn, "h", 1),
}


def chapter_weights(weights, letters):
    """A model's weights under the chapter's names, [input, hidden] as there."""
    parts = [f"cores.0.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih")]
    blocks = zip(letters, *(weights[part].chunk(len(letters)) for part in parts), strict=True)
    named = {"W_hq": weights["output.weight"].T, "b_q": weights["output.bias"]}
    for letter, from_input, from_hidden, bias in blocks:
        named[f"W_x{letter}"] = from_input.T
        named[f"W_h{letter}"] = from_hidden.T
        named[f"b_{letter}"] = bias
    return {name: weight.double().clone().requires_grad_() for name, weight in named.items()}


def chapter_corpus(path):
    lines = [
        re.sub("[^A-Za-z]+", " ", line).strip().lower() for line in path.read_text().splitlines()
    ]
    counts = Counter("".join(lines))
    tokens = ["<unk>"] + sorted(counts, key=counts.get, reverse=True)
    return torch.tensor([tokens.index(character) for character in "".join(lines)[:10_000]])


def chapter_batches(corpus, offset):
    num_tokens = ((len(corpus) - offset - 1) // BATCH) * BATCH
    inputs = corpus[offset : offset + num_tokens].reshape(BATCH, -1)
    targets = corpus[offset + 1 : offset + 1 + num_tokens].reshape(BATCH, -1)
    for start in range(0, STEPS * (inputs.shape[1] // STEPS), STEPS):
        yield inputs[:, start : start + STEPS], targets[:, start : start + STEPS]


def chapter_training(corpus, step, state_size, w, seed):
    """Twenty updates as the chapter makes them; the losses on the way."""
    losses, hidden_size = [], w["W_hq"].shape[0]
    for epoch in range(math.ceil(UPDATES / 8)):
        offset = int(torch.randint(STEPS + 1, (), generator=epoch_generator(seed, epoch)))
        state = (torch.zeros(BATCH, hidden_size, dtype=torch.float64),) * state_size
        for inputs, targets in chapter_batches(corpus, offset):
            if len(losses) == UPDATES:
                break
            state = tuple(part.detach() for part in state)
            outputs = []
            for x in torch.nn.functional.one_hot(inputs.T, VOCABULARY).double():
                state = step(x, state, w)
                outputs.append(state[0] @ w["W_hq"] + w["b_q"])
            loss = torch.nn.functional.cross_entropy(torch.cat(outputs), targets.T.reshape(-1))
            gradients = torch.autograd.grad(loss, list(w.values()))
            norm = torch.sqrt(sum(torch.sum(gradient**2) for gradient in gradients))
            with torch.no_grad():
                for weight, gradient in zip(w.values(), gradients, strict=True):
                    weight -= gradient * (1 / norm if norm > 1 else 1)
            losses.append(loss.item())
    return losses


# Scoring the usual 5,000 characters would take longer than training.
LITTLE_HELD_OUT = "data.max_tokens=10200", "data.validation_size=200"


@pytest.mark.parametrize("experiment", CHAPTER)
def test_twenty_updates_equal_those_of_the_chapter(experiment, compose, real_texts, tmp_path):
    step, letters, state_size = CHAPTER[experiment]
    config = compose(
        f"experiment={experiment}",
        *LITTLE_HELD_OUT,
        "training.steps=20",
        "device.precision=64-true",
        "device=cpu",
    )
    seed_everything(config.seed, verbose=False)
    w = chapter_weights(LanguageModel(config.model, VOCABULARY).state_dict(), letters)
    corpus = chapter_corpus(real_texts / "timemachine.txt")
    losses = chapter_training(corpus, step, state_size, w, config.seed)

    random.seed(1)  # what happens outside must not matter
    summary = train(config, tmp_path / "run")

    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    ours = chapter_weights({k.removeprefix("model."): v for k, v in saved.items()}, letters)
    for name, weight in w.items():
        assert_close(ours[name], weight, rtol=1e-9, atol=1e-9)
    assert summary["steps"] == UPDATES
    last_epoch = losses[16:]  # measured while the weights move, as in the chapter
    expected = math.exp(sum(last_epoch) / len(last_epoch))
    assert summary["train/perplexity"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("experiment", "parameters"),
    [
        ("d2l_scratch", 299_036),
        ("d2l_builtin", 300_060),
        ("d2l_gru_scratch", 226_076),
        ("d2l_gru_builtin", 226_844),
        ("d2l_rnn_scratch", 291_356),
        ("d2l_rnn_scratch_random", 291_356),
        ("d2l_rnn_builtin", 80_412),
        ("d2l_deep", 826_396),
    ],
)
def test_experiments_have_the_sizes_of_the_chapter(
    experiment, parameters, compose, real_texts, tmp_path
):
    config = compose(f"experiment={experiment}", *LITTLE_HELD_OUT, "device=cpu")
    assert (config.training.epochs, config.optimizer.clip_norm) == (500, 1.0)
    config.training.epochs = config.training.validate_every = 1
    config.samples.tokens = 1
    summary = train(config, tmp_path / "run")
    assert summary["parameters"] == parameters
    assert (summary["vocabulary"], summary["steps"], summary["tokens"]) == (28, 8, 8_960)
