"""How a run goes on from a checkpoint as if it had never stopped.

A checkpoint is the state right after an optimizer step, before anything that follows from it,
validation included. Going on from it does again what may have been cut off there. Only after
its last validation is the state of a run saved once more.

Lightning restores weights, optimizer, schedule and the callbacks' states. Its own counters it
would restore too, but not exactly (2.6: validation that was due is skipped or goes on in its
middle, the batches start over). This file sets them instead; only it and the trainer know their
names, and a test names the versions of Lightning that both hold for. A run is a single epoch to
Lightning, so that its position is one number: the steps done.
"""

import hashlib
import random
from typing import Any

import numpy
import torch
from lightning import LightningModule, Trainer

from lstm_lm.model.language_model import (
    State,
    from_plain,
    join_rows,
    on_cpu,
    only_rows,
    to_plain,
)
from lstm_lm.training.step_callback import StepCallback
from lstm_lm.training.task import NextTokenTask


class ExactResume(StepCallback):
    """Keeps what is needed to go on beside weights and optimizer, and puts it back.

    That is the state carried to the next batch, the random states, and the plateau schedule. A
    step that fails half way may have changed the first two, so both are remembered after each
    step; of the random states only PyTorch's, as no step draws from another.

    The carried state is kept for all rows of a batch, so any number of ranks can go on with it.
    Random states are each rank's own; a rank that was not there before gets a new one.
    """

    def __init__(self, task: NextTokenTask, validate_every: int) -> None:
        self.task = task
        self.validate_every = validate_every  # steps
        self.carried: State | None = None
        self.torch_random: dict[str, Any] = {}
        self.validated_step: int | None = None
        self.restored: dict[str, Any] | None = None

    def on_train_batch_end(self, *_: Any) -> None:
        self.remember()

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self.validated_step = trainer.global_step

    def remember(self) -> None:
        self.carried = self.task.training_state
        self.torch_random = torch_random_states()

    def state_dict(self) -> dict[str, Any]:
        plateau = self.task.plateau
        own = on_cpu(self.carried or ()), self.torch_random | other_random_states()
        carried, random_states = zip(*self.task.ranks.gather(own), strict=True)
        return {
            "carried": to_plain(join_rows(carried)),
            "precision": self.task.trainer.precision,
            "random": list(random_states),  # of each rank
            "learning_rate": self.task.learning_rate,
            "validated_step": self.validated_step,
            "plateau": None if plateau is None else plateau.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict

    def on_load_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["loops"] = None  # so that Lightning leaves its counters alone
        set_steps_done(trainer, checkpoint["global_step"])

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        ranks = self.task.ranks
        if self.restored is None:
            if not ranks.is_first:
                seed_rank(self.task.config.seed, ranks.number)
            self.remember()
            return
        # Of another precision now, the state must take on that of the weights.
        same = self.restored["precision"] == trainer.precision
        dtype = None if same else next(module.parameters()).dtype
        carried = from_plain(self.restored["carried"], module.device, dtype)
        rows = ranks.rows(self.task.config.data.batch_size)
        self.task.training_state = only_rows(carried, rows) or None
        self.task.learning_rate = self.restored["learning_rate"]
        if self.task.plateau is not None:
            self.task.plateau.load_state_dict(self.restored["plateau"])
        if ranks.number < len(self.restored["random"]):
            set_random_states(self.restored["random"][ranks.number])
        else:
            seed_rank(self.task.config.seed, ranks.number)
        self.remember()
        # As would have been done right after that step, if it was not.
        step = trainer.global_step
        is_due = trainer.should_stop or step % self.validate_every == 0
        if is_due and self.restored["validated_step"] != step:
            validate(trainer)


def set_steps_done(trainer: Trainer, steps: int) -> None:
    loop = trainer.fit_loop.epoch_loop
    loop.automatic_optimization.optim_progress.optimizer.step.total.increment_by(steps)
    loop.batch_progress.total.increment_by(steps)  # by this it knows when validation is due


def validate(trainer: Trainer) -> None:
    """What Lightning's training loop does between two batches."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def seed_rank(seed: int, number: int) -> None:
    """Let a rank drop out others than the first one, and the same whenever it starts."""
    digest = hashlib.sha256(f"rank {number}, seed {seed}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))


def torch_random_states() -> dict[str, Any]:
    """Those of the CPU and of the GPU that is trained on, if one is."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {"cpu": torch.get_rng_state(), "gpu": gpu}


def other_random_states() -> dict[str, Any]:
    kind, keys, *rest = numpy.random.get_state()
    return {"python": random.getstate(), "numpy": (kind, list(map(int, keys)), *rest)}


def set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["gpu"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["gpu"])
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
