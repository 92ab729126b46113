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
"""

from dataclasses import dataclass, field
from pathlib import Path

from lstm_lm.comparison.best_run import best_of, write_best
from lstm_lm.comparison.differences import texts_apart
from lstm_lm.comparison.results import Result, read_results
from lstm_lm.comparison.summary_files import write_csv, write_markdown
from lstm_lm.errors import SettingsError


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
    from lstm_lm.comparison.axes import write_figure
    from lstm_lm.comparison.cost_plot import cost_plot
    from lstm_lm.comparison.gradient_flow_plot import gradient_flow_plot
    from lstm_lm.comparison.grid import grid_of
    from lstm_lm.comparison.heat_map import heat_map
    from lstm_lm.comparison.memory_plot import memory_plot
    from lstm_lm.comparison.plots import learning_curves, tokens_and_seconds
    from lstm_lm.comparison.seed_plot import seed_plot

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
