"""Muon for matrices and AdamW for the rest, as one optimizer with one state.

Muon replaces the momentum of a matrix by the nearest matrix with orthogonal rows or columns
(Jordan et al. 2024, "Muon: an optimizer for hidden layers"). Five Newton-Schulz iterations find it
approximately. Its step is scaled to the size of AdamW's, so both share a learning rate and weight
decay (Liu et al. 2025, "Muon is scalable for LLM training").
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from lstm_lm.machine import bfloat16_support


class MuonWithAdamW(Optimizer):
    """Both optimizers behind one ``state`` and one list of groups: the matrices, then the rest.

    Args:
        betas, fused: of AdamW.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        rest: Sequence[nn.Parameter],
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        fused: bool = True,
    ) -> None:
        shared: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
        muon = muon_for(matrices[0].device.type)
        self.parts: tuple[Optimizer, Optimizer] = (
            muon(matrices, adjust_lr_fn="match_rms_adamw", **shared),
            AdamW(rest, betas=betas, fused=fused, **shared),
        )
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self.share_state()

    def share_state(self) -> None:
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.state, part.param_groups = self.state, [group]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.share_state()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def muon_for(device: str) -> type[Muon]:
    """Torch's Muon, which computes in bfloat16; where that is not native, Muon without it."""
    return Muon if bfloat16_support(device).is_native else FullPrecisionMuon


class FullPrecisionMuon(Muon):
    """Torch's Muon, but orthogonalized in the precision of the weights.

    Without bfloat16 instructions, torch's takes fifty times as long for a matrix of 1024 x 256.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                mean = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                update = orthogonalized(
                    weight.grad.lerp(mean, momentum),
                    group["ns_coefficients"],
                    group["ns_steps"],
                    group["eps"],
                )
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(update, alpha=-rate * 0.2 * math.sqrt(max(weight.shape)))


def orthogonalized(
    matrix: Float[Tensor, "rows columns"],
    coefficients: tuple[float, float, float],
    iterations: int,
    epsilon: float,
) -> Float[Tensor, "rows columns"]:
    """The matrix with its singular values brought near 1, by the iteration of Newton and Schulz.

    Args:
        coefficients: of a singular value, its third and its fifth power in each iteration.
        epsilon: smallest norm to divide by.
    """
    first, third, fifth = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=epsilon)
    for _ in range(iterations):
        square = wide @ wide.T
        both = torch.addmm(square, square, square, beta=third, alpha=fifth)
        wide = torch.addmm(wide, both, wide, beta=first)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
