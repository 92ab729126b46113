"""What a sweep, or any runs, came to: files and pictures in one folder.

summary.csv            every run, all figures, the settings that differ
summary.md             the same to be read, with the pictures
best.yaml              the best run's settings; scripts/train.py takes them
heat_map.png           over hidden size and learning rate, or two other numbers
learning_curves.png    over epochs
tokens_and_seconds.png over the text read, and over time
seeds.png              mean and spread, where there are several seeds
memory.png             success against lag, for data=recall
costs.png              parameters and time, where several models have several sizes
gradient_flow.png      how far gradients reach back, of runs that were looked into

The runs below a folder as rows of a table.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lstm_lm.errors import SettingsError
from lstm_lm.report.best_run import best_of, write_best
from lstm_lm.report.differences import differing, texts_apart, with_effect
from lstm_lm.report.tables import write_csv, write_markdown
from lstm_lm.saved.results import Result, read_results


@dataclass
class Report:
    results: list[Result]  # the best first
    output: Path
    best: Result | None
    command: str | None = None  # trains with the best run's settings
    pictures: dict[str, Path] = field(default_factory=dict)  # by their titles
    notes: list[str] = field(default_factory=list)  # what could not be shown, and why


def write_report(folders: list[Path], output: Path) -> Report:
    """Compare all runs below some folders; the files go into the folder ``output``.

    Raises:
        SettingsError: if there are no runs, or the files cannot be written.
    """
    results = read_results(folders)
    report = Report(results, output, best_of(results))
    try:
        output.mkdir(parents=True, exist_ok=True)
        add_best(report)
        draw_pictures(report)
        write_csv(results, output / "summary.csv")
        write_markdown(
            results,
            folders,
            report.pictures,
            report.notes,
            report.command,
            output / "summary.md",
        )
    except OSError as error:
        raise SettingsError(
            f"cannot write to {output}: {error.strerror}; --output names another folder"
        ) from error
    return report


def add_best(report: Report) -> None:
    if apart := texts_apart(report.results):
        report.notes.append(f"no best.yaml: the runs differ in {' and '.join(apart)}")
        return
    if report.best is None:
        report.notes.append("no best.yaml: no run has been validated")
        return
    try:
        report.command = write_best(report.best, report.results, report.output)
    except SettingsError as error:
        report.notes.append(f"no best.yaml: {error}")


def draw_pictures(report: Report) -> None:
    # Here, as Matplotlib takes long to import.
    from lstm_lm.report.grid import grid_of
    from lstm_lm.report.pictures.drawing import write_figure
    from lstm_lm.report.pictures.gradient_flow import gradient_flow_plot
    from lstm_lm.report.pictures.heat_map import heat_map
    from lstm_lm.report.pictures.learning_curves import learning_curves, tokens_and_seconds
    from lstm_lm.report.pictures.means import cost_plot, memory_plot, seed_plot

    results = report.results
    grid = grid_of(results)
    if isinstance(grid, str):
        report.notes.append(grid)
    figures = {
        "heat map": None if isinstance(grid, str) else heat_map(results, grid),
        "learning curves": learning_curves(results),
        "tokens and seconds": tokens_and_seconds(results),
        "seeds": seed_plot(results),
        "memory": memory_plot(results),
        "costs": cost_plot(results),
        "gradient flow": gradient_flow_plot(results),
    }
    if figures["learning curves"] is None:
        report.notes.append("no learning curves: no run has been validated")
    for title, figure in figures.items():
        if figure is not None:
            file = report.output / f"{title.replace(' ', '_')}.png"
            write_figure(figure, file)
            report.pictures[title] = file


FIGURES = "epochs", "steps", "tokens", "seconds", "tokens_per_second", "parameters"


def runs(folder: str | Path = "outputs") -> list[dict[str, Any]]:
    """A record of every run and every sweep's job below a folder, the best first.

        pandas.DataFrame(lstm_lm.runs("outputs"))

    All have the same keys: ``folder``, ``status``, the settings in which they differ,
    ``perplexity`` (of the best weights on the validation text; of a run that is not completed, the
    lowest so far), the figures of their summaries, and ``error``. What is not known is None.

    Raises:
        SettingsError: if there are none, or the folder is not there.
    """
    results = read_results([Path(folder)])
    settings = with_effect(differing(results))
    figures = dict.fromkeys(FIGURES) | dict.fromkeys(
        name for result in results for name in result.summary if "/" in name
    )
    return [
        {
            "folder": os.path.join(folder, os.path.relpath(result.path, Path(folder).absolute())),
            "status": result.status,
            **{name: result.settings.get(name) for name in settings},
            "perplexity": result.perplexity,
            **{name: result.summary.get(name) for name in figures},
            "error": result.error,
        }
        for result in results
    ]
