"""The LightningModule of a language model: loss, carried and random states, optimizer, metrics."""

import hashlib
import math
import random
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

import numpy
import torch
from jaxtyping import Float, Int
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, distributed
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from lstm_lm.config import LossConfig, ModelConfig, OptimizerConfig, RunConfig, from_plain, to_plain
from lstm_lm.data.batches import Batch, TrainingBatches, rank_rows
from lstm_lm.data.data_module import epoch_and_batch
from lstm_lm.data.splits import Length
from lstm_lm.model.core import (
    State,
    detach,
    from_plain_state,
    join_rows,
    on_cpu,
    only_rows,
    to_plain_state,
)
from lstm_lm.model.language_model import LanguageModel
from lstm_lm.training.loss import TrainingLoss
from lstm_lm.training.metrics import TrainingMetrics, in_all_units
from lstm_lm.training.optimization import (
    budget_share,
    build_optimizer,
    build_schedule,
    clip_by_global_norm,
    core_matrices,
    epochs_done,
)

OWN = "lstm_lm"  # the key of what this module adds to a checkpoint


class LanguageModelModule(LightningModule):
    """Next-token prediction by truncated back-propagation through time, for any ``Trainer``.

        module = LanguageModelModule(len(data.vocabulary), {"hidden_size": 128})
        Trainer(max_epochs=2).fit(module, data)
        LanguageModelModule.load_from_checkpoint(path)

    A batch that continues the one before starts from its final state, detached; any other batch
    starts from zeros. Lightning's checkpoints also contain this carried state, the random states
    and the metrics, so a resumed run ends with the same bits.

    Every ``log_every_n_steps`` optimizer steps and at an epoch's end it logs ``train/loss``,
    ``train/perplexity``, ``train/bits_per_character``, ``train/bits_per_byte``, ``learning_rate``,
    ``gradient_norm``, ``tokens`` and ``tokens_per_second``; after validation and test, the first
    four for that split.
    Losses are in nats per token; a training loss is the mean since the previous point.

    Args:
        vocabulary_size: number of tokens in the vocabulary.
        model: a :class:`lstm_lm.config.ModelConfig`, or a dictionary with some of its settings.
        optimizer: likewise a :class:`lstm_lm.config.OptimizerConfig`.
        loss: likewise a :class:`lstm_lm.config.LossConfig`.

    Raises:
        SettingsError: if a setting does not exist or is out of range.
    """

    def __init__(
        self,
        vocabulary_size: int,
        model: ModelConfig | Mapping[str, Any] | None = None,
        optimizer: OptimizerConfig | Mapping[str, Any] | None = None,
        loss: LossConfig | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        config = from_plain(ModelConfig, model, "model")
        self.optimizer_config = from_plain(OptimizerConfig, optimizer, "optimizer")
        loss_config = from_plain(LossConfig, loss, "loss")
        self.save_hyperparameters(
            {
                "vocabulary_size": vocabulary_size,
                # The backend of a fused core depends on the machine that loads the file.
                "model": to_plain(config) | {"backend": "auto"},
                "optimizer": to_plain(self.optimizer_config),
                "loss": to_plain(loss_config),
            }
        )
        self.model = LanguageModel(config, vocabulary_size)
        self.loss = TrainingLoss(loss_config, config.layer_sizes[-1])
        self.metrics = TrainingMetrics()
        self.training_state: State | None = None
        self.evaluation_state: State | None = None
        self.restored: dict[str, Any] | None = None
        self.limits: tuple[int, int | None] | None = None  # hidden from the trainer
        self.num_steps: int | None = None  # of a usual batch; None: all are equally long
        self.lengths_of_step: list[float] = []  # of the batches since the last optimizer step

    @classmethod
    def from_config(cls, config: RunConfig, *, vocabulary_size: int) -> "LanguageModelModule":
        return cls(vocabulary_size, config.model, config.optimizer, config.loss)

    @property
    def learning_rate(self) -> float:
        """The initial learning rate; set it before training starts."""
        return self.optimizer_config.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        changed = to_plain(self.optimizer_config) | {"learning_rate": float(rate)}
        self.optimizer_config = from_plain(OptimizerConfig, changed, "optimizer")
        self.hparams["optimizer"] = changed

    def forward(
        self, ids: Int[Tensor, "time batch"], state: State | None = None
    ) -> tuple[Float[Tensor, "time batch vocabulary"], State]:
        """Logits of each next token, and the final state."""
        logits, state = self.model(ids, state)
        return logits, state

    def configure_model(self) -> None:
        # Lightning converts too late: after it rounded a checkpoint's weights to 32 bits.
        if self.is_attached and self.trainer.precision == "64-true":
            self.double()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        config = self.optimizer_config
        # With a gradient scaler, a fused step would unscale gradients only after the clipping.
        has_scaler = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        matrices = core_matrices(self.model)
        optimizer = build_optimizer(trained, config, not has_scaler, matrices)
        if config.is_constant:
            return optimizer
        spent = budget_share(self.trainer, is_shared=True)
        schedule = build_schedule(optimizer, config, spent, lambda: epochs_done(self.trainer))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_fit_start(self) -> None:
        # A resumed run gets its limits back when training starts. With max_steps, Lightning would
        # take an epoch's end for its middle, and end that epoch once more. At the limit it would
        # skip on_train_end, in which callbacks finish the weights.
        if self.trainer.ckpt_path is not None:
            loop = self.trainer.fit_loop
            self.limits = loop.epoch_loop.max_steps, loop.max_epochs
            self.is_to_stop, self.trainer.should_stop = self.trainer.should_stop, False
            loop.epoch_loop.max_steps = loop.max_epochs = -1

    def on_train_start(self) -> None:
        self.know_limits()
        loader = self.trainer.train_dataloader
        if isinstance(loader, TrainingBatches):  # even without its data module
            loader.position = lambda: epoch_and_batch(self.trainer)
        self.num_steps = loader.num_steps if isinstance(loader, TrainingBatches) else None
        self.lengths_of_step = []
        restored, self.restored = self.restored, None
        if restored is not None and self.trainer.ckpt_path is not None:
            self.restore_states(restored)
        elif self.global_step == 0:
            self.metrics, self.training_state = TrainingMetrics(), None
            if self.global_rank > 0:
                seed_rank(self.global_rank)
        self.metrics.start_clock()

    def know_limits(self) -> None:
        if self.limits is not None:
            loop = self.trainer.fit_loop
            (loop.epoch_loop.max_steps, loop.max_epochs), self.limits = self.limits, None
            self.trainer.should_stop |= self.is_to_stop

    def teardown(self, stage: str) -> None:
        self.know_limits()  # in case training never started

    def on_train_epoch_start(self) -> None:
        self.metrics.start_epoch()
        self.metrics.start_clock()

    def training_step(self, batch: Any, batch_idx: int) -> Float[Tensor, ""]:
        # Log here, because the checkpoint of the step before is saved or loaded by now.
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every > 0 and self.global_step % every == 0:
            self.log_training_metrics()
        batch = as_batch(batch)
        state = self.training_state if batch.continues else None
        features = self.model.run_cores(batch.inputs, state)
        self.training_state = detach(features.state)
        losses = self.loss(self.model, features, batch.targets)
        length = len(batch.inputs) / (self.num_steps or len(batch.inputs))
        if self.automatic_optimization:
            self.lengths_of_step.append(length)
        self.metrics.lengths.append(length)
        self.metrics.losses.append(losses.next_token.detach())
        self.metrics.tokens += batch.targets.numel() * self.trainer.world_size
        return losses.trained

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by ``optimizer.clip_norm``, or by the ``Trainer``'s arguments if it has them."""
        trained = [weight for group in optimizer.param_groups for weight in group["params"]]
        largest = self.optimizer_config.clip_norm if gradient_clip_val is None else None
        self.metrics.learning_rate = float(optimizer.param_groups[0]["lr"])
        self.metrics.gradient_norms.append(clip_by_global_norm(trained, largest))
        if gradient_clip_val is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step with the learning rate times the batch's length over ``data.num_steps``.

        As in Merity et al. (2018), section 5. Manual optimization does not come here.
        """
        rates = [group["lr"] for group in optimizer.param_groups]

        def closure() -> Any:
            loss = optimizer_closure() if optimizer_closure else None
            if self.lengths_of_step:  # a user's own training_step records none
                factor = fmean(self.lengths_of_step)
                self.lengths_of_step.clear()
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def on_train_epoch_end(self) -> None:
        self.log_training_metrics()
        self.metrics.stop_clock()

    def on_train_end(self) -> None:
        # A resumed run with nothing left to train has not logged its last steps.
        self.log_points(self.training_metrics())

    def on_validation_start(self) -> None:
        if self.is_fitting:
            self.log_training_metrics()
            self.metrics.stop_clock()

    def on_validation_epoch_start(self) -> None:
        self.start_evaluation()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluate(as_batch(batch))

    def on_validation_epoch_end(self) -> None:
        self.log_evaluation("validation")

    def on_validation_end(self) -> None:
        if self.is_fitting:
            self.metrics.start_clock()

    def on_test_epoch_start(self) -> None:
        self.start_evaluation()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluate(as_batch(batch))

    def on_test_epoch_end(self) -> None:
        self.log_evaluation("test")

    def on_predict_epoch_start(self) -> None:
        self.evaluation_state = None

    def predict_step(
        self, batch: Any, batch_idx: int = 0
    ) -> Float[Tensor, "time batch vocabulary"]:
        """Log-probabilities of each next token, for a batch or for ids alone."""
        batch = Batch(batch, batch) if isinstance(batch, Tensor) else as_batch(batch)
        state = self.evaluation_state if batch.continues else None
        logits, self.evaluation_state = self.model(batch.inputs, state)
        return logits.log_softmax(-1)

    def start_evaluation(self) -> None:
        self.evaluation_state = None
        self.nats_dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self.nats = torch.zeros((), dtype=self.nats_dtype, device=self.device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=self.device)

    def evaluate(self, batch: Batch) -> None:
        state = self.evaluation_state if batch.continues else None
        logits, self.evaluation_state = self.model(batch.inputs, state)
        self.nats += cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), reduction="sum"
        ).to(self.nats_dtype)
        self.tokens += batch.targets.numel()

    def log_evaluation(self, split: str) -> None:
        total = self.trainer.strategy.reduce
        loss = total(self.nats, reduce_op="sum") / total(self.tokens, reduce_op="sum")
        self.log_metrics_now(in_all_units(split, loss.item(), self.token_length(split)))

    def log_training_metrics(self) -> None:
        if metrics := self.training_metrics():
            self.log_metrics_now(metrics)

    def training_metrics(self) -> dict[str, float]:
        """Metrics since the previous point; empty if no step was completed since then."""
        means = self.metrics.read(self.global_step, self.mean_over_ranks)
        if means is None:
            return {}
        units = in_all_units("train", means.loss, self.token_length("train"))
        units |= {
            "tokens": float(self.metrics.tokens),
            "learning_rate": self.metrics.learning_rate,
            "gradient_norm": means.gradient_norm,
        }
        if means.seconds:
            units["tokens_per_second"] = means.tokens / means.seconds
        return units

    def log_metrics_now(self, values: dict[str, float]) -> None:
        """Log for callbacks, and for loggers at the number of completed steps.

        Lightning itself would count a logger's steps from 0.
        """
        self.log_dict(
            values, logger=not self.is_fitting, batch_size=1, sync_dist=self.trainer.world_size > 1
        )
        if self.is_fitting and not self.trainer.sanity_checking:
            self.log_points(values)

    def log_points(self, values: dict[str, float]) -> None:
        # A perplexity can overflow where its loss is finite.
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for logger in self.loggers if finite else ():
            logger.log_metrics(finite, self.global_step)

    def token_length(self, split: str) -> Length | None:
        data = getattr(self.trainer, "datamodule", None)
        known = getattr(data, "token_length", None)
        return None if known is None else known(split)

    def fetch_metrics(self) -> None:
        """Copy the metrics of the steps from the device, without logging them yet."""
        self.metrics.fetch(self.global_step, self.mean_over_ranks)

    def mean_over_ranks(self, values: Tensor) -> Tensor:
        mean = self.trainer.strategy.reduce(values, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    @property
    def is_attached(self) -> bool:
        """True if there is a trainer; ``load_from_checkpoint`` has none."""
        try:
            return self.trainer is not None
        except RuntimeError:
            return False

    @property
    def is_fitting(self) -> bool:
        return self.trainer.state.fn is TrainerFn.FITTING

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the carried state of all rows, the random states of each rank, and the metrics."""
        self.fetch_metrics()
        own = on_cpu(self.training_state or ()), random_states()
        of_ranks = [own] * self.trainer.world_size
        if self.trainer.world_size > 1:
            distributed.all_gather_object(of_ranks, own)
        carried, states = zip(*of_ranks, strict=True)
        checkpoint[OWN] = {
            "carried": to_plain_state(join_rows(carried)),
            "random": list(states),
            "metrics": self.metrics.state_dict(),
            "precision": self.trainer.precision,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restored = checkpoint.get(OWN)
        if self.restored is not None:
            self.metrics.load_state_dict(self.restored["metrics"])
            if not self.is_attached and self.restored["precision"] == "64-true":
                self.double()

    def restore_states(self, restored: dict[str, Any]) -> None:
        """Resume the states with any number of ranks; a new rank gets its own random state."""
        rank, world_size = self.global_rank, self.trainer.world_size
        # If the precision has changed, the state takes the precision of the weights.
        same = restored["precision"] == self.trainer.precision
        dtype = None if same else next(self.parameters()).dtype
        carried = from_plain_state(restored["carried"], self.device, dtype)
        if carried:
            rows = rank_rows(len(carried[0][0]), rank, world_size)
            self.training_state = only_rows(carried, rows)
        if rank < len(restored["random"]):
            set_random_states(restored["random"][rank])
        else:
            seed_rank(rank)


def as_batch(batch: Any) -> Batch:
    """A ``Batch`` from any loader: made of a pair of inputs and targets, or of ids alone."""
    if isinstance(batch, Batch):
        return batch
    return Batch(batch[:-1], batch[1:]) if isinstance(batch, Tensor) else Batch(*batch)


def random_states() -> dict[str, Any]:
    """Random states of PyTorch (on the CPU and the training GPU), Python and NumPy."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    kind, keys, *rest = numpy.random.get_state()
    return {
        "cpu": torch.get_rng_state(),
        "gpu": gpu,
        "python": random.getstate(),
        "numpy": (kind, list(map(int, keys)), *rest),
    }


def set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["gpu"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["gpu"])
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])


def seed_rank(rank: int) -> None:
    """Seed a rank: its dropout differs from rank 0's, and is the same at each start."""
    digest = hashlib.sha256(f"rank {rank}, seed {torch.initial_seed()}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))
