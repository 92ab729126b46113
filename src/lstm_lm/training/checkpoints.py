"""The newest and the best weights, with what is needed to go on from them."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lstm_lm.atomic_file import whole_or_absent
from lstm_lm.errors import Diverged
from lstm_lm.training.measurements import Measurements


class Checkpoints(Callback):
    """Writes ``last.ckpt`` after each validation and at the end, ``best.ckpt`` beside it.

    Best is what has the lowest validation loss. Nothing is written before the weights and every
    step up to them are known to be finite. The files hold tensors and plain values only, so they
    load with ``weights_only=True``.
    """

    def __init__(self, folder: Path, measurements: Measurements) -> None:
        self.last, self.best = folder / "last.ckpt", folder / "best.ckpt"
        self.measurements = measurements
        self.best_loss: float | None = None
        self.best_step: int | None = None
        self.saved_step: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss": self.best_loss, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_loss, self.best_step = state_dict["best_loss"], state_dict["best_step"]

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        loss = trainer.callback_metrics["validation/loss"].item()
        improved = self.best_loss is None or loss < self.best_loss
        if improved:
            # Before saving, so that the file knows of it.
            self.best_loss, self.best_step = loss, trainer.global_step
        self.save(trainer)
        if improved:
            self.keep_last_as_best()

    def keep_last_as_best(self) -> None:
        self.best_step = self.saved_step
        with whole_or_absent(self.best) as temporary:
            shutil.copyfile(self.last, temporary)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self.save(trainer)

    def on_exception(
        self, trainer: Trainer, module: LightningModule, exception: BaseException
    ) -> None:
        if not isinstance(exception, Diverged) and trainer.global_step > 0:
            with contextlib.suppress(Diverged):
                self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        if self.saved_step == trainer.global_step:
            return
        self.measurements.read(trainer.global_step)
        for name, weight in trainer.lightning_module.named_parameters():
            if not weight.isfinite().all():
                raise Diverged(f"weight {name}", trainer.global_step)
        with whole_or_absent(self.last) as temporary:
            trainer.save_checkpoint(temporary)
        self.saved_step = trainer.global_step
