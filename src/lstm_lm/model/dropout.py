"""Dropout where a recurrent language model can use it: words, features, recurrent weights.

Each draws from PyTorch's global random numbers in training only, once per window.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """Drop features, other ones at every step of a window.

    Source: Zaremba et al. (2014), between the layers of a recurrent network.
    """

    def forward(
        self, input: Float[Tensor, "time batch features"]
    ) -> Float[Tensor, "time batch features"]:
        if not self.training or self.p in (0, 1) or input.device.type != "cpu":
            return super().forward(input)  # on a GPU one kernel that draws and drops
        kept, scale = random_kept(input, self.p)
        return input * kept * scale  # one after the other: bfloat16 would round their product


class LockedDropout(nn.Dropout):
    """Drop the same features at every step of a window, other ones in each row.

    Source: Gal & Ghahramani (2016), variational dropout; locked dropout in Merity et al. (2018).
    """

    def forward(
        self, input: Float[Tensor, "time batch features"]
    ) -> Float[Tensor, "time batch features"]:
        if not self.training or self.p == 0:
            return input
        # In float32: in fewer bits 1 / (1 - p) would be rounded, and all outputs biased alike.
        ones = torch.ones_like(input[:1], dtype=torch.promote_types(input.dtype, torch.float32))
        return (input * super().forward(ones)).to(input.dtype)


class EmbeddingDropout(nn.Dropout):
    """Drop whole tokens of the vocabulary: everywhere in a window, or nowhere.

    Source: Gal & Ghahramani (2016), word embedding dropout.
    """

    def __init__(self, vocabulary_size: int, p: float) -> None:
        super().__init__(p)
        self.vocabulary_size = vocabulary_size

    def forward(  # type: ignore[override]
        self, embedded: Float[Tensor, "time batch features"], ids: Int[Tensor, "time batch"]
    ) -> Float[Tensor, "time batch features"]:
        if not self.training or self.p == 0:
            return embedded
        kept = super().forward(embedded.new_ones(self.vocabulary_size))
        return embedded * kept[ids].unsqueeze(-1)


class WeightDrop(nn.Dropout):
    """Drop entries of a core's recurrent weights, the same ones at every step of a window.

    Source: Wan et al. (2013), DropConnect; on hidden-to-hidden weights in Merity et al. (2018).
    """

    def of(self, core: nn.Module) -> tuple[()] | tuple[Float[Tensor, "gates hidden"]]:
        """The recurrent weights to call the core with; none if it can use its own."""
        if not self.training or self.p == 0:
            return ()
        weight = core.get_parameter("weight_hh_l0")
        return (weight * random_mask(weight, self.p),)


def random_mask(like: Tensor, p: float) -> Tensor:
    """Zeros with probability ``p``, else what keeps the mean at 1."""
    kept, scale = random_kept(like, p)
    return kept.mul_(scale)


def random_kept(like: Tensor, p: float) -> tuple[Tensor, float]:
    """Zeros with probability ``p``, in steps of 1/65,536, else ones; and one over their share.

    Four entries from one random number: PyTorch's own dropout draws one for each, which on a CPU
    takes about a sixth of a step of an LSTM with 512 units in bfloat16.
    """
    numbers = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    dropped = min(round(p * 2**16), 2**16 - 1)  # of all values of 16 bits
    bits = numbers.random_(-(2**63), None).view(torch.int16)[: like.numel()]
    kept = (bits >= dropped - 2**15).view(torch.uint8)  # converted faster than booleans
    return kept.view_as(like).to(like.dtype), 2**16 / (2**16 - dropped)
