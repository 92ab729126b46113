"""A text as Lightning wants it: batches on the device that trains."""

from typing import Any

import torch
from jaxtyping import Integer
from lightning import LightningDataModule, Trainer
from torch import Tensor

from lstm_lm.config import DataConfig, RunConfig, TextName, from_plain
from lstm_lm.data.batches import Batch, EvaluationBatches, TrainingBatches, rows_of_rank
from lstm_lm.data.corpora import find_corpus
from lstm_lm.data.splits import Split, Splits, read_splits
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError


class TextDataModule(LightningDataModule):
    """Training, validation and test batches of one text, for any ``Trainer``.

        data = TextDataModule("my.txt", level="character", batch_size=32, num_steps=35)
        module = LanguageModelModule(len(data.vocabulary))
        Trainer(max_epochs=2).fit(module, data)

    All ids of a split lie on the device as one tensor and batches are cut from it there: nothing
    is copied from step to step, and worker processes would only cost time. With several ranks,
    each gets its share of a batch's rows.

    Args:
        path: a UTF-8 text of one's own; without it, the text that ``text`` names.
        seed: of the order of batches.
        settings: those of :class:`lstm_lm.config.DataConfig`, by their names.

    Raises:
        SettingsError: if a setting does not exist or is out of range; when the text is read, if it
            cannot be had or is too short.
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
        """The text of a run.

        Args:
            vocabulary: if None, one is built as the config says.
            text_sha256: what the text's checksum must be, if it was seen before.
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
        """Download the text, if need be, and check it. Lightning does so once on each machine."""
        if self.read is None:
            find_corpus(self.config)

    def setup(self, stage: str) -> None:
        """Build the vocabulary and the splits; the same for every stage."""
        _ = self.splits

    def train_dataloader(self) -> TrainingBatches:
        config, rank, world_size = self.config, self.rank, self.world_size
        if config.batch_size % world_size:
            raise SettingsError(
                f"data.batch_size={config.batch_size} cannot be shared out evenly among "
                f"{world_size} processes"
            )
        return TrainingBatches(
            self.on_device(self.splits.training.ids),
            config.batch_size,
            config.num_steps,
            config.order,
            self.seed,
            rows_of_rank(config.batch_size, rank, world_size),
            lambda: (0, 0) if self.trainer is None else position_in(self.trainer),
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

    def characters_per_token(self, split: str) -> float:
        """Of the tokens of a split that are predicted: ``train``, ``validation`` or ``test``."""
        splits = self.splits
        parts = {"train": splits.training, "validation": splits.validation, "test": splits.test}
        return parts[split].characters / parts[split].predictions

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        # Lightning looks through a batch for what to move, which takes longer than to see this.
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


def position_in(trainer: Trainer) -> tuple[int, int]:
    """The epoch that a trainer is in, and how many of its batches are done.

    Lightning restores its counters only after it has asked for a loader.
    """
    loop = trainer.fit_loop
    done = loop.epoch_loop.batch_progress.current.completed if loop.restarting else 0
    is_overfit = trainer.overfit_batches > 0  # type: ignore[attr-defined]
    epoch = 0 if is_overfit else trainer.current_epoch  # the same batches in each
    return epoch, 0 if done == trainer.num_training_batches else done
