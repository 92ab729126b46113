"""From a config to a finished run. The only module that knows all the others."""

import logging
import platform
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils.tensorboard import SummaryWriter

from lstm_lm.config import RunConfig
from lstm_lm.data.data_module import TextDataModule
from lstm_lm.data.splits import Splits, read_splits
from lstm_lm.device import choose_device, device_name
from lstm_lm.errors import Diverged, RunFailed, SettingsError
from lstm_lm.model.language_model import LanguageModel, count_parameters
from lstm_lm.run_folder import RunFolder, fingerprint
from lstm_lm.training.budget import Budget
from lstm_lm.training.checkpoints import Checkpoints
from lstm_lm.training.final_figures import final_figures
from lstm_lm.training.measurements import Measurements
from lstm_lm.training.progress import Progress
from lstm_lm.training.samples import Samples, encode_prompts
from lstm_lm.training.task import NextTokenTask

TERMINATED = 128 + signal.SIGTERM  # the exit code that shells know

log = logging.getLogger(__name__)


def train(config: RunConfig, output: Path) -> dict[str, Any]:
    """Train one model into the folder ``output``; return the summary that it holds then.

    Raises:
        SettingsError: before anything is trained or written, if the run cannot be done.
        Diverged: if a number is not finite; the last good checkpoint stays.
        KeyboardInterrupt, SystemExit: after Ctrl-C and SIGTERM, with the newest weights saved.
    """
    started = time.monotonic()
    device = choose_device(config.device.accelerator)
    seed_everything(config.seed, verbose=False)
    splits = read_splits(config.data)
    data = TextDataModule(splits, config.data, config.seed)
    prompts = encode_prompts(config, splits)
    try:
        model = LanguageModel(config.model, len(splits.vocabulary)).to(device)
    except RuntimeError as error:  # which is how PyTorch runs out of memory
        raise SettingsError(f"the model does not fit into memory: {first_line(error)}") from error
    folder = RunFolder(output)
    folder.create(config, splits.vocabulary)
    folder.record(
        status="running",
        fingerprint=fingerprint(config, splits.text_sha256),
        parameters=count_parameters(model),
        device=device_name(device),
        threads=torch.get_num_threads(),
        versions=versions(),
        text=config.data.text.value,
        text_sha256=splits.text_sha256,
        text_note=splits.text_note,
        vocabulary=len(splits.vocabulary),
        test_is_validation=splits.test_is_validation,
    )
    announce(config, splits, model, output)
    budget = Budget(config.training, len(data.training))
    task = NextTokenTask(model, config, budget.spent)
    writer = SummaryWriter(str(output))
    if splits.text_note:
        writer.add_text("text", splits.text_note)
    measurements = Measurements(task, writer, splits, config.training.log_every)
    checkpoints = Checkpoints(folder.checkpoints, measurements)
    # In this order: lines, samples and checkpoints show and store what was measured before.
    callbacks = [
        budget,
        measurements,
        Progress(budget, measurements, config.training.log_every),
        Samples(config, prompts, splits.vocabulary, task, writer),
        checkpoints,
    ]
    trainer = build_trainer(config, device, callbacks)
    status = "failed"
    try:
        trainer.fit(task, data)
        model.to(device).eval()
        with exit_on_sigterm():
            folder.record(**final_figures(config.data, splits, model, checkpoints))
        status = "completed"
    except Diverged as error:
        folder.record(diverged_step=error.step)
        status = "diverged"
        raise
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except SystemExit as error:
        status = "interrupted"
        if isinstance(error, SIGTERMException) or error.code == TERMINATED:
            raise SystemExit(TERMINATED) from error  # Lightning would leave with 0, as if done
        raise KeyboardInterrupt from error  # which Lightning had turned into an exit
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise RunFailed(
                f"out of memory ({first_line(error)}): try a smaller data.batch_size, "
                "data.num_steps or model.hidden_size"
            ) from error
        raise
    finally:
        writer.close()
        if status != "completed" and checkpoints.saved_step is not None:
            step = f"{checkpoints.saved_step:,}"
            log.info("%s; the weights of step %s are kept in %s", status, step, checkpoints.last)
        folder.record(
            status=status,
            epochs=trainer.global_step // len(data.training),  # that were completed
            steps=trainer.global_step,
            tokens=measurements.tokens,
            tokens_per_second=measurements.tokens_per_second,
            seconds=time.monotonic() - started,
            **{"train/perplexity": measurements.latest.get("train/perplexity")},
        )
    return folder.values


def build_trainer(config: RunConfig, device: torch.device, callbacks: list[Callback]) -> Trainer:
    # Its advice concerns worker processes, loggers and products that this project does without.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=config.device.devices,
        precision=config.device.precision,  # type: ignore[arg-type]
        max_epochs=-1,  # the budget ends it
        check_val_every_n_epoch=config.training.validate_every,
        num_sanity_val_steps=0,
        logger=False,  # measurements and samples write what TensorBoard shows
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Outside of training, where Lightning does not listen, leave on SIGTERM in good order."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def announce(config: RunConfig, splits: Splits, model: LanguageModel, output: Path) -> None:
    log.info("run     %s", output)
    log.info(
        "text    %s: %s training, %s validation, %s test tokens, vocabulary %s",
        config.data.path or config.data.text,
        *(f"{len(part.ids):,}" for part in (splits.training, splits.validation, splits.test)),
        f"{len(splits.vocabulary):,}",
    )
    if splits.text_note:
        log.info("        %s", splits.text_note)
    if splits.test_is_validation:
        log.info("        the validation text doubles as test text")
    log.info(
        "model   %s %s, %s trainable parameters",
        config.model.core,
        config.model.cell,
        f"{count_parameters(model):,}",
    )


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
