"""Callbacks that cost a step no more than what they do in it."""

from typing import Any

from lightning import Callback


class StepCallback(Callback):
    """Lightning calls all hooks of a step, empty ones too, but passes over those that are None."""

    on_train_batch_start: Any = None
    on_before_zero_grad: Any = None
    on_before_backward: Any = None
    on_after_backward: Any = None
    on_before_optimizer_step: Any = None
    on_train_batch_end: Any = None
