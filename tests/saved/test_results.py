"""What is read back from the folders of runs and sweeps."""

import json
import struct
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from lstm_lm import runs
from lstm_lm.config import RunConfig, flatten
from lstm_lm.errors import SettingsError
from lstm_lm.files import locked
from lstm_lm.report.differences import differing_texts
from lstm_lm.saved.event_files import Curve, read_curves, training_seconds
from lstm_lm.saved.results import read_results
from lstm_lm.saved.run_folder import Status
from lstm_lm.saved.sweep_folder import Job, Sweep, SweepFolder

NAN = float("nan")


def names(results):
    return [result.name for result in results]


def write_sweep(folder, *jobs):
    folder.mkdir(exist_ok=True)
    settings = flatten({"seed": 0, "model": vars(RunConfig().model)})
    made = [
        Job(number, name, name, settings, Status(status), error=error)
        for number, (name, status, error) in enumerate(jobs)
    ]
    SweepFolder(folder).write(Sweep({"seed": ["0"]}, made))


def write_events(file, *points):
    """One point after the other: wall time, tag, step, value."""
    with file.open("wb") as stream:
        writer = RecordWriter(stream)
        for wall_time, tag, step, value in points:
            event = Event(wall_time=wall_time, step=step)
            event.summary.value.add(tag=tag, simple_value=value)
            writer.write(event.SerializeToString())
        writer.flush()


def test_a_single_run_goes_by_the_name_of_its_folder(make_run, tmp_path):
    make_run(tmp_path / "10-15-00", validation=[9, 5, 6], best=4.75)
    (result,) = read_results([tmp_path / "10-15-00"])
    assert (result.name, result.status) == ("10-15-00", "completed")
    assert (result.best, result.so_far, result.perplexity) == (4.75, 5, 4.75)
    assert result.settings["model.hidden_size"] == 256


def test_runs_are_found_however_deep_they_lie(make_run, tmp_path):
    make_run(tmp_path / "outputs/2026-11-23/10-15-00", best=2.0)
    make_run(tmp_path / "outputs/sweeps/2026-11-23/11/000", best=1.0)
    results = read_results([tmp_path / "outputs"])
    assert names(results) == ["sweeps/2026-11-23/11/000", "2026-11-23/10-15-00"]


def test_what_is_named_twice_counts_once(make_run, tmp_path):
    run = make_run(tmp_path / "day/a", best=2.0)
    (tmp_path / "link").symlink_to(run)
    assert names(read_results([tmp_path / "day", run, tmp_path / "link"])) == ["a"]


def test_a_sweeps_jobs_without_a_run_are_results_too(make_run, tmp_path):
    make_run(tmp_path / "sweep/000_a", best=3.0)
    make_run(tmp_path / "sweep/by_hand", best=4.0)
    out_of_memory = "the model does not fit into memory"
    write_sweep(
        tmp_path / "sweep",
        ("000_a", "running", None),
        ("001_b", "failed", out_of_memory),
        ("002_c", "waiting", None),
    )
    results = read_results([tmp_path / "sweep"])
    assert [(r.name, r.status, r.error) for r in results] == [
        ("000_a", "completed", None),
        ("by_hand", "completed", None),
        ("001_b", "failed", out_of_memory),
        ("002_c", "waiting", None),
    ]
    assert results[2].settings["model.hidden_size"] == 256


def test_a_job_that_came_to_be_a_run_is_told_by_that(make_run, tmp_path):
    sweep = tmp_path / "sweep"
    make_run(sweep / "000", best=3.0)
    make_run(sweep / "001", "diverged", [9.0], diverged_step=10)
    make_run(sweep / "002", "failed", [9.0])
    (sweep / "000/config.yaml").write_text("seed: [")
    error = "the first try failed"
    write_sweep(sweep, *((f"00{number}", "failed", error) for number in range(3)))
    results = read_results([sweep])
    assert [(r.status, r.error) for r in results] == [
        ("completed", None),
        ("diverged", "diverged at step 10"),
        ("failed", error),
    ]
    assert results[0].settings["model.hidden_size"] == 256  # which the sweep knows, too


def test_a_sweep_and_a_run_can_be_compared(make_run, tmp_path):
    make_run(tmp_path / "sweep/000_a", best=3.0)
    write_sweep(tmp_path / "sweep", ("000_a", "completed", None))
    make_run(tmp_path / "run", best=2.0)
    results = read_results([tmp_path / "sweep", tmp_path / "run"])
    assert names(results) == ["run", "sweep/000_a"]


def test_the_best_come_first_and_what_came_to_nothing_last(make_run, tmp_path):
    make_run(tmp_path / "failed", "failed", [1.0])
    make_run(tmp_path / "diverged", "diverged", [1.5, 9], diverged_step=1234)
    make_run(tmp_path / "interrupted", "interrupted", [3, 2.5, 2.75])
    make_run(tmp_path / "interrupted_sooner", "interrupted")
    make_run(tmp_path / "second", best=5.0)
    make_run(tmp_path / "first", best=4.0)
    results = read_results([tmp_path])
    assert names(results) == [
        "first",
        "second",
        "interrupted",
        "interrupted_sooner",
        "diverged",
        "failed",
    ]
    assert results[2].so_far == 2.5
    assert results[4].error == "diverged at step 1,234"


def test_a_run_whose_process_is_gone_is_interrupted(make_run, tmp_path):
    run = make_run(tmp_path / "run", "running", [2.0])
    assert read_results([run])[0].status == "interrupted"
    with locked(run / ".lock"):
        assert read_results([run])[0].status == "running"


DAMAGES = {
    "summary.json": ('{"status": "comp', "a/summary.json is damaged"),
    "config.yaml": ("seed: [", "a/config.yaml is damaged"),
}


@pytest.mark.parametrize("file", DAMAGES)
def test_a_damaged_record_is_named_and_the_rest_goes_on(file, make_run, tmp_path, caplog):
    content, complaint = DAMAGES[file]
    make_run(tmp_path / "a", validation=[3.0], best=2.5)
    make_run(tmp_path / "b", best=2.75)
    (tmp_path / "a" / file).write_text(content)
    results = {result.name: result for result in read_results([tmp_path])}
    assert complaint in caplog.text
    assert results["b"].best == 2.75
    assert results["a"].so_far == 3.0
    if file == "summary.json":
        assert (results["a"].status, results["a"].best) == ("unknown", None)
    else:
        assert (results["a"].settings, results["a"].best) == ({}, 2.5)


def test_a_status_that_does_not_exist_is_damage(make_run, tmp_path, caplog):
    make_run(tmp_path / "a", "finished", best=2.0)
    (result,) = read_results([tmp_path])
    assert (result.status, result.best) == (Status.unknown, None)
    assert "a/summary.json is damaged: status is 'finished'" in caplog.text


def test_of_a_damaged_sweep_the_runs_are_still_found(make_run, tmp_path, caplog):
    make_run(tmp_path / "000_a", best=3.0)
    (tmp_path / "sweep.json").write_text('{"grid": {}, "jobs": [{}]}')
    assert names(read_results([tmp_path])) == ["000_a"]
    assert "sweep.json is damaged" in caplog.text


def test_a_folder_without_runs_is_refused(tmp_path, make_run):
    make_run(tmp_path / "runs/a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="empty has no run in it: give the folder of a sweep"):
        read_results([tmp_path / "runs", tmp_path / "empty"])
    with pytest.raises(SettingsError, match="there is no folder .*nowhere"):
        read_results([tmp_path / "nowhere"])


def test_of_a_point_written_twice_the_last_counts(tmp_path):
    # Files are in the order of their names, not of the times they were written at.
    write_events(tmp_path / "events.out.tfevents.10.vm.10", (9.0, "loss", 2, 0.5))
    write_events(
        tmp_path / "events.out.tfevents.10.vm.9",
        (7.0, "loss", 3, 4.0),
        (7.0, "loss", 1, 1.0),
        (7.0, "loss", 2, 2.0),
        (8.0, "loss", 3, 3.0),
    )
    assert read_curves(tmp_path) == {"loss": Curve([1, 2, 3], [1.0, 0.5, 3.0])}


def test_points_that_are_not_finite_are_left_out(tmp_path):
    write_events(
        tmp_path / "events.out.tfevents.1.vm",
        *((1.0, "loss", step, value) for step, value in enumerate([float("inf"), 2.0, NAN])),
        (1.0, "only", 1, NAN),
    )
    assert read_curves(tmp_path) == {"loss": Curve([1], [2.0])}


def replaced(content, position, part):
    return content[:position] + part + content[position + len(part) :]


def second(content):
    """Where the second of two records of the same length begins."""
    return len(content) // 2


BREAKS = {
    "in a length": (lambda c: c[: second(c) + 5], "ends in the middle"),
    "in an event": (lambda c: c[:-9], "ends in the middle"),
    "in a checksum": (lambda c: c[:-2], "ends in the middle"),
    "another value": (
        lambda c: c.replace(struct.pack("<f", 2), struct.pack("<f", 3)),
        "is damaged at byte",
    ),
    "another length": (lambda c: replaced(c, second(c), b"\xff"), "ends in the middle"),
    "another checksum": (lambda c: replaced(c, second(c) + 8, bytes(4)), "is damaged at byte"),
}


@pytest.mark.parametrize("place", BREAKS)
def test_a_broken_event_file_is_used_up_to_the_break(place, tmp_path, caplog):
    file = tmp_path / "events.out.tfevents.1.vm"
    write_events(file, (1.0, "loss", 1, 1.0), (1.0, "loss", 2, 2.0))
    cut, complaint = BREAKS[place]
    file.write_bytes(cut(file.read_bytes()))
    assert read_curves(tmp_path) == {"loss": Curve([1], [1.0])}
    assert f"{file} {complaint}" in caplog.text


def test_a_run_that_is_writing_right_now_is_no_cause_for_a_warning(tmp_path, caplog):
    file = tmp_path / "events.out.tfevents.1.vm"
    write_events(file, (1.0, "loss", 1, 1.0), (1.0, "loss", 2, 2.0))
    file.write_bytes(file.read_bytes()[:-2])
    assert read_curves(tmp_path, is_running=True)["loss"].steps == [1]
    assert not caplog.text


def test_the_time_between_two_sessions_is_no_training_time(tmp_path):
    # 100 tokens at 50 a second, a night, then 300 at 100, then 100 whose speed nobody knows.
    night = 30_000.0
    write_events(
        tmp_path / "events.out.tfevents.1.vm",
        (2.0, "tokens", 1, 100.0),
        (2.0, "tokens_per_second", 1, 50.0),
        (night, "tokens", 4, 400.0),
        (night, "tokens_per_second", 4, 100.0),
        (night, "tokens", 5, 500.0),
    )
    assert training_seconds(read_curves(tmp_path)) == Curve([1, 4, 5], [2.0, 5.0, 5.0])
    assert training_seconds({}) is None


def test_a_curve_has_a_value_from_its_first_step_on():
    curve = Curve([10, 20], [1.0, 2.0])
    assert [curve.at(step) for step in (9, 10, 19, 20, 99)] == [None, 1.0, 1.0, 2.0, 2.0]


def test_a_figure_that_is_not_finite_is_none(make_run, tmp_path):
    run = make_run(tmp_path / "run", best=float("inf"))
    assert json.loads((run / "summary.json").read_text())["best/validation/perplexity"] is None
    assert read_results([run])[0].perplexity is None


def test_runs_on_the_same_file_with_another_content_are_apart(make_run, tmp_path):
    for name, text in ("one", "a"), ("two", "b"):
        make_run(tmp_path / name, text_sha256=text)
    assert differing_texts(read_results([tmp_path])) == ["data.text_sha256"]


OTHERS = {
    "hydra": "data:\n  path: x\nmodel:\n  lr: 1\noptimizer: {}\ntraining: {}\n",
    "lightning": "seed_everything: true\ntrainer:\n  max_epochs: 3\nckpt_path: null\n",
    "list": "- 1\n",
    "empty": "",
    "number": "3\n",
    "broken": "a: [\n",
    "binary": "\0\1",
    "brackets": 10_000 * "[",
}


def test_settings_of_other_programs_are_no_runs_and_passed_over_in_one_note(
    make_run, tmp_path, caplog
):
    make_run(tmp_path / "outputs/multirun/0/ours", best=2.0)
    for name, content in OTHERS.items():
        folder = tmp_path / f"outputs/multirun/{name}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(content)
    (tmp_path / "outputs/multirun/0/config.yaml").write_text(OTHERS["hydra"])
    assert names(read_results([tmp_path / "outputs"])) == ["ours"]
    (note,) = caplog.messages
    assert note.startswith("note: 9 passed over that have a config.yaml of another program")
    assert len(runs(tmp_path / "outputs")) == 1
    with pytest.raises(SettingsError, match="has no run in it"):
        read_results([tmp_path / "outputs/multirun/lightning"])


@pytest.mark.parametrize("kept", ["summary.json", "vocabulary.json"])
def test_a_damaged_run_of_ours_is_listed_all_the_same(kept, make_run, tmp_path, caplog):
    folder = make_run(tmp_path / "runs/ours", best=2.0)
    (folder / "vocabulary.json").touch()
    (folder / "config.yaml").write_text("- no settings")
    for name in {"summary.json", "vocabulary.json"} - {kept}:
        (folder / name).unlink()
    assert names(read_results([tmp_path / "runs"])) == ["ours"]
    assert "config.yaml is damaged" in caplog.text


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("resume=other", "other is not a run's folder"),
        ("init_from=other", "other is not a run's folder"),
        ("hydra.run.dir=other", "other has a config.yaml of another program: choose another"),
    ],
)
def test_a_folder_of_another_program_is_refused_and_stays_as_it_was(typed, said, type_command):
    Path("other").mkdir()
    Path("other/config.yaml").write_text(OTHERS["hydra"])
    code, _, errors = type_command("train.py", "data.max_tokens=20000", typed)
    assert (code, errors.count("\n")) == (2, 1)
    assert f"error: {said}" in errors
    assert Path("other/config.yaml").read_text() == OTHERS["hydra"]
