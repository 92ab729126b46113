"""The loss that is trained: that of the next token, and terms that regularize it."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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
        logits = model.output(features.dropped)
        next_token = cross_entropy(logits.flatten(0, 1), targets.flatten())
        trained, config = next_token, self.config
        if config.label_smoothing:
            to_all = -logits.log_softmax(-1).mean()
            trained = torch.lerp(trained, to_all, config.label_smoothing)
        if config.activation_regularization:
            squares = features.dropped.square().mean()
            trained = trained + config.activation_regularization * squares
        if config.temporal_activation_regularization and len(targets) > 1:
            changes = features.outputs.diff(dim=0).square().mean()
            trained = trained + config.temporal_activation_regularization * changes
        for further, head in enumerate(self.heads, start=1):
            logits = model.output(head(features.dropped[:-further]))
            loss = cross_entropy(logits.flatten(0, 1), targets[further:].flatten())
            trained = trained + config.multi_token_weight / len(self.heads) * loss
        return Losses(next_token, trained)
