"""All settings of a run, with types, defaults and ranges, and what each one changes.

Hydra merges ``conf/`` and the command line into :class:`RunConfig`, so an unknown key or a
value of the wrong type is rejected before anything runs. Ranges are checked when the objects
are created. The classes are not frozen, because Hydra must be able to override fields.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lstm_lm.errors import SettingsError
from lstm_lm.lightning_parts import TARGET, check_trainer_arguments

T = TypeVar("T")


class TextName(StrEnum):
    """Text to train on; see :mod:`lstm_lm.data.corpora`."""

    python_docs = auto()
    time_machine = auto()
    tiny_shakespeare = auto()
    penn_treebank = auto()
    wikitext2 = auto()
    wikitext103 = auto()
    text8 = auto()
    enwik8 = auto()
    file = auto()
    embedded_reber = auto()
    recall = auto()
    anbn = auto()


GENERATED = {TextName.embedded_reber, TextName.recall, TextName.anbn}


class Level(StrEnum):
    """Unit of a token."""

    character = auto()
    word = auto()
    byte = auto()  # of UTF-8
    subword = auto()  # frequent sequences of bytes: byte-pair encoding


class Cleaning(StrEnum):
    """Cleaning of a text before it is tokenized; see :mod:`lstm_lm.data.text`."""

    none = auto()
    letters = auto()
    letters_by_line = auto()


class VocabularySource(StrEnum):
    """Part of the text that the vocabulary is built from."""

    training = auto()
    whole_text = auto()  # all files, before max_tokens and splitting, as in the chapter


class Order(StrEnum):
    """Order of batches in the training text; see :mod:`lstm_lm.data.batches`."""

    consecutive = auto()
    random = auto()


class Cell(StrEnum):
    """Recurrent cell, or attention instead of one."""

    lstm = auto()
    gru = auto()
    rnn = auto()
    transformer = auto()


class CoreName(StrEnum):
    """Implementation of the recurrence; all have the same weights and results."""

    scratch = auto()
    builtin = auto()
    fused = auto()


class Backend(StrEnum):
    """Backend that computes a fused core; see :mod:`lstm_lm.model.fused`."""

    auto = "auto"  # cpp on a CPU if there is a compiler, else torch
    torch = "torch"  # any device
    cpp = "cpp"  # CPU only; compiled on first use
    triton = "triton"  # GPU only


class ResetGate(StrEnum):
    """Place of a GRU's reset gate: before or after the product with the weights."""

    before = auto()
    after = auto()


class Initialization(StrEnum):
    """Initialization of the weights; see :mod:`lstm_lm.model.initialization`."""

    torch = auto()
    d2l = auto()
    chrono = auto()  # only LSTM and GRU
    uniform = auto()


class OptimizerName(StrEnum):
    """Optimizer; see :mod:`lstm_lm.training.optimization`."""

    sgd = auto()
    rmsprop = auto()
    adam = auto()
    adamw = auto()
    muon = auto()


class Schedule(StrEnum):
    """Schedule of the learning rate; see :mod:`lstm_lm.training.optimization`."""

    constant = auto()
    linear = auto()
    cosine = auto()
    one_cycle = auto()
    multistep = auto()


class Accelerator(StrEnum):
    auto = "auto"  # a GPU if there is one
    cpu = "cpu"
    gpu = "gpu"


FEWEST_SUBWORDS, MOST_SUBWORDS = 257, 2**20
LARGEST = 3e38  # about the largest float32
SHORTEST_WINDOW = 4  # tokens, with data.variable_num_steps
BACKENDS = Backend.torch, Backend.cpp, Backend.triton  # what auto can stand for
PRECISIONS = ("32-true", "64-true", "bf16-mixed")
AUTO = "auto"  # what suits the machine; see lstm_lm.model.fused.kernels


class Effect(StrEnum):
    """Effect of a setting on the result; given at each field whose effect is not ``training``."""

    training = auto()  # on what is trained: belongs to the fingerprint
    cost = auto()  # on how long, on what device or from which file it is trained
    nothing = auto()  # only on where files lie, and what is written meanwhile


def changes(effect: Effect, default: Any) -> Any:
    """A dataclass field for a setting with this effect."""
    return field(default=default, metadata={"effect": effect})


def group(kind: type, effect: Effect = Effect.training) -> Any:
    """A dataclass field for a group of settings that have at most this effect."""
    return field(default_factory=kind, metadata={"effect": effect})


@dataclass
class DataConfig:
    text: TextName = TextName.python_docs
    path: str | None = changes(Effect.cost, None)  # of the user's own UTF-8 text, for text=file
    # If path has only the training text; without test_path the validation text is the test text.
    validation_path: str | None = changes(Effect.cost, None)
    test_path: str | None = changes(Effect.cost, None)
    # The data folder, which keeps texts; null: $LSTM_LM_DATA, else a cache folder.
    root: str | None = changes(Effect.nothing, None)
    level: Level = Level.character
    cleaning: Cleaning = Cleaning.none
    # Below 1 a share of the tokens, from 1 on a number of tokens; taken from the text's end.
    # Without test tokens the validation text is also the test text. Both sizes are ignored if a
    # text comes with its own splits.
    validation_size: float = 0.05
    test_size: float = 0.05
    # Use only the first tokens of a text, or generate this many. As subwords are not known before
    # the text is cut, this and both sizes count characters for level=subword.
    max_tokens: int | None = None
    vocabulary_from: VocabularySource = VocabularySource.training
    minimum_count: int = 1  # rarer tokens become <unk>
    vocabulary_size: int | None = None  # only for level=subword
    order: Order = Order.consecutive
    batch_size: int = 32  # windows per batch, over all processes
    num_steps: int = 35  # tokens per window
    # Draw the length of each window, and scale the learning rate of its step by it.
    variable_num_steps: bool = False
    evaluation_rows: int = 32  # rows of the validation text that are read side by side
    # Tokens: also report final figures with the state reset after this many.
    reset_every: int | None = changes(Effect.nothing, None)
    # Only for generated texts; see lstm_lm.data.generated.
    text_seed: int = 0
    lag: int = 10  # recall: number of symbols between a symbol and its recall
    longest: int = (
        10  # anbn: the largest n in training; in the test text it is up to twice as large
    )

    def __post_init__(self) -> None:
        require_positive(
            "data",
            max_tokens=self.max_tokens,
            minimum_count=self.minimum_count,
            batch_size=self.batch_size,
            num_steps=self.num_steps,
            evaluation_rows=self.evaluation_rows,
            reset_every=self.reset_every,
            validation_size=self.validation_size,
            lag=self.lag,
            longest=self.longest,
        )
        require_not_negative("data", test_size=self.test_size, text_seed=self.text_seed)
        if self.variable_num_steps and self.order is not Order.consecutive:
            raise SettingsError("data.variable_num_steps=true needs data.order=consecutive")
        if self.variable_num_steps and self.num_steps < 10:
            raise SettingsError(
                "data.variable_num_steps=true needs data.num_steps of at least 10, not "
                f"{self.num_steps}"
            )
        if self.text is TextName.file and self.path is None:
            raise SettingsError("data=text_file needs data.path=<a UTF-8 text file>")
        if self.text is not TextName.file and self.path is not None:
            raise SettingsError(f"data.path needs data=text_file, not {self.text}")
        if self.path is None and (self.validation_path or self.test_path) is not None:
            raise SettingsError(
                "data.validation_path and data.test_path need data=text_file and data.path=<the "
                "training text>"
            )
        if self.test_path is not None and self.validation_path is None:
            raise SettingsError(
                "data.test_path needs data.validation_path=<the validation text>; without both, "
                "data.validation_size and data.test_size cut them from the end of data.path"
            )
        if self.text in GENERATED:
            self.require_whole_symbols()
        self.require_subwords()

    def require_subwords(self) -> None:
        if self.level is not Level.subword:
            if self.vocabulary_size is not None:
                raise SettingsError(
                    f"data.vocabulary_size needs data.level=subword, not {self.level}: other "
                    "vocabularies list all tokens that occur data.minimum_count times"
                )
            return
        if self.vocabulary_size is None:
            raise SettingsError(
                "data.level=subword needs data.vocabulary_size, for example data.vocabulary_size="
                "2000 for a text of a megabyte"
            )
        if not FEWEST_SUBWORDS <= self.vocabulary_size <= MOST_SUBWORDS:
            raise SettingsError(
                f"data.vocabulary_size must be at least {FEWEST_SUBWORDS}, for all bytes and "
                f"<unk>, and at most {MOST_SUBWORDS:,}, not {self.vocabulary_size:,}"
            )
        if self.minimum_count > 1:
            raise SettingsError(
                "data.minimum_count needs another data.level than subword, whose vocabulary has "
                "the size that data.vocabulary_size says"
            )

    def require_whole_symbols(self) -> None:
        if self.max_tokens is None:
            raise SettingsError(f"data={self.text} is endless: set data.max_tokens")
        if self.level is not Level.character or self.cleaning is not Cleaning.none:
            raise SettingsError(
                f"data={self.text} consists of symbols: it needs data.level=character "
                f"data.cleaning=none, not {self.level} and {self.cleaning}"
            )
        if self.minimum_count > 1:
            raise SettingsError(f"data={self.text} needs all its symbols: set data.minimum_count=1")


@dataclass
class ModelConfig:
    cell: Cell = Cell.lstm
    core: CoreName = CoreName.builtin
    backend: Backend = changes(Effect.cost, Backend.auto)  # of the fused core
    hidden_size: int = 256
    num_layers: int = 1
    embedding_size: int | None = 64  # null: one-hot input
    last_hidden_size: int | None = None  # of the last layer; null: hidden_size
    skip_connections: bool = False  # add each layer's input to its output, from the second on
    tie_weights: bool = False  # embedding and output layer share their weights
    dropout: float = 0.0  # between layers and before the output layer
    output_dropout: float | None = None  # before the output layer; null: dropout
    input_dropout: float = 0.0  # of the first layer's input
    embedding_dropout: float = 0.0  # of whole tokens, everywhere in a window
    locked_dropout: bool = False  # all steps of a window drop the same features
    weight_drop: float = 0.0  # of each core's recurrent weights
    second_bias: bool = True  # false: bias_hh stays zero and is not trained
    reset_gate: ResetGate = ResetGate.after
    init: Initialization = Initialization.torch
    longest_memory: int = 100  # for init=chrono: about the longest time units keep inputs, in steps
    init_range: float = 0.1  # for init=uniform, and for tied weights; ± this
    forget_bias: float | None = None  # initial value in an LSTM; null: as drawn by init
    # Only for model.cell=transformer.
    context: int = 64  # number of steps that each step attends to, its own included
    heads: int = 4

    def __post_init__(self) -> None:
        require_positive(
            "model",
            context=self.context,
            heads=self.heads,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            embedding_size=self.embedding_size,
            last_hidden_size=self.last_hidden_size,
            init_range=self.init_range,
        )
        require_fraction(
            "model",
            dropout=self.dropout,
            output_dropout=self.output_dropout or 0.0,
            input_dropout=self.input_dropout,
            embedding_dropout=self.embedding_dropout,
            weight_drop=self.weight_drop,
        )
        # Run folders of other cores have torch.
        is_of_any_core = self.backend in (Backend.auto, Backend.torch)
        if not is_of_any_core and self.core is not CoreName.fused:
            raise SettingsError(
                f"model.backend={self.backend} needs model.core=fused, not {self.core}"
            )
        if self.cell is Cell.transformer:
            self.require_attention()
        self.require_gates()
        self.require_sizes()
        before = self.reset_gate is ResetGate.before
        if before and (self.cell is not Cell.gru or self.core is not CoreName.scratch):
            raise SettingsError(
                "model.reset_gate=before needs model.cell=gru model.core=scratch: "
                "the other cores apply the reset gate after the product, like torch.nn.GRU"
            )
        if self.cell is Cell.gru and not before and not self.second_bias:
            raise SettingsError(
                "model.second_bias=false would change what a GRU can compute: its second bias "
                "is redundant only with model.reset_gate=before"
            )

    @property
    def layer_sizes(self) -> list[int]:
        """The hidden size of each layer."""
        last = self.last_hidden_size or self.hidden_size
        return [*[self.hidden_size] * (self.num_layers - 1), last]

    def require_sizes(self) -> None:
        if self.skip_connections and self.last_hidden_size not in (None, self.hidden_size):
            raise SettingsError(
                "model.skip_connections needs layers of one size: leave out model.last_hidden_size"
            )
        if self.num_layers == 1 and self.last_hidden_size is not None:
            raise SettingsError(
                "model.last_hidden_size needs model.num_layers of at least 2: set "
                "model.hidden_size for the only layer, and model.last_hidden_size=null"
            )
        if self.tie_weights and self.embedding_size is None:
            raise SettingsError("model.tie_weights needs an embedding: set model.embedding_size")
        is_tied = self.tie_weights and self.init is not Initialization.d2l
        draws_range = is_tied or self.init is Initialization.uniform
        if self.init_range != ModelConfig.init_range and not draws_range:
            raise SettingsError(
                "model.init_range needs model.init=uniform, or model.tie_weights=true with another "
                f"model.init than d2l, not model.init={self.init}"
            )

    def require_attention(self) -> None:
        if self.core is not CoreName.builtin:
            raise SettingsError(
                f"model.cell=transformer is PyTorch's attention: it needs model.core=builtin, not "
                f"{self.core}"
            )
        if self.hidden_size % (2 * self.heads):
            raise SettingsError(
                f"model.hidden_size={self.hidden_size} must be a multiple of {2 * self.heads}: "
                f"twice model.heads={self.heads}"
            )
        of_recurrence = {
            f"model.init={self.init}": self.init in (Initialization.d2l, Initialization.uniform),
            "model.second_bias=false": not self.second_bias,
            f"model.weight_drop={self.weight_drop}": self.weight_drop > 0,
            "model.last_hidden_size": self.last_hidden_size is not None,
        }
        for setting, is_set in of_recurrence.items():
            if is_set:
                raise SettingsError(f"{setting} needs a recurrent cell, not model.cell=transformer")

    def require_gates(self) -> None:
        if self.init is Initialization.chrono and self.cell not in (Cell.lstm, Cell.gru):
            raise SettingsError(
                f"model.init=chrono needs a cell with a forget or update gate: model.cell=lstm or "
                f"gru, not {self.cell}"
            )
        if self.longest_memory < 3:
            raise SettingsError(
                f"model.longest_memory must be at least 3 steps, not {self.longest_memory}"
            )
        if self.forget_bias is None:
            return
        if self.cell is not Cell.lstm or self.init is Initialization.chrono:
            raise SettingsError(
                "model.forget_bias needs model.cell=lstm, and not model.init=chrono, which draws "
                "the bias itself"
            )
        if not abs(self.forget_bias) < LARGEST:
            raise SettingsError(f"model.forget_bias must be finite, not {self.forget_bias}")


OF_ADAM = OptimizerName.adam, OptimizerName.adamw, OptimizerName.muon
# The optimizers that use a setting which not all of them use.
USERS: dict[str, tuple[OptimizerName, ...]] = {
    "momentum": (OptimizerName.sgd,),
    "nesterov": (OptimizerName.sgd,),
    "alpha": (OptimizerName.rmsprop,),
    "beta1": OF_ADAM,
    "beta2": OF_ADAM,
}


@dataclass
class LossConfig:
    """Terms of the loss that is trained; what is logged and validated is without them."""

    label_smoothing: float = 0.0  # share of each target that goes to all tokens alike
    activation_regularization: float = 0.0  # of the last layer's dropped outputs, squared
    temporal_activation_regularization: float = 0.0  # of their changes from step to step
    multi_token_weight: float = 0.0  # of predicting tokens behind the next; 0: only the next
    tokens_ahead: int = 2  # the furthest predicted token; 2: the one behind the next

    def __post_init__(self) -> None:
        require_fraction("loss", label_smoothing=self.label_smoothing)
        require_not_negative(
            "loss",
            activation_regularization=self.activation_regularization,
            temporal_activation_regularization=self.temporal_activation_regularization,
            multi_token_weight=self.multi_token_weight,
        )
        if self.tokens_ahead < 2:
            raise SettingsError(f"loss.tokens_ahead must be at least 2, not {self.tokens_ahead}")


@dataclass
class OptimizerConfig:
    name: OptimizerName = OptimizerName.sgd
    learning_rate: float = 1.0
    momentum: float = 0.0  # only sgd
    nesterov: bool = False  # of the momentum
    alpha: float = 0.99  # rmsprop: decay of the mean square
    beta1: float = 0.9  # adam, adamw, and what muon leaves to adamw: decay of the mean
    beta2: float = 0.999  # the same: decay of the mean square
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0  # largest global norm of the gradient; null: no clipping
    schedule: Schedule = Schedule.constant
    milestones: list[int] = field(default_factory=list)  # multistep: epochs, counted from 1
    gamma: float = 0.1  # multistep: factor of the learning rate after each of these epochs
    warmup_steps: int = 0  # the learning rate rises over these steps to its full value

    def __post_init__(self) -> None:
        require_positive(
            "optimizer",
            learning_rate=self.learning_rate,
            clip_norm=self.clip_norm,
            gamma=self.gamma,
        )
        require_not_negative(
            "optimizer",
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
        )
        require_fraction(
            "optimizer",
            momentum=self.momentum,
            alpha=self.alpha,
            beta1=self.beta1,
            beta2=self.beta2,
        )
        for each in fields_of(OptimizerConfig):
            users = USERS.get(each.name)
            if users and self.name not in users and getattr(self, each.name) != each.default:
                raise SettingsError(
                    f"optimizer.{each.name} needs optimizer.name={' or '.join(users)}, "
                    f"not {self.name}"
                )
        if (self.schedule is Schedule.multistep) != bool(self.milestones):
            raise SettingsError(
                "optimizer.schedule=multistep and optimizer.milestones=[EPOCH,…] need each other"
            )
        if self.gamma != OptimizerConfig.gamma and self.schedule is not Schedule.multistep:
            raise SettingsError(
                f"optimizer.gamma needs optimizer.schedule=multistep, not {self.schedule}"
            )
        if any(epoch < 1 for epoch in self.milestones):
            raise SettingsError(
                f"optimizer.milestones must be epochs from 1 on, not {self.milestones}"
            )
        if self.nesterov and not self.momentum:
            raise SettingsError("optimizer.nesterov needs optimizer.momentum above 0")

    @property
    def is_constant(self) -> bool:
        """True if the learning rate never changes."""
        return self.schedule is Schedule.constant and self.warmup_steps == 0


@dataclass
class TrainingConfig:
    """Training budget (the first one used up ends the run), logging and validation intervals."""

    epochs: int | None = changes(Effect.cost, 10)
    steps: int | None = changes(Effect.cost, None)
    # Wall time from the first step on, validation included.
    minutes: float | None = changes(Effect.cost, None)
    log_every: int = changes(Effect.nothing, 50)  # steps
    validate_every: int = 1  # epochs

    def __post_init__(self) -> None:
        require_positive(
            "training",
            epochs=self.epochs,
            steps=self.steps,
            minutes=self.minutes,
            log_every=self.log_every,
            validate_every=self.validate_every,
        )
        if self.epochs is None and self.steps is None and self.minutes is None:
            raise SettingsError(
                "training would never end: set training.epochs, training.steps or training.minutes"
            )


@dataclass
class CheckpointConfig:
    """Extra checkpoints, besides those at each epoch's end, each validation and a run's stop."""

    every_steps: int | None = None
    every_minutes: float | None = 5.0

    def __post_init__(self) -> None:
        require_positive(
            "checkpoint", every_steps=self.every_steps, every_minutes=self.every_minutes
        )


@dataclass
class SamplesConfig:
    """Text generated by the model after each validation, for the user to read."""

    prompts: list[str] = field(default_factory=list)  # empty: the validation text's beginning
    tokens: int = 200  # per prompt
    temperature: float = 0.8  # 0: greedy

    def __post_init__(self) -> None:
        require_positive("samples", tokens=self.tokens)
        require_not_negative("samples", temperature=self.temperature)
        if "" in self.prompts:
            raise SettingsError(
                "samples.prompts has an empty prompt: each needs at least one token"
            )


@dataclass
class InsideConfig:
    """Gates, cells, norms and gradient flow in TensorBoard; see :mod:`lstm_lm.inside`."""

    every_epochs: int | None = None  # null: never

    def __post_init__(self) -> None:
        require_positive("inside", every_epochs=self.every_epochs)


@dataclass
class DeviceConfig:
    accelerator: Accelerator = Accelerator.auto
    devices: int = 1  # processes on each node, each with a GPU or a share of the CPU's cores
    nodes: int = 1  # computers
    precision: str = "32-true"  # auto: bf16-mixed if it is native to the device, else 32-true

    @property
    def ranks(self) -> int:
        """Number of processes that train together: the world size."""
        return self.devices * self.nodes

    def __post_init__(self) -> None:
        require_positive("device", devices=self.devices, nodes=self.nodes)
        possible = AUTO, *PRECISIONS
        if self.precision not in possible:
            raise SettingsError(
                f"device.precision must be one of {', '.join(possible)}, not {self.precision}"
            )


@dataclass
class RunConfig:
    seed: int = 0
    # The run folder to resume; auto: hydra.run.dir, if it has a run.
    resume: str | None = changes(Effect.nothing, None)
    # The run folder with the initial weights, its best ones; the fingerprint has their checksum.
    init_from: str | None = changes(Effect.cost, None)
    data: DataConfig = group(DataConfig)
    model: ModelConfig = group(ModelConfig)
    loss: LossConfig = group(LossConfig)
    optimizer: OptimizerConfig = group(OptimizerConfig)
    training: TrainingConfig = group(TrainingConfig)
    checkpoint: CheckpointConfig = group(CheckpointConfig, Effect.nothing)
    samples: SamplesConfig = group(SamplesConfig, Effect.nothing)
    inside: InsideConfig = group(InsideConfig, Effect.nothing)
    device: DeviceConfig = group(DeviceConfig, Effect.cost)
    # Lightning's loggers and callbacks, each under its own name, with _target_ and arguments; and
    # arguments of Trainer. They have neither types nor defaults here.
    logger: dict[str, Any] = group(dict, Effect.nothing)
    callbacks: dict[str, Any] = group(dict)
    trainer: dict[str, Any] = group(dict)

    def __post_init__(self) -> None:
        self.logger = plain("logger", self.logger)
        self.callbacks = plain("callbacks", self.callbacks)
        # null: Lightning's own default
        given = plain("trainer", self.trainer)
        self.trainer = {name: value for name, value in given.items() if value is not None}
        require_targets("logger", self.logger)
        require_targets("callbacks", self.callbacks)
        check_trainer_arguments(self.trainer)
        if not 0 <= self.seed < 2**32:
            raise SettingsError(f"seed must be from 0 to 2**32 - 1, not {self.seed}")
        ahead, steps = self.loss.tokens_ahead, f"data.num_steps={self.data.num_steps}"
        shortest = self.data.num_steps
        if self.data.variable_num_steps:
            shortest, steps = SHORTEST_WINDOW, f"{SHORTEST_WINDOW} with data.variable_num_steps"
        if self.loss.multi_token_weight and ahead > shortest:
            raise SettingsError(
                f"loss.tokens_ahead={ahead} is beyond a window: choose at most {steps}"
            )
        rows, ranks = self.data.batch_size, self.device.ranks
        if rows % ranks:
            more = rows - rows % ranks + ranks
            raise SettingsError(
                f"data.batch_size={rows} cannot be divided evenly among {ranks} processes: "
                f"choose data.batch_size={more}, or another device.devices"
            )


@dataclass
class ComposedConfig(RunConfig):
    """The config of a run, and its run folder from ``hydra.run.dir``."""

    output: str | None = None  # null: a new folder below outputs/


class Setting(NamedTuple):
    name: str  # dotted
    type: Any
    effect: Effect


@cache
def all_settings(kind: Any = RunConfig) -> tuple[Setting, ...]:
    """All settings of a dataclass and its groups; Lightning's groups are one setting each."""
    found: list[Setting] = []
    for each in dataclasses.fields(kind):
        effect = each.metadata.get("effect", Effect.training)
        if not dataclasses.is_dataclass(each.type):
            found.append(Setting(each.name, each.type, effect))
            continue
        inner: Any = each.type
        for below in all_settings(inner):
            less = below.effect if effect is Effect.training else effect
            found.append(Setting(f"{each.name}.{below.name}", below.type, less))
    return tuple(found)


def settings_of(config: Any, prefix: str = "") -> dict[str, Any]:
    """All settings of a config by their dotted names."""
    kind: Any = type(config)
    names = [setting.name for setting in all_settings(kind)]
    return {prefix + name: attrgetter(name)(config) for name in names}


@cache
def effect_of(name: str) -> Effect:
    """Effect of a setting, or of an entry of Lightning's groups, by its dotted name."""
    effects = {setting.name: setting.effect for setting in all_settings()}
    return effects.get(name) or effects.get(name.partition(".")[0], Effect.training)


def flatten(settings: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The values in nested dictionaries, by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def validated_copy(config: RunConfig) -> RunConfig:
    """A checked copy of the config as a RunConfig; fields may have been assigned since creation.

    Raises:
        SettingsError: if a setting has the wrong type or is out of range.
    """
    settings = dataclasses.asdict(config)
    settings.pop("output", None)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), as_text(settings))
        return cast(RunConfig, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise SettingsError(f"{error.full_key}: {str(error).splitlines()[0]}") from error


def from_plain(kind: type[T], settings: Mapping[str, Any] | T | None, group: str) -> T:
    """A dataclass of settings from plain values, which are converted to the types of its fields.

    Raises:
        SettingsError: if a setting does not exist, has the wrong type or is out of range.
    """
    if isinstance(settings, kind):
        return settings
    given = cast(Mapping[str, Any], settings or {})
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), as_text(dict(given)))
        return cast(T, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        if error.key is not None and error.key not in (names := [f.name for f in fields_of(kind)]):
            message = f"there is no setting {group}.{error.key}; there are {', '.join(names)}"
        else:
            message = f"{group}.{error.key}: {str(error).splitlines()[0]}"
        raise SettingsError(message) from error


def fields_of(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


def to_plain(settings: Any) -> dict[str, Any]:
    """A dataclass of settings as numbers, strings, lists and dictionaries, for files."""
    return {
        name: value.value if isinstance(value, StrEnum) else value
        for name, value in dataclasses.asdict(settings).items()
    }


def as_text(value: Any) -> Any:
    """Plain values with ``${`` escaped, which OmegaConf would take for an interpolation."""
    match value:
        case dict():
            return {key: as_text(item) for key, item in value.items()}
        case list() | tuple():
            return [as_text(item) for item in value]
        case str() if "${" in value:
            return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def change(config: DictConfig, key: str, value: Any) -> None:
    """Change a setting by its dotted name, or replace one of Lightning's groups."""
    if key in ("logger", "callbacks", "trainer"):
        config[key] = as_text(value)  # an update would keep entries that the value lacks
    else:
        OmegaConf.update(config, key, as_text(value))


def plain(name: str, value: Any) -> Any:
    """A value for JSON: keys become text, and tuples become lists.

    Raises:
        SettingsError: if that is impossible; or for ``???``, which OmegaConf reads as missing.
    """
    match value:
        case dict():
            return {str(key): plain(f"{name}.{key}", item) for key, item in value.items()}
        case list() | tuple():
            return [plain(f"{name}.{index}", item) for index, item in enumerate(value)]
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case str() if value != MISSING:
            return str(value)
    raise SettingsError(f"{name} must be text, a finite number, true, false or null, not {value!r}")


def require_targets(group: str, entries: dict[str, Any]) -> None:
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise SettingsError(
                f"{group}.{name} must be a group of {TARGET} and arguments: a file in {group}/ "
                "needs a name above them"
            )
        if not re.fullmatch(r"[\w-]+", name):
            raise SettingsError(f"{group}.{name} must be named by letters, digits, _ and - only")
        if not isinstance(entry.get(TARGET), str):
            raise SettingsError(f"{group}.{name} has no {TARGET}: choose it with {group}={name}")


def require_positive(group: str, **settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None and not 0 < value < LARGEST:
            raise SettingsError(f"{group}.{name} must be positive and finite, not {value}")


def require_not_negative(group: str, **settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < LARGEST:
            raise SettingsError(f"{group}.{name} must be finite and >= 0, not {value}")


def require_fraction(group: str, **settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise SettingsError(f"{group}.{name} must be at least 0 and below 1, not {value}")
