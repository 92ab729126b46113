"""Which jobs run at the same time, with jobs that only say so, and GPUs that are not there."""

import shutil
import sys
import threading

import pytest

from lstm_lm.process import StopSignals
from lstm_lm.saved.sweep_folder import Job, Sweep, SweepFolder
from lstm_lm.sweep import job_process
from lstm_lm.sweep.job_process import CpuSlots, GpuSlots
from lstm_lm.sweep.run_sweep import Runner

# Notes what the job sees, works for a while, and ends with the code that its number stands for.
WORK = """
import os, sys, time
folder, number = sys.argv[1:]
log = open(folder + "/order.txt", "a", buffering=1)
seen = os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]
log.write(f"start {number} {':'.join(seen)}\\n")
time.sleep(0.6)
log.write(f"end {number} -\\n")
print("error: of no account" if number == "7" else "well")
sys.exit(1 if number == "7" else 2 if number == "8" else 0)
"""


@pytest.fixture
def run_jobs(tmp_path, monkeypatch):
    """Run jobs on devices such as ``cpu`` or ``gpu2``; the jobs, and what they noted."""
    monkeypatch.setattr(job_process, "COMMAND", (sys.executable, "-c", WORK))

    def run(*devices, first=0, places=2, gpus=(), per_gpu=1, retries=0):
        folder = SweepFolder(tmp_path)
        jobs = [
            Job(number, f"{number:03}", "", settings(device), threads=3)
            for number, device in enumerate(devices, start=first)
        ]
        slots = GpuSlots(list(gpus), per_gpu, tmp_path / "slots")
        sweep = Sweep(jobs=jobs)
        with StopSignals() as signals:
            limits = CpuSlots(places, cores=100)
            Runner(folder, sweep, limits, slots, retries).run(jobs, jobs, signals)
        order = tmp_path / "order.txt"
        lines = order.read_text().splitlines() if order.exists() else []
        return jobs, [line.split() for line in lines]

    return run


def settings(device):
    accelerator, count = device.rstrip("0123456789"), device.lstrip("abcdefghijklmnopqrstuvwxyz")
    return {"device.accelerator": accelerator, "device.devices": int(count or 1)}


def most_at_once(order, numbers):
    running, most = 0, 0
    for event, number, _ in order:
        if int(number) in numbers:
            running += 1 if event == "start" else -1
            most = max(most, running)
    return most


def test_jobs_fill_the_places_of_the_cpu_and_no_more(run_jobs):
    jobs, order = run_jobs("cpu", "cpu", "cpu", "cpu", "auto", places=2)
    assert [job.status for job in jobs] == ["completed"] * 5
    assert most_at_once(order, range(5)) == 2
    assert {seen for event, _, seen in order if event == "start"} == {":3"}  # no GPU, 3 threads


def test_cpu_and_gpu_jobs_run_at_the_same_time_each_on_a_gpu_of_its_own(run_jobs):
    kinds = ["gpu", "gpu", "auto", "cpu", "cpu"]
    jobs, order = run_jobs(*kinds, places=1, gpus=["4", "5"])
    assert [job.status for job in jobs] == ["completed"] * 5
    assert most_at_once(order, {0, 1, 2}) == 2
    assert most_at_once(order, {3, 4}) == 1
    assert most_at_once(order, range(5)) == 3
    seen = {int(number): seen for event, number, seen in order if event == "start"}
    assert {seen[0], seen[1]} == {"4:3", "5:3"} and seen[3] == seen[4] == ":3"


def test_small_jobs_may_share_a_gpu(run_jobs):
    jobs, order = run_jobs("gpu", "gpu", "gpu", gpus=["0"], per_gpu=2)
    assert most_at_once(order, range(3)) == 2


def test_a_job_of_several_processes_takes_as_many_places(run_jobs):
    jobs, order = run_jobs("cpu", "cpu2", "cpu", "gpu2", places=2, gpus=["0", "1"])
    assert [job.status for job in jobs] == ["completed"] * 4
    for other in 0, 2:
        assert most_at_once(order, {1, other}) == 1
    assert ["start", "3", "0,1:3"] in order


def test_cores_are_a_limit_too():
    limits = CpuSlots(processes=8, cores=4)
    assert CpuSlots(1, 2).plus(CpuSlots(1, 2)).fits_into(limits)
    assert not CpuSlots(1, 2).plus(CpuSlots(1, 3)).fits_into(limits)
    assert not CpuSlots(9, 4).fits_into(limits)


def test_a_job_that_cannot_be_started_gives_its_gpu_back(run_jobs, tmp_path):
    (tmp_path / "000").write_text("where the job's folder should be")
    jobs, _ = run_jobs("gpu", "gpu", gpus=["0"])
    assert [(job.status, job.error) for job in jobs] == [
        ("failed", "cannot be started: File exists"),
        ("completed", None),
    ]


def test_a_job_whose_folder_is_gone_does_not_end_the_others(run_jobs, tmp_path):
    remover = threading.Timer(0.5, shutil.rmtree, [tmp_path / "007"])
    remover.start()
    jobs, _ = run_jobs("cpu", "cpu", first=7, places=1)
    remover.join()
    assert [job.status for job in jobs] == ["failed", "failed"]
    assert "log.txt cannot be read: No such file" in jobs[0].error


def test_jobs_whose_gpus_are_not_here_fail_and_the_others_run(run_jobs):
    jobs, order = run_jobs("gpu", "cpu", "gpu2")
    assert [(job.status, job.error) for job in jobs] == [
        ("failed", "no GPU here"),
        ("completed", None),
        ("failed", "no GPU here"),
    ]
    jobs, _ = run_jobs("gpu2", gpus=["0"])
    assert jobs[0].error == "only 1 of 2 GPUs here"


@pytest.mark.parametrize(("number", "retries", "tries"), [(7, 0, 1), (7, 2, 3), (8, 2, 1)])
def test_what_fails_is_tried_again_unless_its_settings_are_bad(run_jobs, number, retries, tries):
    jobs, order = run_jobs("cpu", first=number, retries=retries)
    assert (jobs[0].status, jobs[0].tries) == ("failed", tries)
    assert jobs[0].error == ("of no account" if number == 7 else "well")
    assert [event for event, _, _ in order] == ["start", "end"] * tries


@pytest.mark.parametrize("refused", ["flock:ENOSYS", "flock:ENOLCK", "flock:EINVAL"])
def test_no_job_waits_for_a_lock_that_cannot_be(refused, run_jobs, tmp_path, file_system_refuses):
    for number in range(2):
        (tmp_path / f"00{number}").mkdir()
        (tmp_path / f"00{number}/.lock").touch()  # of a process that was killed
    file_system_refuses(refused)
    jobs, _ = run_jobs("cpu", "cpu")
    assert [job.status for job in jobs] == ["completed"] * 2
