"""Trace a model's gates and states at each step of a text.

Cores do not store their gates. They are computed from a core's inputs and outputs, all steps in
one product, so any core can be traced.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from lstm_lm.config import Cell
from lstm_lm.model.language_model import LanguageModel

Units = Float[Tensor, "time batch hidden"]


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
