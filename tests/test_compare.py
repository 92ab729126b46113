"""The command that compares runs, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_lm.experiment import train
from lstm_lm.saved.run_folder import RunFolder

SCRIPT = Path(__file__).parents[1] / "scripts/compare.py"


def test_a_comparison_ends_with_what_it_wrote_and_what_to_type_next(
    type_command, make_run, tmp_path
):
    for size in 128, 256:
        for rate in 0.5, 1.0:
            settings = {"model.hidden_size": size, "optimizer.learning_rate": rate}
            folder = tmp_path / f"sweep/{size}_{rate}"
            make_run(folder, validation=[5.0, 4.0], best=3 + rate, settings=settings)
    code, output, errors = type_command("compare.py", "sweep")
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[1].split()[:4] == ["name", "hidden_size", "learning_rate", "status"]
    assert lines[3].split()[:4] == ["128_0.5", "128", "0.5", "completed"]
    assert output.split("\n\n")[-1].splitlines() == [
        "table               sweep/summary.md, sweep/summary.csv",
        "heat map            sweep/heat_map.png",
        "learning curves     sweep/learning_curves.png",
        "tokens and seconds  sweep/tokens_and_seconds.png",
        "best run again      python scripts/train.py -cd sweep -cn best",
    ]


def test_the_command_for_the_best_run_trains_the_same_again(type_command, tiny_run, tmp_path):
    original = tmp_path / "runs/a=b, 'c' $d"
    lightnings = "logger=csv", "callbacks=early_stopping", "trainer.profiler=null"
    settings = "seed=5", "training.epochs=1", "optimizer.clip_norm=null"
    train(tiny_run(*settings, *lightnings), original)
    code, output, _ = type_command("compare.py", "runs", "--output", "my report")
    assert code == 0
    command = output.split("best run again      ")[1].strip()
    assert command == "python scripts/train.py -cd 'my report' -cn best"
    code, _, errors = type_command(
        "train.py", "-cd", "my report", "-cn", "best", "hydra.run.dir=again"
    )
    assert (code, errors) == (0, "")
    one, other = (RunFolder(folder) for folder in (original, Path("again")))
    assert one.read_config() == other.read_config()
    one, other = (folder.read_summary() for folder in (one, other))
    assert one["fingerprint"] == other["fingerprint"]
    assert one["best/validation/loss"] == other["best/validation/loss"]


def test_what_is_typed_still_changes_the_best_runs_settings(type_command, make_run, tmp_path):
    make_run(tmp_path / "a", best=2.0, settings={"model.hidden_size": 33})
    type_command("compare.py", "a")
    code, output, _ = type_command(
        "train.py", "-cd", "a", "-cn", "best", "seed=3", "data=text_file", "--cfg", "job"
    )
    assert code == 0
    assert "seed: 3" in output and "hidden_size: 33" in output


def test_the_best_runs_file_has_no_class_that_only_its_folder_names(
    type_command, make_run, tmp_path
):
    own = {"_target_": "lightning.pytorch.callbacks.Timer"}
    callbacks = {"theirs": {"_target_": "hostile.Class"}, "timer": own}
    make_run(tmp_path / "a", best=2.0, settings={"callbacks": callbacks})
    type_command("compare.py", "a")
    content = (tmp_path / "a/best.yaml").read_text()
    assert "# Without its callbacks.theirs, whose class is not Lightning's own.\n" in content
    assert "hostile" not in content and "callbacks.Timer" in content


def test_failures_are_told_with_their_reasons(type_command, make_run, tmp_path):
    make_run(tmp_path / "sweep/000", "diverged", [9.0], diverged_step=1234)
    failed = {"fingerprint": "0", "settings": {}, "status": "failed", "error": "out of memory"}
    jobs = [failed | {"number": number, "name": f"00{number}"} for number in range(1, 6)]
    record = {"grid": {}, "jobs": jobs}
    (tmp_path / "sweep/sweep.json").write_text(json.dumps(record))
    code, output, _ = type_command("compare.py", "sweep")
    assert code == 0
    assert "\n000: diverged at step 1,234\n001, 002, 003 and 2 more: out of memory\n" in output
    table = (tmp_path / "sweep/summary.md").read_text()
    assert "\n- 000: diverged at step 1,234\n- 001, 002, 003 and 2 more: out of memory\n" in table
    assert "no best.yaml: no run has been validated" in output
    assert "no heat map: the runs do not differ in two numbers" in output


def test_a_damaged_file_is_named_and_the_rest_is_compared(type_command, make_run, tmp_path, caplog):
    make_run(tmp_path / "day/a", best=2.0)
    make_run(tmp_path / "day/b", best=3.0)
    (tmp_path / "day/a/summary.json").write_text("")
    code, output, _ = type_command("compare.py", "day")
    assert code == 0
    assert "day/a/summary.json is damaged" in caplog.text
    assert "completed" in output and "unknown" in output


MISTAKES = {
    "empty": "empty has no run in it: give the folder of a sweep, of a run, or one with such",
    "nowhere": "there is no folder nowhere",
    "a file": "a file is a file, not a folder",
    "": "a folder's name is empty; type . for the current folder",
}


@pytest.mark.parametrize("folder", MISTAKES)
def test_a_folder_without_runs_is_a_mistake_told_in_one_line(folder, type_command, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").touch()
    code, output, errors = type_command("compare.py", folder)
    assert (code, output) == (2, "")
    assert MISTAKES[folder] in errors
    assert errors.count("\n") == 1
    assert not list((tmp_path / "empty").iterdir())


def test_a_folder_that_cannot_be_written_is_a_mistake_told_in_one_line(
    type_command, make_run, tmp_path
):
    make_run(tmp_path / "a", best=2.0)
    (tmp_path / "file").touch()
    code, _, errors = type_command("compare.py", "a", "--output", "file/report")
    assert code == 2
    assert errors == (
        "error: cannot write to file/report: Not a directory; --output names another folder\n"
    )


def test_a_reader_that_has_seen_enough_is_no_error(make_run, tmp_path):
    make_run(tmp_path / "a", best=2.0)
    with subprocess.Popen(
        [sys.executable, SCRIPT, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        command.stdout.close()
        assert command.stderr.read() == ""
    assert (tmp_path / "summary.md").exists()


def test_help_comes_at_once():
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{str(SCRIPT)!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    print({'torch', 'matplotlib', 'tensorboard', 'omegaconf'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "--output FOLDER" in done.stdout
    assert done.stdout.endswith("set()\n")
