"""The files that a comparison leaves."""

import csv
import hashlib
import io
import json
import sys

import pytest
import yaml

from lstm_lm.errors import SettingsError
from lstm_lm.report.report import write_report
from lstm_lm.report.tables import print_summary
from lstm_lm.saved.fingerprint import trained_settings
from lstm_lm.saved.results import read_results
from lstm_lm.saved.run_folder import RunFolder


@pytest.fixture
def sweep(make_run, tmp_path):
    """Two runs that differ in size, in rate, and in what does not matter."""
    folder = tmp_path / "sweep"
    wide = {"model.hidden_size": 512, "optimizer.learning_rate": 0.1 + 0.2}
    make_run(folder / "000", validation=[5, 4], best=3.9, settings=wide)
    make_run(
        folder / "001",
        "interrupted",
        validation=[5, 4.5],
        settings={"samples.tokens": 3, "seed": 7},
        tokens_per_second=12345.6,
        seconds=66.6,
        **{"train/perplexity": 1 / 3},
    )
    return folder


def test_the_report_leaves_its_files_in_one_folder(sweep, tmp_path):
    report = write_report([sweep], tmp_path / "new/folder")
    assert {file.name for file in (tmp_path / "new/folder").iterdir()} == {
        "summary.csv",
        "summary.md",
        "best.yaml",
        "heat_map.png",
        "learning_curves.png",
        "tokens_and_seconds.png",
    }
    for picture in report.pictures.values():
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert not report.notes


def test_the_runs_are_left_as_they_were(sweep, tmp_path):
    def state():
        return {
            file: (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).digest())
            for file in sweep.rglob("*")
            if file.is_file()
        }

    before = state()
    write_report([sweep], tmp_path / "report")
    assert state() == before


def test_the_table_for_programs_has_all_figures_in_full(sweep):
    write_report([sweep], sweep)
    with (sweep / "summary.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first["name"] == first["folder"] == "000"
    assert float(first["optimizer.learning_rate"]) == 0.1 + 0.2
    assert (first["samples.tokens"], second["samples.tokens"]) == ("200", "3")
    assert float(second["train/perplexity"]) == 1 / 3
    assert (second["status"], second["best/validation/perplexity"]) == ("interrupted", "")
    assert first["best/validation/perplexity"] == "3.9"
    assert [r["so far/validation/perplexity"] for r in (first, second)] == ["4.0", "4.5"]
    assert second["versions.torch"] == "2"
    assert "data.text" not in first


def test_the_table_for_readers_shows_what_matters(sweep):
    write_report([sweep], sweep)
    lines = (sweep / "summary.md").read_text().splitlines()
    assert lines[0] == "# 2 runs compared"
    assert lines[2] == "python_docs by character, builtin lstm, sgd."
    assert f"`{sweep}`" in lines[4]
    assert [cell.strip() for cell in lines[6].split("|")[1:6]] == [
        "name",
        "seed",
        "hidden_size",
        "learning_rate",
        "status",
    ]
    assert (
        "| 001 | 7 | 256 | 1 | interrupted | 2 | 0.333 | so far 4.500 |  | 12,346 | 67 |"
        in lines[9]
    )
    assert "![heat map](heat_map.png)" in lines


def test_a_setting_is_not_called_as_a_figure_is(make_run, tmp_path):
    for epochs in 1, 2:
        make_run(tmp_path / f"{epochs}", best=2.0, settings={"training.epochs": epochs})
    write_report([tmp_path], tmp_path)
    table = (tmp_path / "summary.md").read_text()
    assert "| name | training.epochs | status | epochs |" in table


def test_a_job_that_waits_has_empty_cells(make_run, tmp_path):
    make_run(tmp_path / "a", best=2.0)
    job = {"number": 0, "name": "b", "fingerprint": "0", "settings": {"seed": 5}}
    sweep = {"grid": {}, "jobs": [job]}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    write_report([tmp_path], tmp_path)
    assert "| b | 5 | waiting |  |  |  |  |  |  |  |" in (tmp_path / "summary.md").read_text()


def test_a_job_of_an_older_version_may_lack_settings(make_run, tmp_path):
    for seed in 0, 1:
        make_run(
            tmp_path / f"{seed}",
            validation=[3.0],
            settings={"seed": seed, "model.dropout": seed / 2, "data.batch_size": 1 + seed},
        )
    job = {"number": 0, "name": "b", "fingerprint": "0", "settings": {"optimizer.momentum": 0.5}}
    sweep = {"grid": {}, "jobs": [job]}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    assert "heat map" in write_report([tmp_path], tmp_path).pictures


def test_a_name_cannot_break_the_tables(make_run, tmp_path, capsys):
    make_run(tmp_path / "runs/a|b,c [red]$x_{", best=2.0)
    write_report([tmp_path / "runs"], tmp_path / "report")
    assert "| a\\|b,c [red]$x_{ | completed |" in (tmp_path / "report/summary.md").read_text()
    with (tmp_path / "report/summary.csv").open() as file:
        assert next(csv.DictReader(file))["name"] == "a|b,c [red]$x_{"
    print_summary(read_results([tmp_path / "runs"]))
    assert " a|b,c [red]$x_{ " in capsys.readouterr().out


def test_the_best_runs_settings_are_those_of_its_record(sweep):
    report = write_report([sweep], sweep)
    assert report.best.name == "000"
    assert report.command == f"python scripts/train.py -cd {sweep} -cn best"
    text = (sweep / "best.yaml").read_text()
    assert text.splitlines()[0] == f"# {report.command}"
    assert "3.9, of 2 that were compared" in text
    settings = yaml.safe_load(text)
    nothing_left = [{"override logger": "none"}, {"override callbacks": "none"}]
    assert settings.pop("defaults") == ["train", "_self_", *nothing_left]
    assert settings == yaml.safe_load((sweep / "000/config.yaml").read_text())


def test_the_best_run_may_have_begun_with_the_weights_of_another(make_run, tmp_path):
    make_run(tmp_path / "a", best=2.0, settings={"init_from": "/runs/b"})
    write_report([tmp_path], tmp_path)
    assert "init_from, which must still be there" in (tmp_path / "best.yaml").read_text()


def test_without_a_validated_run_there_is_no_best_one(make_run, tmp_path):
    make_run(tmp_path / "a", "diverged", [9.0], diverged_step=3)
    make_run(tmp_path / "b", "interrupted")
    report = write_report([tmp_path], tmp_path)
    assert (report.best, report.command) == (None, None)
    assert not (tmp_path / "best.yaml").exists()
    assert "no best.yaml: no run has been validated" in (tmp_path / "summary.md").read_text()


def test_a_best_run_whose_settings_are_lost_is_still_the_best(make_run, tmp_path):
    make_run(tmp_path / "a", best=2.0)
    (tmp_path / "a/config.yaml").write_text("model: 3")
    report = write_report([tmp_path], tmp_path)
    assert report.best.name == "a"
    assert any("no best.yaml" in note and "damaged" in note for note in report.notes)


def test_a_folder_that_cannot_be_written_is_named_in_one_line(sweep, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        SettingsError, match="cannot write to .*file/report: Not a directory; --out"
    ):
        write_report([sweep], tmp_path / "file/report")


def test_nothing_unfinished_is_left(sweep):
    write_report([sweep], sweep)
    assert not list(sweep.glob(".*"))


def test_perplexities_that_cannot_be_compared_are_named(make_run, tmp_path):
    make_run(tmp_path / "a", best=2.0)
    make_run(tmp_path / "b", best=3.0, settings={"data.text": "time_machine"})
    write_report([tmp_path], tmp_path)
    table = (tmp_path / "summary.md").read_text()
    assert "differ in their texts" in table
    assert "- no best.yaml: the runs differ in data.text\n" in table
    assert not (tmp_path / "best.yaml").exists()
    make_run(tmp_path / "c", best=99.0, settings={"data.level": "word"})
    write_report([tmp_path], tmp_path)
    assert "of characters and of words cannot be" in (tmp_path / "summary.md").read_text()


def test_what_changes_nothing_is_only_in_the_table_for_programs(make_run, tmp_path):
    without = {"data.root": "/texts", "training.log_every": 7, "checkpoint.every_steps": 9}
    make_run(tmp_path / "a", best=2.0)
    make_run(tmp_path / "b", best=3.0, settings=without)
    write_report([tmp_path], tmp_path)
    heading = (tmp_path / "summary.csv").read_text().splitlines()[0]
    assert heading.startswith(f"name,folder,status,error,{','.join(without)},so far")
    assert "| name | status |" in (tmp_path / "summary.md").read_text()


def test_all_that_is_trained_can_set_runs_apart(make_run, tmp_path):
    run = make_run(tmp_path / "a", best=2.0)
    results = read_results([run])
    assert set(trained_settings(RunFolder(run).read_config())) < set(results[0].settings)


def test_a_table_that_is_not_at_a_terminal_is_whole(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_summary(read_results([sweep]))
    output = capsys.readouterr().out
    heading, _, *rows = (line.split() for line in output.splitlines() if line.strip())
    assert heading[-4:] == ["test", "tokens/s", "seconds", "device"]
    assert rows[0][:7] == ["000", "0", "512", "0.3", "completed", "2", "4.000"]
    assert rows[0][7:9] == ["3.900", "4.400"]
    assert rows[1][-4:] == ["12,346", "67", "cpu", "(hand-made)"]
    assert "\x1b" not in output


def test_a_reader_that_leaves_before_the_table_is_no_error(sweep, monkeypatch):
    class Left(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Left())
    with pytest.raises(BrokenPipeError):  # which a program takes for its end
        print_summary(read_results([sweep]))


def test_a_narrow_terminal_gets_as_many_columns_as_fit(sweep, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "90")
    print_summary(read_results([sweep]))
    output = capsys.readouterr().out
    assert "Left out for want of room: training, tokens/s, seconds, device" in output
    assert "hidden_size" in output


def test_a_sweeps_settings_go_first_as_its_names_hold_them(make_run, tmp_path, capsys, monkeypatch):
    for rate in 0.5, 1.0:
        for status in "completed", "interrupted":
            name = f"000_learning_rate_{rate}_{status[0]}_and_more_that_sets_it_apart"
            make_run(tmp_path / name, status, [4.0], settings={"optimizer.learning_rate": rate})
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    print_summary(read_results([tmp_path]))
    output = capsys.readouterr().out
    assert "Left out for want of room: learning_rate," in output
    assert "validation" in output and output.count("interrupted") == 2
