"""Continue a prompt with a trained model.

python scripts/generate.py outputs/2026-11-23/10-15-00 --prompt "time traveller" --tokens 200
"""

import argparse
import logging
import sys

from lstm_lm.commands.arguments import add_core, parser_for_run
from lstm_lm.config import Accelerator
from lstm_lm.process import run_program


def parse() -> argparse.Namespace:
    parser = parser_for_run(__doc__)
    add_core(parser)
    parser.add_argument("--prompt", required=True, help="the text to continue")
    parser.add_argument("--tokens", type=int, default=200, help="number to add (default: 200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="default: 0.8")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K most likely tokens")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the most likely tokens, P in total"
    )
    parser.add_argument("--greedy", action="store_true", help="take the most likely token")
    parser.add_argument("--samples", type=int, default=1, help="number of continuations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=Accelerator, choices=list(Accelerator), default="cpu")
    return parser.parse_intermixed_args()


def main() -> None:
    arguments = parse()
    from lstm_lm.api import load_run

    logging.basicConfig(format="%(message)s", force=True)
    run = load_run(
        arguments.run,
        arguments.checkpoint,
        core=arguments.core and arguments.core.removeprefix("model.core="),
        backend=(arguments.backend or "auto").removeprefix("model.backend="),
        device=arguments.device,
    )
    if run.summary["text_note"]:
        print(f"trained on {run.summary['text_note']}", file=sys.stderr)
    steps = run.stream(
        arguments.prompt,
        tokens=arguments.tokens,
        temperature=0 if arguments.greedy else arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        samples=arguments.samples,
        seed=arguments.seed,
    )
    if arguments.samples > 1:
        for number, pieces in enumerate(zip(*steps, strict=True), start=1):
            print(f"--- {number}\n{''.join(pieces)}")
        return
    try:
        for (piece,) in steps:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print()
        raise
    print()


if __name__ == "__main__":
    run_program(main)
