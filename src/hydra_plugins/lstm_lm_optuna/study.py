"""What Optuna draws settings from, and the file in which it writes down each trial."""

# Optuna is imported where it is needed: not everybody has it, and Hydra imports this at each start.

import os
import random
from math import isfinite
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from lstm_lm.errors import SettingsError


def distribution(override: Override) -> Any:
    """What interval(…), range(…) or choice(…) was typed for."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if override.is_choice_sweep():  # in an order that shuffle(…) does not change
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
    """All choices, or the ends: if none of them is of a wrong type, no value is."""
    choices = vars(distribution).get("choices")
    return (distribution.low, distribution.high) if choices is None else choices


class Study:
    """
    Args:
        record: the file, which may have been left by a process that was killed.
        name: of one of the studies in it, or of a new one.
        space: for each setting that is searched, what it is drawn from.
        startup_trials: drawn at random, before Optuna learns from them.
    """

    def __init__(
        self, record: Path, name: str, space: dict[str, Any], seed: int, startup_trials: int
    ) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        for lock in record.parent.glob(f"{record.name}.lock*"):
            lock.unlink()
        # Not by symbolic links, which FAT and SMB lack.
        backend = JournalFileBackend(str(record), JournalFileOpenLock(str(record)))
        os.truncate(record, record.read_bytes().rfind(b"\n") + 1)  # without half a line at its end
        storage = optuna.storages.JournalStorage(backend)
        self.study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
        self.space, self.seed, self.startup_trials = space, seed, startup_trials

    def trials(self) -> list[Any]:
        """Those that count: neither refused nor cut off while they were proposed."""
        whole = [trial for trial in self.study.trials if trial.params.keys() == self.space.keys()]
        return [trial for trial in whole if trial.state.name != "FAIL"]

    def ask(self) -> Any:
        """A new trial, by a seed of its own: a search that goes on would draw its first again."""
        from optuna.samplers import TPESampler

        seed = random.Random(f"{self.seed} {len(self.study.trials)}").getrandbits(32)
        self.study.sampler = TPESampler(seed=seed, n_startup_trials=self.startup_trials)
        return self.study.ask(self.space)

    def tell(self, trial: Any, value: float) -> None:
        """What a trial came to, if that is not known yet; infinity is worse than any other."""
        from optuna.trial import TrialState

        if isfinite(value):
            self.study.tell(trial.number, value, skip_if_finished=True)
        else:
            self.study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)

    def refuse(self, trial: Any) -> None:
        """Another is proposed the next time."""
        from optuna.trial import TrialState

        self.study.tell(trial.number, state=TrialState.FAIL)
