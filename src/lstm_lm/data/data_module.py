"""The splits of a text as Lightning wants them: batches on the device that trains."""

from jaxtyping import Integer
from lightning import LightningDataModule
from torch import Tensor

from lstm_lm.config import DataConfig
from lstm_lm.data.splits import Splits
from lstm_lm.data.windows import EvaluationBatches, TrainingBatches
from lstm_lm.ranks import Ranks


class TextDataModule(LightningDataModule):
    """Training and validation batches of one text.

    All ids of a split lie on the device as one tensor and batches are cut from it there:
    nothing is copied from step to step, and worker processes would only cost time.
    """

    def __init__(self, splits: Splits, config: DataConfig, seed: int, ranks: Ranks) -> None:
        super().__init__()
        self.splits = splits
        self.config = config
        self.ranks = ranks
        self.training = TrainingBatches(
            splits.training.ids,
            config.batch_size,
            config.num_steps,
            config.order,
            seed,
            ranks.rows(config.batch_size),
        )

    def train_dataloader(self) -> TrainingBatches:
        self.training.ids = self._on_device(self.training.ids)
        return self.training

    def val_dataloader(self) -> EvaluationBatches:
        ids = self._on_device(self.splits.validation.ids)
        rows, vocabulary_size = self.config.evaluation_rows, len(self.splits.vocabulary)
        return EvaluationBatches(ids, rows, vocabulary_size, self.ranks)

    def _on_device(self, ids: Integer[Tensor, " tokens"]) -> Integer[Tensor, " tokens"]:
        return ids if self.trainer is None else ids.to(self.trainer.strategy.root_device)
