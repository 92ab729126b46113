"""How much of a loss reaches back through time.

For the loss of one step, the norm of its gradient with respect to the state k steps before it, for
k = 0, 1, …: where that vanishes nothing can be learned from what was read then, where it explodes
steps are too large.

Source: Hochreiter (1991); Bengio, Simard & Frasconi (1994).
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from lstm_lm.data.generated import Floor
from lstm_lm.data.splits import Split
from lstm_lm.model.core import HiddenState, LSTMState
from lstm_lm.model.language_model import LanguageModel

STEPS_BACK = 100  # at least
ROWS = 16
Flow = dict[str, Float[Tensor, " steps"]]  # for "layer 1 hidden", "layer 1 cell" …


@torch.enable_grad()
def gradient_flow(
    model: LanguageModel, inputs: Int[Tensor, "time batch"], targets: Int[Tensor, " batch"]
) -> Flow:
    """Norms of the gradient of the last step's loss, by steps back from it; means over rows.

    The gradient is the total one, by whatever way. An LSTM's cell is taken as it is handed on, so
    that of the last step has none. Any core will do, whatever it keeps of its own way, as it is
    asked for one step at a time.

    Args:
        inputs: read from a zero state.
        targets: what follows the last of them.
    """
    was_training = model.training
    model.train()  # cuDNN keeps what it needs to go back only then; there is no dropout here
    # The gradient with respect to a zero that is added to a state is that of the state.
    zeros: dict[str, list[Tensor]] = {}
    states: list[LSTMState | HiddenState | None] = [None] * len(model.cores)
    for ids in inputs:
        features = model.features(ids.unsqueeze(0))
        for layer, core in enumerate(model.cores):
            outputs, state = core(features, states[layer])
            added = type(state)(*(torch.zeros_like(part).requires_grad_() for part in state))
            for name, zero in added._asdict().items():
                zeros.setdefault(f"layer {layer + 1} {name}", []).append(zero)
            states[layer] = type(state)(*(p + zero for p, zero in zip(state, added, strict=True)))
            features = outputs + added.hidden
    loss = cross_entropy(model.output(features[0]), targets, reduction="sum")  # rows stay apart
    gradients = torch.autograd.grad(
        loss, [zero for steps in zeros.values() for zero in steps], materialize_grads=True
    )
    model.train(was_training)
    norms = torch.stack([gradient.norm(dim=-1).mean() for gradient in gradients]).cpu()
    back = norms.unflatten(0, (len(zeros), len(inputs))).flip(1)
    return dict(zip(zeros, back, strict=True))


def places_to_flow_from(split: Split) -> tuple[Int[Tensor, "time batch"], Int[Tensor, " batch"]]:
    """Stretches of a text and what follows them, spread over it evenly.

    Of a generated text such that what follows must be remembered, as far as there are any, and
    so long that they have what it follows from.
    """
    steps = STEPS_BACK
    if split.floor is not None:
        steps = max(steps, furthest_back(split.floor))
    steps = min(steps, split.predictions)
    ends = torch.arange(steps, len(split.ids))
    if split.floor is not None and (kept := split.floor.from_memory[steps:]).any():
        ends = ends[torch.from_numpy(kept)]
    ends = ends[torch.linspace(0, len(ends) - 1, min(ROWS, len(ends)), dtype=torch.float64).long()]
    inputs = torch.stack([split.ids[end - steps : end] for end in ends.tolist()], dim=1)
    return inputs.long(), split.ids[ends].long()


def furthest_back(floor: Floor) -> int:
    """Tokens from the beginning of a string to the last one that follows from memory; 0 if none."""
    places = np.arange(len(floor.begins))
    since = places - np.maximum.accumulate(np.where(floor.begins, places, 0))
    return int(since[floor.from_memory].max(initial=0))
