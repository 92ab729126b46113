"""The functions of a backend, which backend can run where, and what ``auto`` stands for there.

A backend is a module with the functions of :class:`Kernels`. Each is about one layer and a whole
sequence; what must be done step by step is

    forward    hiddens[t + 1], cells[t + 1], gates[t]  from  inputs[t], hiddens[t], cells[t]
    backward   grad_sums[t]  from  grad_sums[t + 1] and what forward saved

and the gradients of the weights are one product over all steps. Sequences are time-major,
``[time, batch, …]``; ``hiddens`` and ``cells`` are longer by one, as they begin with the state
before the first step. Sequences have the dtype of ``inputs``, in which products are computed;
states, weights and their gradients have their own, which may be wider.

A new run is trained with the backend and the precision that ``auto`` stands for, and its
``config.yaml`` has them instead. A resumed run keeps them; so does a sweep's job that is run again.
"""

import dataclasses
import logging
from collections.abc import Sequence
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lstm_lm.config import Backend, Cell, CoreName, RunConfig
from lstm_lm.errors import SettingsError
from lstm_lm.machine import resolve_precision
from lstm_lm.model.fused import cpp_kernels, torch_kernels
from lstm_lm.model.fused.torch_kernels import Saved, State, Tensors, Weights

AUTO_SETTINGS = "device.precision", "model.backend"

log = logging.getLogger(__name__)


@runtime_checkable
class Kernels(Protocol):
    def forward(self, cell: Cell, inputs: Tensor, weights: Weights, state: State) -> Saved:
        """Run over all steps; the outputs are the hidden states after them."""

    def backward(
        self, cell: Cell, grad_outputs: Tensor, grad_state: State, weight_hh: Tensor, saved: Saved
    ) -> tuple[Tensors, State]:
        """Gradients of the sums in the gates, before σ and tanh, and of the first state.

        The gradients of a GRU's sums are two tensors: of what the inputs add and of what the
        hidden state adds, which its reset gate multiplies. For other cells they are one.
        """

    def weight_gradients(
        self, grad_sums: Tensor, factors: Sequence[Tensor], dtype: torch.dtype
    ) -> tuple[list[Tensor], Tensor]:
        """Gradients of the weights each factor was multiplied with, and of the bias."""


@cache
def kernels_of(backend: Backend, device: torch.device) -> Kernels:
    match backend:
        case Backend.auto:
            return kernels_of(backend_here(device.type), device)
        case Backend.torch:
            return torch_kernels
        case Backend.cpp:
            cpp_kernels.load_library()
            return cpp_kernels
        case Backend.triton:
            try:  # not above, as it needs Triton
                import lstm_lm.model.fused.triton_kernels as triton_kernels
            except ModuleNotFoundError as error:
                raise SettingsError(
                    "model.backend=triton needs Triton, which comes with PyTorch for GPUs: choose "
                    "model.backend=torch, or cpp on a CPU"
                ) from error
            return triton_kernels


@cache  # so that it warns once
def backend_here(device: str) -> Backend:
    """The backend that ``model.backend=auto`` stands for on this machine's ``cpu`` or ``cuda``."""
    if device != "cpu":
        return Backend.torch
    try:
        kernels_of(Backend.cpp, torch.device(device))
    except SettingsError as error:
        log.warning("warning: %s, which is slower and taken here", error)
        return Backend.torch
    return Backend.cpp


def check_backend(backend: Backend, device: torch.device) -> None:
    """Check that the backend can run on this device, and on this machine.

    Raises:
        SettingsError: if it cannot.
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
        from lstm_lm.model.fused.triton_kernels import check_device

        check_device(device)


def resolve_auto(
    config: RunConfig, device: str, apart: bool = False
) -> tuple[RunConfig, str | None]:
    """The config without ``auto``, and for an ``auto`` precision a line that says why this one.

    Args:
        device: the run's device, ``cpu`` or ``cuda``.
        apart: ask the GPU in a separate process: takes no GPU memory, but seconds longer.

    Raises:
        SettingsError: if the requested precision is not native to the device.
    """
    precision, why = resolve_precision(config.device.precision, device, apart)
    on = dataclasses.replace(config.device, precision=precision)
    return dataclasses.replace(resolve_backend(config, device), device=on), why


def resolve_backend(config: RunConfig, device: str) -> RunConfig:
    if config.model.backend is not Backend.auto:
        return config
    is_fused = config.model.core is CoreName.fused  # other cores ignore it: theirs is torch
    backend = backend_here(device) if is_fused else Backend.torch
    return dataclasses.replace(config, model=dataclasses.replace(config.model, backend=backend))
