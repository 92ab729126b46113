"""Run a command from any folder: ``lstm-lm train`` or ``python -m lstm_lm train``.

Each command is a module of :mod:`lstm_lm.commands`; the scripts call the same modules.
"""

import runpy
import sys

from lstm_lm import process

COMMANDS = {
    "train": "train one model, or with -m a sweep; lists every setting with --help",
    "evaluate": "score a trained model on a text",
    "generate": "continue a prompt with a trained model",
    "compare": "make a table and pictures of several runs",
    "inspect": "make a page that shows what units and gates do",
}
USAGE = "\n".join(
    ["usage: lstm-lm COMMAND ...", "", *(f"  {name:10}{does}" for name, does in COMMANDS.items())]
)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(USAGE)
    elif name not in COMMANDS:
        print(f"{USAGE}\n\nerror: there is no command {name!r}", file=sys.stderr)
        raise SystemExit(2)
    else:
        del sys.argv[1]
        process.train_command = "lstm-lm train"
        # Run as __main__, so that Lightning can start the same program for other ranks.
        runpy.run_module(f"lstm_lm.commands.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
