"""``import lstm_lm`` as scripts and notebooks use it."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase

import lstm_lm
from lstm_lm.config import RunConfig
from lstm_lm.errors import Diverged, SettingsError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def small(text_file, tmp_path, monkeypatch):
    """Settings of a run of a second, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return [
        "data=text_file",
        f"data.path={text_file}",
        "data.batch_size=8",
        "data.num_steps=16",
        "data.max_tokens=4000",
        "model.embedding_size=8",
        "model.hidden_size=16",
        "training.epochs=2",
        "training.log_every=5",
        "samples.tokens=5",
        "device=cpu",
    ]


def python(code, folder):
    """What a program prints."""
    (folder / "program.py").write_text(code)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_names_are_there_and_no_others():
    assert dir(lstm_lm) == lstm_lm.__all__
    assert all(getattr(lstm_lm, name).__name__ == name for name in lstm_lm.__all__)
    with pytest.raises(AttributeError, match="module 'lstm_lm' has no attribute 'trian'"):
        _ = lstm_lm.trian


def test_compose_gives_what_a_command_line_stands_for(compose):
    typed = ["data=time_machine", "model.hidden_size=64"]
    config = lstm_lm.compose(typed)
    assert isinstance(config, RunConfig)
    assert {name: vars(config)[name] for name in vars(config) if name != "output"} == vars(
        compose(*typed)
    )


@pytest.mark.parametrize(
    "setting",
    [
        "model.hiden_size=3",
        "epochs=3",
        "+model.layers=3",
        "data=time_machin",
        "model.cell=lstmm",
        "model.hidden_size=big",
        "model.hidden_size=0",
        "seed=1,2",
        "data.batch_size=[1",
        "epochs",
        "data=text_file",
        "data.root=${nope}",
        "resume=nowhere",
        "init_from=nowhere",
        "hydra.nothing=1",
        "trainer.max_epochs=3",
        "trainer.accumulate=2",
        "callbacks=early_stoping",
    ],
)
def test_a_mistake_is_the_same_line_as_on_the_command_line(setting, type_command):
    code, _, errors = type_command("train.py", setting)
    assert code == 2
    with pytest.raises(SettingsError) as mistake:
        lstm_lm.compose([setting])
    assert f"error: {mistake.value}\n" == errors


def test_many_runs_at_once_are_no_config():
    with pytest.raises(SettingsError, match="make a sweep"):
        lstm_lm.compose(["sweep=hidden_size_and_learning_rate"])
    with pytest.raises(SettingsError, match=r"given as a list: \['seed=1'\]"):
        lstm_lm.compose("seed=1")


def test_threads_compose_at_once():
    with ThreadPoolExecutor(4) as threads:
        sizes = [8, 16, 24, 32, 40, 48]
        typed = [[f"model.hidden_size={size}"] for size in sizes]
        assert [config.model.hidden_size for config in threads.map(lstm_lm.compose, typed)] == sizes


@pytest.mark.parametrize("overrides", [[], ["seed=x"]])
def test_hydra_is_left_as_it_was(overrides):
    store = ConfigStore.instance()
    before = store.repo.get("schema.yaml")
    store.store("schema", {"mine": 1})
    mine = store.repo["schema.yaml"]

    def state():
        version = VersionBase.instance().version_base
        return GlobalHydra.instance().hydra, HydraConfig.instance().cfg, version

    found = state()
    try:
        lstm_lm.compose(overrides)
    except SettingsError:
        pass
    assert all(one is other for one, other in zip(state(), found, strict=True))
    assert store.repo["schema.yaml"] is mine
    if before is None:
        del store.repo["schema.yaml"]
    else:
        store.repo["schema.yaml"] = before


def test_compose_works_inside_another_hydra_program(tmp_path):
    output = python(
        """
import hydra
import lstm_lm
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

ConfigStore.instance().store("schema", {"mine": 1})


@hydra.main(version_base=None, config_path=None, config_name="schema")
def main(config):
    composed = lstm_lm.compose(["model.hidden_size=64"])
    print(composed.model.hidden_size, HydraConfig.get().job.name, hydra.compose("schema"))


main()
""",
        tmp_path,
    )
    assert output == "64 program {'mine': 1}\n"


def test_settings_are_found_in_an_installed_package(tmp_path):
    shutil.copytree(ROOT / "src/lstm_lm", tmp_path / "lstm_lm")
    shutil.copytree(ROOT / "conf", tmp_path / "lstm_lm/conf")  # as pyproject.toml puts it there
    (tmp_path / "lstm_lm/conf/data/mine.yaml").write_text("text: recall\nmax_tokens: 3000\n")
    composed = "lstm_lm.compose(['data=mine']).data.text.value"
    assert python(f"import lstm_lm; print({composed})", tmp_path) == "recall\n"


def test_a_run_is_trained_and_read_back(small):
    config = lstm_lm.compose([*small, "hydra.run.dir=runs/${model.hidden_size}"])
    run = lstm_lm.train(config)
    assert run.folder == Path("runs/16")
    assert repr(run) == "<Run runs/16: completed, 2 epochs, 54 steps>"
    assert run.config.model.hidden_size == 16
    assert run.evaluate().perplexity == pytest.approx(run.summary["test/perplexity"])
    again = lstm_lm.load_run("runs/16")
    assert (again.summary, again.config) == (run.summary, run.config)
    assert again.evaluate(split="validation") == run.evaluate(split="validation")
    assert again.evaluate("time traveller").tokens == len("ime traveller")
    assert not run.model.training
    # Without a folder of its own each run of a config gets a new one.
    config = lstm_lm.compose([*small, "training.steps=2"])
    folders = [lstm_lm.train(config).folder for _ in range(2)]
    assert len(set(folders)) == 2 and all(folder.parts[0] == "outputs" for folder in folders)
    assert lstm_lm.train(config, output="mine").folder == Path("mine")
    with pytest.raises(SettingsError, match="mine has a run already"):
        lstm_lm.train(config, output="mine")


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_the_module_of_a_run_has_its_weights(precision, small):
    run = lstm_lm.train(lstm_lm.compose([*small, f"device.precision={precision}"]), "run")
    assert isinstance(run.module, lstm_lm.LanguageModelModule)
    assert run.module is run.module and not run.module.training
    read = lstm_lm.LanguageModelModule.load_from_checkpoint("run/checkpoints/best.ckpt")
    for name, weight in read.state_dict().items():
        assert weight.equal(run.module.state_dict()[name])


def test_a_run_says_what_the_commands_say(small, type_command):
    run = lstm_lm.train(lstm_lm.compose(small), "run")
    arguments = ["--prompt", "time ", "--tokens", "30", "--top-k", "5", "--seed", "3"]
    written = type_command("generate.py", "run", *arguments)[1]
    assert written == run.generate("time ", tokens=30, top_k=5, seed=3) + "\n"
    score = run.evaluate(reset_every=50)
    printed = type_command("evaluate.py", "run", "--reset-every", "50")[1]
    assert f"{score.loss:.6f} nats" in printed and f"{score.perplexity:.6g}" in printed


def test_a_changed_config_is_checked_again(small):
    config = lstm_lm.compose(small)
    config.model.hidden_size = -3
    with pytest.raises(SettingsError, match="model.hidden_size must be positive and finite"):
        lstm_lm.train(config)
    config.model.hidden_size = "big"
    with pytest.raises(SettingsError, match="model.hidden_size: Value 'big'"):
        lstm_lm.train(config)
    assert not Path("outputs").exists()


def test_a_run_that_diverges_says_so(small):
    spoilt = ["optimizer.learning_rate=1e38", "optimizer.clip_norm=null"]
    with pytest.raises(Diverged, match="is not finite at step"):
        lstm_lm.train(lstm_lm.compose([*small, *spoilt]))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"folder": "nowhere"}, "nowhere is not a run's folder"),
        ({"checkpoint": "first"}, "run has no first checkpoint"),
        ({"core": "scratchy"}, "core must be one of scratch, builtin, fused, not scratchy"),
        ({"device": "tpu"}, "device must be one of auto, cpu, gpu, not tpu"),
    ],
)
def test_what_cannot_be_read_back_is_said_in_one_line(asked, reason, small):
    lstm_lm.train(lstm_lm.compose([*small, "training.steps=2"]), "run")
    with pytest.raises(SettingsError, match=reason):
        lstm_lm.load_run(**{"folder": "run"} | asked)


def test_mistakes_with_a_run(small):
    run = lstm_lm.train(lstm_lm.compose([*small, "training.steps=2"]), "run")
    for mistake, reason in (
        (lambda: run.evaluate("a"), "the text has 1 tokens"),
        (lambda: run.evaluate(split="dev"), "there is no dev split; there are training"),
        (lambda: run.generate(""), "at least one token"),
        (lambda: run.generate("a", tokens=-1), "tokens must be >= 0, not -1"),
        (lambda: run.resume(["model.hidden_size=8"]), "cannot change model.hidden_size"),
        (lambda: run.resume(["training.epoch=8"]), "did you mean training.epochs"),
        (lambda: run.resume(["hydra.run.dir=x"]), "leave out resume and hydra.run.dir"),
        (lambda: lstm_lm.train(lstm_lm.compose(["resume=run"])), r"load_run\('run'\).resume\(\)"),
    ):
        with pytest.raises(SettingsError, match=reason):
            mistake()


def test_resuming_extends_a_run(small):
    short = lstm_lm.train(lstm_lm.compose([*small, "training.epochs=1"]), "resumed")
    assert short.evaluate().perplexity == pytest.approx(short.summary["test/perplexity"])
    longer = short.resume(["training.epochs=2"])
    assert (short.summary["epochs"], longer.summary["epochs"]) == (1, 2)
    assert short.evaluate() != longer.evaluate()
    whole = lstm_lm.train(lstm_lm.compose(small), "whole")
    assert whole.evaluate() == longer.evaluate()


def test_other_threads_can_train_and_take_turns(small):
    configs = [lstm_lm.compose([*small, f"seed={seed}"]) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(lstm_lm.train, configs, ["thread0", "thread1"]))
    alone = lstm_lm.train(configs[0], "alone")
    assert runs[0].summary["test/loss"] == alone.summary["test/loss"]
    assert runs[1].summary["test/loss"] != alone.summary["test/loss"]


def test_an_interrupted_run_is_saved_and_python_goes_on(small):
    def interrupt():
        while not Path("run/checkpoints/last.ckpt").exists():
            ended.wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    config = lstm_lm.compose([*small, "training.epochs=10000", "checkpoint.every_steps=5"])
    ended = threading.Event()
    before, thread = signal.getsignal(signal.SIGINT), threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match=r"load_run\('run', checkpoint='last'\).resume\(\)"):
        lstm_lm.train(config, "run")
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    run = lstm_lm.load_run("run", checkpoint="last")
    assert run.summary["status"] == "interrupted"
    steps = run.summary["steps"] + 3
    assert run.resume([f"training.steps={steps}"]).summary["steps"] == steps


def test_runs_are_rows_of_a_table(small):
    for size in 8, 16:
        lstm_lm.train(lstm_lm.compose([*small, f"model.hidden_size={size}"]), f"runs/{size}")
    rows = lstm_lm.runs("runs")
    assert [row["perplexity"] for row in rows] == sorted(row["perplexity"] for row in rows)
    assert {row["folder"]: row["model.hidden_size"] for row in rows} == {"runs/8": 8, "runs/16": 16}
    assert rows[0].keys() == rows[1].keys()
    for row in rows:
        assert (row["status"], row["epochs"], row["error"]) == ("completed", 2, None)
        assert "model.cell" not in row  # the same in both
        run = lstm_lm.load_run(row["folder"])
        assert row["test/perplexity"] == run.summary["test/perplexity"]
    with pytest.raises(SettingsError, match="there is no folder nowhere"):
        lstm_lm.runs("nowhere")


@pytest.mark.slow
def test_of_several_processes_the_first_goes_on(small, tmp_path):
    output = python(
        f"""
import lstm_lm

run = lstm_lm.train(lstm_lm.compose({[*small, "device=ddp", "device.accelerator=cpu"]}))
print(run.summary["ranks"], len(lstm_lm.runs("outputs")))
try:
    run.resume(["training.epochs=3"])
except lstm_lm.errors.SettingsError as error:
    print(error)
""",
        tmp_path,
    )
    assert output.startswith("2 1\nseveral processes have trained outputs/")
    assert output.count("\n") == 2


def test_a_notebook_cannot_start_processes(small, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    config = lstm_lm.compose([*small, "device=ddp", "device.accelerator=cpu"])
    with pytest.raises(SettingsError, match="device.devices=2 starts this program again"):
        lstm_lm.train(config)
