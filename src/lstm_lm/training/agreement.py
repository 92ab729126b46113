"""How the ranks of a run come to decide alike."""

from typing import Any

from lstm_lm.ranks import Ranks
from lstm_lm.training.step_callback import StepCallback
from lstm_lm.training.stop_signals import StopSignals


class Agreement(StepCallback):
    """After each step, all ranks set their clocks and hear which signals any of them received.

    So they save, stop and set the learning rate by the same clock, and end after the same step.
    This must come before all other callbacks.
    """

    def __init__(self, ranks: Ranks, signals: StopSignals) -> None:
        self.ranks = ranks
        self.signals = signals

    def on_train_start(self, *_: Any) -> None:
        self.signals.listen()  # alone again: Lightning's own handler would end this rank only
        self.signals.shared = True
        self.agree()

    def on_train_batch_end(self, *_: Any) -> None:
        self.agree()

    def on_validation_batch_end(self, *_: Any) -> None:
        self.agree()

    def on_train_end(self, *_: Any) -> None:
        self.signals.shared = False

    def agree(self) -> None:
        self.signals.agreed = self.ranks.agree(self.signals.received)
