"""Optuna's search space, and the file that records its trials."""

# Optuna is imported inside functions: it is optional, and Hydra imports this file at each start.

import os
import random
from math import isfinite
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from lstm_lm.errors import SettingsError


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
