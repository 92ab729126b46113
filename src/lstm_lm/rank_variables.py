"""What schedulers set in the environment of a process that they start with others.

Lightning reads some of it as soon as it is imported, and takes an empty one for a number.
"""

import logging
import os

from lstm_lm.errors import SettingsError

NUMBERS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"),
    "JSM_NAMESPACE_RANK",
)

log = logging.getLogger(__name__)


def forget_what_is_no_number() -> None:
    for name in NUMBERS:
        value = os.environ.get(name, "0")
        if not value.isdecimal():
            del os.environ[name]
            if value:
                log.warning("warning: %s=%s in the environment is no number: left out", name, value)


def environment_alone() -> dict[str, str]:
    """The environment for a process that belongs to no others."""
    return {name: value for name, value in os.environ.items() if name not in NUMBERS}


def refuse_defaults_of_environment() -> None:
    """
    Raises:
        SettingsError: if Lightning would take arguments from where no record of a run has them.
    """
    for name in sorted(os.environ):
        if name.startswith("PL_TRAINER_"):
            argument = name.removeprefix("PL_TRAINER_").lower()
            raise SettingsError(
                f"{name} in the environment would change the run without a trace: unset it, and "
                f"type trainer.{argument}={os.environ[name]}"
            )
