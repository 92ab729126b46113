"""The contract of a recurrent core. Any core can replace any other.

    inputs  [time, batch, input]  ──►  core  ──►  outputs  [time, batch, hidden]
    state   before the first step ──►        ──►  state    after the last step

A core is one layer. It holds no state of its own: two calls that hand the state on give the
same outputs as one call over both stretches. Dropout is not its business, nor is a vocabulary.
Its parameters have the names, shapes and gate order of ``torch.nn``'s cells (``weight_ih_l0``,
``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``), so weights move between cores by
``load_state_dict``. Without a second bias ``bias_hh_l0`` is zero and not trained.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


class LSTMState(NamedTuple):
    """The state that an LSTM carries from step to step: hidden first, as in ``torch.nn.LSTM``."""

    hidden: Float[Tensor, "batch hidden"]
    cell: Float[Tensor, "batch hidden"]


class HiddenState(NamedTuple):
    """The state that a GRU or a plain RNN carries from step to step."""

    hidden: Float[Tensor, "batch hidden"]


class WindowState(NamedTuple):
    """The keys and values that a Transformer's next steps attend to: the newest step last."""

    keys: Float[Tensor, "batch before hidden"]
    values: Float[Tensor, "batch before hidden"]
    filled: Float[Tensor, "batch before"]  # 1, or 0 before a row's first step


CoreState = LSTMState | HiddenState | WindowState
State = tuple[CoreState, ...]  # of a language model: one for each layer
PlainState = list[tuple[str, list[Tensor]]]  # the same for a file: names and tensors only
S = TypeVar("S", LSTMState, HiddenState, WindowState)


@runtime_checkable
class Core(Protocol[S]):
    input_size: int
    hidden_size: int

    def __call__(
        self,
        inputs: Float[Tensor, "time batch input"],
        state: S | None = None,
        weight_hh: Float[Tensor, "gates hidden"] | None = None,
    ) -> tuple[Float[Tensor, "time batch hidden"], S]:
        """Run over every step.

        Args:
            state: None starts from zeros.
            weight_hh: to use instead of the core's own, such as these with dropped entries. Cells
                that recur have it.
        """
        ...


def detach(state: State) -> State:
    """A state with the same values, cut from the graph that computed them."""
    return tuple(type(part)(*(values.detach() for values in part)) for part in state)


def on_cpu(state: State) -> State:
    return tuple(type(part)(*(values.cpu() for values in part)) for part in state)


def only_rows(state: State, rows: slice) -> State:
    return tuple(type(part)(*(values[rows] for values in part)) for part in state)


def join_rows(states: Sequence[State]) -> State:
    """The state of a batch from those of its parts."""
    if len(states) == 1:
        return states[0]
    layers = zip(*states, strict=True)
    return tuple(type(parts[0])(*map(torch.cat, zip(*parts, strict=True))) for parts in layers)


def to_plain_state(state: State) -> PlainState:
    return [(type(part).__name__, list(part)) for part in state]


def from_plain_state(
    saved: PlainState, device: torch.device, dtype: torch.dtype | None = None
) -> State:
    kinds = {kind.__name__: kind for kind in get_args(CoreState)}
    return tuple(
        kinds[name](*(values.to(device, dtype) for values in part)) for name, part in saved
    )
