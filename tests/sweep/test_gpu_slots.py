"""CpuSlots on GPUs that need none: they are locks on files."""

import subprocess
import sys

import fork_server
import pytest

from lstm_lm.errors import SettingsError
from lstm_lm.sweep.job_process import GpuSlots, release

HOLD = "import sys; sys.stdin.read()"


def hold(taken):
    """A process that holds places as a job does."""
    job = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, pass_fds=list(taken.values())
    )
    release(taken)
    return job


def test_jobs_spread_over_gpus_before_they_share_one(tmp_path):
    slots = GpuSlots(["0", "3"], per_gpu=2, folder=tmp_path)
    taken = [slots.take(1) for _ in range(5)]
    assert [list(gpus) for gpus in taken[:4]] == [["0"], ["3"], ["0"], ["3"]]
    assert taken[4] is None
    release(taken[1])
    assert list(slots.take(1)) == ["3"]


def test_a_job_gets_all_its_gpus_or_none(tmp_path):
    slots = GpuSlots(["0", "1"], per_gpu=1, folder=tmp_path)
    one = slots.take(1)
    assert slots.take(2) is None
    assert list(GpuSlots(["0", "1"], 1, tmp_path).take(1)) == ["1"]  # which was let go again
    release(one)


def test_a_place_is_taken_until_its_job_ends_however_it_ends(tmp_path):
    slots = GpuSlots(["0"], per_gpu=1, folder=tmp_path)
    with hold(slots.take(1)) as job:
        assert GpuSlots(["0"], per_gpu=1, folder=tmp_path).take(1) is None  # of another sweep
        job.kill()
        job.wait()
    release(slots.take(1))


RACE = """
import sys, time
from pathlib import Path
from lstm_lm.sweep.job_process import GpuSlots, release
slots, log = GpuSlots(["0"], 1, Path(sys.argv[1])), open(sys.argv[2], "a", buffering=1)
for _ in range(20):
    while (taken := slots.take(1)) is None:
        time.sleep(0.001)
    log.write("in\\n")
    time.sleep(0.002)
    log.write("out\\n")
    release(taken)
"""


def test_two_sweeps_never_have_the_same_place_at_once(tmp_path):
    command = [sys.executable, "-c", RACE, str(tmp_path), str(tmp_path / "log")]
    both = [fork_server.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "in\nout\n" * 40


def test_where_there_are_no_locks_nobody_can_share_gpus(file_system_refuses, tmp_path):
    slots = GpuSlots(["0"], per_gpu=1, folder=tmp_path)
    file_system_refuses("flock:ENOLCK")
    with pytest.raises(SettingsError, match=f"{tmp_path} does not support them: set TMPDIR"):
        slots.take(1)
