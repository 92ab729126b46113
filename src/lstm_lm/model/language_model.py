"""The language model around the cores; where a core is chosen; how much memory a model takes."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lstm_lm.config import Cell, CoreName, Initialization, ModelConfig, RunConfig
from lstm_lm.errors import SettingsError
from lstm_lm.machine import format_bytes, memory
from lstm_lm.model.builtin import BuiltinGRU, BuiltinLSTM, BuiltinRNN
from lstm_lm.model.core import State
from lstm_lm.model.dropout import Dropout, EmbeddingDropout, LockedDropout, WeightDrop
from lstm_lm.model.fused.cores import FusedGRU, FusedLSTM, FusedRNN
from lstm_lm.model.initialization import FORGET, init_as_d2l, init_chrono, init_uniform, set_bias
from lstm_lm.model.products import FastLinear
from lstm_lm.model.scratch_gru import ScratchGRU
from lstm_lm.model.scratch_lstm import ScratchLSTM
from lstm_lm.model.scratch_rnn import ScratchRNN
from lstm_lm.model.transformer import CausalTransformer


class Features(NamedTuple):
    """The input of the output layer, and the state after it."""

    outputs: Float[Tensor, "time batch hidden"]  # before dropout
    dropped: Float[Tensor, "time batch hidden"]  # what the output layer reads
    state: State


class LanguageModel(nn.Module):
    """Scores every token of the vocabulary as the next one, at every step.

    ids [time, batch]  →  embedding or one-hot  →  cores  →  output layer  →  logits

    Dropout acts where nothing recurs (Zaremba et al. 2014): between layers, before the output
    layer and, if wanted, on what the first core reads. Tied weights (Press & Wolf 2017; Inan et
    al. 2017) read and write a token by the same vector; a projection comes before them where the
    last layer has another size than the embedding. Skip connections add a layer's input to its
    output (He et al. 2016).
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.embedding: nn.Embedding | None = None
        input_size = vocabulary_size
        if config.embedding_size is not None:
            self.embedding = nn.Embedding(vocabulary_size, config.embedding_size)
            input_size = config.embedding_size
        sizes = config.layer_sizes
        self.cores = nn.ModuleList(
            build_core(config, *each) for each in zip([input_size, *sizes], sizes, strict=False)
        )
        self.skip_connections = config.skip_connections
        self.output = self._output_layer(config, sizes[-1])
        kind = LockedDropout if config.locked_dropout else Dropout
        self.embedding_dropout = EmbeddingDropout(vocabulary_size, config.embedding_dropout)
        self.input_dropout = kind(config.input_dropout)
        self.dropout = kind(config.dropout if len(sizes) > 1 else 0.0)  # between layers
        before_output = config.output_dropout
        self.output_dropout = kind(config.dropout if before_output is None else before_output)
        self.weight_drop = WeightDrop(config.weight_drop)
        self._initialize(config)

    def _output_layer(self, config: ModelConfig, size: int) -> nn.Module:
        if not config.tie_weights:
            return FastLinear(size, self.vocabulary_size)
        assert self.embedding is not None and config.embedding_size is not None
        output = FastLinear(config.embedding_size, self.vocabulary_size)
        output.weight = self.embedding.weight
        with torch.no_grad():
            output.weight.uniform_(-config.init_range, config.init_range)
            output.bias.zero_()
        if size == config.embedding_size:
            return output
        return nn.Sequential(FastLinear(size, config.embedding_size), output)

    def _initialize(self, config: ModelConfig) -> None:
        if config.init is Initialization.d2l:
            init_as_d2l(self)
        if config.init is Initialization.uniform:
            init_uniform(self, config.init_range)
        for core in self.cores:
            if config.init is Initialization.chrono:
                init_chrono(core, config.cell is Cell.lstm, config.longest_memory)
            if config.forget_bias is not None:
                set_bias(core, FORGET, torch.tensor(config.forget_bias))

    def forward(
        self, ids: Int[Tensor, "time batch"], state: State | None = None
    ) -> tuple[Float[Tensor, "time batch vocabulary"], State]:
        _, dropped, after = self.run_cores(ids, state)
        return self.output(dropped), after

    def run_cores(self, ids: Int[Tensor, "time batch"], state: State | None = None) -> Features:
        """Everything before the output layer; ``state=None`` starts from zeros."""
        features = self.input_dropout(self.embedding_dropout(self.features(ids), ids))
        before = state or [None] * len(self.cores)
        after = []
        for layer, (core, core_state) in enumerate(zip(self.cores, before, strict=True), start=1):
            outputs, core_state = core(features, core_state, *self.weight_drop.of(core))
            dropout = self.dropout if layer < len(self.cores) else self.output_dropout
            features = self.skip(layer, features, dropout(outputs))
            after.append(core_state)
        return Features(outputs, features, tuple(after))

    def skip(self, layer: int, inputs: Tensor, outputs: Tensor) -> Tensor:
        """The outputs of a layer, counted from 1, and its inputs added if they skip it."""
        return inputs + outputs if self.skip_connections and layer > 1 else outputs

    def features(self, ids: Int[Tensor, "time batch"]) -> Float[Tensor, "time batch input"]:
        """The input of the first core: embedded ids, or one-hot."""
        if self.embedding is not None:
            embedded: Tensor = self.embedding(ids)
            return embedded
        zeros = next(self.output.parameters()).new_zeros(*ids.shape, self.vocabulary_size)
        return zeros.scatter_(-1, ids.unsqueeze(-1), 1.0)


def build_core(config: ModelConfig, input_size: int, hidden_size: int) -> nn.Module:
    """One layer that keeps the contract of :class:`lstm_lm.model.core.Core`."""
    sizes = input_size, hidden_size
    match config.core, config.cell:
        case CoreName.scratch, Cell.lstm:
            return ScratchLSTM(*sizes, config.second_bias)
        case CoreName.scratch, Cell.gru:
            return ScratchGRU(*sizes, config.second_bias, config.reset_gate)
        case CoreName.scratch, Cell.rnn:
            return ScratchRNN(*sizes, config.second_bias)
        case CoreName.builtin, Cell.lstm:
            return BuiltinLSTM(*sizes, config.second_bias)
        case CoreName.builtin, Cell.gru:
            return BuiltinGRU(*sizes)
        case CoreName.builtin, Cell.rnn:
            return BuiltinRNN(*sizes, config.second_bias)
        case CoreName.builtin, Cell.transformer:
            return CausalTransformer(*sizes, config.heads, config.context)
        case CoreName.fused, Cell.lstm:
            return FusedLSTM(*sizes, config.second_bias, config.backend)
        case CoreName.fused, Cell.gru:
            return FusedGRU(*sizes, config.second_bias, config.backend)
        case CoreName.fused, Cell.rnn:
            return FusedRNN(*sizes, config.second_bias, config.backend)
        case unhandled:
            raise ValueError(f"no core for {unhandled}")


def count_parameters(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


MATRICES = {Cell.lstm: 4, Cell.gru: 3, Cell.rnn: 1, Cell.transformer: 1}  # of each layer, at least


def check_model_size(config: RunConfig, vocabulary_size: int, copies: int = 1) -> None:
    """Raise SettingsError if the model needs more memory than there is.

    Linux would hand it out all the same, and end the process without a word when it is used.

    Args:
        copies: numbers kept for each weight, such as its gradient and moments.
    """
    model, hidden = config.model, config.model.hidden_size
    last, inputs = model.last_hidden_size or hidden, model.embedding_size or vocabulary_size
    before_last = inputs if model.num_layers == 1 else hidden
    weights = last * (before_last + last)
    if model.num_layers > 1:
        weights += hidden * (inputs + hidden) + (model.num_layers - 2) * 2 * hidden**2
    weights *= MATRICES[model.cell]
    weights += vocabulary_size * ((model.embedding_size or 0) + (not model.tie_weights) * last)
    needed = copies * weights * (8 if config.device.precision == "64-true" else 4)
    there_is = memory()
    if needed > there_is:
        raise SettingsError(
            f"the model does not fit into memory: with a vocabulary of {vocabulary_size:,} it "
            f"needs {format_bytes(needed)}, but there are only {format_bytes(there_is)}: choose a "
            "smaller model.hidden_size, model.num_layers or model.embedding_size"
        )
