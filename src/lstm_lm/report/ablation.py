"""The table of an ablation: how far each change of one recipe moves the validation loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from lstm_lm.report.differences import (
    Group,
    as_text,
    completed_groups,
    differing_texts,
    short_names,
)
from lstm_lm.report.tables import Column, text_of
from lstm_lm.saved.results import Result

# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom; beyond, that of a normal one.
QUANTILES = 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228
NORMAL = 1.96


@dataclass(frozen=True)
class Change:
    """A change and its effect; losses are in nats per token, of the best weights."""

    name: str
    loss: float  # mean over seeds
    spread: float | None  # standard deviation over seeds; None for one seed
    difference: float | None = None  # to the recipe: mean over seeds that both have
    margin: float | None = None  # ± of the difference's 95 % confidence interval
    seeds: int = 1

    @property
    def verdict(self) -> str:
        if self.difference is None or self.margin is None:
            return ""
        if abs(self.difference) <= self.margin:
            return "noise"
        return "better" if self.difference < 0 else "worse"


def ablation(results: Sequence[Result]) -> list[Change]:
    """The recipe and its changes, the largest gain first; empty if the runs are no ablation.

    The recipe is the group of runs from which all others differ in the fewest settings, if there
    is only one such group. So a grid is no ablation, and neither are runs on several texts.
    Differences are taken seed by seed: a seed that suits a recipe often suits its neighbours.
    """
    groups = completed_groups(results)
    distances = [sum(len(differing_names(one, other)) for other in groups) for one in groups]
    is_grid = len(groups) < 3 or distances.count(min(distances)) > 1
    if is_grid or differing_texts(results):
        return []
    recipe = groups[distances.index(min(distances))]
    changes = [measure(group, recipe) for group in groups if group is not recipe]
    return [measure(recipe, recipe), *sorted(changes, key=lambda c: c.difference or 0.0)]


def measure(group: Group, recipe: Group) -> Change:
    names = differing_names(group, recipe)
    settings = (f"{n} {as_text(group.settings[full])}" for full, n in short_names(names).items())
    name = ", ".join(settings).replace("_", " ") or "the recipe"
    losses, of_recipe = losses_by_seed(group), losses_by_seed(recipe)
    values = list(losses.values())
    spread = stdev(values) if len(values) > 1 else None
    change = Change(name, mean(values), spread, seeds=len(values))
    differences = [losses[seed] - of_recipe[seed] for seed in losses if seed in of_recipe]
    if group is recipe or not differences:
        return change
    return Change(
        name, change.loss, spread, mean(differences), margin_of(differences), len(differences)
    )


def margin_of(differences: Sequence[float]) -> float | None:
    count = len(differences)
    if count < 2:
        return None
    quantile = QUANTILES[count - 2] if count - 2 < len(QUANTILES) else NORMAL
    return float(quantile * stdev(differences) / count**0.5)


def losses_by_seed(group: Group) -> dict[int, float]:
    best = {run.settings["seed"]: run.best for run in group.results}
    return {seed: math.log(perplexity) for seed, perplexity in best.items() if perplexity}


def differing_names(one: Group, other: Group) -> list[str]:
    return [name for name, value in one.settings.items() if other.settings[name] != value]


def ablation_columns() -> list[Column]:
    return [
        Column("change", lambda change: change.name, is_number=False),
        Column("loss", lambda change: f"{change.loss:.4f}"),
        Column("spread", lambda change: text_of(change.spread, "{:.4f}".format)),
        Column("difference", lambda change: text_of(change.difference, "{:+.4f}".format)),
        Column("± 95 %", lambda change: text_of(change.margin, "{:.4f}".format)),
        Column("seeds", lambda change: str(change.seeds)),
        Column("verdict", lambda change: change.verdict, is_number=False),
    ]


EXPLANATION = (
    "Loss: nats per token of the validation text, mean over seeds; spread: its standard deviation. "
    "Difference: to the recipe, seed by seed, with its 95 % confidence interval (Student's t); "
    "noise: the interval contains zero."
)
