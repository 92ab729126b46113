"""The report on the runs of a sweep, or on any runs: files and pictures in one folder.

summary.csv            every run, all figures, the settings that differ
summary.md             the same for readers, with the pictures
best.yaml              the best run's settings; scripts/train.py takes them
heat_map.png           over hidden size and learning rate, or two other numbers
learning_curves.png    over epochs
tokens_and_seconds.png over the text read, and over time
seeds.png              mean and spread, where there are several seeds
memory.png             success against lag, for data=recall
costs.png              parameters and time, where several models have several sizes
gradient_flow.png      how far gradients reach back, of runs with inside views
"""

import os
import shlex
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from lstm_lm import process
from lstm_lm.errors import SettingsError
from lstm_lm.files import write_atomically
from lstm_lm.lightning_parts import is_trusted
from lstm_lm.report.ablation import EXPLANATION, ablation, ablation_columns
from lstm_lm.report.differences import common_settings, differing, differing_texts
from lstm_lm.report.tables import columns, explanation, markdown_lines, reasons, write_csv
from lstm_lm.saved.results import Result, read_results
from lstm_lm.saved.run_folder import RunFolder, as_yaml

FIGURES = "epochs", "steps", "tokens", "seconds", "tokens_per_second", "parameters"
BEST = "best.yaml"
# As Hydra's main file it comes after all groups, so nothing of these is left.
DEFAULTS = """\
defaults:
  - train
  - _self_
  - override logger: none
  - override callbacks: none

"""


@dataclass
class Report:
    results: list[Result]  # the best first
    output: Path
    command: str | None = None  # trains with the best run's settings
    pictures: dict[str, Path] = field(default_factory=dict)  # by their titles
    notes: list[str] = field(default_factory=list)  # what is missing, and why

    @property
    def best(self) -> Result | None:
        return self.results[0] if self.results[0].is_comparable else None


def write_report(folders: list[Path], output: Path) -> Report:
    """Compare all runs below some folders; the files go into the folder ``output``.

    Raises:
        SettingsError: if there are no runs, or the files cannot be written.
    """
    report = Report(read_results(folders), output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        add_best(report)
        add_pictures(report)
        write_csv(report.results, output / "summary.csv")
        write_markdown(report, folders)
    except OSError as error:
        raise SettingsError(
            f"cannot write to {output}: {error.strerror}; --output names another folder"
        ) from error
    return report


def add_best(report: Report) -> None:
    apart = differing_texts(report.results)
    try:
        if apart:
            raise SettingsError(f"the runs differ in {' and '.join(apart)}")
        if report.best is None:
            raise SettingsError("no run has been validated")
        report.command = write_best(report.best, report.results, report.output)
    except SettingsError as error:
        report.notes.append(f"no {BEST}: {error}")


def write_best(best: Result, results: list[Result], folder: Path) -> str:
    """Write the best run's settings into a folder; returns the command that trains with them.

    The run can be a stranger's, and its file is trusted when the command is typed. So loggers and
    callbacks of other classes than Lightning's are left out.

    Raises:
        DamagedFile: if the settings cannot be read.
    """
    config = RunFolder(best.path).read_config()
    typed = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    command = f"{process.train_command} -cd {shlex.quote(str(typed))} -cn {Path(BEST).stem}"
    lowest = "" if best.best is not None else "so far "
    comments = [
        command,
        f"The settings of {os.path.relpath(best.path, folder)}, which {lowest}has the lowest",
        f"validation perplexity, {best.perplexity:.6g}, of {len(results)} that were compared.",
    ]
    if best.settings.get("init_from"):
        comments.append("It started from the best weights in init_from, which must still be there.")
    for group, entries in ("logger", config.logger), ("callbacks", config.callbacks):
        for name in [name for name in entries if not is_trusted(entries[name])]:
            del entries[name]
            comments.append(f"Without its {group}.{name}, whose class is not Lightning's own.")
    content = "".join(f"# {line}\n" for line in comments) + DEFAULTS + as_yaml(config)
    write_atomically(folder / BEST, content)
    return command


def add_pictures(report: Report) -> None:
    # Here, because importing Matplotlib takes long.
    from lstm_lm.report.pictures.drawing import write_figure
    from lstm_lm.report.pictures.heat_map import heat_map
    from lstm_lm.report.pictures.learning_curves import learning_curves, tokens_and_seconds
    from lstm_lm.report.pictures.means import (
        cost_plot,
        gradient_flow_plot,
        memory_plot,
        seed_plot,
    )

    pictures = {
        "heat map": heat_map,
        "learning curves": learning_curves,
        "tokens and seconds": tokens_and_seconds,
        "seeds": seed_plot,
        "memory": memory_plot,
        "costs": cost_plot,
        "gradient flow": gradient_flow_plot,
    }
    for title, draw in pictures.items():
        figure = draw(report.results)
        if isinstance(figure, str):
            report.notes.append(f"no {title}: {figure}")
        elif figure is not None:
            report.pictures[title] = report.output / f"{title.replace(' ', '_')}.png"
            write_figure(figure, report.pictures[title])


def write_markdown(report: Report, folders: list[Path]) -> None:
    results = report.results
    now = datetime.now().astimezone()
    notes = reasons(results) + explanation(results) + report.notes
    parts = [
        f"# {len(results)} {'run' if len(results) == 1 else 'runs'} compared",
        f"{common_settings(results)}.".lstrip("."),
        f"From {', '.join(f'`{folder}`' for folder in folders)}, {now:%Y-%m-%d %H:%M %Z}.",
        "\n".join(markdown_lines(columns(results), results)),
        "\n".join(f"- {line}" for line in notes),
        *ablation_section(results),
        f"The best run's settings again:\n\n```sh\n{report.command}\n```" if report.command else "",
        *(f"![{title}]({picture.name})" for title, picture in report.pictures.items()),
    ]
    write_atomically(report.output / "summary.md", "\n\n".join(filter(None, parts)) + "\n")


def ablation_section(results: list[Result]) -> list[str]:
    if not (changes := ablation(results)):
        return []
    table = "\n".join(markdown_lines(ablation_columns(), changes))
    return ["## What each change is worth", table, EXPLANATION]


def runs(folder: str | Path = "outputs") -> list[dict[str, Any]]:
    """A record of every run and every sweep's job below a folder, the best first.

        pandas.DataFrame(lstm_lm.runs("outputs"))

    All have the same keys: ``folder``, ``status``, the settings in which they differ,
    ``perplexity`` (of the best weights on the validation text; before a run is completed, the
    lowest so far), the figures of their summaries, and ``error``. Unknown values are None.

    Raises:
        SettingsError: if there are none, or the folder does not exist.
    """
    results = read_results([Path(folder)])
    settings = differing(results)
    figures = dict.fromkeys(FIGURES) | dict.fromkeys(
        name for result in results for name in result.summary if "/" in name
    )
    return [
        {
            "folder": os.path.join(folder, os.path.relpath(result.path, Path(folder).absolute())),
            "status": result.status.value,
            **{name: result.settings.get(name) for name in settings},
            "perplexity": result.perplexity,
            **{name: result.summary.get(name) for name in figures},
            "error": result.error,
        }
        for result in results
    ]
