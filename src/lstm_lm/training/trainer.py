"""Lightning's trainer as it is used here: it moves to the device, loops, steps and calls back.

What ends a run, what is logged and saved, and how ranks work together is decided elsewhere.
"""

import logging
import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import PassThroughProfiler

from lstm_lm.config import RunConfig
from lstm_lm.training.checkpoints import SealedFiles


def build_trainer(
    config: RunConfig,
    device: torch.device,
    validate_every: int,
    callbacks: list[Callback],
    files: SealedFiles,
) -> Trainer:
    # Its advice concerns worker processes, loggers and products that this project does without.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    # Else it would look for the other ranks itself.
    alone = [LightningEnvironment()] if files.ranks.count > 1 else []
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1 if device.index is None else [device.index],  # to Lightning each rank is alone
        precision=config.device.precision,  # type: ignore[arg-type]
        max_epochs=-1,  # the budget ends it
        # In steps, as to Lightning all is one epoch.
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        profiler=Unprofiled(),
        logger=False,  # measurements and samples write what TensorBoard shows
        callbacks=callbacks,
        plugins=[files, *alone],
        default_root_dir=files.folder.path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class Unprofiled(PassThroughProfiler):
    """Does nothing around each hook; so does Lightning's own, but at greater length."""

    def profile(  # type: ignore[override]  # of whatever kind
        self, action_name: str
    ) -> AbstractContextManager[None]:
        return nullcontext()
