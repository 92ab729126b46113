"""PyTorch's own cells behind the contract of a core: oneDNN on a CPU, cuDNN on a GPU.

They are subclasses rather than wrappers so that their parameters keep their names. Torch's
states have an axis for layers in front; a core's do not.
"""

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
        self, inputs: Float[Tensor, "time batch input"], state: LSTMState | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], LSTMState]:
        before = None if state is None else (state.hidden.unsqueeze(0), state.cell.unsqueeze(0))
        outputs, (hidden, cell) = super().forward(inputs, before)
        return outputs, LSTMState(hidden[0], cell[0])


class BuiltinGRU(nn.GRU):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)

    def forward(  # type: ignore[override]
        self, inputs: Float[Tensor, "time batch input"], state: HiddenState | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], HiddenState]:
        before = None if state is None else state.hidden.unsqueeze(0)
        outputs, hidden = super().forward(inputs, before)
        return outputs, HiddenState(hidden[0])


class BuiltinRNN(nn.RNN):
    def __init__(self, input_size: int, hidden_size: int, second_bias: bool = True) -> None:
        super().__init__(input_size, hidden_size)
        if not second_bias:
            drop_second_bias(self)

    def forward(  # type: ignore[override]
        self, inputs: Float[Tensor, "time batch input"], state: HiddenState | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], HiddenState]:
        before = None if state is None else state.hidden.unsqueeze(0)
        outputs, hidden = super().forward(inputs, before)
        return outputs, HiddenState(hidden[0])
