"""The table of an ablation: how far each change of one recipe moves the validation loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from lstm_lm.config import Level
from lstm_lm.report.differences import TOKENS, by_key, differing, differing_texts
from lstm_lm.report.tables import Column, text_of
from lstm_lm.saved.results import Result
from lstm_lm.saved.run_folder import Status

# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom; beyond, that of the last.
QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


@dataclass(frozen=True)
class Change:
    """A change and its effect; losses are in nats per token or character, of the best weights."""

    name: str
    loss: float | None  # mean over seeds; None if all runs diverged
    spread: float | None  # standard deviation over seeds; None for one seed
    seeds: int  # without those that diverged
    difference: float | None = None  # to the recipe: mean over seeds that both have
    margin: float | None = None  # ± of the difference's 95 % confidence interval
    diverged: int = 0

    @property
    def verdict(self) -> str:
        parts = [f"{self.diverged} diverged"] if self.diverged else []
        if self.difference is not None and self.margin is not None:
            is_noise = abs(self.difference) <= self.margin
            parts.insert(0, "noise" if is_noise else "better" if self.difference < 0 else "worse")
        return ", ".join(parts)


def ablation(results: Sequence[Result]) -> list[Change]:
    """The recipe and its changes, the largest gain first; empty if the runs are no ablation.

    Changes of which no run can be compared come last.

    The sweep has recorded which jobs are the recipe's. Differences are taken seed by seed: a seed
    that suits a recipe often suits its neighbours. Several sweeps, and runs on several texts, are
    no ablation. If a change is another kind of tokens, losses are per character.
    """
    jobs = [result for result in results if result.change is not None and has_ended(result)]
    finished = [job for job in jobs if job.best]
    by_change = by_key(jobs, lambda job: job.change)
    recipe = by_change.pop("", [])
    apart = differing_texts(finished)
    loss_of = loss_per_character if apart else loss_per_token
    is_one = len({job.path.parent for job in jobs}) == 1 and set(apart) <= {*TOKENS}
    has_recipe = any(job.best for job in recipe)
    if not (has_recipe and by_change and is_one) or (apart and not share_a_text(finished)):
        return []
    names = ["seed", *(name for name in differing(recipe) if name != "seed")]

    def losses(runs: Sequence[Result]) -> dict[Any, float]:
        return {tuple(run.settings[name] for name in names): loss_of(run) for run in runs}

    def measured(name: str, runs: Sequence[Result], of_recipe: dict[Any, float]) -> Change:
        scored = [run for run in runs if run.best]
        return measure(name, losses(scored), of_recipe, len(runs) - len(scored))

    of_recipe = losses([job for job in recipe if job.best])
    changes = [measured(str(change), runs, of_recipe) for change, runs in by_change.items()]
    changes.sort(key=lambda change: math.inf if change.difference is None else change.difference)
    return [measured("the recipe", recipe, {}), *changes]


def has_ended(job: Result) -> bool:
    return job.best is not None or job.status is Status.diverged


def loss_per_token(run: Result) -> float:
    return math.log(run.best or 1)


def loss_per_character(run: Result) -> float:
    return float(run.summary["best/validation/bits_per_character"]) * math.log(2)


def share_a_text(runs: Sequence[Result]) -> bool:
    """True if losses per character are those of the same characters.

    Of words and bytes another stretch of a text is held out than of characters. Tokens that the
    vocabulary lacks make a loss too low.
    """
    levels = {run.settings["data.level"] for run in runs}
    unknown = {run.summary.get("best/validation/unknown_tokens") for run in runs}
    return unknown == {0} and (len(levels) == 1 or levels <= {Level.character, Level.subword})


def measure(
    name: str, found: dict[Any, float], of_recipe: dict[Any, float], diverged: int
) -> Change:
    """A change by the losses found with it and those of the recipe, both by seed and the like."""
    values = list(found.values())
    loss = mean(values) if values else None
    spread = stdev(values) if len(values) > 1 else None
    differences = [found[seed] - of_recipe[seed] for seed in found if seed in of_recipe]
    difference = mean(differences) if differences else None
    margin = margin_of(differences)
    return Change(name, loss, spread, len(values), difference, margin, diverged)


def margin_of(differences: Sequence[float]) -> float | None:
    count = len(differences)
    if count < 2:
        return None
    quantile = QUANTILES[min(count - 1, len(QUANTILES)) - 1]
    return float(quantile * stdev(differences) / count**0.5)


def ablation_columns() -> list[Column]:
    return [
        Column("change", lambda change: change.name, is_number=False),
        Column("loss", lambda change: text_of(change.loss, "{:.4f}".format)),
        Column("spread", lambda change: text_of(change.spread, "{:.4f}".format)),
        Column("difference", lambda change: text_of(change.difference, "{:+.4f}".format)),
        Column("± 95 %", lambda change: text_of(change.margin, "{:.4f}".format)),
        Column("seeds", lambda change: str(change.seeds)),
        Column("verdict", lambda change: change.verdict, is_number=False),
    ]


EXPLANATION = (
    "Loss: nats per token of the validation text (per character, if kinds of tokens differ), mean "
    "over seeds; spread: its standard deviation. "
    "Difference: to the recipe, seed by seed, with its 95 % confidence interval (Student's t); "
    "noise: the interval contains zero. Runs that diverged have no loss."
)
