"""The launcher of ``conf/train.yaml``: it runs a sweep's jobs in parallel, a process each.

Hydra passes all jobs at once. All of them are composed and checked before the first one starts.
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
    check_main_config,
    check_no_sweep,
    outcome,
    quoted_setting,
    run_config,
)
from lstm_lm.config import RunConfig, require_not_negative, require_positive
from lstm_lm.errors import SettingsError
from lstm_lm.process import check_environment

log = logging.getLogger("lstm_lm.launcher")  # scripts/train.py shows the logs of lstm_lm


@dataclass
class LocalLauncherConfig:
    _target_: str = "hydra_plugins.lstm_lm_launcher.launcher.LocalLauncher"
    jobs: int | None = None  # in parallel on the CPU; null fills its cores
    jobs_per_gpu: int = 1
    retries: int = 1  # of a failed job, within one command; diverged jobs are not retried


ConfigStore.instance().store(
    group="hydra/launcher", name="local", node=LocalLauncherConfig, provider="lstm_lm"
)


class LocalLauncher(Launcher):
    # Set by sweepers.
    searched: Sequence[str] = ()  # settings in all folder names, even if they do not differ
    changes: Sequence[str] = ()  # of an ablation, for each job
    has_more_jobs = False  # True: more jobs follow this call, so the report can wait

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
        """Run the jobs to their ends; return the best validation loss of each.

        A failed or diverged job returns infinity, so that a search can continue.
        """
        sweep_dir = Path(str(self.config.hydra.sweep.dir))
        self.check(sweep_dir)
        # Log this first: importing torch and reading the texts takes seconds.
        log.info("checking the settings and texts of %d jobs", len(job_overrides))
        configs = [self.compose(overrides) for overrides in job_overrides]
        from lstm_lm.sweep.run_sweep import (  # imports torch; --help must not
            SweepOptions,
            run_sweep,
        )

        options = SweepOptions(
            resume_command=resume_command_of(sweep_dir),
            jobs_at_once=self.jobs,
            jobs_per_gpu=self.jobs_per_gpu,
            retries=self.retries,
            searched=self.searched,
            changes=self.changes,
            has_more_jobs=self.has_more_jobs,
        )
        losses = run_sweep(configs, job_overrides, sweep_dir, options)
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
        """Raise SettingsError if the sweep cannot run as typed."""
        require_positive("hydra.launcher", jobs=self.jobs, jobs_per_gpu=self.jobs_per_gpu)
        require_not_negative("hydra.launcher", retries=self.retries)
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            raise SettingsError(
                "torchrun starts the processes of one run: leave it out, because a sweep starts "
                "the processes of all its jobs"
            )
        if sweep_dir == Path() or (sweep_dir / "config.yaml").exists():
            raise SettingsError(
                f"hydra.sweep.dir={self.config.hydra.sweep.dir} cannot be a sweep's folder: choose "
                "another one"
            )
        if self.config.hydra.sweeper.get("max_batch_size") is not None:
            raise SettingsError(
                "hydra.sweeper.max_batch_size would check only some jobs before the first one "
                "starts: leave it out; hydra.launcher.jobs sets how many run at once"
            )
        check_main_config(self.config.hydra)
        check_environment()

    def compose(self, overrides: Sequence[str]) -> RunConfig:
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        check_no_sweep(composed.hydra.sweeper, overrides)
        with open_dict(composed):
            del composed["hydra"]
        OmegaConf.set_struct(composed, True)
        if composed.resume is not None:
            raise SettingsError(ONE_RUN)
        config = run_config(composed, overrides, self.config.hydra.job.config_name)
        if config.trainer.get("fast_dev_run"):
            raise SettingsError(
                "trainer.fast_dev_run saves nothing, but a sweep needs the results of its jobs: "
                "leave out debug=fast, or -m"
            )
        return config


def resume_command_of(sweep_dir: Path) -> str:
    typed = [word for word in sys.argv[1:] if not word.startswith("hydra.sweep.dir=")]
    folder = quoted_setting("hydra.sweep.dir", sweep_dir)
    return f"{process.train_command} {shlex.join(typed)} {folder}"
