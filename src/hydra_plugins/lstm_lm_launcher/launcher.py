"""The launcher of ``conf/train.yaml``: a sweep's jobs side by side, each in a process of its own.

Hydra hands over all jobs at once. Each is composed and checked before the first one starts.
"""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from lstm_lm import process
from lstm_lm.command_line.settings import (
    ONE_RUN,
    as_setting,
    outcome,
    refuse_other_files,
    refuse_sweep,
    run_config,
)
from lstm_lm.config import RunConfig, require_not_negative, require_positive
from lstm_lm.errors import SettingsError
from lstm_lm.process import refuse_defaults_of_environment

log = logging.getLogger("lstm_lm.launcher")  # of the package that scripts/train.py lets speak


@dataclass
class LocalLauncherConfig:
    _target_: str = "hydra_plugins.lstm_lm_launcher.launcher.LocalLauncher"
    jobs: int | None = None  # on the CPU at once; null: as many as fill its cores
    jobs_per_gpu: int = 1
    retries: int = 1  # of a job that fails, within one command; a job that diverged is not tried


ConfigStore.instance().store(
    group="hydra/launcher", name="local", node=LocalLauncherConfig, provider="lstm_lm"
)


class LocalLauncher(Launcher):
    # For a sweeper that searches.
    searched: Sequence[str] = ()  # settings that all its jobs have: folders are named by them
    more_to_come = False  # than the jobs of this call, so the report can wait

    def __init__(self, jobs: int | None, jobs_per_gpu: int, retries: int) -> None:
        self.jobs, self.jobs_per_gpu, self.retries = jobs, jobs_per_gpu, retries

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.config = hydra_context, config
        outcome.sweep_dir, outcome.all_completed = Path(str(config.hydra.sweep.dir)), True

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs to their ends; each returns its best validation loss.

        One that failed or diverged returns infinity, so that a sweeper that searches goes on.
        """
        sweep_dir = Path(str(self.config.hydra.sweep.dir))
        self.check(sweep_dir)
        # At once, as it takes seconds to import torch and read the texts.
        log.info("checking the settings and texts of %d jobs", len(job_overrides))
        configs = [self.compose(overrides) for overrides in job_overrides]
        from lstm_lm.sweep.run_sweep import run_sweep  # torch: not for --help

        losses = run_sweep(
            configs,
            job_overrides,
            sweep_dir,
            to_go_on=command_to_go_on(sweep_dir),
            jobs_at_once=self.jobs,
            jobs_per_gpu=self.jobs_per_gpu,
            retries=self.retries,
            searched=self.searched,
            more_to_come=self.more_to_come,
        )
        outcome.all_completed &= None not in losses
        return [
            JobReturn(
                overrides=overrides,
                status=JobStatus.COMPLETED,
                _return_value=float("inf") if loss is None else loss,
            )
            for overrides, loss in zip(job_overrides, losses, strict=True)
        ]

    def check(self, sweep_dir: Path) -> None:
        """
        Raises:
            SettingsError: if the sweep cannot be run as it was typed.
        """
        require_positive("hydra.launcher", jobs=self.jobs, jobs_per_gpu=self.jobs_per_gpu)
        require_not_negative("hydra.launcher", retries=self.retries)
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            raise SettingsError(
                "torchrun starts the processes of one run: leave it out, as a sweep starts those "
                "of all its jobs"
            )
        if sweep_dir == Path() or (sweep_dir / "config.yaml").exists():
            raise SettingsError(
                f"hydra.sweep.dir={self.config.hydra.sweep.dir} cannot be a sweep's folder: choose "
                "one of its own"
            )
        if self.config.hydra.sweeper.get("max_batch_size") is not None:
            raise SettingsError(
                "hydra.sweeper.max_batch_size would check only some jobs before the first one "
                "starts: leave it out; hydra.launcher.jobs says how many run at once"
            )
        refuse_other_files(self.config.hydra)
        refuse_defaults_of_environment()

    def compose(self, overrides: Sequence[str]) -> RunConfig:
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        refuse_sweep(composed.hydra.sweeper, overrides)
        with open_dict(composed):
            del composed["hydra"]
        OmegaConf.set_struct(composed, True)
        if composed.resume is not None:
            raise SettingsError(ONE_RUN)
        config = run_config(composed, overrides, self.config.hydra.job.config_name)
        if config.trainer.get("fast_dev_run"):
            raise SettingsError(
                "trainer.fast_dev_run keeps nothing, and a sweep is what its jobs leave: leave out "
                "debug=fast, or -m"
            )
        return config


def command_to_go_on(sweep_dir: Path) -> str:
    typed = [word for word in sys.argv[1:] if not word.startswith("hydra.sweep.dir=")]
    return f"{process.train_command} {shlex.join(typed)} {as_setting('hydra.sweep.dir', sweep_dir)}"
