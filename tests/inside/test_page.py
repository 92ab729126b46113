import base64
import json
import math
import re

import numpy as np
import pytest
import torch

from lstm_lm.evaluation.score import split_of_run, token_losses
from lstm_lm.experiment import train
from lstm_lm.inside.page import build_page
from lstm_lm.inside.units import trace
from lstm_lm.saved.load_model import restore


def data_of(page):
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    return json.loads(text)


@pytest.fixture
def run(tiny_run, tmp_path):
    train(tiny_run("model.num_layers=2", "training.epochs=1"), tmp_path / "run")
    return restore(tmp_path / "run")


def test_the_page_has_what_the_model_did(run):
    ids = split_of_run(run, "validation").ids[:50].long()
    data = data_of(build_page(run, "a title", ids))
    assert data["title"] == "a title"
    assert "".join(data["tokens"]) == "".join(run.vocabulary.decode(ids.tolist()))
    losses = token_losses(run.model, ids[:-1, None], ids[1:, None])[:, 0] / math.log(2)
    assert data["bits"][0] is None
    np.testing.assert_allclose(data["bits"][1:], losses, atol=1e-3)
    seen = trace(run.model, run.config.model.cell, ids[:, None])
    for layer, activity in zip(data["layers"], seen.layers, strict=True):
        values = np.frombuffer(base64.b64decode(layer["activity"]), np.int8).reshape(50, -1)
        np.testing.assert_allclose(values / 127, activity.activity[:, 0], atol=0.005)
        assert layer["units"] == 16
    with torch.no_grad():
        probabilities = run.model(ids[:, None])[0][:, 0].softmax(-1)
    for guesses, expected in zip(data["guesses"], probabilities, strict=True):
        assert [p for _, p in guesses] == pytest.approx(expected.topk(5).values.tolist(), abs=1e-4)
        assert guesses[0][0] == run.vocabulary.tokens[int(expected.argmax())]
    assert {"layer", "unit", "title"} == data["units"][0].keys()


def test_no_text_can_break_the_page(run, tmp_path):
    hostile = "</script><!-- <script> & DATA"
    page = build_page(run, hostile, torch.tensor([1, 2]))
    assert data_of(page)["title"] == hostile
    assert page.count("</script>") == 2 and "<!--" not in page


def test_the_page_needs_nothing_else(run):
    page = build_page(run, "a title", torch.tensor([1, 2]))
    assert not re.findall(r"https?://|<link|src=|@import", page)


def test_of_words_too(tiny_run, tmp_path):
    config = tiny_run("data.level=word", "training.epochs=1", "data.max_tokens=null")
    train(config, tmp_path / "run")
    run = restore(tmp_path / "run")
    ids = torch.tensor([0, *run.vocabulary.encode(["time", "<eos>", "machine"])])
    data = data_of(build_page(run, "words", ids))
    assert data["tokens"] == ["\ufffd", "time", "\n", "machine"] and data["words"]
