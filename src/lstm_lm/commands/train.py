"""Train one model, or with ``-m`` many in parallel. ``--help`` lists every setting.

Exit codes: 0 completed, 1 failed or diverged (in a sweep: any of its jobs), 2 bad settings,
130 Ctrl-C, 143 SIGTERM.
"""

import contextlib
import logging
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm.contrib.logging import logging_redirect_tqdm

from lstm_lm import process
from lstm_lm.command_line.compose import conf_folder, register_resolver
from lstm_lm.command_line.settings import (
    ONE_RUN,
    check_main_config,
    check_no_sweep,
    check_settings_exist,
    explain_typed,
    explicit_settings,
    outcome,
    quoted_setting,
    register,
    run_config,
)
from lstm_lm.config import settings_of
from lstm_lm.data.vocabulary import describe_unknown
from lstm_lm.errors import Diverged, RunFailed, SettingsError, Stopped
from lstm_lm.files import is_locked
from lstm_lm.process import STOPPING, print_error, printing, run_program, slow_imports


class JobFailed(Exception):
    """A job of a sweep failed; its error is printed already."""


USERS_ERRORS = SettingsError, RunFailed, HydraException, OmegaConfBaseException, OSError


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")
def train_composed(composed: DictConfig) -> float | None:
    """Train or resume a run; return its best validation loss, for sweepers that search."""
    os.chdir(HydraConfig.get().runtime.cwd)  # undoes hydra.job.chdir: paths were typed here
    output = Path(HydraConfig.get().runtime.output_dir)
    output = output.relative_to(Path.cwd()) if output.is_relative_to(Path.cwd()) else output
    try:
        summary = train_or_resume(composed, output)
        if "best/step" in summary:  # only rank 0 has it and reports
            with printing():
                report(summary, output)
        return summary.get("best/validation/loss")
    except Stopped:
        for number in STOPPING:  # all is saved, and this process ends
            signal.signal(number, signal.SIG_IGN)
        print_resume_command(output)
        raise
    except USERS_ERRORS as error:
        code = refuse(error)
        if isinstance(error, RunFailed) and not isinstance(error, Diverged):
            print_resume_command(output, has_failed=True)
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise JobFailed from error  # another launcher continues with the next job
        raise SystemExit(code) from error
    finally:
        remove_empty_folders(output)  # Hydra has created it, needed or not


def train_or_resume(composed: DictConfig, output: Path) -> dict[str, Any]:
    check_main_config(HydraConfig.get())
    of_sweep = HydraConfig.get().mode is RunMode.MULTIRUN  # and another launcher than ours
    goes_on = composed.resume is not None and check_resume(composed.resume, output)
    typed = cast(list[str], OmegaConf.to_container(HydraConfig.get().overrides.task))  # unresolved
    config_name = str(HydraConfig.get().job.config_name)
    with slow_imports():  # here, because --help needs no torch
        from lstm_lm.experiment import train
        from lstm_lm.resume import resume, resume_or_train
        from lstm_lm.saved.run_folder import RunFolder

    if goes_on:
        check_settings_exist(composed)
        before = settings_of(RunFolder(output).read_config())
        changes = explicit_settings(typed, before, config_name)
        changes.pop("resume", None)
        return resume(output, changes)
    if of_sweep:
        check_no_sweep(HydraConfig.get().sweeper, typed)
    config = run_config(composed, typed, config_name)
    return resume_or_train(config, output) if of_sweep else train(config, output)


def check_resume(resume: str, output: Path) -> bool:
    """True if there is a run to resume in the output folder."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        raise SettingsError(ONE_RUN)
    typed = [key.lstrip("+") for key in HydraConfig.get().overrides.hydra]
    is_named = any(key.startswith("hydra.run.dir=") for key in typed)
    if resume == "auto" and not is_named:
        raise SettingsError("resume=auto needs hydra.run.dir=<the folder of the run, old or new>")
    is_started = "LOCAL_RANK" in os.environ  # by Lightning, with hydra.run.dir
    if resume != "auto" and is_named and not is_started:
        raise SettingsError(f"resume={resume} names the folder already: leave out hydra.run.dir")
    return resume != "auto" or (output / "config.yaml").is_file()


def refuse(error: Exception) -> int:
    """Print what is wrong; return the exit code."""
    from_hydra = isinstance(error, HydraException)  # some of them are OSErrors, too
    is_plain = isinstance(error, (SettingsError, RunFailed, OSError)) and not from_hydra
    code = 1 if is_plain and not isinstance(error, SettingsError) else 2
    return print_error(error if is_plain else explain_typed(error), code)


def report(summary: dict[str, Any], output: Path) -> None:
    from lstm_lm.training.metrics import is_nearly_ascii

    rows = {
        "train": "while the weights moved, last epoch",
        "validation": "final weights",
        "best/validation": f"best weights, step {summary['best/step']:,}",
        "test": "best weights",
    }
    if "reset_every" in summary:
        rows["test/reset"] = f"best weights, state reset every {summary['reset_every']} tokens"
    units = ["bits per character", "bits per byte"]
    bits = {key: [summary.get(f"{key}/{u.replace(' ', '_')}") for u in units] for key in rows}
    if is_nearly_ascii(summary["test/bits_per_character"], summary["test/bits_per_byte"]):
        units.pop()
    print(f"\n{'':12}{'perplexity':>12}{''.join(f'{unit:>{2 + len(unit)}}' for unit in units)}")
    for key, weights in rows.items():
        name = key.removeprefix("best/").split("/")[0]
        numbers = ("" if value is None else f"{value:.4f}" for value in bits[key])
        shown = "".join(f"{n:>{2 + len(u)}}" for n, u in zip(numbers, units, strict=False))
        print(f"{name:12}{summary[f'{key}/perplexity']:>12.4f}{shown}  {weights}")
    if summary["test_is_validation"]:
        print("The validation text doubles as test text.")
    if unknown := describe_unknown(summary):
        print(f"Not in the vocabulary, and counted as <unk>: {unknown}.")
    if summary["text_note"]:
        print(summary["text_note"])
    print(
        f"{summary['tokens_per_second']:,.0f} tokens per second, "
        f"{summary['seconds']:.0f} seconds in all\n\n"
        f"run folder   {output}"
    )
    if any(output.glob("events.out.tfevents.*")):
        logs = next((above for above in output.parents if above.name == "outputs"), output.parent)
        print(f"curves       tensorboard --logdir {logs}")
    print()


def remove_unused_sweep_folder(sweep_dir: Path | None) -> None:
    """Remove the files of a sweep that never started."""
    with contextlib.suppress(OSError):
        if sweep_dir is not None and not (sweep_dir / "sweep.json").exists():
            (sweep_dir / "multirun.yaml").unlink(missing_ok=True)
            if is_locked(sweep_dir / ".optuna.lock") is False:
                (sweep_dir / "optuna.log").unlink(missing_ok=True)
                (sweep_dir / ".optuna.lock").unlink(missing_ok=True)
            if is_locked(sweep_dir / ".lock") is False:
                (sweep_dir / ".lock").unlink(missing_ok=True)
            remove_empty_folders(sweep_dir)


def remove_empty_folders(folder: Path) -> None:
    """Remove an empty folder and, below the current one, the parents that it leaves empty."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        if not folder.is_absolute():
            for parent in list(folder.parents)[:-1]:
                parent.rmdir()


def print_resume_command(output: Path, has_failed: bool = False) -> None:
    resumed = any(word.startswith("resume=") for word in sys.argv)  # perhaps with a longer budget
    typed = shlex.join(sys.argv[1:]) if resumed else quoted_setting("resume", output)
    with printing():
        if (output / "config.yaml").exists():
            print(f"to resume    {process.train_command} {typed}")
        elif not has_failed:
            print("stopped before training began")


def stop(number: int, _: Any) -> None:
    raise Stopped(number)


def main() -> int:
    for number in signal.SIGTERM, signal.SIGINT:  # until training handles them
        signal.signal(number, stop)
    if "${" in os.getcwd():
        raise SettingsError(
            f"the current folder is {os.getcwd()}, and Hydra would interpret its ${{…}}: start "
            "in another folder"
        )
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints a traceback and exits with 1
    logging.basicConfig(format="%(message)s", stream=sys.stdout, force=True)
    register()
    HydraConfig.instance().cfg = None  # from an earlier run in this process
    outcome.sweep_dir, outcome.all_completed = None, True
    register_resolver()
    for name in ("lstm_lm", "hydra"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        with logging_redirect_tqdm():
            train_composed()
    except JobFailed:
        return 1
    except (SettingsError, HydraException, OmegaConfBaseException) as error:
        return refuse(error)
    except ValueError as error:  # Hydra raises it for some command lines
        if HydraConfig.initialized():
            raise  # the command line was valid, so this is not the user's mistake
        return refuse(error)
    except RuntimeError as error:
        if "slurm" not in str(error):
            raise
        return refuse(SettingsError(str(error)))
    except OSError as error:
        if error.filename is None:
            raise  # from what Hydra prints
        return print_error(f"cannot write to {error.filename}: {error.strerror}", 2)
    finally:
        remove_unused_sweep_folder(outcome.sweep_dir)
        with printing():  # flushes the log lines
            pass
    return 0 if outcome.all_completed else 1


if __name__ == "__main__":
    run_program(main)
