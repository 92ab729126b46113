"""A bare training step in PyTorch, to time the cores with."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.device import seconds
from benchmarks.shapes import Shape
from lstm_lm.config import OptimizerConfig
from lstm_lm.model.core import State, detach
from lstm_lm.training.optimization import build_optimizer, clip_by_global_norm

WARM_UP = 2  # steps


class BareTraining:
    """Bare training: forward, loss, backward, clipping and optimizer step, nothing else."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, precision: str) -> None:
        self.model = model
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.clip_norm = config.clip_norm
        self.optimizer = build_optimizer(self.trained, config)
        self.precision: AbstractContextManager[object] = nullcontext()
        if precision == "bf16-mixed":
            self.precision = torch.autocast(self.trained[0].device.type, torch.bfloat16)
        self.losses: list[Tensor] = []  # of all steps, left on the device
        self.gradient_norms: list[Tensor] = []

    def step(
        self,
        inputs: Int[Tensor, "time batch"],
        targets: Int[Tensor, "time batch"],
        state: State | None = None,
    ) -> State:
        """Train on one batch; return the state after it, detached from its graph."""
        with self.precision:
            logits, state = self.model(inputs, state)
            loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.gradient_norms.append(clip_by_global_norm(self.trained, self.clip_norm))
        self.optimizer.step()
        self.losses.append(loss.detach())
        return detach(state)


def random_ids(shape: Shape, device: torch.device) -> Int[Tensor, "steps batch"]:
    """Random ids for a batch of this shape, always the same."""
    size = (shape.num_steps + 1, shape.batch_size)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(shape.vocabulary_size, size, generator=generator).to(device)


def step_seconds(training: BareTraining, ids: Int[Tensor, "steps batch"]) -> float:
    """Time of one step, after the first ones, which are slow."""
    for _ in range(WARM_UP):
        training.step(ids[:-1], ids[1:])
    return seconds(lambda: training.step(ids[:-1], ids[1:]), ids.device)


def largest_difference(trainings: Sequence[BareTraining]) -> float:
    """Largest relative difference of losses or gradient norms in the same step."""
    differences = []
    for every in ([t.losses for t in trainings], [t.gradient_norms for t in trainings]):
        steps = min(map(len, every))
        numbers = torch.stack([torch.stack(some[:steps]).float().cpu() for some in every])
        least, largest = numbers.amin(dim=0), numbers.amax(dim=0)
        differences.append(float(((largest - least) / least).max()))
    return max(differences, key=lambda difference: (math.isnan(difference), difference))
