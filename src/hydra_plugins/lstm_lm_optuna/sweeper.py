"""Sweeper that searches: Optuna proposes trials, the launcher runs them.

The typed settings identify a search; typed again with its folder, they resume it.
"""

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.lstm_lm_optuna.study import Study, distribution, values_to_check
from lstm_lm.config import require_positive
from lstm_lm.errors import SettingsError
from lstm_lm.files import locked

log = logging.getLogger("lstm_lm.search")  # scripts/train.py shows the logs of lstm_lm


@dataclass
class OptunaConfig:
    _target_: str = "hydra_plugins.lstm_lm_optuna.sweeper.OptunaSweeper"
    trials: int = 20
    at_once: int = 1  # trials that are proposed together, before any of them has a result
    seed: int = 0
    startup_trials: int = 10  # random trials before Optuna learns from them
    params: dict[str, str] | None = None  # more settings, from a file in conf/sweep


ConfigStore.instance().store("optuna", OptunaConfig, "hydra/sweeper", provider="lstm_lm")


class OptunaSweeper(Sweeper):
    def __init__(self, **settings: Any) -> None:
        self.settings = OptunaConfig(**settings)

    def setup(self, **given: Any) -> None:
        self.config, self.hydra_context = given["config"], given["hydra_context"]
        self.parser = OverridesParser.create(given["hydra_context"].config_loader)
        self.folder = Path(str(given["config"].hydra.sweep.dir))
        self.launcher: Any = Plugins.instance().instantiate_launcher(**given)

    def sweep(self, arguments: list[str]) -> None:
        settings = self.settings
        require_positive("hydra.sweeper", trials=settings.trials, at_once=settings.at_once)
        if find_spec("optuna") is None:
            raise SettingsError('hydra/sweeper=optuna needs: pip install "lstm_lm[optuna]"')
        params = [f"{key}={value}" for key, value in (settings.params or {}).items()]
        parsed = self.parser.parse_overrides([*params, *arguments])
        overrides = {override.get_key_element(): override for override in parsed}
        typed = {key: str(override.input_line) for key, override in overrides.items()}
        space = {key: distribution(o) for key, o in overrides.items() if o.is_sweep_override()}
        if not space:
            raise SettingsError("nothing to search: give a setting an interval(…) or a choice(…)")
        fixed = [line for key, line in typed.items() if key not in space]
        values = [f"{key}={value}" for key in space for value in values_to_check(space[key])]
        self.validate_batch_is_legal([[*fixed, value] for value in values])
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".optuna.lock") as is_ours:
            if not is_ours:
                raise SettingsError(f"another process runs this search: {self.folder}")
            name, record = " ".join(sorted(typed.values())), self.folder / "optuna.log"
            self.study = Study(record, name, space, settings.seed, settings.startup_trials)
            self.search(typed)

    def search(self, typed: dict[str, str]) -> None:
        known = self.study.trials()
        ended = [trial for trial in known if trial.state.is_finished()]
        batch = [trial for trial in known if not trial.state.is_finished()]
        asked, wanted = len(known), max(len(known), self.settings.trials)
        if ended:  # only the failed ones run again
            self.launch(ended, typed, has_more_jobs=len(ended) < wanted)
        while batch or asked < wanted:
            while asked < wanted and (not batch or asked % self.settings.at_once):
                batch.append(self.study.ask())
                asked += 1
            self.launch(batch, typed, has_more_jobs=asked < wanted)
            batch = []

    def launch(self, batch: list[Any], typed: dict[str, str], has_more_jobs: bool) -> None:
        log.info("search  trials %s", ", ".join(str(trial.number) for trial in batch))
        drawn = [{key: f"{key}={value}" for key, value in t.params.items()} for t in batch]
        self.launcher.searched, self.launcher.has_more_jobs = list(drawn[0]), has_more_jobs
        jobs = [list((typed | of_trial).values()) for of_trial in drawn]
        try:
            results = self.launcher.launch(jobs, initial_job_idx=batch[0].number)
        except (SettingsError, HydraException, OmegaConfBaseException):
            for trial in batch:
                if not hasattr(trial, "state"):  # new
                    self.study.refuse(trial)
            raise
        for trial, result in zip(batch, results, strict=True):
            self.study.tell(trial, result.return_value)
