"""The ways a run can end that its user should read about in one line."""


class SettingsError(ValueError):
    """What was asked for cannot be done; the message says why and what to do instead."""


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
