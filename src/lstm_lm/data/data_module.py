"""The LightningDataModule of a text: batches on the training device."""

from typing import Any

import torch
from jaxtyping import Integer
from lightning import LightningDataModule, Trainer
from torch import Tensor

from lstm_lm.config import DataConfig, RunConfig, TextName, from_plain
from lstm_lm.data.batches import Batch, EvaluationBatches, TrainingBatches, rank_rows
from lstm_lm.data.splits import Length, Split, Splits, find_text, read_splits
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError


class TextDataModule(LightningDataModule):
    """Training, validation and test batches of one text, for any ``Trainer``.

        data = TextDataModule("my.txt", level="character", batch_size=32, num_steps=35)
        module = LanguageModelModule(len(data.vocabulary))
        Trainer(max_epochs=2).fit(module, data)

    All ids of a split lie on the device as one tensor, and batches are cut from it there. Nothing
    is copied from step to step, so worker processes would only cost time. With several ranks,
    each gets its share of a batch's rows.

    Args:
        path: your own UTF-8 text; without it, the text that ``text`` names.
        seed: determines the order of batches.
        settings: fields of :class:`lstm_lm.config.DataConfig`.

    Raises:
        SettingsError: if a setting does not exist or is out of range; when the text is read, if it
            cannot be found or is too short.
    """

    def __init__(self, path: str | None = None, *, seed: int = 0, **settings: Any) -> None:
        super().__init__()
        if path is not None:
            settings |= {"text": TextName.file, "path": str(path)}
        self.config = from_plain(DataConfig, settings, "data")
        self.seed = seed
        self.known: tuple[Vocabulary | None, str | None] = None, None
        self.read: Splits | None = None

    @classmethod
    def from_config(
        cls,
        config: RunConfig,
        vocabulary: Vocabulary | None = None,
        text_sha256: str | None = None,
    ) -> "TextDataModule":
        """The data module of a run.

        Args:
            vocabulary: if None, built as the config says.
            text_sha256: the checksum that the text must have; None for a new run.
        """
        data = cls(seed=config.seed)
        data.config, data.known = config.data, (vocabulary, text_sha256)
        return data

    @property
    def batch_size(self) -> int:
        """Rows of a training batch, over all ranks."""
        return self.config.batch_size

    @batch_size.setter
    def batch_size(self, rows: int) -> None:
        self.config = from_plain(DataConfig, vars(self.config) | {"batch_size": rows}, "data")

    @property
    def splits(self) -> Splits:
        if self.read is None:
            self.read = read_splits(self.config, *self.known)
        return self.read

    @property
    def vocabulary(self) -> Vocabulary:
        return self.splits.vocabulary

    def prepare_data(self) -> None:
        """Download the text if needed, and check it; Lightning calls this once on each machine."""
        if self.read is None:
            find_text(self.config)

    def setup(self, stage: str) -> None:
        """Build the vocabulary and the splits; the same for every stage."""
        _ = self.splits

    def train_dataloader(self) -> TrainingBatches:
        config, rank, world_size = self.config, self.rank, self.world_size
        if config.batch_size % world_size:
            raise SettingsError(
                f"data.batch_size={config.batch_size} cannot be divided evenly among "
                f"{world_size} processes"
            )
        return TrainingBatches(
            self.on_device(self.splits.training.ids),
            config.batch_size,
            config.num_steps,
            config.order,
            self.seed,
            rank_rows(config.batch_size, rank, world_size),
            lambda: (0, 0) if self.trainer is None else epoch_and_batch(self.trainer),
            config.variable_num_steps,
        )

    def val_dataloader(self) -> EvaluationBatches:
        """The validation text in ``evaluation_rows`` rows, side by side."""
        return self.evaluation_batches(self.splits.validation, self.config.evaluation_rows)

    def test_dataloader(self) -> EvaluationBatches:
        """The test text as one stream, so that every token but the first is scored exactly."""
        return self.evaluation_batches(self.splits.test, 1)

    def predict_dataloader(self) -> EvaluationBatches:
        return self.test_dataloader()

    def evaluation_batches(self, split: Split, rows: int) -> EvaluationBatches:
        ids = self.on_device(split.ids)
        return EvaluationBatches(ids, rows, len(self.vocabulary), self.rank, self.world_size)

    def token_length(self, split: str) -> Length:
        """Mean over the predicted tokens of a split: ``train``, ``validation`` or ``test``."""
        splits = self.splits
        parts = {"train": splits.training, "validation": splits.validation, "test": splits.test}
        return parts[split].token_length

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        # Lightning would search the batch for tensors to move, which takes longer than this check.
        if isinstance(batch, Batch) and batch.inputs.device == device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    @property
    def rank(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def world_size(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    def on_device(self, ids: Integer[Tensor, " tokens"]) -> Integer[Tensor, " tokens"]:
        return ids if self.trainer is None else ids.to(self.trainer.strategy.root_device)


def epoch_and_batch(trainer: Trainer) -> tuple[int, int]:
    """The trainer's current epoch, and how many of its batches are done.

    Lightning restores its counters only after it has requested the loader.
    """
    loop = trainer.fit_loop
    done = loop.epoch_loop.batch_progress.current.completed if loop.restarting else 0
    is_overfit = trainer.overfit_batches > 0  # type: ignore[attr-defined]
    epoch = 0 if is_overfit else trainer.current_epoch  # overfitting repeats the same batches
    return epoch, 0 if done == trainer.num_training_batches else done
