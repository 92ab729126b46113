"""Text written by the model after each validation, for TensorBoard and the terminal."""

import logging
import textwrap
from itertools import islice

from lightning import Callback, Trainer

from lstm_lm.config import DataConfig, SamplesConfig
from lstm_lm.data.splits import Splits
from lstm_lm.data.text import spell, tokenize_prompt
from lstm_lm.generation import generate
from lstm_lm.training.task import NextTokenTask

DEFAULT_PROMPT = 16  # tokens of the validation text

log = logging.getLogger(__name__)


class Samples(Callback):
    """Continues the prompts; draws from a random state of its own, so training is not changed."""

    def __init__(self, config: SamplesConfig, data: DataConfig, splits: Splits) -> None:
        self.config = config
        self.level = data.level
        self.vocabulary = splits.vocabulary
        self.prompts = [
            self.vocabulary.encode(tokenize_prompt(prompt, data.level, data.cleaning))
            for prompt in config.prompts
        ] or [splits.validation.ids[:DEFAULT_PROMPT].tolist()]

    def on_validation_end(self, trainer: Trainer, task: NextTokenTask) -> None:
        was_training = task.model.training
        task.model.eval()
        for number, prompt in enumerate(self.prompts, start=1):
            text = self.continue_prompt(task, prompt)
            log.info("%s", textwrap.indent(text, "  | "))
            # Four blanks make it preformatted text in TensorBoard's Markdown.
            trainer.logger.experiment.add_text(
                f"sample {number}", textwrap.indent(text, "    "), trainer.global_step
            )
        task.model.train(was_training)

    def continue_prompt(self, task: NextTokenTask, prompt: list[int]) -> str:
        following = generate(
            task.model, prompt, self.config.temperature, seed=task.config.seed
        )
        ids = prompt + [id_ for (id_,) in islice(following, self.config.tokens)]
        return spell(self.vocabulary.decode(ids), self.level)
