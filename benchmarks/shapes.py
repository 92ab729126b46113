"""The sizes of models and batches to measure, and the work of a training step in each."""

from dataclasses import dataclass

from lstm_lm.config import Cell, CoreName, ModelConfig

BLOCKS = {Cell.lstm: 4, Cell.gru: 3, Cell.rnn: 1}  # blocks of hidden_size rows in the weights


@dataclass(frozen=True)
class Shape:
    vocabulary_size: int
    hidden_size: int
    num_steps: int
    batch_size: int
    embedding_size: int | None = None  # None: one-hot input

    def __str__(self) -> str:
        embedded = "" if self.embedding_size is None else f", embedding {self.embedding_size}"
        return (
            f"hidden {self.hidden_size}, {self.num_steps} steps, batch {self.batch_size}, "
            f"vocabulary {self.vocabulary_size:,}{embedded}"
        )

    @property
    def tokens(self) -> int:
        """Number of tokens in a batch."""
        return self.num_steps * self.batch_size

    def model(self, cell: Cell, core: CoreName = CoreName.builtin) -> ModelConfig:
        """Model settings; one bias where possible, as two would have twice the learning rate."""
        return ModelConfig(
            cell=cell,
            core=core,
            hidden_size=self.hidden_size,
            embedding_size=self.embedding_size,
            second_bias=cell is Cell.gru,
        )

    def step_flop(self, cell: Cell) -> int:
        """Floating point operations of a training step's products: one forward, two backward.

        One-hot input counts as none, because a row of the weights could be looked up instead.
        """
        into_cell = self.hidden_size + (self.embedding_size or 0)
        cell_weights = BLOCKS[cell] * self.hidden_size * into_cell
        output_weights = self.hidden_size * self.vocabulary_size
        return 3 * 2 * self.tokens * (cell_weights + output_weights)


SHAPES = {
    "tiny": Shape(28, 8, 4, 4),  # hardly any work, to show overhead
    "small": Shape(28, 256, 35, 32),  # as in the chapter of d2l.ai
    "medium": Shape(64, 512, 100, 64),
    "large": Shape(64, 1024, 35, 64),
    "words": Shape(10_000, 1150, 70, 20, embedding_size=400),  # as in AWD-LSTM
}
