"""A training step without any framework around it, as the ways to compute it are timed by."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lstm_lm.config import OptimizerConfig
from lstm_lm.model.language_model import State, detach
from lstm_lm.training.optimization import build_optimizer, clip_by_global_norm


class BareTraining:
    """Forward, loss, backward, clipping and optimizer step, and nothing else."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, precision: str) -> None:
        self.model = model
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.clip_norm = config.clip_norm
        self.optimizer = build_optimizer(self.trained, config)
        self.autocasts = precision == "bf16-mixed"
        self.device = self.trained[0].device.type
        self.losses: list[Tensor] = []  # of all steps, left on the device

    def step(
        self,
        inputs: Int[Tensor, "time batch"],
        targets: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> State:
        """The state that the batch ends in, cut from its graph."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocasts):
            logits, state = self.model(inputs, state)
            loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        clip_by_global_norm(self.trained, self.clip_norm)
        self.optimizer.step()
        self.losses.append(loss.detach())
        return detach(state)


def largest_difference(trainings: Sequence[BareTraining]) -> float:
    """Between the losses of the same step, as a share of the loss, over all steps of all."""
    steps = min(len(training.losses) for training in trainings)
    losses = torch.stack([torch.stack(training.losses[:steps]).cpu() for training in trainings])
    least, largest = losses.amin(dim=0), losses.amax(dim=0)
    return float(((largest - least) / least).max())
