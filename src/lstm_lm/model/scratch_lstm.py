"""An LSTM written out from its equations.

For each step, with σ the logistic function and ⊙ the element-wise product,

    i, f, g, o  =  W_ih x + b_ih + W_hh h + b_hh        four blocks of size `hidden`
    c           =  σ(f) ⊙ c  +  σ(i) ⊙ tanh(g)          forget some, write some
    h           =  σ(o) ⊙ tanh(c)                       show some

Source: Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lstm_lm.model.core import LSTMState
from lstm_lm.model.initialization import init_as_torch


class ScratchLSTM(nn.Module):
    """Keeps the contract of :class:`lstm_lm.model.core.Core`."""

    def __init__(self, input_size: int, hidden_size: int, second_bias: bool = True) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(4 * hidden_size))
        init_as_torch(self, hidden_size, second_bias)

    def forward(
        self,
        inputs: Float[Tensor, "time batch input"],
        state: LSTMState | None = None,
        weight_hh: Float[Tensor, "gates hidden"] | None = None,
    ) -> tuple[Float[Tensor, "time batch hidden"], LSTMState]:
        if state is None:
            zeros = self.weight_hh_l0.new_zeros(inputs.shape[1], self.hidden_size)
            state = LSTMState(zeros, zeros)
        hidden, cell = state
        # What the inputs add to the gates needs no recurrence: one product for all steps.
        from_inputs = inputs @ self.weight_ih_l0.T + (self.bias_ih_l0 + self.bias_hh_l0)
        weight_hh = (self.weight_hh_l0 if weight_hh is None else weight_hh).T
        outputs = []
        for gates in from_inputs:
            hidden, cell = lstm_step(cell, gates + hidden @ weight_hh)
            outputs.append(hidden)
        return torch.stack(outputs), LSTMState(hidden, cell)


def lstm_step(
    cell: Float[Tensor, "batch hidden"], gates: Float[Tensor, "batch 4*hidden"]
) -> tuple[Float[Tensor, "batch hidden"], Float[Tensor, "batch hidden"]]:
    """The new hidden and cell state, from the gates before their non-linearities."""
    i, f, g, o = gates.chunk(4, dim=-1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell
