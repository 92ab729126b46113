"""The language model around the cores; where a core is chosen; how much memory a model takes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lstm_lm.config import Cell, CoreName, Initialization, ModelConfig, RunConfig
from lstm_lm.errors import SettingsError
from lstm_lm.machine import format_bytes, memory
from lstm_lm.model.builtin import BuiltinGRU, BuiltinLSTM, BuiltinRNN
from lstm_lm.model.core import State
from lstm_lm.model.fused.cores import FusedGRU, FusedLSTM, FusedRNN
from lstm_lm.model.initialization import FORGET, init_as_d2l, init_chrono, set_bias
from lstm_lm.model.products import FastLinear
from lstm_lm.model.scratch_gru import ScratchGRU
from lstm_lm.model.scratch_lstm import ScratchLSTM
from lstm_lm.model.scratch_rnn import ScratchRNN
from lstm_lm.model.transformer import CausalTransformer


class LanguageModel(nn.Module):
    """Scores every token of the vocabulary as the next one, at every step.

    ids [time, batch]  →  embedding or one-hot  →  cores  →  output layer  →  logits

    Dropout acts where nothing recurs (Zaremba et al. 2014): between layers and before the output
    layer. Dropping embedded characters as well cost 0.04 nats each on Tiny Shakespeare.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.embedding: nn.Embedding | None = None
        input_size = vocabulary_size
        if config.embedding_size is not None:
            self.embedding = nn.Embedding(vocabulary_size, config.embedding_size)
            input_size = config.embedding_size
        input_sizes = [input_size] + [config.hidden_size] * (config.num_layers - 1)
        self.cores = nn.ModuleList(build_core(config, size) for size in input_sizes)
        self.output = FastLinear(config.hidden_size, vocabulary_size)
        self.dropout = nn.Dropout(config.dropout)
        self._initialize(config)

    def _initialize(self, config: ModelConfig) -> None:
        if config.init is Initialization.d2l:
            init_as_d2l(self)
        for core in self.cores:
            if config.init is Initialization.chrono:
                init_chrono(core, config.cell is Cell.lstm, config.longest_memory)
            if config.forget_bias is not None:
                set_bias(core, FORGET, torch.tensor(config.forget_bias))

    def forward(
        self, ids: Int[Tensor, "time batch"], state: State | None = None
    ) -> tuple[Float[Tensor, "time batch vocabulary"], State]:
        features = self.features(ids)
        before = state or [None] * len(self.cores)
        after = []
        for core, core_state in zip(self.cores, before, strict=True):
            outputs, core_state = core(features, core_state)
            features = self.dropout(outputs)
            after.append(core_state)
        return self.output(features), tuple(after)

    def features(self, ids: Int[Tensor, "time batch"]) -> Float[Tensor, "time batch input"]:
        """The input of the first core: embedded ids, or one-hot."""
        if self.embedding is not None:
            embedded: Tensor = self.embedding(ids)
            return embedded
        zeros = self.output.weight.new_zeros(*ids.shape, self.vocabulary_size)
        return zeros.scatter_(-1, ids.unsqueeze(-1), 1.0)


def build_core(config: ModelConfig, input_size: int) -> nn.Module:
    """One layer that keeps the contract of :class:`lstm_lm.model.core.Core`."""
    sizes = input_size, config.hidden_size
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
    inputs = model.embedding_size or vocabulary_size
    weights = MATRICES[model.cell] * hidden * (inputs + (2 * model.num_layers - 1) * hidden)
    weights += vocabulary_size * (hidden + (model.embedding_size or 0))
    needed = copies * weights * (8 if config.device.precision == "64-true" else 4)
    there_is = memory()
    if needed > there_is:
        raise SettingsError(
            f"the model does not fit into memory: with a vocabulary of {vocabulary_size:,} it "
            f"needs {format_bytes(needed)}, but there are only {format_bytes(there_is)}: choose a "
            "smaller model.hidden_size, model.num_layers or model.embedding_size"
        )
