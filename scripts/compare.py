"""Compare the runs of a sweep, or of any folders: a table, the best settings, pictures.

python scripts/compare.py outputs/sweeps/2026-11-23/10-15-00
"""

import argparse
import logging
import sys
from pathlib import Path

from lstm_lm.errors import SettingsError


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="a sweep's, a run's, or one with such folders below it; finished or not",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where to write the files (default: the first folder named)",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    from lstm_lm.comparison.columns import explanation
    from lstm_lm.comparison.report import write_report
    from lstm_lm.comparison.terminal_table import print_table

    output = arguments.output or arguments.folders[0]
    report = write_report(arguments.folders, output)
    print_table(report.results)
    for error in dict.fromkeys(result.error for result in report.results if result.error):
        names = [result.name for result in report.results if result.error == error]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"{', '.join(names[:3])}{more}: {error}")
    for line in explanation(report.results) + report.notes:
        print(line)
    print(f"\n{'table':20}{output / 'summary.md'}, {output / 'summary.csv'}")
    for title, file in report.pictures.items():
        print(f"{title:20}{file}")
    if report.command is not None:
        print(f"{'best run again':20}{report.command}")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    try:
        main()
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
