"""The sizes that are measured, and how much work a training step of each is."""

from dataclasses import dataclass

from lstm_lm.config import Cell, CoreName, ModelConfig

BLOCKS = {Cell.lstm: 4, Cell.gru: 3, Cell.rnn: 1}  # of hidden_size rows in a cell's weights


@dataclass(frozen=True)
class Shape:
    vocabulary_size: int
    hidden_size: int
    num_steps: int
    batch_size: int
    embedding_size: int | None = None  # none: one-hot input

    def __str__(self) -> str:
        embedded = "" if self.embedding_size is None else f", embedding {self.embedding_size}"
        return (
            f"hidden {self.hidden_size}, {self.num_steps} steps, batch {self.batch_size}, "
            f"vocabulary {self.vocabulary_size:,}{embedded}"
        )

    @property
    def tokens(self) -> int:
        """Of one batch."""
        return self.num_steps * self.batch_size

    def model(self, cell: Cell, core: CoreName = CoreName.builtin) -> ModelConfig:
        """With one bias where that is possible: two would be trained twice as fast."""
        return ModelConfig(
            cell=cell,
            core=core,
            hidden_size=self.hidden_size,
            embedding_size=self.embedding_size,
            second_bias=cell is Cell.gru,
        )

    def step_flop(self, cell: Cell) -> int:
        """Of the matrix products of a training step, which is a forward and two backward ones.

        One-hot input counts as none, as a row of the weights could be looked up instead.
        """
        into_cell = self.hidden_size + (self.embedding_size or 0)
        cell_weights = BLOCKS[cell] * self.hidden_size * into_cell
        output_weights = self.hidden_size * self.vocabulary_size
        return 3 * 2 * self.tokens * (cell_weights + output_weights)


SHAPES = {
    "tiny": Shape(28, 8, 4, 4),  # next to no work, so that overhead shows
    "small": Shape(28, 256, 35, 32),  # that of the chapter of d2l.ai
    "medium": Shape(64, 512, 100, 64),
    "large": Shape(64, 1024, 35, 64),
    "words": Shape(10_000, 1150, 70, 20, embedding_size=400),  # that of AWD-LSTM
}
