"""``trainer.*``: what is handed to Lightning, and what is not."""

import inspect

import pytest
from lightning import Trainer

from lstm_lm.config import RunConfig, settings_of
from lstm_lm.errors import SettingsError
from lstm_lm.lightning_parts import (
    GOVERNED,
    REFUSED,
    WITHOUT_EFFECT,
    allowed_trainer_arguments,
    names,
)
from lstm_lm.saved.run_folder import RunFolder, config_from_settings


def test_the_names_are_those_of_lightnings_trainer():
    assert list(names()) == list(inspect.signature(Trainer).parameters)
    assert {*GOVERNED, *REFUSED, *WITHOUT_EFFECT} <= set(names())
    assert WITHOUT_EFFECT <= set(allowed_trainer_arguments())


def test_nothing_is_there_that_was_not_given(compose):
    assert compose().trainer == {}


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("accumulate_grad_batches=2", 2),
        ("val_check_interval=0.5", 0.5),
        ("detect_anomaly=true", True),
        ("strategy=ddp_find_unused_parameters_true", "ddp_find_unused_parameters_true"),
        ("limit_train_batches=1.0", 1.0),
    ],
)
def test_values_stay_as_they_were_typed(typed, value, compose, tmp_path):
    config = compose(f"trainer.{typed}")
    given = {typed.partition("=")[0]: value}
    assert config.trainer == given
    RunFolder(tmp_path).write_config(config)
    read = RunFolder(tmp_path).read_config()
    assert read == config
    (found,) = read.trainer.values()
    assert type(found) is type(value)


def test_null_is_lightnings_own_default(compose):
    assert compose("trainer.profiler=null").trainer == {}


@pytest.mark.parametrize("name", [*GOVERNED, *REFUSED])
def test_what_a_setting_governs_is_refused_in_a_line_that_names_it(name, compose):
    with pytest.raises(SettingsError, match=f"^trainer.{name} ") as refusal:
        compose(f"trainer.{name}=1")
    assert GOVERNED.get(name) or REFUSED[name] in str(refusal.value)
    assert GOVERNED.get(name, "") in str(refusal.value)


def test_governing_settings_are_there(compose):
    known = settings_of(compose())
    for setting in GOVERNED.values():
        name = setting.split(",")[0]
        assert name in known or name in ("callbacks=", "logger=", "hydra.run.dir")


def test_an_argument_that_lightning_has_not_is_refused_wherever_it_comes_from(tmp_path):
    with pytest.raises(SettingsError, match="trainer.nonsense: Lightning's Trainer has no such"):
        RunConfig(trainer={"nonsense": 1})
    (tmp_path / "config.yaml").write_text("trainer: {max_epochs: 3}")
    (tmp_path / "summary.json").touch()  # beside which the settings are a run's
    with pytest.raises(SettingsError, match="is damaged: trainer.max_epochs is set by"):
        RunFolder(tmp_path).read_config()


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("trainer.max_epochs=3", "trainer.max_epochs is set by training.epochs: use that instead"),
        ("trainer.precision=16", "trainer.precision is set by device.precision"),
        ("trainer.plugins=[]", "trainer.plugins cannot be set: a run has its own"),
        ("trainer.acumulate_grad_batches=2", "did you mean trainer.accumulate_grad_batches?"),
        ("trainer.nonsense=1", "there is no setting trainer.nonsense; did you mean trainer."),
        ("+trainer.nonsense=1", "there is no setting trainer.nonsense; did you mean trainer."),
        ("trainer=3", "trainer"),
        ("trainer.limit_val_batches=inf", "trainer.limit_val_batches must be text, a finite"),
        ("-m trainer.max_steps=1,2", "trainer.max_steps is set by training.steps"),
        ("data.reserved_tokens=[a]", "data.reserved_tokens is no longer a setting: leave it out"),
        ("optimizer.plateau_factor=0.5", "is no longer a setting: choose optimizer.schedule="),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(setting, reason, type_command, tmp_path):
    code, output, errors = type_command("train.py", *setting.split())
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: ") and reason in errors
    assert not list(tmp_path.iterdir())


def test_what_is_given_survives_a_sweeps_record(compose):
    config = compose("trainer.limit_train_batches=3", "trainer.enable_progress_bar=false")
    assert config_from_settings(settings_of(config)) == config


@pytest.mark.parametrize(
    ("debug", "trainer"),
    [
        ("fast", {"fast_dev_run": 1}),
        ("overfit", {"overfit_batches": 1}),
        ("profile", {"profiler": "simple"}),
        ("anomaly", {"detect_anomaly": True}),
        (
            "limit",
            {"limit_train_batches": 20, "limit_val_batches": 5, "limit_test_batches": 5},
        ),
    ],
)
def test_debug_is_a_name_for_arguments(debug, trainer, compose):
    assert compose(f"debug={debug}").trainer == trainer


def test_what_is_typed_goes_before_debug(compose):
    config = compose("debug=overfit", "trainer.overfit_batches=3", "training.epochs=5")
    assert (config.trainer, config.training.epochs) == ({"overfit_batches": 3}, 5)
