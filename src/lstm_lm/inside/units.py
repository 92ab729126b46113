"""Units of a model: their gates and states over a text, and those that a reader can interpret.

Cores do not store their gates. They are computed from a core's inputs and outputs, all steps in
one product, so any core can be traced.

A unit is readable if its activity correlates with a visible feature of the text: position in a
line or a word, inside quotes or brackets. The units that change slowest are of interest, too.

Source: Karpathy, Johnson & Fei-Fei (2015), who found such cells by eye.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from lstm_lm.config import Cell, Level
from lstm_lm.data.text import END_OF_LINE, Speller, spell
from lstm_lm.data.vocabulary import UNKNOWN, Vocabulary
from lstm_lm.model.language_model import LanguageModel

SHOWN_AS = {END_OF_LINE: "\n", UNKNOWN: "\ufffd"}
FEWEST = 0.02  # rarer features are ignored: share of the tokens
FOLLOWS = 0.3  # correlation from which on a unit is said to follow a feature
LEAST_CHANGE = 0.05  # units that change less are ignored: standard deviation of the activity

Units = Float[Tensor, "time batch hidden"]
Activities = list[Float[Tensor, "time hidden"]]  # one per layer


@dataclass(frozen=True)
class LayerTrace:
    gates: dict[str, Units]  # by name, from 0 (closed) to 1 (open); a plain RNN has none
    memory_name: str
    memory: Units  # the carried state: an LSTM's cells, else the layer's outputs
    activity: Units  # the memory from -1 to 1; by tanh where it is unbounded


@dataclass(frozen=True)
class Trace:
    layers: list[LayerTrace]
    outputs: Units  # what the output layer reads


@torch.no_grad()
def trace(model: LanguageModel, cell: Cell, ids: Int[Tensor, "time batch"]) -> Trace:
    """The trace of a text, read from zero state without dropout."""
    features, layers = model.features(ids), []
    for layer, core in enumerate(model.cores, start=1):
        outputs, _ = core(features)
        layers.append(trace_layer(core, cell, features, outputs))
        features = model.skip(layer, features, outputs)
    return Trace(layers, features)


def trace_layer(
    core: nn.Module, cell: Cell, inputs: Float[Tensor, "time batch input"], outputs: Units
) -> LayerTrace:
    if cell is Cell.transformer:
        return LayerTrace({}, "output", outputs, outputs.tanh())
    if cell is Cell.rnn:
        return LayerTrace({}, "hidden state", outputs, outputs)
    blocks = gate_preactivations(core, inputs, outputs).chunk(4 if cell is Cell.lstm else 3, dim=-1)
    if cell is Cell.gru:
        # Both gates are the same wherever the reset gate is applied.
        gates = {"reset gate": blocks[0].sigmoid(), "update gate": blocks[1].sigmoid()}
        return LayerTrace(gates, "hidden state", outputs, outputs)
    i, f, o = blocks[0].sigmoid(), blocks[1].sigmoid(), blocks[3].sigmoid()
    memory, cells = torch.zeros_like(outputs[0]), []
    for kept, written in zip(f, i * blocks[2].tanh(), strict=True):
        memory = kept * memory + written
        cells.append(memory)
    states = torch.stack(cells)
    gates = {"input gate": i, "forget gate": f, "output gate": o}
    return LayerTrace(gates, "cell", states, states.tanh())


def gate_preactivations(
    core: nn.Module, inputs: Float[Tensor, "time batch input"], outputs: Units
) -> Float[Tensor, "time batch gates"]:
    """Pre-activations of the gates, from the inputs and the previous hidden states."""
    before = torch.cat([torch.zeros_like(outputs[:1]), outputs[:-1]])
    ih, hh = (
        (core.get_parameter(f"weight_{side}_l0"), core.get_parameter(f"bias_{side}_l0"))
        for side in ("ih", "hh")
    )
    return linear(inputs, *ih) + linear(before, *hh)


class Readable(NamedTuple):
    layer: int  # from 0
    unit: int  # from 0
    what: str
    correlation: float | None = None  # of the unit with the feature

    @property
    def title(self) -> str:
        """A title for readers, with layers and units counted from 1."""
        strength = "" if self.correlation is None else f", correlation {self.correlation:.2f}"
        return f"layer {self.layer + 1} unit {self.unit + 1}: {self.what}{strength}"


def readable_tokens(vocabulary: Vocabulary, ids: Iterable[int], level: Level) -> list[str]:
    """Tokens as a reader sees them: line breaks for ends of lines, � for unknown tokens.

    A character of several tokens is shown at the last of them; the others are empty.
    """
    tokens = vocabulary.decode(ids)
    if level not in (Level.byte, Level.subword):
        return [SHOWN_AS.get(token, token) for token in tokens]
    speller = Speller(level)
    return [SHOWN_AS[UNKNOWN] if token == UNKNOWN else speller.add(token) for token in tokens]


def readable_alone(token: str, level: Level) -> str:
    """A token as a reader sees it without those around it; � for a part of a character."""
    return SHOWN_AS.get(token) or spell([token], level)


def readable_units(activities: Activities, tokens: Sequence[str], most: int) -> list[Readable]:
    """The best unit for each feature of the text, clearest first, then the slowest units.

    Args:
        activities: the units after each token was read.
    """
    units = torch.cat(activities, dim=1).double()
    centred = units - units.mean(dim=0)
    lengths = centred.norm(dim=0).clamp_min(1e-12)
    changing = units.std(dim=0) > LEAST_CHANGE
    sizes = [layer.shape[1] for layer in activities]
    starts = [0, *accumulate(sizes)]

    def named(index: int, what: str, correlation: float | None = None) -> Readable:
        layer = next(layer for layer, end in enumerate(starts[1:]) if index < end)
        return Readable(layer, index - starts[layer], what, correlation)

    chosen: dict[int, Readable] = {}
    for what, values in features(tokens).items():
        feature = values - values.mean()
        correlations = feature @ centred / (feature.norm() * lengths) * changing
        best = int(correlations.abs().argmax())
        found = float(correlations[best])
        if abs(found) >= FOLLOWS:
            rival = chosen.get(best)
            if rival is None or abs(rival.correlation or 0) < abs(found):
                chosen[best] = named(best, what, found)
    following = sorted(chosen.values(), key=lambda unit: -abs(unit.correlation or 0))[:most]
    # A slow unit changes little from token to token, but does change over the text.
    pace = centred.diff(dim=0).norm(dim=0) / lengths
    others = [i for i in pace.argsort().tolist() if changing[i] and i not in chosen]
    return following + [named(i, "slow") for i in others[: most - len(following)]]


def features(tokens: Sequence[str]) -> dict[str, Float[Tensor, " time"]]:
    """Visible features of a text after each token; features that are too rare are left out."""
    kinds: dict[str, Callable[[Sequence[str]], list[int]]] = {
        "inside quotes": inside_quotes,
        "inside brackets": inside_brackets,
        "position in line": position_in_line,
    }
    if all(len(token) <= 1 for token in tokens):
        kinds["position in word"] = position_in_word
    found = {}
    for name, kind in kinds.items():
        values = torch.tensor(kind(tokens), dtype=torch.float64)
        share = float((values > 0).double().mean())
        if FEWEST < share < 1:
            found[name] = values
    return found


def inside_quotes(tokens: Sequence[str]) -> list[int]:
    """1 for tokens between straight or curved double quotes, until the paragraph ends; else 0."""
    inside, before, found = False, "", []
    for token in tokens:
        if token in ("“", "”"):
            inside = token == "“"
        elif token == '"':
            inside = not inside
        elif token == before == "\n":
            inside = False
        before = token
        found.append(int(inside))
    return found


def inside_brackets(tokens: Sequence[str]) -> list[int]:
    """Number of open brackets after each token; 0 again at the end of a paragraph."""
    depth, before, found = 0, "", []
    for token in tokens:
        if token in ("(", "[", "{"):
            depth += 1
        elif token in (")", "]", "}"):
            depth = max(0, depth - 1)
        elif token == before == "\n":
            depth = 0
        before = token
        found.append(depth)
    return found


def position_in_line(tokens: Sequence[str]) -> list[int]:
    return positions(tokens, lambda token: token == "\n")


def position_in_word(tokens: Sequence[str]) -> list[int]:
    return positions(tokens, lambda token: not token.isalnum())


def positions(tokens: Sequence[str], ends: Callable[[str], bool]) -> list[int]:
    """Number of tokens since the last one for which ``ends`` is true."""
    position, found = 0, []
    for token in tokens:
        position = 0 if ends(token) else position + 1
        found.append(position)
    return found
