"""Sweeper of ablations: the jobs are the recipe itself, and the recipe with one change each.

    hydra/sweeper=ablation 'hydra.sweeper.changes=["model.dropout=0","optimizer.name=adam"]'

A change can consist of several settings. Settings with several values, such as ``seed=0,1,2``,
multiply all jobs.
"""

import itertools
import shlex
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from lstm_lm.errors import SettingsError


@dataclass
class AblationConfig:
    _target_: str = "hydra_plugins.lstm_lm_ablation.AblationSweeper"
    changes: list[str] = field(default_factory=list)  # what one job has other than the recipe
    params: dict[str, str] | None = None  # settings of all jobs, with one value or several


ConfigStore.instance().store("ablation", AblationConfig, "hydra/sweeper", provider="lstm_lm")


class AblationSweeper(Sweeper):
    def __init__(self, changes: list[str], params: dict[str, str] | None) -> None:
        self.changes, self.params = changes, params

    def setup(self, **given: Any) -> None:
        self.config, self.hydra_context = given["config"], given["hydra_context"]
        self.parser = OverridesParser.create(given["hydra_context"].config_loader)
        self.launcher: Any = Plugins.instance().instantiate_launcher(**given)

    def sweep(self, arguments: list[str]) -> None:
        if not self.changes:
            raise SettingsError(
                'an ablation needs changes: set hydra.sweeper.changes=["SETTING=VALUE",…]'
            )
        params = [f"{key}={value}" for key, value in (self.params or {}).items()]
        typed = self.values([*params, *arguments])
        jobs: list[list[str]] = []
        changes: list[str] = []
        for change in ["", *self.changes]:
            changed = self.values(shlex.split(change))
            if several := [key for key, values in changed.items() if len(values) > 1]:
                raise SettingsError(
                    f"the change {change!r} has several values of {', '.join(several)}: make it "
                    "several changes"
                )
            of_change = [*map(list, itertools.product(*(typed | changed).values()))]
            jobs += of_change
            changes += [change] * len(of_change)
        self.validate_batch_is_legal(jobs)
        self.launcher.changes = changes
        self.launcher.launch(jobs, initial_job_idx=0)

    def values(self, overrides: list[str]) -> dict[str, list[str]]:
        """Overrides for single jobs, by their settings."""
        found = {}
        for override in self.parser.parse_overrides(overrides):
            key = override.get_key_element()
            lines = [str(override.input_line)]
            if override.is_sweep_override():
                lines = [f"{key}={value}" for value in override.sweep_string_iterator()]
            found[key] = lines
        return found
