"""What a backend has to compute, and which backend can run where.

A backend is a module with the functions of :class:`Kernels`. Each is about one layer and a whole
sequence; what must be done step by step is

    forward    hiddens[t + 1], cells[t + 1], gates[t]  from  inputs[t], hiddens[t], cells[t]
    backward   grad_gates[t]  from  grad_gates[t + 1] and what forward saved

and the gradients of the weights are one product over all steps. Sequences are time-major,
``[time, batch, …]``; ``hiddens`` and ``cells`` are longer by one, as they begin with the state
before the first step. Sequences have the dtype of ``inputs``, in which products are computed;
states, weights and their gradients have their own, which may be wider.
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lstm_lm.config import Backend
from lstm_lm.errors import SettingsError
from lstm_lm.model.fused.layer import Weights

log = logging.getLogger(__name__)


@runtime_checkable
class Kernels(Protocol):
    def lstm_forward(
        self, inputs: Tensor, weights: Weights, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hiddens, cells, and the gates i, f, g, o after their functions."""

    def lstm_backward(
        self,
        grad_outputs: Tensor,
        grad_hidden: Tensor,
        grad_cell: Tensor,
        weight: Tensor,
        cells: Tensor,
        gates: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the gates before their functions, of the first hidden and cell state."""

    def gru_forward(
        self, inputs: Tensor, weights: Weights, hidden_bias: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hiddens, and r, z, n after their functions with what r is multiplied with."""

    def gru_backward(
        self,
        grad_outputs: Tensor,
        grad_hidden: Tensor,
        weight: Tensor,
        hiddens: Tensor,
        gates: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of what inputs and what hidden states add, of the first hidden state."""

    def rnn_forward(self, inputs: Tensor, weights: Weights, hidden: Tensor) -> Tensor:
        """Hiddens."""

    def rnn_backward(
        self, grad_outputs: Tensor, grad_hidden: Tensor, weight: Tensor, hiddens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the sums before tanh, and of the first hidden state."""

    def weight_gradients(
        self, grad_gates: Tensor, factors: Sequence[Tensor], dtype: torch.dtype
    ) -> tuple[list[Tensor], Tensor]:
        """Gradients of the weights each factor was multiplied with, and of the bias."""


@cache
def kernels_of(backend: Backend, device: torch.device) -> Kernels:
    # Each when first asked for: one compiles C++, another imports Triton.
    match backend:
        case Backend.auto:
            return kernels_of(backend_here(device.type), device)
        case Backend.torch:
            import lstm_lm.model.fused.torch_kernels as torch_kernels

            return torch_kernels
        case Backend.cpp:
            import lstm_lm.model.fused.cpp_kernels as cpp_kernels

            return cpp_kernels
        case Backend.triton:
            try:
                import lstm_lm.model.fused.triton_kernels as triton_kernels
            except ModuleNotFoundError as error:
                raise SettingsError(
                    "model.backend=triton needs Triton, which comes with PyTorch for GPUs: choose "
                    "model.backend=torch, or cpp on a CPU"
                ) from error
            return triton_kernels


@cache  # so that it warns once
def backend_here(device: str) -> Backend:
    """What ``model.backend=auto`` stands for on this machine's ``cpu`` or ``cuda``."""
    if device != "cpu":
        return Backend.torch
    try:
        kernels_of(Backend.cpp, torch.device(device))
    except SettingsError as error:
        log.warning("warning: %s, which is slower and taken here", error)
        return Backend.torch
    return Backend.cpp


def refuse_impossible(backend: Backend, device: torch.device) -> None:
    """
    Raises:
        SettingsError: if the backend cannot run on this device, or on this machine.
    """
    if backend is Backend.auto:
        return
    if backend is Backend.cpp and device.type != "cpu":
        raise SettingsError(
            f"model.backend=cpp runs on a CPU only, not on {device.type}: choose device=cpu, or "
            "model.backend=torch or triton"
        )
    kernels_of(backend, device)
    if backend is Backend.triton:
        from lstm_lm.model.fused.triton_kernels import refuse_device

        refuse_device(device)
