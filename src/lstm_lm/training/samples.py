"""Text written by the model after each validation, for TensorBoard and the terminal."""

import logging
import textwrap
from itertools import islice
from typing import Any

from lightning import Trainer
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import RunConfig
from lstm_lm.data.splits import Splits
from lstm_lm.data.text import spell, tokenize_prompt
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError
from lstm_lm.generation import generate
from lstm_lm.training.step_callback import StepCallback
from lstm_lm.training.task import NextTokenTask

DEFAULT_PROMPT = 16  # tokens of the validation text
COLUMNS = 96

log = logging.getLogger(__name__)


class Samples(StepCallback):
    """Continues the prompts while the model is still in evaluation mode after a validation.

    Draws from a random state of its own, so training is not changed.
    """

    def __init__(
        self,
        config: RunConfig,
        prompts: list[list[int]],
        vocabulary: Vocabulary,
        task: NextTokenTask,
        writer: SummaryWriter,
    ) -> None:
        self.config = config.samples
        self.seed = config.seed
        self.prompts = prompts
        self.vocabulary = vocabulary
        self.task = task
        self.writer = writer
        self.level = config.data.level

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        for number, prompt in enumerate(self.prompts, start=1):
            text = wrap(self.continue_prompt(prompt))
            log.info("%s", textwrap.indent(text, "  | ", lambda _: True))
            # Four blanks make it preformatted text in TensorBoard's Markdown.
            self.writer.add_text(
                f"sample {number}", textwrap.indent(text, "    "), trainer.global_step
            )

    def continue_prompt(self, prompt: list[int]) -> str:
        following = generate(self.task.model, prompt, self.config.temperature, seed=self.seed)
        ids = prompt + [id_ for (id_,) in islice(following, self.config.tokens)]
        return spell(self.vocabulary.decode(ids), self.level)


def wrap(text: str) -> str:
    """The same with no line too long to be read; blanks stay as the model put them."""
    lines = (
        textwrap.wrap(line, COLUMNS, replace_whitespace=False, drop_whitespace=False) or [""]
        for line in text.split("\n")
    )
    return "\n".join(part for line in lines for part in line)


def encode_prompts(config: RunConfig, splits: Splits) -> list[list[int]]:
    """The prompts in ids; without any, the validation text's beginning.

    Raises:
        SettingsError: if one of them has no token.
    """
    encoded = []
    for prompt in config.samples.prompts:
        tokens = tokenize_prompt(prompt, config.data.level, config.data.cleaning)
        if not tokens:
            raise SettingsError(f"samples.prompts: {prompt!r} has no token to start from")
        if unknown := splits.vocabulary.unknown(tokens):
            log.warning("samples.prompts: %s are not in the vocabulary", unknown)
        encoded.append(splits.vocabulary.encode(tokens))
    return encoded or [splits.validation.ids[:DEFAULT_PROMPT].tolist()]
