"""What is typed to resume a run, and how it is applied to the run's own settings."""

import shlex
from pathlib import Path

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lstm_lm.command_line.instantiate import typed_entries
from lstm_lm.command_line.settings import explicit_settings, quoted_setting, register
from lstm_lm.config import RunConfig, settings_of
from lstm_lm.saved.run_folder import TENSORBOARD, RunFolder

SCHEDULE = "gradient_accumulation_schedule"  # with numbers for keys
CONF = str(Path(__file__).parents[2] / "conf")


@pytest.fixture
def typed():
    register()

    def typed_of(*overrides):
        with hydra.initialize_config_dir(CONF, version_base="1.3"):
            return explicit_settings(list(overrides), settings_of(RunConfig()))

    return typed_of


@pytest.fixture
def resumed(compose, typed, tmp_path):
    """The config of a run that was started with some overrides and is resumed with others."""

    def resumed_with(started, *overrides):
        RunFolder(tmp_path).write_config(compose(*started))
        return RunFolder(tmp_path).read_config(typed(*overrides))

    return resumed_with


def test_only_what_is_typed_is_there(typed):
    assert typed() == {}
    assert typed("trainer.profiler=simple", "seed=1") == {"trainer.profiler": "simple", "seed": 1}
    assert typed("debug=fast") == {"trainer.fast_dev_run": 1}
    assert typed("callbacks=none") == {"callbacks": {}}
    assert list(typed("callbacks=[swa,lr_monitor]")["callbacks"]) == ["swa", "lr_monitor"]
    assert typed("logger=tensorboard") == {"logger": TENSORBOARD}


def test_what_is_not_typed_stays(resumed):
    started = "logger=csv", "callbacks=early_stopping", "trainer.profiler=simple"
    config = resumed(started, "training.epochs=20")
    assert (list(config.logger), list(config.callbacks)) == (["csv"], ["early_stopping"])
    assert config.trainer == {"profiler": "simple"}


def test_loggers_and_callbacks_that_are_typed_replace_all_there_were(resumed):
    started = "logger=csv", "callbacks=[early_stopping,lr_monitor]"
    config = resumed(started, "callbacks=lr_monitor")
    assert (list(config.logger), list(config.callbacks)) == (["csv"], ["lr_monitor"])
    config = resumed(started, "callbacks=none", "logger=[csv,tensorboard]")
    assert (list(config.logger), config.callbacks) == (["csv", "tensorboard"], {})
    assert resumed(started, "logger=none").logger == {}


def test_one_argument_can_be_typed_alone(resumed):
    started = "callbacks=[early_stopping,lr_monitor]", "callbacks.early_stopping.patience=5"
    config = resumed(started, "+callbacks.early_stopping.patience=9")
    assert config.callbacks["early_stopping"]["patience"] == 9
    assert list(config.callbacks) == ["early_stopping", "lr_monitor"]


def test_an_argument_of_the_trainer_is_changed_or_left_to_lightning(resumed):
    started = "trainer.profiler=simple", "trainer.limit_test_batches=3"
    config = resumed(started, "trainer.profiler=null", "trainer.limit_test_batches=4")
    assert config.trainer == {"limit_test_batches": 4}


def test_what_counts_as_typed_is_what_is_typed_whole(compose, typed, tmp_path):
    RunFolder(tmp_path).write_config(compose("callbacks=[swa,lr_monitor]"))
    for overrides, names in (
        (["seed=0"], set()),
        (["callbacks=[swa,lr_monitor]"], {"callbacks.swa", "callbacks.lr_monitor"}),
        (
            ["callbacks=gradient_accumulation_schedule"],
            {"callbacks.gradient_accumulation_schedule"},
        ),
        (["+callbacks.lr_monitor.log_momentum=true"], set()),
        (["logger=tensorboard"], {"logger.tensorboard"}),
        (["+callbacks.x._target_=a.B", "+callbacks.x.c=1"], {"callbacks.x"}),
    ):
        changes = typed(*overrides)
        assert typed_entries(RunFolder(tmp_path).read_config(changes), changes) == names


def test_a_run_of_before_has_tensorboard_and_no_more(compose, tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_config(compose("logger=csv"))
    content = folder.config.read_text()
    assert content.index("\nlogger:") < content.index("\ncallbacks:") < content.index("\ntrainer:")
    folder.config.write_text(content[: content.index("\nlogger:") + 1])
    config = folder.read_config()
    assert (config.logger, config.callbacks, config.trainer) == (TENSORBOARD, {}, {})


def test_a_typed_refusal_is_one_line_before_anything_is_changed(type_command, tmp_path, compose):
    (tmp_path / "one").mkdir()
    RunFolder(tmp_path / "one").write_config(compose())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for setting, reason in (
        ("trainer.max_epochs=3", "trainer.max_epochs is set by training.epochs"),
        ("trainer.nonsense=3", "there is no setting trainer.nonsense"),
        ("callbacks=nonsense", "there is no callbacks=nonsense"),
        ("+callbacks.x.y=3", "callbacks.x has no _target_"),
    ):
        code, _, errors = type_command("train.py", "resume=one", setting)
        assert (code, errors.count("\n")) == (2, 1)
        assert reason in errors
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@given(st.text(min_size=1) | st.text(alphabet="\\'\"${}ax=,[] \n", min_size=1))
@example("outputs/2026-11-23/10-15-00")
@example("null")
@example("True")
@example("1e3")
@example("1_000")
@example("-inf")
@example("日本/ü")
@example("\\${x}\\\\'\\")
@settings(derandomize=True, deadline=None)
def test_a_folder_of_any_name_is_read_back_as_it_is_to_be_typed(name):
    (word,) = shlex.split(quoted_setting("resume", name))
    read = OverridesParser.create().parse_override(word)
    config = OmegaConf.structured(RunConfig)
    OmegaConf.update(config, read.key_or_group, read.value())
    assert config.resume == name
