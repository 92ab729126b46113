"""How far a model is above the floor of a generated text, after each validation."""

from lightning import Callback, LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.data.splits import Split
from lstm_lm.data.windows import as_rows
from lstm_lm.evaluation import AboveFloor, token_losses
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.training.metrics import in_all_units


class FloorLine(Callback):
    """Draws the floor beside the validation curve, and the gap to it, overall and of memory.

    Scores the validation text in rows as validation itself does, while the model is still in
    evaluation mode. A row's first string began in the row before, of which the model knows
    nothing; its gaps are left out.
    """

    def __init__(
        self, model: LanguageModel, validation: Split, rows: int, writer: SummaryWriter
    ) -> None:
        self.model = model
        self.validation = validation
        self.rows = min(rows, validation.predictions)
        self.writer = writer

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self.validation.floor is None:
            return
        ids = self.validation.ids.to(next(self.model.parameters()).device)
        losses = token_losses(self.model, *as_rows(ids, self.rows))
        above = AboveFloor.of(losses, self.validation.floor, self.rows)
        per_token = self.validation.characters / self.validation.predictions
        shown = in_all_units("floor", above.floor, per_token)
        shown["validation/gap"] = above.gap
        if above.memory_gap is not None:
            shown["validation/memory_gap"] = above.memory_gap
        for name, value in shown.items():
            self.writer.add_scalar(name, value, trainer.global_step)
