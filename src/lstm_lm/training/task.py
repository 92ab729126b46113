"""How a language model learns: loss, carried state, optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lstm_lm.config import Order, RunConfig
from lstm_lm.data.windows import Batch
from lstm_lm.model.language_model import LanguageModel, State, detach
from lstm_lm.ranks import Ranks
from lstm_lm.training.optimization import (
    build_optimizer,
    build_plateau,
    build_schedule,
    clip_by_global_norm,
)
from lstm_lm.training.step_log import StepLog


class NextTokenTask(LightningModule):
    """Next-token prediction by truncated back-propagation through time.

    Where batches are consecutive, each starts from the state in which the one before ended, cut
    from its graph; the first of an epoch, and every batch of random windows, from zeros.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: RunConfig,
        spent: Callable[[int], float],
        steps_per_epoch: int,
        ranks: Ranks,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.spent = spent
        self.steps_per_epoch = steps_per_epoch
        self.ranks = ranks
        self.steps = StepLog(ranks)
        self.learning_rate = config.optimizer.learning_rate  # of the newest step
        self.training_state: State | None = None
        self.validation_state: State | None = None
        self.plateau: ReduceLROnPlateau | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Before and after each hook Lightning notes its name, which is slow for a module.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(  # type: ignore[override]  # Lightning takes more than it says
        self,
    ) -> tuple[list[Optimizer], list[dict[str, Any]]]:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        config = self.config.optimizer
        optimizer = build_optimizer(trained, config)
        self.plateau = build_plateau(optimizer, config)
        return [optimizer], [
            {"scheduler": build_schedule(optimizer, config, self.spent), "interval": "step"}
        ]

    def training_step(self, batch: Batch, batch_index: int) -> Float[Tensor, ""]:
        starts_epoch = self.global_step % self.steps_per_epoch == 0
        logits, state = self.model(batch.inputs, None if starts_epoch else self.training_state)
        if self.config.data.order is Order.consecutive:
            self.training_state = detach(state)
        loss = cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        self.steps.losses.append(loss.detach())
        return loss

    def on_after_backward(self) -> None:
        self.ranks.average_gradients(self.parameters())

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        self.learning_rate = float(optimizer.param_groups[0]["lr"])
        trained, largest = optimizer.param_groups[0]["params"], self.config.optimizer.clip_norm
        self.steps.gradient_norms.append(clip_by_global_norm(trained, largest))

    def on_validation_epoch_start(self) -> None:
        self.validation_state = None
        self.validation_nats = torch.zeros((), dtype=torch.float64, device=self.device)
        self.validation_tokens = 0

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        logits, self.validation_state = self.model(batch.inputs, self.validation_state)
        nats = cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")
        self.validation_nats += nats
        self.validation_tokens += batch.targets.numel()

    def on_validation_epoch_end(self) -> None:
        # Not for the logger: see measurements. Callbacks look here.
        tokens = self.ranks.sum(torch.tensor(self.validation_tokens))
        loss = self.ranks.sum(self.validation_nats) / tokens
        self.log("validation/loss", loss, logger=False)
        # Not for Lightning to step, which counts from where this process began.
        period = self.steps_per_epoch * self.config.training.validate_every
        if self.plateau is not None and self.global_step % period == 0:
            self.plateau.step(loss.item())
