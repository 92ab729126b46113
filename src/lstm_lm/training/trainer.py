"""Lightning's trainer as it is used here: it moves to the device, loops, steps and calls back.

What ends a run, what is logged and saved, and how ranks work together is decided elsewhere.
"""

import logging
import warnings
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.call import _call_callback_hooks

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
    trainer = Trainer(
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
    trainer.fit_loop.epoch_loop = TrainingLoop(trainer)
    return trainer


class TrainingLoop(_TrainingEpochLoop):
    """Lightning's, without what no step here has: batches to move, hooks to look for, a log.

    Those take more time than the rest of the loop, and longest where a step's products have
    emptied the caches of all Python.
    """

    def advance(self, data_fetcher: _DataFetcher) -> None:
        trainer, number = self.trainer, self.batch_idx + 1
        batch, _, _ = next(data_fetcher)
        self.batch_progress.is_last_batch = data_fetcher.done
        self.batch_progress.increment_ready()
        _call_callback_hooks(trainer, "on_train_batch_start", batch, number)
        self.batch_progress.increment_started()
        arguments = OrderedDict(batch=batch, batch_idx=number)
        outputs = self.automatic_optimization.run(trainer.optimizers[0], number, arguments)
        self.batch_progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        _call_callback_hooks(trainer, "on_train_batch_end", outputs, batch, number)
        self.batch_progress.increment_completed()


class Unprofiled(PassThroughProfiler):
    """Does nothing around each hook; so does Lightning's own, but at greater length."""

    def profile(  # type: ignore[override]  # of whatever kind
        self, action_name: str
    ) -> AbstractContextManager[None]:
        return nullcontext()
