"""What a run's folder names is not imported, unless it is Lightning's, ours, or typed again."""

import sys
from pathlib import Path

import pytest

from lstm_lm.command_line.instantiate import build_callbacks, build_loggers, typed_entries
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.saved.run_folder import RunFolder

CALLBACKS = "lightning.pytorch.callbacks"
FOLDER = Path("run")


@pytest.fixture
def hostile_module(tmp_path, monkeypatch):
    """A module that would leave a mark behind, if it were imported or called."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/hostile.py").write_text(
        "from pathlib import Path\n"
        "from lightning.pytorch.callbacks import Callback\n"
        f"Path({str(tmp_path / 'mark')!r}).touch()\n"
        "class Hostile(Callback):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield "hostile.Hostile"
    sys.modules.pop("hostile", None)


@pytest.fixture
def read(tmp_path):
    """A run's config from what a stranger wrote into its file."""

    def read_config(content, changes=None):
        (tmp_path / "config.yaml").write_text(content)
        (tmp_path / "summary.json").touch()  # beside which the settings are a run's
        return RunFolder(tmp_path).read_config(changes)

    return read_config


HOSTILE = {
    "another module's": "{_target_: hostile.Hostile}",
    "a function": "{_target_: os.system, command: touch mark}",
    "nested": f"{{_target_: {CALLBACKS}.LambdaCallback, setup: {{_target_: hostile.Hostile}}}}",
    "in a list": f"{{_target_: {CALLBACKS}.Timer, x: [{{_target_: hostile.Hostile}}]}}",
    "deeper": f"{{_target_: {CALLBACKS}.Timer, x: {{y: {{_target_: hostile.Hostile}}}}}}",
    "partial": f"{{_target_: {CALLBACKS}.Timer, _partial_: true}}",
    "by position": f"{{_target_: {CALLBACKS}.Timer, _args_: [1]}}",
    "a module's module": f"{{_target_: {CALLBACKS}.timer.os.system, command: touch mark}}",
    "a class of a module's": f"{{_target_: {CALLBACKS}.timer.timedelta}}",
    "no callback of ours": "{_target_: lstm_lm.training.optimization.Budget}",
    "a name alone": "{_target_: eval}",
    "beside Lightning": f"{{_target_: {CALLBACKS}_hostile.Hostile}}",
    "relative": f"{{_target_: {CALLBACKS}...hostile.Hostile}}",
    "a command of ours": "{_target_: lstm_lm.commands.sweep_job.main}",
}


@pytest.mark.parametrize("entry", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("group", ["callbacks", "logger"])
def test_nothing_of_it_is_imported_or_called(entry, group, read, hostile_module, tmp_path):
    config = read(f"{group}: {{x: {entry}}}")
    with pytest.raises(SettingsError) as refusal:
        build_callbacks(config, FOLDER, [])
        build_loggers(config, tmp_path, [])
    assert str(refusal.value).startswith(f"{group}.x ") and "\n" not in str(refusal.value)
    assert "hostile" not in sys.modules and not (tmp_path / "mark").exists()


def test_the_refusal_says_what_to_type(read, hostile_module):
    with pytest.raises(SettingsError, match="Lightning's own .hostile.Hostile.* callbacks=x again"):
        build_callbacks(read("callbacks: {x: {_target_: hostile.Hostile}}"), FOLDER, [])


def test_what_is_typed_again_is_trusted(read, hostile_module, tmp_path):
    saved = "callbacks: {x: {_target_: hostile.Hostile}}"
    changes = {"callbacks": {"x": {"_target_": "hostile.Hostile"}}}
    config = read(saved, changes)
    assert typed_entries(config, changes) == {"callbacks.x"}
    (callback,) = build_callbacks(config, FOLDER, typed_entries(config, changes))
    assert type(callback).__name__ == "Hostile"
    assert (tmp_path / "mark").exists()


def test_an_argument_typed_does_not_make_the_rest_trusted(read, hostile_module, tmp_path):
    for changes in (
        {"callbacks.x.verbose": True},
        {"callbacks.x._target_": f"{CALLBACKS}.Timer"},
        {"callbacks.x._target_": f"{CALLBACKS}.Timer", "callbacks.x.verbose": True},
    ):
        saved = "callbacks: {x: {_target_: hostile.Hostile, y: {_target_: hostile.Hostile}}}"
        config = read(saved, changes)
        assert typed_entries(config, changes) == set()
        with pytest.raises(SettingsError):
            build_callbacks(config, FOLDER, typed_entries(config, changes))
    assert not (tmp_path / "mark").exists()


def test_lightnings_own_need_not_be_typed(read, tmp_path):
    config = read(
        f"callbacks: {{x: {{_target_: {CALLBACKS}.early_stopping.EarlyStopping, "
        "monitor: train/loss}}\n"
        "logger: {csv: {_target_: lightning.pytorch.loggers.CSVLogger, name: ''}}"
    )
    assert len(build_callbacks(config, FOLDER, [])) == len(build_loggers(config, tmp_path, [])) == 1


@pytest.mark.parametrize(
    "content",
    [
        "data: {root: '${oc.env:HOME}'}",
        'data: {root: "\\x24{oc.env:HOME}"}',
        "logger: {x: {_target_: lightning.pytorch.loggers.CSVLogger, name: '${oc.env:HOME}'}}",
        "logger: {x: {_target_: a.B, y: ['\\\\${oc.env:HOME}']}}",
        "trainer: {profiler: '${data.root}'}",
    ],
)
def test_nothing_is_looked_up_for_it(content, read):
    with pytest.raises(DamagedFile, match="config.yaml is damaged: it contains an interpolation"):
        read(content)


def test_evaluating_imports_none_of_it(type_command, text_file, hostile_module, tmp_path):
    small = "data.batch_size=8", "data.num_steps=16", "model.hidden_size=8", "training.steps=2"
    code, _, _ = type_command(
        "train.py",
        "data=text_file",
        f"data.path={text_file}",
        *small,
        "samples.tokens=2",
        "device=cpu",
        "hydra.run.dir=one",
    )
    config = tmp_path / "one/config.yaml"
    entry = "callbacks:\n  x:\n    _target_: hostile.Hostile\n"
    config.write_text(config.read_text().replace("callbacks: {}\n", entry))
    code, _, errors = type_command("evaluate.py", "one")
    assert (code, errors) == (0, "")
    assert type_command("compare.py", "one")[0] == 0
    assert not (tmp_path / "mark").exists()
