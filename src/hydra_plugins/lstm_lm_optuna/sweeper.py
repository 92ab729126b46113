"""Sweeper that searches: Optuna proposes trials, the launcher runs them.

The typed settings identify a search; typed again with its folder, they resume it.
"""

# Optuna is imported inside functions: it is optional, and Hydra imports this file at each start.

import logging
import os
import random
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from omegaconf.errors import OmegaConfBaseException

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


def distribution(override: Override) -> Any:
    """Optuna's distribution for an override with interval(…), range(…) or choice(…)."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if override.is_choice_sweep():  # sorted, so that shuffle(…) has no effect
        return CategoricalDistribution(sorted(set(override.sweep_string_iterator())))
    sweep: Any = override.value()
    try:
        if override.is_interval_sweep():
            ends, step = [sweep.start, sweep.end], {}
        else:
            ends, step = list(override.sweep_iterator()), {"step": abs(sweep.step)}
        low, high = min(ends), max(ends)
        kind = IntDistribution if isinstance(low, int) else FloatDistribution
        return kind(low, high, log="log" in sweep.tags, **step)
    except ValueError as error:
        raise SettingsError(f"cannot search {override.input_line}: {error}") from error


def values_to_check(distribution: Any) -> tuple[Any, ...]:
    """All choices, or both ends of an interval: if their types are right, all values are."""
    choices = vars(distribution).get("choices")
    return (distribution.low, distribution.high) if choices is None else choices


class Study:
    """Optuna's study with its trials.

    Args:
        record: the file of trials, perhaps left incomplete by a killed process.
        name: the name of a study in that file, or of a new one.
        space: the distribution of each searched setting.
        startup_trials: number of random trials before Optuna learns from them.
    """

    def __init__(
        self, record: Path, name: str, space: dict[str, Any], seed: int, startup_trials: int
    ) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        for lock in record.parent.glob(f"{record.name}.lock*"):
            lock.unlink()
        # The other lock uses symbolic links, which FAT and SMB lack.
        backend = JournalFileBackend(str(record), JournalFileOpenLock(str(record)))
        os.truncate(record, record.read_bytes().rfind(b"\n") + 1)  # cuts half a line
        storage = optuna.storages.JournalStorage(backend)
        self.study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        self.space, self.seed, self.startup_trials = space, seed, startup_trials

    def trials(self) -> list[Any]:
        """The valid trials: neither refused nor interrupted while they were proposed."""
        whole = [trial for trial in self.study.trials if trial.params.keys() == self.space.keys()]
        return [trial for trial in whole if trial.state.name != "FAIL"]

    def ask(self) -> Any:
        """A new trial with its own seed; otherwise a resumed search would draw its first again."""
        from optuna.samplers import TPESampler

        seed = random.Random(f"{self.seed} {len(self.study.trials)}").getrandbits(32)
        self.study.sampler = TPESampler(seed=seed, n_startup_trials=self.startup_trials)
        return self.study.ask(self.space)

    def tell(self, trial: Any, value: float) -> None:
        """Record a trial's result, unless it has one; infinity is worse than any other result."""
        from optuna.trial import TrialState

        if isfinite(value):
            self.study.tell(trial.number, value, skip_if_finished=True)
        else:
            self.study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)

    def refuse(self, trial: Any) -> None:
        """Mark a trial as invalid, so that Optuna proposes another one."""
        from optuna.trial import TrialState

        self.study.tell(trial.number, state=TrialState.FAIL)
