"""The contract of a recurrent core. Any core can replace any other.

    inputs  [time, batch, input]  ──►  core  ──►  outputs  [time, batch, hidden]
    state   before the first step ──►        ──►  state    after the last step

A core is one layer. It holds no state of its own: two calls that hand the state on give the
same outputs as one call over both stretches. Dropout is not its business, nor is a vocabulary.
Its parameters have the names, shapes and gate order of ``torch.nn``'s cells (``weight_ih_l0``,
``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``), so weights move between cores by
``load_state_dict``. Without a second bias ``bias_hh_l0`` is zero and not trained.
"""

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor


class LSTMState(NamedTuple):
    """What an LSTM carries from one step to the next: hidden first, as in ``torch.nn.LSTM``."""

    hidden: Float[Tensor, "batch hidden"]
    cell: Float[Tensor, "batch hidden"]


class HiddenState(NamedTuple):
    """What a GRU or a plain RNN carries from one step to the next."""

    hidden: Float[Tensor, "batch hidden"]


class WindowState(NamedTuple):
    """What a Transformer's next steps attend to: the newest step last."""

    keys: Float[Tensor, "batch before hidden"]
    values: Float[Tensor, "batch before hidden"]
    filled: Float[Tensor, "batch before"]  # 1, or 0 before a row's first step


CoreState = LSTMState | HiddenState | WindowState
S = TypeVar("S", LSTMState, HiddenState, WindowState)


@runtime_checkable
class Core(Protocol[S]):
    input_size: int
    hidden_size: int

    def __call__(
        self, inputs: Float[Tensor, "time batch input"], state: S | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], S]:
        """Run over every step; ``state=None`` starts from zeros."""
        ...
