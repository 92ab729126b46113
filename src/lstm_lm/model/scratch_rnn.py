"""A plain recurrent network written out from its equation.

    h  =  tanh(W_ih x + b_ih + W_hh h + b_hh)

Source: Elman (1990).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lstm_lm.model.core import HiddenState
from lstm_lm.model.initialization import init_as_torch


class ScratchRNN(nn.Module):
    """Keeps the contract of :class:`lstm_lm.model.core.Core`."""

    def __init__(self, input_size: int, hidden_size: int, second_bias: bool = True) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(hidden_size))
        init_as_torch(self, hidden_size, second_bias)

    def forward(
        self,
        inputs: Float[Tensor, "time batch input"],
        state: HiddenState | None = None,
        weight_hh: Float[Tensor, "gates hidden"] | None = None,
    ) -> tuple[Float[Tensor, "time batch hidden"], HiddenState]:
        if state is None:
            state = HiddenState(self.weight_hh_l0.new_zeros(inputs.shape[1], self.hidden_size))
        # What the inputs add needs no recurrence: one product for all steps.
        from_inputs = inputs @ self.weight_ih_l0.T + (self.bias_ih_l0 + self.bias_hh_l0)
        weight_hh = (self.weight_hh_l0 if weight_hh is None else weight_hh).T
        hidden = state.hidden
        outputs = []
        for from_input in from_inputs:
            hidden = (from_input + hidden @ weight_hh).tanh()
            outputs.append(hidden)
        return torch.stack(outputs), HiddenState(hidden)
