"""From a config to a finished run, or on from a run's folder. Joins all the other modules."""

import hashlib
import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything

from lstm_lm.checkpoint_file import load_newest
from lstm_lm.config import RunConfig, Schedule
from lstm_lm.data.data_module import TextDataModule
from lstm_lm.data.splits import read_splits
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.device import choose_device
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.model.language_model import LanguageModel, count_parameters
from lstm_lm.run_folder import Run, RunFolder, fingerprint, restore, what_is_trained
from lstm_lm.training.budget import Budget
from lstm_lm.training.samples import encode_prompts
from lstm_lm.training.session import Session, first_line, versions
from lstm_lm.training.stop_signals import StopSignals

log = logging.getLogger(__name__)


def train(config: RunConfig, output: Path) -> dict[str, Any]:
    """Train one model into the folder ``output``; return the summary that it holds then.

    Raises:
        SettingsError: before anything is trained or written, if the run cannot be done.
        RunFailed: if it cannot go on, for want of memory, disk or finite numbers; the last good
            checkpoint stays.
        Stopped: after Ctrl-C and SIGTERM, with the newest state saved.
    """
    with StopSignals() as signals:
        source = None if config.init_from is None else run_to_start_from(config)
        vocabulary = None if source is None else source.vocabulary
        session = prepare(config, RunFolder(output), signals, vocabulary)
        started_from = None if source is None else start_from(source, session)
        splits = session.splits
        with session.folder.held():
            session.folder.create(config, splits.vocabulary, known_before(session, started_from))
            announce(session)
            session.run()
        return session.folder.values


def resume(output: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Go on in a run's folder as if it had never stopped; return its summary.

    Args:
        changes: settings to be different from now on, by their dotted names.

    Raises:
        SettingsError: if there is no run that can go on, or the changes would make it another
            one; nothing is changed then.
        RunFailed, Stopped: as :func:`train` does.
    """
    folder = RunFolder(output)
    before, config = folder.read_config(), folder.read_config(changes)
    with StopSignals() as signals, folder.held():
        summary = folder.read_summary()
        refuse_another_run(folder, before, config, summary)
        vocabulary = folder.read_vocabulary(summary["vocabulary_sha256"])
        path, checkpoint, source = None, None, None
        if folder.last.exists() or folder.previous.exists():
            path, checkpoint = load_newest(folder.last, folder.previous)
        elif config.init_from is not None:
            source = run_to_start_from(config)
        torch.set_num_threads(summary["threads"])  # sums are rounded in another order with others
        session = prepare(config, folder, signals, vocabulary, summary["text_sha256"])
        if source is not None:
            start_from(source, session, summary["started_from"])
        if checkpoint is not None:
            if is_used_up(session, checkpoint, summary):
                return summary
            refuse_another_schedule(session, before, checkpoint)
        folder.values = without_results(summary)
        folder.write_config(config)
        announce(session, checkpoint, summary)
        session.run(path, checkpoint)
    return folder.values


def prepare(
    config: RunConfig,
    folder: RunFolder,
    signals: StopSignals,
    vocabulary: Vocabulary | None = None,
    text_sha256: str | None = None,
) -> Session:
    """All that a run needs, before anything is written."""
    started = time.monotonic()
    device = choose_device(config.device.accelerator)
    seed_everything(config.seed, verbose=False)
    splits = read_splits(config.data, vocabulary, text_sha256)
    data = TextDataModule(splits, config.data, config.seed)
    prompts = encode_prompts(config, splits)
    try:
        model = LanguageModel(config.model, len(splits.vocabulary)).to(device)
    except RuntimeError as error:  # which is how PyTorch runs out of memory
        raise SettingsError(f"the model does not fit into memory: {first_line(error)}") from error
    return Session(config, folder, data, prompts, model, device, signals, started)


def run_to_start_from(config: RunConfig) -> Run:
    """The run whose weights are asked for, with the core that is asked for.

    Making it draws from the random states, so it comes before they are seeded.

    Raises:
        SettingsError: if its weights would mean something else here.
    """
    source = restore(Path(str(config.init_from)), core=config.model.core)
    shape = "cell", "hidden_size", "num_layers", "embedding_size", "second_bias", "reset_gate"
    here, there = vars(config.model), vars(source.config.model)
    differing = [f"model.{name}={there[name]}" for name in shape if here[name] != there[name]]
    if config.data.level != source.config.data.level:
        differing.append(f"data.level={source.config.data.level}")
    if differing:
        raise SettingsError(
            f"init_from: the weights of {config.init_from} need {' '.join(differing)}"
        )
    return source


def start_from(source: Run, session: Session, expected: str | None = None) -> str:
    """Copy the weights of a run; their checksum, which must be as expected."""
    session.model.load_state_dict(source.model.state_dict())
    digest = hashlib.sha256()
    for name, weight in sorted(source.model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    if expected not in (None, digest.hexdigest()):
        raise SettingsError("init_from: the best weights there are no longer those of then")
    training = session.splits.training
    if unknown := int((training.ids == 0).sum()):
        log.warning(
            "warning: %.2g %% of the training text is not in the vocabulary of %s",
            100 * unknown / len(training.ids),
            session.config.init_from,
        )
    return digest.hexdigest()


def refuse_another_run(
    folder: RunFolder, before: RunConfig, config: RunConfig, summary: dict[str, Any]
) -> None:
    known = fingerprint(before, summary["text_sha256"], summary["started_from"])
    if known != summary["fingerprint"]:
        raise DamagedFile(
            f"{folder.config} is not what this run was started with: it was changed, or written "
            "by another version of lstm_lm"
        )
    old, new = (what_is_trained(c) | {"init_from": c.init_from} for c in (before, config))
    if changed := [
        f"{name} from {old[name]} to {new[name]}" for name in old if old[name] != new[name]
    ]:
        raise SettingsError(
            f"a run that goes on cannot change {', '.join(changed)}: start a new one, from the "
            f"weights of this one with init_from={folder.path}"
        )


def is_used_up(session: Session, checkpoint: dict[str, Any], summary: dict[str, Any]) -> bool:
    """Whether there is nothing to do; says so."""
    budget = Budget(session.config.training, session.data.training.steps_per_epoch)
    budget.load_state_dict(checkpoint["callbacks"]["Budget"])
    if summary["status"] != "completed" or budget.spent(checkpoint["global_step"]) < 1:
        return False
    log.info(
        "%s is complete, with %d epochs, %s steps: nothing to do. A larger training.epochs (or "
        "steps, or minutes) goes on.",
        session.folder.path,
        summary["epochs"],
        f"{summary['steps']:,}",
    )
    return True


def refuse_another_schedule(
    session: Session, before: RunConfig, checkpoint: dict[str, Any]
) -> None:
    steps_per_epoch = session.data.training.steps_per_epoch
    old, new = (Budget(c.training, steps_per_epoch) for c in (before, session.config))
    schedule = before.optimizer.schedule
    if schedule in (Schedule.linear, Schedule.cosine) and old.limits != new.limits:
        raise SettingsError(
            f"optimizer.schedule={schedule} spreads over the whole budget, so another one would "
            f"change learning rates that were already used in the {checkpoint['global_step']:,} "
            f"steps done: start a new run, for instance with init_from={session.folder.path}"
        )


def known_before(session: Session, started_from: str | None) -> dict[str, Any]:
    """A run's summary before its first step."""
    config, splits = session.config, session.splits
    return {
        "status": "running",
        "fingerprint": fingerprint(config, splits.text_sha256, started_from),
        "started_from": started_from,
        "parameters": count_parameters(session.model),
        "versions": versions(),
        "threads": torch.get_num_threads(),
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


def without_results(summary: dict[str, Any]) -> dict[str, Any]:
    """What stays true of a run that goes on."""
    results = {"diverged_step", "reset_every"}
    return {n: v for n, v in summary.items() if "/" not in n and n not in results}


def announce(
    session: Session,
    checkpoint: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
) -> None:
    config, splits = session.config, session.splits
    log.info("run     %s", session.folder.path)
    if summary is not None:
        step = 0 if checkpoint is None else checkpoint["global_step"]
        log.info("        goes on after step %s", f"{step:,}")
        if summary["versions"]["torch"] != torch.__version__:
            log.warning(
                "warning: with PyTorch %s it may not end with the same bits as with %s before",
                torch.__version__,
                summary["versions"]["torch"],
            )
    if config.init_from is not None:
        log.info("        started from the best weights of %s", config.init_from)
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
        f"{count_parameters(session.model):,}",
    )
