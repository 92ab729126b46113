"""Continue a prompt with a trained model.

python scripts/generate.py outputs/2026-11-23/10-15-00 --prompt "time traveller" --tokens 200
"""

import argparse
import os
import sys
from itertools import chain, islice, pairwise
from pathlib import Path

from lstm_lm.config import Accelerator, Backend, CoreName
from lstm_lm.errors import SettingsError


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument(
        "core",
        nargs="?",
        choices=[f"model.core={name}" for name in CoreName],
        help="another core than the one it was trained with",
    )
    parser.add_argument(
        "backend",
        nargs="?",
        choices=[f"model.backend={name}" for name in Backend],
        help="of model.core=fused (default: auto)",
    )
    parser.add_argument("--prompt", required=True, help="the text to be continued")
    parser.add_argument("--tokens", type=int, default=200, help="how many to add (default: 200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="default: 0.8")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the likeliest tokens that make up P"
    )
    parser.add_argument("--greedy", action="store_true", help="always take the likeliest token")
    parser.add_argument("--samples", type=int, default=1, help="how many continuations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best")
    parser.add_argument("--device", type=Accelerator, choices=list(Accelerator), default="cpu")
    return parser.parse_intermixed_args()


def main() -> None:
    arguments = parse()
    from lstm_lm.data.text import spell, tokenize_prompt  # torch: not for --help
    from lstm_lm.generation import generate
    from lstm_lm.machine import choose_device, limit_threads
    from lstm_lm.restore import restore

    if arguments.tokens < 0:
        raise SettingsError(f"--tokens must not be negative, not {arguments.tokens}")
    core = arguments.core and CoreName(arguments.core.removeprefix("model.core="))
    backend = Backend((arguments.backend or "auto").removeprefix("model.backend="))
    limit_threads()
    device = choose_device(arguments.device)
    run = restore(arguments.run, arguments.checkpoint, core, backend, device)
    data = run.config.data
    if run.summary["text_note"]:
        print(f"learned from {run.summary['text_note']}", file=sys.stderr)
    prompt = tokenize_prompt(arguments.prompt, data.level, data.cleaning)
    if unknown := run.vocabulary.unknown(prompt):
        names = ", ".join(map(repr, unknown))
        print(f"warning: not in the vocabulary, taken as <unk>: {names}", file=sys.stderr)
    following = generate(
        run.model,
        run.vocabulary.encode(prompt),
        temperature=0 if arguments.greedy else arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        samples=arguments.samples,
        seed=arguments.seed,
    )
    steps = (run.vocabulary.decode(ids) for ids in islice(following, arguments.tokens))
    if arguments.samples > 1:
        columns = list(zip(*steps, strict=True)) or [()] * arguments.samples
        for number, tokens in enumerate(columns, start=1):
            print(f"--- {number}\n{spell([*prompt, *tokens], data.level)}")
        return
    print(spell(prompt, data.level), end="", flush=True)
    stream = (token for (token,) in steps)
    for before, token in pairwise(chain(prompt[-1:], stream)):
        added = spell([before, token], data.level)[len(spell([before], data.level)) :]
        print(added, end="", flush=True)
    print()


if __name__ == "__main__":
    try:
        main()
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print()
        sys.exit(130)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
