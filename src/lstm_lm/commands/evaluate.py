"""Print the exact perplexity of a text under a trained model.

python scripts/evaluate.py outputs/2026-11-23/10-15-00 --split test
"""

import argparse

from lstm_lm.commands.arguments import add_core, add_text, parser_for_run
from lstm_lm.config import Accelerator
from lstm_lm.process import run_program


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
    return parser.parse_intermixed_args()


def main() -> None:
    arguments = parse()
    from lstm_lm.api import load_run

    run = load_run(
        arguments.run,
        arguments.checkpoint,
        core=arguments.core and arguments.core.removeprefix("model.core="),
        backend=(arguments.backend or "auto").removeprefix("model.backend="),
        device=arguments.device,
    )
    if arguments.text is not None:
        name, note = arguments.text, None
    else:
        name, note = arguments.split, run.summary["text_note"]
        if name == "test" and run.summary["test_is_validation"]:
            name = "test, which is the validation text"
    score = run.evaluate(
        file=arguments.text,
        split=arguments.split,
        reset_every=arguments.reset_every,
        data_root=arguments.data_root,
        text_path=arguments.text_path,
    )
    print(f"text                {name}: {score.tokens:,} tokens, {score.unknown:,} of them unknown")
    if note:
        print(f"                    {note}")
    print(f"loss                {score.loss:.6f} nats per token")
    print(f"perplexity          {score.perplexity:.6g}")
    print(f"bits per character  {score.bits_per_character:.6f}")
    print(f"bits per byte       {score.bits_per_byte:.6f}")
    if (above := score.above_floor) is not None:
        print(f"floor               {above.floor:.6f} nats per token")
        print(f"above the floor     {above.gap:.6f} nats per token")
        if above.memory_gap is not None:
            print(f"  of memory         {above.memory_gap:.6f} where it must remember")


if __name__ == "__main__":
    run_program(main)
