"""The LSTM as written in the chapter of d2l.ai: the baseline for faster ones.

It computes eight matrix products and an output layer at every step, on one-hot input.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lstm_lm.model.core import LSTMState, State
from lstm_lm.model.language_model import LanguageModel


class NaiveModel(nn.Module):
    """A language model equivalent to ``model``, an LSTM of one layer, with copied weights."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        core = model.cores[0]
        self.vocabulary_size = model.vocabulary_size
        self.embedding = None
        if model.embedding is not None:
            self.embedding = nn.Embedding.from_pretrained(
                model.embedding.weight.detach().clone(), freeze=False
            )
        self.W_xi, self.W_xf, self.W_xc, self.W_xo = transposed_quarters(
            core.get_parameter("weight_ih_l0")
        )
        self.W_hi, self.W_hf, self.W_hc, self.W_ho = transposed_quarters(
            core.get_parameter("weight_hh_l0")
        )
        self.b_i, self.b_f, self.b_c, self.b_o = transposed_quarters(
            core.get_parameter("bias_ih_l0")
        )
        self.W_hq = nn.Parameter(model.output.get_parameter("weight").detach().T.clone())
        self.b_q = nn.Parameter(model.output.get_parameter("bias").detach().clone())

    def forward(
        self, ids: Int[Tensor, "time batch"], state: State | None = None
    ) -> tuple[Float[Tensor, "time batch vocabulary"], State]:
        if self.embedding is not None:
            inputs = self.embedding(ids)
        else:
            inputs = one_hot(ids, self.vocabulary_size).float()
        if state is None:
            H = C = self.W_hq.new_zeros(ids.shape[1], len(self.W_hq))
        else:
            H, C = state[0]  # type: ignore[misc]  # an LSTMState
        outputs = []
        for X in inputs:
            I = torch.sigmoid(X @ self.W_xi + H @ self.W_hi + self.b_i)  # noqa: E741
            F = torch.sigmoid(X @ self.W_xf + H @ self.W_hf + self.b_f)
            O = torch.sigmoid(X @ self.W_xo + H @ self.W_ho + self.b_o)  # noqa: E741
            C_tilde = torch.tanh(X @ self.W_xc + H @ self.W_hc + self.b_c)
            C = F * C + I * C_tilde
            H = O * torch.tanh(C)
            outputs.append(H @ self.W_hq + self.b_q)
        return torch.stack(outputs), (LSTMState(H, C),)


def transposed_quarters(weights: Tensor) -> list[nn.Parameter]:
    """The weights of the input, forget and cell gates and of the output gate, transposed."""
    quarters = weights.detach().chunk(4)
    return [nn.Parameter(quarter.t().contiguous().clone()) for quarter in quarters]
