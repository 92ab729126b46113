import json
import re

import pytest

from lstm_lm import machine
from lstm_lm.errors import SettingsError
from lstm_lm.experiment import train
from lstm_lm.machine import Bfloat16
from lstm_lm.saved.run_folder import config_from_settings
from lstm_lm.saved.sweep_folder import SweepFolder
from lstm_lm.sweep.plan import fingerprints, load_sweep, plan, resolve_auto_all


@pytest.fixture
def plan_sweep(tiny_run, tmp_path):
    """Plan a grid, given as values by names, and keep it as a sweep does."""
    folder = SweepFolder(tmp_path / "sweep")
    folder.path.mkdir()

    def plan_grid(*jobs, threads=1, gpus=()):
        overrides = [job.split() for job in jobs]
        known = load_sweep(folder).jobs
        configs = resolve_auto_all([tiny_run(*job) for job in overrides], gpus, known)
        sweep, wanted = plan(folder, configs, fingerprints(configs), overrides, threads)
        folder.write(sweep)
        return sweep, wanted

    return plan_grid


def test_jobs_have_a_number_a_name_and_every_setting(plan_sweep):
    sweep, jobs = plan_sweep(*(f"seed=1 model.hidden_size={size}" for size in (8, 16)))
    assert [job.name for job in jobs] == ["000_h8", "001_h16"]
    assert [job.settings["model.hidden_size"] for job in jobs] == [8, 16]
    assert jobs[0].settings["data.batch_size"] == 8
    assert sweep.grid == {"model.hidden_size": ["8", "16"]}


def test_new_values_get_the_next_numbers_wherever_they_are_put(plan_sweep):
    plan_sweep(*(f"model.hidden_size={size}" for size in (8, 16)))
    sweep, jobs = plan_sweep(*(f"model.hidden_size={size}" for size in (8, 12, 16, 4)))
    assert [job.name for job in jobs] == ["000_h8", "002_h12", "001_h16", "003_h4"]
    assert sweep.grid == {"model.hidden_size": ["8", "16", "12", "4"]}
    assert plan_sweep("model.hidden_size=20")[1][0].name == "004_h20"


def test_a_number_taken_by_a_folder_alone_is_not_given_away(plan_sweep, tmp_path):
    (tmp_path / "sweep/007_h8").mkdir()
    _, jobs = plan_sweep("seed=0", "seed=1")
    assert [job.number for job in jobs] == [8, 9]


def test_the_device_is_part_of_a_job_and_how_long_it_trains_is_not(plan_sweep):
    _, (job,) = plan_sweep("device=cpu")
    _, (on_gpu, longer) = plan_sweep("device=gpu", "device=cpu training.epochs=9")
    assert (on_gpu.number, longer.number) == (1, job.number)
    assert longer.settings["training.epochs"] == 9


def test_the_same_job_twice_is_one(plan_sweep):
    sweep, jobs = plan_sweep("optimizer.learning_rate=1", "optimizer.learning_rate=1.0")
    assert len(sweep.jobs) == 1 and jobs[0] is jobs[1]


def test_a_job_keeps_its_threads(plan_sweep):
    plan_sweep("seed=0", threads=3)
    assert [job.threads for job in plan_sweep("seed=0", "seed=1", threads=1)[1]] == [3, 1]


def test_what_is_swept_over_several_commands_is_in_names_and_grid(plan_sweep):
    plan_sweep("seed=1 model.hidden_size=8")
    sweep, (job,) = plan_sweep("seed=2 model.hidden_size=8")
    assert job.name == "001_seed2"
    assert sweep.grid == {"seed": ["1", "2"]}


def test_jobs_that_differ_in_what_does_not_make_another_job_are_refused(plan_sweep):
    with pytest.raises(SettingsError, match=r"jobs that differ only in training.epochs are one"):
        plan_sweep("training.epochs=1", "training.epochs=2")
    with pytest.raises(SettingsError, match=r"differ only in samples.prompts are one"):
        plan_sweep("samples.prompts=[a]", "seed=2", "samples.prompts=[b]")


@pytest.fixture
def has_bfloat16(monkeypatch):
    """Say which devices compute bfloat16 natively."""

    def only(*devices):
        def bfloat16_support(device, apart):
            assert apart or device == "cpu"
            return Bfloat16(device in devices, "that is known")

        monkeypatch.setattr(machine, "bfloat16_support", bfloat16_support)

    return only


def test_auto_is_what_suits_the_device_of_each_job(plan_sweep, has_bfloat16, caplog):
    caplog.set_level("INFO")
    has_bfloat16("cuda")
    grid = [
        f"device={name} seed={seed} device.precision=auto"
        for name in ("cpu", "gpu")
        for seed in (1, 2)
    ]
    _, jobs = plan_sweep(*grid, gpus=["0"])
    assert [job.settings["device.precision"] for job in jobs] == ["32-true"] * 2 + [
        "bf16-mixed"
    ] * 2
    assert caplog.messages == [
        "precision 32-true, as that is known",
        "precision bf16-mixed, as that is known",
    ]
    assert [job.number for job in plan_sweep(*grid, gpus=["0"])[1]] == [0, 1, 2, 3]  # the same jobs


def test_auto_and_what_it_stands_for_are_the_same_job(plan_sweep, has_bfloat16):
    has_bfloat16()
    with pytest.raises(SettingsError, match="differ only in device.precision are one and the same"):
        plan_sweep("seed=1 device.precision=auto", "seed=2", "seed=1 device.precision=32-true")
    has_bfloat16("cpu")
    _, jobs = plan_sweep("device.precision=auto", "device.precision=32-true")
    assert [job.settings["device.precision"] for job in jobs] == ["bf16-mixed", "32-true"]


def test_a_job_keeps_what_was_chosen_for_it_on_another_machine(plan_sweep, has_bfloat16):
    has_bfloat16("cpu")
    grid = [f"device=cpu device.precision=auto seed={seed}" for seed in (1, 2)]
    plan_sweep(*grid)
    has_bfloat16()
    _, jobs = plan_sweep(*grid, "device=cpu device.precision=auto seed=3")
    assert [job.number for job in jobs] == [0, 1, 2]
    precisions = [job.settings["device.precision"] for job in jobs]
    assert precisions == ["bf16-mixed", "bf16-mixed", "32-true"]


def test_a_job_for_a_gpu_is_decided_about_where_there_is_one(plan_sweep, has_bfloat16):
    has_bfloat16()
    grid = "device=gpu device.precision=auto model.core=fused", "device=gpu seed=2"
    _, (undecided, _) = plan_sweep(*grid)
    assert undecided.settings["device.precision"] == "auto"
    _, (decided, _) = plan_sweep(*grid, gpus=["0"])
    settings = decided.settings["device.precision"], decided.settings["model.backend"]
    assert (decided.number, settings) == (undecided.number, ("32-true", "torch"))


def test_a_precision_that_a_job_cannot_have_is_refused(plan_sweep, has_bfloat16, tmp_path):
    has_bfloat16()
    with pytest.raises(SettingsError, match="device.precision=bf16-mixed .* as that is known"):
        plan_sweep("seed=1", "device.precision=bf16-mixed")
    assert not list((tmp_path / "sweep").iterdir())


def test_a_lost_record_knows_its_jobs_whose_settings_were_auto(plan_sweep, has_bfloat16, tmp_path):
    has_bfloat16()
    settings = "device.precision=auto model.core=fused"
    _, (job,) = plan_sweep(settings)
    assert job.settings["model.backend"] in ("cpp", "torch")
    train(config_from_settings(job.settings | {"training.steps": 2}), tmp_path / "sweep" / job.name)
    SweepFolder(tmp_path / "sweep").file.unlink()
    _, (again,) = plan_sweep(settings)
    assert (again.number, again.status) == (job.number, "completed")


@pytest.mark.parametrize("content", ["{", "[]", '{"jobs": [{}]}', None])
def test_a_lost_record_is_made_again_from_the_folders_of_its_runs(content, plan_sweep, tmp_path):
    _, (job, _) = plan_sweep("seed=1", "seed=2")
    folder = SweepFolder(tmp_path / "sweep")
    (tmp_path / "sweep/003_seed5").mkdir()  # which never came to be a run
    config = config_from_settings(job.settings | {"training.steps": 2})
    train(config, tmp_path / "sweep" / job.name)
    folder.file.unlink() if content is None else folder.file.write_text(content)
    _, jobs = plan_sweep("seed=2", "seed=1")
    assert [(job.number, job.status) for job in jobs] == [(4, "waiting"), (0, "completed")]


def test_what_cannot_be_trained_is_refused(tiny_run, tmp_path):
    good = tiny_run()
    for setting, reason in {
        "data.batch_size=10000": "a batch needs data.batch_size",
        f"data.path={tmp_path}/none": "none",
        "init_from=nowhere": "nowhere is not a run's folder",
        "device.nodes=2": "device.nodes=2 needs torchrun or srun",
        "samples.prompts=['']": "empty prompt",
    }.items():
        with pytest.raises(SettingsError, match=re.escape(reason)):
            fingerprints([good, tiny_run(setting)])


def test_a_run_that_starts_from_another_has_the_fingerprint_that_it_is_planned_with(
    tiny_run, tmp_path
):
    train(tiny_run(), tmp_path / "source")
    settings = tiny_run(f"init_from={tmp_path}/source", "seed=3"), tiny_run("seed=3")
    configs = resolve_auto_all(settings, [])
    planned, other = fingerprints(configs)
    assert planned == train(configs[0], tmp_path / "run")["fingerprint"]
    assert planned != other
    assert json.loads((tmp_path / "run/summary.json").read_text())["started_from"]


def test_callbacks_and_the_trainers_arguments_make_jobs_apart(plan_sweep):
    grid = "callbacks=[early_stopping]", "callbacks=[ema,lr_monitor]", "callbacks=none"
    plan_sweep(*grid)
    sweep, known = plan_sweep(*grid, "callbacks=none trainer.accumulate_grad_batches=2")
    assert [job.number for job in known] == [0, 1, 2, 3]
    assert [job.name for job in sweep.jobs] == [
        "000_early_stopping",
        "001_ema-lr_monitor",
        "002_none",
        "003_none_accumulate-grad-batches2",
    ]
    with pytest.raises(SettingsError, match="jobs that differ only in callbacks are one"):
        plan_sweep("callbacks=none", "callbacks=lr_monitor")


def test_a_job_is_begun_with_all_that_was_recorded(plan_sweep):
    name = "gradient_accumulation_schedule"
    _, (job, _) = plan_sweep(f"callbacks={name} logger=[csv,tensorboard]", "seed=9")
    assert config_from_settings(job.settings).callbacks[name]["scheduling"] == {"0": 1, "4": 2}
    assert list(config_from_settings(job.settings).logger) == ["csv", "tensorboard"]


def test_auto_is_kept_for_the_same_callbacks_alone(plan_sweep, has_bfloat16):
    has_bfloat16("cpu")
    auto = "device=cpu device.precision=auto"
    plan_sweep(auto, f"{auto} callbacks=ema")
    has_bfloat16()
    grid = [f"{auto} callbacks={name}" for name in ("none", "ema", "swa")]
    precisions = [job.settings["device.precision"] for job in plan_sweep(*grid)[1]]
    assert precisions == ["bf16-mixed", "bf16-mixed", "32-true"]
