"""The groups ``logger`` and ``callbacks``: chosen by name, several at once, one's own."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lstm_lm.command_line.instantiate import build_callbacks, build_loggers, typed_entries
from lstm_lm.config import settings_of
from lstm_lm.errors import SettingsError
from lstm_lm.lightning_parts import PACKAGES
from lstm_lm.saved.run_folder import TENSORBOARD, RunFolder, config_from_settings

CONF = Path(__file__).parents[2] / "conf"

FOLDER = Path("run")


def names(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_tensorboard_is_the_default_and_there_are_no_callbacks(compose):
    config = compose()
    assert config.logger == TENSORBOARD and config.callbacks == {}


@pytest.mark.parametrize("group", ["logger", "callbacks"])
def test_each_file_nests_its_class_under_its_own_name(group):
    for name in names(group):
        content = OmegaConf.load(CONF / group / f"{name}.yaml")
        assert list(content) == ([] if name == "none" else [name])


def test_several_are_chosen_by_a_list(compose):
    config = compose("logger=[tensorboard,csv]", "callbacks=[early_stopping,lr_monitor]")
    assert list(config.logger) == ["tensorboard", "csv"]
    assert list(config.callbacks) == ["early_stopping", "lr_monitor"]
    assert compose("logger=none").logger == {}


def test_arguments_are_settings(compose):
    typed = "callbacks.early_stopping.patience=7", "+callbacks.early_stopping.strict=false"
    entry = compose("callbacks=early_stopping", *typed).callbacks["early_stopping"]
    assert (entry["patience"], entry["strict"]) == (7, False)


@pytest.mark.parametrize("name", [name for name in names("callbacks") if name != "none"])
def test_every_callback_can_be_had(name, compose, monkeypatch):
    typed = ["callbacks.device_stats.cpu_stats=false"] if name == "device_stats" else []
    config = compose(f"callbacks={name}", *typed)
    (callback,) = build_callbacks(config, FOLDER, typed_entries(config))
    assert type(callback).__name__ == config.callbacks[name]["_target_"].rpartition(".")[2]


def test_a_schedule_has_epochs_for_keys_again(compose, tmp_path):
    typed = "+callbacks.gradient_accumulation_schedule.scheduling={6:3}"
    config = compose("callbacks=gradient_accumulation_schedule", typed)
    RunFolder(tmp_path).write_config(config)
    recorded = config_from_settings(json.loads(json.dumps(settings_of(config))))
    assert recorded == RunFolder(tmp_path).read_config() == config
    (callback,) = build_callbacks(recorded, FOLDER, [])
    assert callback.scheduling == {0: 1, 4: 2, 6: 3}


def test_loggers_write_right_into_the_runs_folder(compose, tmp_path):
    config = compose("logger=[tensorboard,csv]")
    loggers = build_loggers(config, tmp_path, typed_entries(config))
    assert [type(logger).__name__ for logger in loggers] == ["TensorBoardLogger", "CSVLogger"]
    for logger in loggers:
        logger.log_metrics({"train/loss": 1.0}, step=1)
        logger.save()
        logger.finalize("success")
        assert Path(logger.log_dir).resolve() == tmp_path
    assert (tmp_path / "metrics.csv").exists()
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_another_folder_can_be_set(compose, tmp_path):
    config = compose("logger=csv", f"+logger.csv.save_dir={tmp_path}/else")
    (logger,) = build_loggers(config, tmp_path, typed_entries(config))
    assert logger.save_dir == f"{tmp_path}/else"


def test_a_function_can_make_a_logger(compose, tmp_path, monkeypatch):
    (tmp_path / "own_loggers.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n"
        "class Maker:\n"
        "    @staticmethod\n"
        "    def make(name):\n"
        "        return CSVLogger('elsewhere', name=name)\n"
        "def make(save_dir, name):\n"
        "    return CSVLogger(save_dir, name=name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for function, folder in ("make", str(tmp_path)), ("Maker.make", "elsewhere"):
        target = f"+logger.own._target_=own_loggers.{function}"
        config = compose("logger=none", target, "+logger.own.name=it")
        (logger,) = build_loggers(config, tmp_path, typed_entries(config))
        assert (logger.save_dir, logger.name) == (folder, "it")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_named(name, compose, monkeypatch):
    kind = {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}[name]
    monkeypatch.setitem(PACKAGES, kind, ("no_such_package", name))
    with pytest.raises(SettingsError, match=f"logger.{name} needs another .* pip install {name}$"):
        compose(f"logger={name}")


MISTAKES = {
    "callbacks=early_stoping": "there is no callbacks=early_stoping; did you mean early_stopping?",
    "callbacks.early_stopping.patience=3": "choose it with callbacks=early_stopping",
    "+callbacks.early_stopping.patience=3": "no _target_: choose it with callbacks=early_stopping",
    "callbacks=early_stopping callbacks.early_stopping.nope=1": "+callbacks.early_stopping.nope=…",
    "+callbacks._target_=some.Class": "must be a group of _target_ and arguments",
    "+callbacks={a b: {_target_: some.Class}}": "must be named by letters",
    "callbacks=[early_stopping": "cannot read",
    "callbacks=early_stopping,lr_monitor": "gives several values: -m trains with each",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line(typed, type_command, tmp_path):
    words = [typed] if "{" in typed else typed.split()
    code, _, errors = type_command("train.py", *words)
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: ") and MISTAKES[typed] in errors
    assert not list(tmp_path.iterdir())


WRONG = {
    "+callbacks.x._target_=lightning.pytorch.callbacks.Nope": "No module named 'lightning.py",
    "+callbacks.x._target_=no_such_module.Nope": "No module named 'no_such_module'",
    "+callbacks.x._target_=lightning.pytorch.callbacks.EarlyStopping": "'monitor'",
    "+callbacks.x._target_=pathlib.PurePath": "pathlib.PurePath is not a Callback",
}


@pytest.mark.parametrize("typed", WRONG)
def test_a_class_that_cannot_be_had_is_one_line(typed, compose):
    config = compose(typed)
    with pytest.raises(SettingsError) as refusal:
        build_callbacks(config, FOLDER, typed_entries(config))
    message = str(refusal.value)
    assert message.startswith("callbacks.x cannot be created: ") and "\n" not in message
    assert WRONG[typed] in message


def test_what_saves_at_a_wrong_moment_is_refused(compose, tmp_path):
    target = "lightning.pytorch.callbacks.OnExceptionCheckpoint"
    config = compose(f"+callbacks.x._target_={target}", f"+callbacks.x.dirpath={tmp_path}")
    with pytest.raises(SettingsError, match="callbacks.x saves when an error occurs"):
        build_callbacks(config, FOLDER, typed_entries(config))


def test_what_cannot_resume_exactly_says_so(compose, caplog):
    for name, count in ("swa", 1), ("ema", 0):
        caplog.clear()
        config = compose(f"callbacks={name}")
        build_callbacks(config, FOLDER, typed_entries(config))
        assert len(caplog.messages) == count
        assert all("callbacks.swa a resumed run does not" in line for line in caplog.messages)


def test_a_users_own_callback_needs_a_file_and_no_code_here(tmp_path, type_command, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/own_callbacks.py").write_text(
        "from lightning.pytorch.callbacks import Callback\n"
        "class Greeter(Callback):\n"
        "    def __init__(self, words, when):\n"
        "        self.words, self.when = words, when\n"
    )
    (tmp_path / "mine/conf/callbacks").mkdir(parents=True)
    (tmp_path / "mine/conf/callbacks/greeter.yaml").write_text(
        "greeter:\n  _target_: own_callbacks.Greeter\n  words: [good, morning]\n"
        "  when: {_target_: datetime.time, hour: 9}\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "mine")
    code, output, errors = type_command(
        "train.py", "--config-dir", "mine/conf", "callbacks=[greeter,lr_monitor]", "--cfg", "job"
    )
    assert (code, errors) == (0, "")
    composed = OmegaConf.create(output)
    config = config_from_settings({"callbacks": OmegaConf.to_container(composed.callbacks)})
    greeter, _ = build_callbacks(config, FOLDER, typed_entries(config))
    assert (greeter.words, greeter.when.hour) == (["good", "morning"], 9)


BROKEN = """
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

class Tell(Callback):
    def on_train_batch_end(self, *_):
        raise ValueError("no such teller")

class Rows(CSVLogger):
    def log_metrics(self, metrics, step):
        metrics.nonsense
"""


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("callbacks.tell={_target_: broken_parts.Tell}", "ValueError: no such teller"),
        ("logger.rows={_target_: broken_parts.Rows, save_dir: rows}", "AttributeError: 'dict'"),
    ],
)
def test_an_error_in_a_users_own_part_is_one_line_that_names_it(
    part, reason, type_command, tmp_path, monkeypatch
):
    (tmp_path / "broken_parts.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    small = "data.max_tokens=3000", "data.batch_size=8", "data.num_steps=16", "training.log_every=1"
    typed = f"+{part}", *small, "model.hidden_size=8", "device=cpu", "hydra.run.dir=run"
    code, _, errors = type_command("train.py", *typed)
    assert (code, errors.count("\n")) == (1, 1)
    assert errors.startswith(f"error: broken_parts raised {reason}")
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"
