"""An HTML page with a model's units and its predictions on a text.

The page needs no network and no other file.
"""

import base64
import json
import math
from importlib.resources import files

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lstm_lm.config import Level
from lstm_lm.data.batches import evaluation_steps
from lstm_lm.inside.units import readable_alone, readable_tokens, readable_units, trace
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.saved.load_model import TrainedModel

GUESSES = 5
UNITS = 8
Guesses = tuple[list[int], list[float]]  # ids and their probabilities, the likeliest first


def build_page(run: TrainedModel, title: str, ids: Int[Tensor, " time"]) -> str:
    """The page for a text, given as ids of the run and read from zero state."""
    device = next(run.model.parameters()).device
    seen = trace(run.model, run.config.model.cell, ids.to(device).unsqueeze(1))
    activities = [layer.activity[:, 0].float().cpu() for layer in seen.layers]
    level = run.config.data.level
    tokens = readable_tokens(run.vocabulary, ids.tolist(), level)
    guesses, bits = expected(run.model, seen.outputs[:, 0], ids)
    names = [readable_alone(token, level) for token in run.vocabulary.tokens]
    content = {
        "title": title,
        "words": level is Level.word,
        "tokens": tokens,
        "layers": [
            {"units": activity.shape[1], "activity": encode_activity(activity)}
            for activity in activities
        ],
        "units": [
            {"layer": unit.layer, "unit": unit.unit, "title": unit.title}
            for unit in readable_units(activities, tokens, UNITS)
        ],
        "guesses": [
            [[names[id_], round(probability, 4)] for id_, probability in zip(*row, strict=True)]
            for row in guesses
        ],
        "bits": [None, *(round(number, 3) for number in bits)],
    }
    # No text may close the element around it or begin a comment.
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    template = files("lstm_lm.inside").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("DATA", data, 1)


def expected(
    model: LanguageModel, outputs: Float[Tensor, "time hidden"], ids: Int[Tensor, " time"]
) -> tuple[list[Guesses], list[float]]:
    """The likeliest tokens after each token, and the loss of each but the first in bits."""
    steps = evaluation_steps(1, model.vocabulary_size)
    following = ids.roll(-1)  # the last one has no target: its loss is dropped below
    guesses: list[Guesses] = []
    nats: list[float] = []
    for some, targets in zip(outputs.split(steps), following.split(steps), strict=True):
        with torch.no_grad():
            logs = model.output(some).double().log_softmax(dim=-1).cpu()
        likeliest = logs.topk(min(GUESSES, model.vocabulary_size))
        guesses += zip(likeliest.indices.tolist(), likeliest.values.exp().tolist(), strict=True)
        nats += (-logs.gather(1, targets.unsqueeze(1))[:, 0]).tolist()
    return guesses, [number / math.log(2) for number in nats[:-1]]


def encode_activity(activity: Float[Tensor, "time hidden"]) -> str:
    """Activity from -1 to 1 as bytes from -127 to 127, in base64; one row of units per token."""
    scaled = (activity.clamp(-1, 1) * 127).round().to(torch.int8)
    return base64.b64encode(scaled.contiguous().numpy().tobytes()).decode()
