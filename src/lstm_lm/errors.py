"""Exceptions that end a run with a one-line message for its user."""

import signal


class SettingsError(ValueError):
    """A setting is invalid or impossible here; the message says why, and what to do instead."""


class DamagedFile(SettingsError):
    """A file is incomplete, or differs from what was written."""


class RunFailed(Exception):
    """A run that had started failed; the message says why, and what to do instead."""


class Diverged(RunFailed):
    """Training produced a number that is not finite; more steps would only spoil the weights."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(
            f"diverged: the {what} is not finite at step {step:,}; try a smaller "
            "optimizer.learning_rate or a smaller optimizer.clip_norm"
        )
        self.step = step


class Stopped(SystemExit):
    """A signal ended the run; if not caught, the process exits with the shell's code for it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)
