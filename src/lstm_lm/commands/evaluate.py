"""Print the exact perplexity of a text under a trained model.

python scripts/evaluate.py outputs/2026-11-23/10-15-00 --split test
"""

import argparse
from typing import TYPE_CHECKING

from lstm_lm.commands.arguments import add_core, add_text, parser_for_run
from lstm_lm.commands.mode_arguments import add_modes, add_tuning, read_modes, where_to_tune
from lstm_lm.config import Accelerator
from lstm_lm.errors import SettingsError
from lstm_lm.process import print_error, run_program

if TYPE_CHECKING:
    from lstm_lm.api import Run
    from lstm_lm.evaluation.modes import Modes
    from lstm_lm.evaluation.score import Score
    from lstm_lm.evaluation.scorer import Scorer
    from lstm_lm.saved.load_model import TrainedModel


def parse() -> argparse.Namespace:
    parser = parser_for_run(__doc__)
    add_core(parser)
    add_text(parser)
    parser.add_argument(
        "--reset-every",
        type=int,
        metavar="TOKENS",
        help="reset the state to zero after so many tokens (default: never)",
    )
    parser.add_argument("--device", type=Accelerator, choices=list(Accelerator), default="auto")
    add_modes(parser)
    add_tuning(parser)
    return parser.parse_intermixed_args()


def main() -> None:
    arguments = parse()
    modes, free = read_modes(arguments)
    from lstm_lm.evaluation.score import split_of_file
    from lstm_lm.evaluation.scorer import Scorer

    scorer = Scorer(load_runs(arguments), arguments.data_root, arguments.text_path)
    scorer.check(modes, arguments.reset_every)
    own = None if arguments.text is None else split_of_file(scorer.runs[0], arguments.text)
    settings = {"checkpoint": arguments.checkpoint, "reset_every": arguments.reset_every}
    if free:
        source, tokens = where_to_tune(arguments, scorer.runs[0].summary["test_is_validation"])
        modes = tune_and_print(scorer, modes, free, source, tokens, arguments.reset_every)
        settings |= {"tuned": free, "tuned_on": source, "tuned_tokens": tokens}
    # A split is read after tuning, which must know nothing of it.
    split = scorer.split(arguments.split) if own is None else own
    score = scorer.score(split, modes, arguments.reset_every)
    print_text(arguments, scorer.runs[0], score)
    print_modes(scorer, modes)
    print_score(score)
    if scorer.names(modes) and arguments.text is None:
        record_and_print(scorer, modes, arguments.split, settings, score)


def load_runs(arguments: argparse.Namespace) -> "list[Run]":
    from lstm_lm.api import load_run

    return [
        load_run(
            folder,
            arguments.checkpoint,
            core=arguments.core and arguments.core.removeprefix("model.core="),
            backend=(arguments.backend or "auto").removeprefix("model.backend="),
            device=arguments.device,
        )
        for folder in [arguments.run, *arguments.ensemble]
    ]


def tune_and_print(
    scorer: "Scorer",
    modes: "Modes",
    free: list[str],
    source: str,
    tokens: int,
    reset_every: int | None,
) -> "Modes":
    from lstm_lm.evaluation.tuning import tune, tuning_ids

    ids = tuning_ids(scorer, source, tokens)

    def mean_loss(tried: "Modes") -> float:
        return float(scorer.losses(ids, tried, reset_every).mean())

    tuned = tune(mean_loss, modes, free)
    place = "end" if source == "training" else "beginning"
    print(f"tuning              {len(ids) - 1:,} tokens from the {place} of the {source} text")
    for tried, loss in tuned.tried.items():
        chosen = "  chosen" if tried == tuned.modes else ""
        print(f"                    {loss:.4f}  {tried.options}{chosen}")
    return tuned.modes


def print_text(arguments: argparse.Namespace, run: "TrainedModel", score: "Score") -> None:
    name, note = arguments.text, None
    if name is None:
        name, note = arguments.split, run.summary["text_note"]
        if name == "test" and run.summary["test_is_validation"]:
            name = "test, which is the validation text"
    print(f"text                {name}: {score.tokens:,} tokens, {score.unknown:,} of them unknown")
    if note:
        print(f"                    {note}")


def print_modes(scorer: "Scorer", modes: "Modes") -> None:
    if names := scorer.names(modes):
        print(f"mode                {' + '.join(names).replace('_', ' ')}")
    if modes.names:
        print(f"options             {modes.options}")


def print_score(score: "Score") -> None:
    print(f"loss                {score.loss:.6f} nats per token")
    print(f"perplexity          {score.perplexity:.6g}")
    print(f"bits per character  {score.bits_per_character:.6f}")
    print(f"bits per byte       {score.bits_per_byte:.6f}")
    if (above := score.above_floor) is not None:
        print(f"floor               {above.floor:.6f} nats per token")
        print(f"above the floor     {above.gap:.6f} nats per token")
        if above.memory_gap is not None:
            print(f"  of memory         {above.memory_gap:.6f} where it must remember")


def record_and_print(
    scorer: "Scorer", modes: "Modes", split: str, settings: dict[str, object], score: "Score"
) -> None:
    from lstm_lm.evaluation.record import record

    run, *others = scorer.runs
    settings = modes.settings | settings
    if others:
        settings |= {"ensemble": [str(other.folder.absolute()) for other in others]}
    try:
        prefix = record(run, split, scorer.names(modes), settings, score)
        print(f"recorded            {run.folder}/summary.json: {prefix}/…")
    except SettingsError as error:
        print_error(f"the score is not recorded: {error}", 0, "warning")


if __name__ == "__main__":
    run_program(main)
