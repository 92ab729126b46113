"""A gated recurrent unit written out from its equations.

For each step, with σ the logistic function and ⊙ the element-wise product,

    r, z  =  σ(W_ih x + b_ih + W_hh h + b_hh)           two blocks of size `hidden`
    n     =  tanh(W_in x + b_in + r ⊙ (W_hn h + b_hn))  reset after the product, as torch.nn.GRU
    n     =  tanh(W_in x + b_in + W_hn (r ⊙ h) + b_hn)  reset before it
    h     =  (1 − z) ⊙ n  +  z ⊙ h                      renew some, keep some

Source: Cho et al. (2014), whose third version has the reset gate before the product and whose
first has it after; after it spares one product a step.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lstm_lm.config import ResetGate
from lstm_lm.model.core import HiddenState
from lstm_lm.model.initialization import init_as_torch


class ScratchGRU(nn.Module):
    """Keeps the contract of :class:`lstm_lm.model.core.Core`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        second_bias: bool = True,
        reset_gate: ResetGate = ResetGate.after,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.reset_gate = reset_gate
        self.weight_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size))
        init_as_torch(self, hidden_size, second_bias)

    def forward(
        self,
        inputs: Float[Tensor, "time batch input"],
        state: HiddenState | None = None,
        weight_hh: Float[Tensor, "gates hidden"] | None = None,
    ) -> tuple[Float[Tensor, "time batch hidden"], HiddenState]:
        if state is None:
            state = HiddenState(self.weight_hh_l0.new_zeros(inputs.shape[1], self.hidden_size))
        # What the inputs add to the gates needs no recurrence: one product for all steps.
        from_inputs = inputs @ self.weight_ih_l0.T + self.bias_ih_l0
        step = self._reset_before if self.reset_gate is ResetGate.before else self._reset_after
        weight_hh = self.weight_hh_l0 if weight_hh is None else weight_hh
        hidden = state.hidden
        outputs = []
        for gates in from_inputs:
            hidden = step(hidden, gates, weight_hh)
            outputs.append(hidden)
        return torch.stack(outputs), HiddenState(hidden)

    def _reset_after(
        self,
        hidden: Float[Tensor, "batch hidden"],
        gates: Float[Tensor, "batch 3*hidden"],
        weight_hh: Float[Tensor, "gates hidden"],
    ) -> Float[Tensor, "batch hidden"]:
        from_hidden = hidden @ weight_hh.T + self.bias_hh_l0
        (r, z, n), (h_r, h_z, h_n) = gates.chunk(3, dim=-1), from_hidden.chunk(3, dim=-1)
        r, z = (r + h_r).sigmoid(), (z + h_z).sigmoid()
        n = (n + r * h_n).tanh()
        return (1 - z) * n + z * hidden

    def _reset_before(
        self,
        hidden: Float[Tensor, "batch hidden"],
        gates: Float[Tensor, "batch 3*hidden"],
        weight_hh: Float[Tensor, "gates hidden"],
    ) -> Float[Tensor, "batch hidden"]:
        sizes = [2 * self.hidden_size, self.hidden_size]
        r_z, n = gates.split(sizes, dim=-1)
        weight_r_z, weight_n = weight_hh.split(sizes)
        bias_r_z, bias_n = self.bias_hh_l0.split(sizes)
        r, z = (r_z + hidden @ weight_r_z.T + bias_r_z).sigmoid().chunk(2, dim=-1)
        n = (n + (r * hidden) @ weight_n.T + bias_n).tanh()
        return (1 - z) * n + z * hidden
