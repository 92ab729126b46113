"""How much memory a model takes at least, known before it is made."""

from lstm_lm.config import Cell, RunConfig
from lstm_lm.errors import SettingsError
from lstm_lm.memory import in_units, memory

MATRICES = {Cell.lstm: 4, Cell.gru: 3, Cell.rnn: 1, Cell.transformer: 1}  # of each layer, at least


def refuse_too_large(config: RunConfig, vocabulary_size: int, copies: int = 1) -> None:
    """
    Args:
        copies: of each weight, with what else is kept of it.

    Raises:
        SettingsError: if that is more than there is. Linux would hand it out all the same, and end
            the process without a word when it is used.
    """
    model, hidden = config.model, config.model.hidden_size
    inputs = model.embedding_size or vocabulary_size
    weights = MATRICES[model.cell] * hidden * (inputs + (2 * model.num_layers - 1) * hidden)
    weights += vocabulary_size * (hidden + (model.embedding_size or 0))
    needed = copies * weights * (8 if config.device.precision == "64-true" else 4)
    there_is = memory()
    if needed > there_is:
        raise SettingsError(
            f"the model does not fit into memory: with a vocabulary of {vocabulary_size:,} it "
            f"needs {in_units(needed)}, but there are only {in_units(there_is)}: choose a smaller "
            "model.hidden_size, model.num_layers or model.embedding_size"
        )
