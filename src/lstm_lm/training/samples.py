"""Text written by the model after each validation, for TensorBoard and the terminal."""

import logging
import textwrap
from itertools import islice

from lightning import Callback, LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import RunConfig
from lstm_lm.data.text import spell
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.generation import generate
from lstm_lm.model.language_model import LanguageModel

COLUMNS = 96

log = logging.getLogger(__name__)


class Samples(Callback):
    """Continues the prompts while the model is still in evaluation mode after a validation.

    Draws from a random state of its own, so training is not changed.
    """

    def __init__(
        self,
        config: RunConfig,
        prompts: list[list[int]],
        vocabulary: Vocabulary,
        model: LanguageModel,
        writer: SummaryWriter | None,
    ) -> None:
        self.config = config.samples
        self.seed = config.seed
        self.prompts = prompts
        self.vocabulary = vocabulary
        self.model = model
        self.writer = writer
        self.level = config.data.level

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        for number, prompt in enumerate(self.prompts, start=1):
            text = wrap(self.continue_prompt(prompt))
            log.info("%s", textwrap.indent(text, "  | ", lambda _: True))
            if self.writer is not None:
                # Four blanks make it preformatted text in TensorBoard's Markdown.
                preformatted = textwrap.indent(text, "    ")
                self.writer.add_text(f"sample {number}", preformatted, trainer.global_step)

    def continue_prompt(self, prompt: list[int]) -> str:
        following = generate(self.model, prompt, self.config.temperature, seed=self.seed)
        ids = prompt + [id_ for (id_,) in islice(following, self.config.tokens)]
        return spell(self.vocabulary.decode(ids), self.level)


def wrap(text: str) -> str:
    """The same with no line too long to be read; blanks stay as the model put them."""
    lines = (
        textwrap.wrap(line, COLUMNS, replace_whitespace=False, drop_whitespace=False) or [""]
        for line in text.split("\n")
    )
    return "\n".join(part for line in lines for part in line)
