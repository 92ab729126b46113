"""A causal Transformer layer behind the contract of a core, to compare recurrent ones with.

Each step attends to the last ``context`` steps, its own among them, and knows how far back they
are; its state is what of them the next steps will attend to. Several layers see further, each
``context - 1`` steps more.

    a  =  x + attention(norm(x))         x the input, projected where sizes differ
    y  =  a + W₂ gelu(W₁ norm(a))        W₁ four times as wide

Sources: Vaswani et al. (2017), but with the norms before, as Xiong et al. (2020), though with none
behind the last layer: after the sums, three of six runs on data=recall never learned to look back.
Rotary positions of Su et al. (2021), which turn queries and keys so that their product depends on
their distance alone; the state of Dai et al. (2019).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from lstm_lm.model.core import WindowState

ROPE_BASE = 10_000.0  # the last pair of units turns a radian in nearly so many steps


class CausalTransformer(nn.Module):
    """Keeps the contract of :class:`lstm_lm.model.core.Core`, but for the names of parameters."""

    def __init__(self, input_size: int, hidden_size: int, heads: int, context: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.heads = heads
        self.context = context
        self.project: nn.Module = nn.Identity()
        if input_size != hidden_size:
            self.project = nn.Linear(input_size, hidden_size)
        self.queries_keys_values = nn.Linear(hidden_size, 3 * hidden_size)
        self.attended = nn.Linear(hidden_size, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.widen = nn.Linear(hidden_size, 4 * hidden_size)
        self.narrow = nn.Linear(4 * hidden_size, hidden_size)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)

    def forward(
        self, inputs: Float[Tensor, "time batch input"], state: WindowState | None = None
    ) -> tuple[Float[Tensor, "time batch hidden"], WindowState]:
        if state is None:
            weight = self.attended.weight
            zeros = weight.new_zeros(inputs.shape[1], self.context - 1, self.hidden_size)
            state = WindowState(zeros, zeros, zeros[..., 0])
        outputs = []
        # No block attends to more than two contexts, however long the text.
        for block in inputs.split(self.context):
            x = self.project(block).to(block.dtype)  # sums keep the precision of the input
            attended, state = self._attend(self.attention_norm(x), state)
            a = x + attended
            outputs.append(a + self.narrow(gelu(self.widen(self.feed_forward_norm(a)))))
        return torch.cat(outputs), state

    def _attend(
        self, x: Float[Tensor, "time batch hidden"], state: WindowState
    ) -> tuple[Float[Tensor, "time batch hidden"], WindowState]:
        before, steps = self.context - 1, len(x)
        queries, keys, values = self.queries_keys_values(x).transpose(0, 1).chunk(3, dim=-1)
        keys = torch.cat([state.keys.to(keys.dtype), keys], dim=1)
        values = torch.cat([state.values.to(values.dtype), values], dim=1)
        filled = torch.cat([state.filled, state.filled.new_ones(len(queries), steps)], dim=1)
        positions = torch.arange(before + steps, device=x.device)
        distance = positions[before:, None] - positions
        seen = (distance >= 0) & (distance < self.context) & (filled > 0.5)[:, None, None]
        attended = scaled_dot_product_attention(
            rotate(self._in_heads(queries), positions[before:]),
            rotate(self._in_heads(keys), positions),
            self._in_heads(values),
            attn_mask=seen,
        )
        outputs = self.attended(attended.transpose(1, 2).flatten(2)).transpose(0, 1)
        # Copies: whoever keeps the state must not keep the sequence.
        return outputs, WindowState(*(part[:, steps:].clone() for part in (keys, values, filled)))

    def _in_heads(
        self, values: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch heads time units"]:
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def rotate(
    values: Float[Tensor, "batch heads time units"], positions: Tensor
) -> Float[Tensor, "batch heads time units"]:
    """Rotary positions: each pair of units turns by an angle of its own per step."""
    half = values.shape[-1] // 2
    pairs = torch.arange(half, device=values.device, dtype=torch.float64)
    angles = positions[:, None] * ROPE_BASE ** (-pairs / half)
    cosine, sine = angles.cos().to(values.dtype), angles.sin().to(values.dtype)
    x, y = values.split(half, dim=-1)
    return torch.cat([x * cosine - y * sine, x * sine + y * cosine], dim=-1)
