"""The loss that is trained: that of the next token, and terms that regularize it."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from lstm_lm.config import LossConfig
from lstm_lm.model.language_model import Features, LanguageModel
from lstm_lm.model.products import FastLinear


class Losses(NamedTuple):
    next_token: Float[Tensor, ""]  # the mean in nats per token
    trained: Float[Tensor, ""]  # the same with all terms


class TrainingLoss(nn.Module):
    """Cross-entropy of the next token, label smoothing, (T)AR, and multi-token prediction.

    Label smoothing mixes each target with a uniform distribution (Szegedy et al. 2016). Activation
    regularization is α times the mean square of the last layer's outputs, temporal activation
    regularization β times that of their changes (Merity et al. 2017). For multi-token prediction
    (Gloeckle et al. 2024) each token further ahead has a linear layer of its own before the
    model's output layer; these layers are trained with the model, and not used after training.
    """

    def __init__(self, config: LossConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        further = config.tokens_ahead - 1 if config.multi_token_weight else 0
        self.heads = nn.ModuleList(FastLinear(hidden_size, hidden_size) for _ in range(further))

    def forward(
        self, model: LanguageModel, features: Features, targets: Int[Tensor, "time batch"]
    ) -> Losses:
        logits, config = model.output(features.dropped).flatten(0, 1), self.config
        if config.label_smoothing:
            logs = wide(logits).log_softmax(-1)
            next_token = nll_loss(logs, targets.flatten())
            trained = torch.lerp(next_token, -logs.mean(), config.label_smoothing)
        else:
            trained = next_token = cross_entropy(logits, targets.flatten())
        if config.activation_regularization:
            squares = wide(features.dropped).square().mean()
            trained = trained + config.activation_regularization * squares
        if config.temporal_activation_regularization and len(targets) > 1:
            changes = wide(features.outputs).diff(dim=0).square().mean()
            trained = trained + config.temporal_activation_regularization * changes
        for further, head in enumerate(self.heads[: len(targets) - 1], start=1):
            logits = model.output(head(features.dropped[:-further]))
            loss = cross_entropy(logits.flatten(0, 1), targets[further:].flatten())
            trained = trained + config.multi_token_weight / len(self.heads) * loss
        return Losses(next_token, trained)


def wide(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """At least float32: in bfloat16 a mean has three digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
