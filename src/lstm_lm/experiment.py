"""Train a run from a config: prepare, announce, train. Joins all the other modules."""

import dataclasses
import logging
import os
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything

from lstm_lm.command_line.instantiate import build_callbacks, build_loggers, typed_entries
from lstm_lm.config import CoreName, DeviceConfig, OptimizerName, RunConfig
from lstm_lm.data.data_module import TextDataModule
from lstm_lm.data.splits import Splits
from lstm_lm.data.vocabulary import Vocabulary, describe_unknown
from lstm_lm.errors import SettingsError
from lstm_lm.generation import encode_prompts
from lstm_lm.machine import choose_device, cpu_cores, device_name, limit_threads
from lstm_lm.model.fused.kernels import check_backend, resolve_auto
from lstm_lm.model.language_model import check_model_size, count_parameters
from lstm_lm.process import StopSignals
from lstm_lm.saved.fingerprint import fingerprint
from lstm_lm.saved.load_model import TrainedModel, load_init_run, weights_sha256
from lstm_lm.saved.run_folder import RunFolder, Status, check_folder_name
from lstm_lm.training.failures import first_line
from lstm_lm.training.loggers import with_saved_ids
from lstm_lm.training.module import LanguageModelModule
from lstm_lm.training.process_group import as_rank, local_rank_of, rank_of
from lstm_lm.training.session import Session
from lstm_lm.training.trainer import build_trainer

UNKNOWN_WARNING_SHARE = 0.1  # unknown tokens, as a share of a text; WikiText-2 in words has 0.06

log = logging.getLogger(__name__)


def train(config: RunConfig, output: Path) -> dict[str, Any]:
    """Train one model into the folder ``output``; return the final summary.

    Raises:
        SettingsError: before anything is trained or written, if the run is impossible.
        RunFailed: if memory or disk runs out, or a number is not finite; the last good
            checkpoint stays.
        Stopped: after Ctrl-C and SIGTERM, with the newest state saved.
    """
    if config.trainer.get("fast_dev_run"):
        with tempfile.TemporaryDirectory() as nothing_is_kept:
            summary = train_into(config, Path(nothing_is_kept) / "run")
        log.info("training, validation and test ran on a few batches; nothing is saved")
        return summary
    return train_into(config, output)


def train_into(config: RunConfig, output: Path) -> dict[str, Any]:
    check_folder_name(output)
    limit_threads()
    divide_threads(config.device)
    rank = rank_of(config.device)
    with as_rank(rank), StopSignals() as signals:
        with signals.interruptible():  # it may compile
            config, why = resolve_auto(config, device_of(config).type)
        if why is not None:
            log.info("%s", why)
        source = load_init_from(config)
        vocabulary = None if source is None else source.vocabulary
        folder = RunFolder(output, is_ours=rank == 0)
        session = prepare(config, folder, signals, typed_entries(config), vocabulary, source=source)
        started_from = None if source is None else weights_sha256(source)
        signals.raise_if_stopped()
        with folder.locked():
            summary = initial_summary(session, started_from)
            folder.create(config, session.splits.vocabulary, summary)
            log_start(session)
            session.run()
        return folder.values


def load_init_from(config: RunConfig) -> TrainedModel | None:
    """The run that ``init_from`` names, if any.

    Call this before the seed is set, as building the model draws random numbers.
    """
    return None if config.init_from is None else load_init_run(config)


def prepare(
    config: RunConfig,
    folder: RunFolder,
    signals: StopSignals,
    typed: Collection[str],
    vocabulary: Vocabulary | None = None,
    text_sha256: str | None = None,
    source: TrainedModel | None = None,
    source_sha256: str | None = None,
) -> Session:
    """Prepare everything that a run needs, before anything is written.

    Args:
        typed: loggers and callbacks that the user typed, not only the run folder names.
        vocabulary: None builds one from the config's text.
        text_sha256: the expected checksum of the text, if known.
        source: the run with the initial weights.
        source_sha256: the expected checksum of these weights, if known.

    Raises:
        SettingsError: if something cannot be created, or the text or the weights have changed.
    """
    started = time.monotonic()
    device = device_of(config)
    with signals.interruptible():  # it may compile
        check_backend(config.model.backend, device)
    seed_everything(config.seed, verbose=False)
    data = TextDataModule.from_config(config, vocabulary, text_sha256)
    data.train_dataloader()  # is the text long enough?
    prompts = encode_prompts(config, data.splits)
    module = build_module(config, len(data.vocabulary), device)
    if source is not None:
        if source_sha256 is not None and source_sha256 != weights_sha256(source):
            raise SettingsError(
                f"init_from: the weights in {source.folder} have changed since this run was started"
            )
        module.model.load_state_dict(source.model.state_dict())
    with_ids = dataclasses.replace(config, logger=with_saved_ids(config.logger, folder.path))
    loggers = build_loggers(with_ids, folder.path, typed)
    callbacks = build_callbacks(config, folder.path, typed)
    build_trainer(config, device, loggers, callbacks, folder)  # checks its arguments
    return Session(
        config, folder, data, prompts, module, loggers, callbacks, device, signals, started
    )


def build_module(
    config: RunConfig, vocabulary_size: int, device: torch.device
) -> LanguageModelModule:
    """The module on its device; raise SettingsError if it does not fit into memory."""
    # Weight, gradient and moments.
    copies = {OptimizerName.sgd: 2, OptimizerName.rmsprop: 3, OptimizerName.muon: 3}.get(
        config.optimizer.name, 4
    )
    check_model_size(config, vocabulary_size, copies if device.type == "cpu" else 1)
    try:
        module = LanguageModelModule.from_config(config, vocabulary_size=vocabulary_size)
        module.to(device)
    except (RuntimeError, MemoryError) as error:  # PyTorch is out of memory
        raise SettingsError(f"the model does not fit into memory: {first_line(error)}") from error
    return module


def device_of(config: RunConfig) -> torch.device:
    on = config.device
    return choose_device(on.accelerator, on.devices, local_rank_of(on))


def divide_threads(config: DeviceConfig) -> None:
    """Divide a computer's cores among its ranks, unless OMP_NUM_THREADS has done so."""
    if config.devices > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cpu_cores() // config.devices))


def initial_summary(session: Session, started_from: str | None) -> dict[str, Any]:
    """Summary of a run before its first step."""
    config, splits = session.config, session.splits
    return {
        "status": Status.running.value,
        **session.known(),
        "fingerprint": fingerprint(config, splits.text_sha256, started_from),
        "started_from": started_from,
        "parameters": count_parameters(session.module.model),
        "core": config.model.core.value,
        "threads": torch.get_num_threads(),  # of each rank
        "text": config.data.text.value,
        "text_sha256": splits.text_sha256,
        "text_note": splits.text_note,
        "vocabulary": len(splits.vocabulary),
        "test_is_validation": splits.test_is_validation,
        "epochs": 0,
        "steps": 0,
        "tokens": 0,
        "seconds": 0.0,
    }


def log_start(
    session: Session,
    checkpoint: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
) -> None:
    """Log what will be trained and, for a resumed run, from which step.

    Args:
        checkpoint: the checkpoint to resume from, if any.
        summary: the summary of the resumed run.
    """
    config, splits = session.config, session.splits
    log.info("run     %s", session.folder.path)
    if summary is not None:
        step = 0 if checkpoint is None else checkpoint["global_step"]
        log_resume(session.device, step, summary)
    if config.init_from is not None:
        log.info("        started from the best weights of %s", config.init_from)
    log.info(
        "text    %s: %s training, %s validation, %s test tokens, vocabulary %s",
        config.data.path or config.data.text,
        *(f"{len(part.ids):,}" for part in (splits.training, splits.validation, splits.test)),
        f"{len(splits.vocabulary):,}",
    )
    warn_unknown_tokens(splits, has_source=config.init_from is not None)
    if splits.text_note:
        log.info("        %s", splits.text_note)
    if splits.test_is_validation:
        log.info("        the validation text doubles as test text")
    fused = config.model.core is CoreName.fused
    log.info(
        "model   %s %s, %s trainable parameters",
        f"{config.model.core} ({config.model.backend})" if fused else config.model.core,
        config.model.cell,
        f"{count_parameters(session.module.model):,}",
    )
    if (ranks := config.device.ranks) > 1:
        rows = config.data.batch_size // ranks
        log.info("ranks   %d processes, each with %d rows of a batch", ranks, rows)


def log_resume(device: torch.device, step: int, summary: dict[str, Any]) -> None:
    log.info("        resumes after step %s", f"{step:,}")
    if step < summary["steps"]:
        log.info("        %s steps were done, but not all saved", f"{summary['steps']:,}")
    before = summary["versions"]["torch"], summary["device"]
    now = torch.__version__, device_name(device)
    if before != now:
        log.warning(
            "warning: with PyTorch %s on %s the run may not end with the same bits as before, with "
            "%s on %s",
            *now,
            *before,
        )


def warn_unknown_tokens(splits: Splits, has_source: bool) -> None:
    if not (unknown := describe_unknown(splits.unknown)):
        return
    if max(splits.unknown.values()) <= UNKNOWN_WARNING_SHARE:
        log.info("        %s is not in the vocabulary", unknown)
        return
    remedy = "data.vocabulary_from=whole_text data.minimum_count=1 lists every token"
    log.warning(
        "warning: %s is not in the vocabulary, and counts as one token, <unk>: perplexity says "
        "little about it; %s",
        unknown,
        "without init_from a run has its own vocabulary" if has_source else remedy,
    )
