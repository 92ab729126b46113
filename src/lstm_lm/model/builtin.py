"""PyTorch's own cells behind the contract of a core: oneDNN on a CPU, cuDNN on a GPU.

They are subclasses rather than wrappers so that their parameters keep their names. Torch's
states have an axis for layers in front; a core's do not.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lstm_lm.model.core import HiddenState, LSTMState
from lstm_lm.model.initialization import drop_second_bias


class BuiltinLSTM(nn.LSTM):
    def __init__(self, input_size: int, hidden_size: int, second_bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        if not second_bias:
            drop_second_bias(self)

    def forward(  # type: ignore[override]
        self,
        inputs: Float[Tensor, "time batch input"],
        state: LSTMState | None = None,
        weight_hh: Float[Tensor, "gates hidden"] | None = None,
    ) -> tuple[Float[Tensor, "time batch hidden"], LSTMState]:
        before = None if state is None else (state.hidden.unsqueeze(0), state.cell.unsqueeze(0))
        if weight_hh is None:
            outputs, (hidden, cell) = super().forward(inputs, before)
        else:
            before = before or (first_hidden(inputs, weight_hh),) * 2
            outputs, hidden, cell = torch.lstm(inputs, before, *weights_of(self, weight_hh))
        return outputs, LSTMState(hidden[0], cell[0])


class BuiltinGRU(nn.GRU):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)

    def forward(  # type: ignore[override]
        self,
        inputs: Float[Tensor, "time batch input"],
        state: HiddenState | None = None,
        weight_hh: Float[Tensor, "gates hidden"] | None = None,
    ) -> tuple[Float[Tensor, "time batch hidden"], HiddenState]:
        before = None if state is None else state.hidden.unsqueeze(0)
        if weight_hh is None:
            outputs, hidden = super().forward(inputs, before)
        else:
            before = first_hidden(inputs, weight_hh) if before is None else before
            outputs, hidden = torch.gru(inputs, before, *weights_of(self, weight_hh))
        return outputs, HiddenState(hidden[0])


class BuiltinRNN(nn.RNN):
    def __init__(self, input_size: int, hidden_size: int, second_bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        if not second_bias:
            drop_second_bias(self)

    def forward(  # type: ignore[override]
        self,
        inputs: Float[Tensor, "time batch input"],
        state: HiddenState | None = None,
        weight_hh: Float[Tensor, "gates hidden"] | None = None,
    ) -> tuple[Float[Tensor, "time batch hidden"], HiddenState]:
        before = None if state is None else state.hidden.unsqueeze(0)
        if weight_hh is None:
            outputs, hidden = super().forward(inputs, before)
        else:
            before = first_hidden(inputs, weight_hh) if before is None else before
            outputs, hidden = torch.rnn_tanh(inputs, before, *weights_of(self, weight_hh))
        return outputs, HiddenState(hidden[0])


def first_hidden(
    inputs: Float[Tensor, "time batch input"], weight_hh: Float[Tensor, "gates hidden"]
) -> Float[Tensor, "1 batch hidden"]:
    return weight_hh.new_zeros(1, inputs.shape[1], weight_hh.shape[1])


def weights_of(core: nn.RNNBase, weight_hh: Float[Tensor, "gates hidden"]) -> list[Any]:
    """The arguments of torch.lstm, torch.gru and torch.rnn_tanh that follow the state."""
    own = (core.get_parameter(name) for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"))
    weight_ih, *biases = own
    weights = [weight_ih, weight_hh, *biases]
    if weight_hh.is_cuda:  # cuDNN wants them behind one another, and would copy with a warning
        chunk = torch.cat([weight.flatten() for weight in weights])
        pieces = chunk.split([weight.numel() for weight in weights])
        weights = [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]
    has_biases, layers, dropout, bidirectional, batch_first = True, 1, 0.0, False, False
    return [weights, has_biases, layers, dropout, core.training, bidirectional, batch_first]
