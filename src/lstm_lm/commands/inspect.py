"""Inspect a trained model: a text colored by its units, and its guesses for each next token.

python scripts/inspect_run.py outputs/2026-11-23/10-15-00
"""

import argparse
from pathlib import Path

from lstm_lm.commands.arguments import add_text, parser_for_run
from lstm_lm.errors import SettingsError
from lstm_lm.process import run_program


def parse() -> argparse.Namespace:
    parser = parser_for_run(__doc__)
    add_text(parser)
    parser.add_argument("--skip", type=int, default=0, help="number of tokens to skip")
    parser.add_argument("--tokens", type=int, default=1000, help="number of tokens (default: 1000)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (default: inside.html in the folder)"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    from lstm_lm.evaluation.score import split_of_file, split_of_run
    from lstm_lm.files import write_atomically
    from lstm_lm.inside.page import build_page
    from lstm_lm.machine import limit_threads
    from lstm_lm.saved.load_model import restore

    if arguments.skip < 0 or arguments.tokens < 2:
        raise SettingsError("--skip must be at least 0 and --tokens at least 2")
    limit_threads()
    run = restore(arguments.run, arguments.checkpoint)
    title = [str(arguments.run)]
    if arguments.text is not None:
        title.append(arguments.text)
        split = split_of_file(run, arguments.text)
    else:
        title.append(f"{arguments.split} text")
        if arguments.split == "test" and run.summary["test_is_validation"]:
            title.append("which is the validation text")
        if run.summary["text_note"]:
            title.append(run.summary["text_note"])
        split = split_of_run(run, arguments.split, arguments.data_root, arguments.text_path)
    ids = split.ids[arguments.skip :][: arguments.tokens].long()
    if len(ids) < 2:
        raise SettingsError(f"the text has {len(split.ids):,} tokens: --skip leaves too few")
    output = arguments.output or arguments.run / "inside.html"
    try:
        write_atomically(output, build_page(run, ", ".join(title), ids))
    except OSError as error:
        raise SettingsError(f"cannot write {output}: {error.strerror}") from error
    print(f"page   {output}")
    if unknown := int((ids == 0).sum()):
        print(f"       {unknown:,} of {len(ids):,} tokens are not in the vocabulary, shown as �")


if __name__ == "__main__":
    run_program(main)
