"""The ways a run can end that its user should read about in one line."""

import signal


class SettingsError(ValueError):
    """What was asked for cannot be done; the message says why and what to do instead."""


class DamagedFile(SettingsError):
    """A file is not what was written, or is not whole."""


class RunFailed(Exception):
    """A run had begun and cannot go on; the message says why and what to do instead."""


class Diverged(RunFailed):
    """Training produced a number that is not finite; going on would only spoil the weights."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(
            f"diverged: the {what} is not finite at step {step:,}; try a smaller "
            "optimizer.learning_rate or a smaller optimizer.clip_norm"
        )
        self.step = step


class Stopped(SystemExit):
    """A signal ended the run; left alone, it ends the process with the code that shells know."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)
