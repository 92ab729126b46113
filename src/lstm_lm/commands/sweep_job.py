"""One job of a sweep in its own process: ``python -m lstm_lm.commands.sweep_job SWEEP NUMBER``.

Its output goes to the job's log. Exit codes are those of ``scripts/train.py``.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lstm_lm.errors import Stopped
from lstm_lm.process import STOPPING, on_parent_exit, printing, run_program, slow_imports

GRACE = 60.0  # seconds for saving


def main() -> None:
    with slow_imports():
        on_parent_exit(terminate_then_kill)
        for number in STOPPING:
            signal.signal(number, stop)
        from lstm_lm.resume import resume_or_train
        from lstm_lm.saved.run_folder import config_from_settings
        from lstm_lm.saved.sweep_folder import SweepFolder

    logging.basicConfig(format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("lstm_lm").setLevel(logging.INFO)
    folder = SweepFolder(Path(sys.argv[1]))
    job = next(job for job in folder.read().jobs if job.number == int(sys.argv[2]))
    resume_or_train(config_from_settings(job.settings), folder.run_folder(job).path)
    with printing():  # flushes the log lines
        pass


def terminate_then_kill() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


def stop(number: int, _: Any) -> None:
    raise Stopped(number)


if __name__ == "__main__":
    run_program(main)
