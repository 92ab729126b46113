"""Gradient flow: how far the gradient of a loss reaches back in time.

The norm of the gradient of one step's loss with respect to the state k steps before it, for
k = 0, 1, …. Where it vanishes, nothing can be learned from the inputs of that time. Where it
explodes, updates are too large.

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

STEPS_BACK = 100  # the minimum
ROWS = 16
Flow = dict[str, Float[Tensor, " steps"]]  # by name: "layer 1 hidden", "layer 1 cell" …


@torch.enable_grad()
def gradient_flow(
    model: LanguageModel, inputs: Int[Tensor, "time batch"], targets: Int[Tensor, " batch"]
) -> Flow:
    """Norms of the gradient of the last step's loss by steps back from it, averaged over rows.

    Gradients are total, over all paths. The LSTM cell is the one passed to the next step, so the
    last step has no cell gradient. Any core works, since it is called one step at a time.

    Args:
        inputs: read from zero state.
        targets: the ids after the last inputs.
    """
    was_training = model.training
    model.train()  # cuDNN's backward needs training mode; dropout is not part of these calls
    # The gradient of a zero that is added to a state equals the gradient of the state.
    zeros: dict[str, list[Tensor]] = {}
    states: list[LSTMState | HiddenState | None] = [None] * len(model.cores)
    for ids in inputs:
        features = model.features(ids.unsqueeze(0))
        for layer, core in enumerate(model.cores, start=1):
            outputs, state = core(features, states[layer - 1])
            added = type(state)(*(torch.zeros_like(part).requires_grad_() for part in state))
            for name, zero in added._asdict().items():
                zeros.setdefault(f"layer {layer} {name}", []).append(zero)
            states[layer - 1] = type(state)(
                *(p + zero for p, zero in zip(state, added, strict=True))
            )
            features = model.skip(layer, features, outputs + added.hidden)
    # A sum, not a mean, keeps each row's gradient that of its own loss.
    loss = cross_entropy(model.output(features[0]), targets, reduction="sum")
    gradients = torch.autograd.grad(
        loss, [zero for steps in zeros.values() for zero in steps], materialize_grads=True
    )
    model.train(was_training)
    norms = torch.stack([gradient.norm(dim=-1).mean() for gradient in gradients]).cpu()
    back = norms.unflatten(0, (len(zeros), len(inputs))).flip(1)
    return dict(zip(zeros, back, strict=True))


def gradient_flow_windows(split: Split) -> tuple[Int[Tensor, "time batch"], Int[Tensor, " batch"]]:
    """Stretches of a text, evenly spread, and the id after each.

    In a generated text the ids after them must be remembered, if it has any such ids. The
    stretches are then long enough to contain the symbols that determine those ids.
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
    """Largest distance from the start of a string to a token that follows from memory; or 0."""
    places = np.arange(len(floor.begins))
    since = places - np.maximum.accumulate(np.where(floor.begins, places, 0))
    return int(since[floor.from_memory].max(initial=0))
