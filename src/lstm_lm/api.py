"""The Python interface: train, load, use and resume runs."""

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lstm_lm.config import (
    Accelerator,
    Backend,
    ComposedConfig,
    CoreName,
    DeviceConfig,
    Level,
    RunConfig,
    validated_copy,
)
from lstm_lm.data.text import Speller
from lstm_lm.errors import SettingsError, Stopped
from lstm_lm.evaluation.modes import Modes
from lstm_lm.evaluation.score import Score, split_of_file, split_of_text
from lstm_lm.evaluation.scorer import Scorer
from lstm_lm.generation import generate, prompt_tokens
from lstm_lm.machine import choose_device, limit_threads
from lstm_lm.saved.load_model import TrainedModel, restore
from lstm_lm.saved.run_folder import RunFolder

if TYPE_CHECKING:
    import lstm_lm.training.module  # imports Lightning, not needed to use a model

E = TypeVar("E", bound=StrEnum)

# PyTorch's random state belongs to the process, and a run draws from it.
TRAINING = threading.RLock()
MULTI_PROCESS_RUNS: list[Path] = []  # of the runs trained here by several processes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run(TrainedModel):
    """A trained run, as its folder was when it was loaded, with one checkpoint's weights.

    It has ``folder``, ``config``, ``summary`` (status and figures), ``vocabulary``, and ``model``
    in evaluation mode.
    """

    def __repr__(self) -> str:
        done = f"{self.summary['epochs']} epochs, {self.summary['steps']:,} steps"
        return f"<Run {self.folder}: {self.summary['status']}, {done}>"

    @cached_property
    def module(self) -> "lstm_lm.training.module.LanguageModelModule":
        """The model as a LightningModule, for a ``Trainer``; it shares the weights of ``model``."""
        from lstm_lm.training.module import LanguageModelModule

        module = LanguageModelModule.from_config(self.config, vocabulary_size=len(self.vocabulary))
        module.model = self.model
        return module.eval()

    def evaluate(
        self,
        text: str | None = None,
        *,
        file: str | Path | None = None,
        split: str = "test",
        reset_every: int | None = None,
        data_root: str | None = None,
        text_path: str | Path | None = None,
        modes: Modes | None = None,
        ensemble: Sequence[TrainedModel] = (),
    ) -> Score:
        """Score the model on a text: every token but the first is predicted.

        Args:
            text: your own text.
            file: the path of your own text, in UTF-8.
            split: without ``text`` and ``file``, a split of the run's text: training, validation
                or test.
            reset_every: number of tokens after which the state is reset to zero.
            data_root: the data folder, if it is not the one that the run used.
            text_path: the path of the run's own text, if it was moved.
            modes: dynamic evaluation and others; by default none.
            ensemble: other runs, whose probabilities are averaged with those of this one.

        Raises:
            SettingsError: if the text cannot be read or has nothing to predict.
            RunFailed: if the loss is not finite in one of the modes.
        """
        path = None if text_path is None else str(text_path)
        scorer = Scorer([self, *ensemble], data_root, path)
        if text is not None:
            part = split_of_text(self, text)
        elif file is not None:
            part = split_of_file(self, str(file))
        else:
            part = scorer.split(split)
        return scorer.score(part, modes or Modes(), reset_every)

    def generate(
        self,
        prompt: str,
        tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> str:
        """The prompt as the model reads it, and its continuation; arguments: :meth:`stream`."""
        steps = self.stream(prompt, tokens, temperature, top_k, top_p, seed=seed)
        return "".join(piece for (piece,) in steps)

    def stream(
        self,
        prompt: str,
        tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        samples: int = 1,
        seed: int = 0,
    ) -> Iterator[list[str]]:
        """The prompt as the model reads it, then the next piece of text for each sample.

        Args:
            tokens: number of tokens to add.
            temperature: below 1 sharpens the model's distribution, above 1 flattens it, 0 always
                takes the likeliest token.
            top_k: sample only from this many likeliest tokens.
            top_p: sample only from the likeliest tokens that together have this probability.

        Raises:
            SettingsError: if the prompt is empty or a number is out of range.
        """
        if tokens < 0:
            raise SettingsError(f"tokens must be >= 0, not {tokens}")
        data = self.config.data
        read = prompt_tokens(prompt, data, self.vocabulary)
        ids = self.vocabulary.encode(read)
        following = generate(self.model, ids, temperature, top_k, top_p, samples, seed)
        steps = (self.vocabulary.decode(ids) for ids in islice(following, tokens))
        return spelled(read, steps, samples, data.level)

    def resume(self, overrides: Sequence[str] = ()) -> "Run":
        """Resume training in the run's folder as if it had never stopped; return the new state.

            run.resume(["training.epochs=20"])

        Args:
            overrides: settings to change, as on the command line; none that belongs to the
                fingerprint.

        Raises:
            SettingsError, RunFailed, KeyboardInterrupt: as :func:`train` does.
        """
        from lstm_lm.command_line.compose import compose_resume
        from lstm_lm.resume import resume

        folder = RunFolder(self.folder)
        changes = compose_resume(overrides, folder.read_config())
        device = folder.read_config(changes).device
        with exclusive_training(self.folder, device):
            resume(self.folder, changes)
            return load_run(self.folder, device=device.accelerator)


def train(config: RunConfig, output: str | Path | None = None) -> Run:
    """Train one model in a new run folder; return the run with its best weights.

    It works in any thread; calls from several threads train one after the other. With
    ``device=ddp`` only rank 0 returns; the other processes exit.

    Args:
        config: what :func:`lstm_lm.compose` returns.
        output: the folder; else the one that ``hydra.run.dir`` named, else
            ``outputs/<date>/<time>``.

    Raises:
        SettingsError: before anything is trained or written, if the run cannot be done.
        RunFailed: if it cannot continue; :class:`lstm_lm.errors.Diverged` is one.
        KeyboardInterrupt: after Ctrl-C, with the newest state saved.
    """
    from lstm_lm.experiment import train as train_in

    named = config.output if isinstance(config, ComposedConfig) else None
    folder = Path(output or named or new_folder())
    if config.resume is not None:
        there = str(folder) if config.resume == "auto" else config.resume
        raise SettingsError(
            f"train starts a new run: use lstm_lm.load_run({there!r}).resume() to resume one"
        )
    config = validated_copy(config)
    if config.trainer.get("fast_dev_run"):
        raise SettingsError(
            "trainer.fast_dev_run saves no run: use scripts/train.py debug=fast, or "
            "lightning.Trainer(fast_dev_run=True).fit(module, data)"
        )
    with exclusive_training(folder, config.device):
        train_in(config, folder)
        return load_run(folder, device=config.device.accelerator)  # it draws random numbers, too


def load_run(
    folder: str | Path,
    checkpoint: str = "best",
    *,
    core: str | None = None,
    backend: str = Backend.auto,
    device: str = Accelerator.cpu,
) -> Run:
    """Load a run from its folder, to use or resume it.

    Args:
        checkpoint: the weights to load, ``best`` or ``last``.
        core: the core to run the model with; by default the one it was trained with.
        backend: the backend of a fused core.
        device: ``cpu``, ``gpu`` or ``auto``.

    Raises:
        SettingsError: if the folder has no run, or a file in it is missing or damaged.
    """
    limit_threads()
    trained = restore(
        Path(folder),
        checkpoint,
        None if core is None else choice(CoreName, "core", core),
        choice(Backend, "backend", backend),
        choose_device(choice(Accelerator, "device", device)),
    )
    return Run(**vars(trained))


@contextlib.contextmanager
def exclusive_training(folder: Path, device: DeviceConfig) -> Iterator[None]:
    """Context manager: one run at a time; after Ctrl-C raise KeyboardInterrupt, with all saved."""
    from lstm_lm.training.process_group import rank_of

    with TRAINING:
        if device.ranks > 1:
            check_single_launch(device)
            MULTI_PROCESS_RUNS.append(folder)
        try:
            yield
            if rank_of(device) > 0:
                raise SystemExit(0)
        except Stopped as error:
            if error.signal is not signal.SIGINT:
                raise
            is_saved = (folder / "checkpoints/last.ckpt").exists()
            raise KeyboardInterrupt(
                f"resume with lstm_lm.load_run({str(folder)!r}, checkpoint='last').resume()"
                if is_saved
                else "stopped before a step was saved"
            ) from error


def check_single_launch(device: DeviceConfig) -> None:
    """Raise SettingsError unless this is a program's first run with several processes.

    Each process runs the whole program again and joins the first run in it.
    """
    if hasattr(sys, "ps1"):
        raise SettingsError(
            f"device.devices={device.devices} starts this program again for each process, which "
            "a notebook cannot: write a script, or use device.devices=1"
        )
    if MULTI_PROCESS_RUNS:
        raise SettingsError(
            f"several processes have trained {MULTI_PROCESS_RUNS[0]} in this program already: "
            "train another run in another program, or use device.devices=1"
        )


def new_folder() -> Path:
    return Path(f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S-%f}")


def choice(kind: type[E], name: str, value: str) -> E:
    """The member of ``kind`` with this value; SettingsError if there is none."""
    if value not in list(kind):
        raise SettingsError(f"{name} must be one of {', '.join(kind)}, not {value}")
    return kind(value)


def spelled(
    prompt: list[str], steps: Iterable[list[str]], samples: int, level: Level
) -> Iterator[list[str]]:
    """The text of the prompt, then the text that each step's tokens add to it."""
    spellers = [Speller(level) for _ in range(samples)]
    yield ["".join(map(speller.add, prompt)) for speller in spellers]
    for tokens in steps:
        yield [speller.add(token) for speller, token in zip(spellers, tokens, strict=True)]
    if any(rest := [speller.finish() for speller in spellers]):
        yield rest
