"""Compare the runs of a sweep, or of any folders: a table, the best settings, pictures.

python scripts/compare.py outputs/sweeps/2026-11-23/10-15-00
"""

import argparse
from pathlib import Path

from lstm_lm.errors import SettingsError
from lstm_lm.process import run_program


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="FOLDER",
        help="a sweep, a run, or a folder with such folders below it; finished or not",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="where to write the files (default: the first folder named)",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if "" in (*arguments.folders, arguments.output):
        raise SettingsError("a folder's name is empty; type . for the current folder")
    folders = [Path(folder) for folder in arguments.folders]
    output = Path(arguments.output or folders[0])
    from lstm_lm.report.ablation import EXPLANATION, ablation, ablation_columns
    from lstm_lm.report.report import write_report
    from lstm_lm.report.tables import explanation, print_summary, print_table, reasons

    report = write_report(folders, output)
    print_summary(report.results)
    for line in reasons(report.results) + explanation(report.results) + report.notes:
        print(line)
    if changes := ablation(report.results):
        print_table(ablation_columns(), changes, lambda change: "")
        print(EXPLANATION)
    print(f"\n{'table':20}{output / 'summary.md'}, {output / 'summary.csv'}")
    for title, file in report.pictures.items():
        print(f"{title:20}{file}")
    if report.command is not None:
        print(f"{'best run again':20}{report.command}")


if __name__ == "__main__":
    run_program(main)
