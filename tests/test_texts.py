"""Texts as they lie on disks: moved, copied, with marks before them, in other alphabets."""

import codecs
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import lstm_lm
from lstm_lm.config import Cleaning, DataConfig, Level, TextName
from lstm_lm.data.batches import TrainingBatches
from lstm_lm.data.data_module import TextDataModule
from lstm_lm.data.splits import read_splits, sizes
from lstm_lm.errors import SettingsError
from lstm_lm.evaluation.score import split_of_file
from lstm_lm.experiment import train
from lstm_lm.report.differences import completed_groups, differing_texts
from lstm_lm.report.pictures.means import seed_plot
from lstm_lm.report.report import runs, write_report
from lstm_lm.resume import resume
from lstm_lm.saved.load_model import restore
from lstm_lm.saved.results import read_results
from lstm_lm.saved.run_folder import RunFolder
from lstm_lm.saved.sweep_folder import Job, Sweep, SweepFolder

BOM = "\ufeff"
LATIN, CYRILLIC = "abcdefgh \n", "абвгдежз \n"


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def own_text(path: Path, content: bytes, **settings) -> DataConfig:
    path.write_bytes(content)
    return DataConfig(text=TextName.file, path=str(path), **settings)


# Unknown tokens


@pytest.fixture
def train_alphabets(type_command, tmp_path):
    """On Latin letters, after which others may be held out."""

    def train_with(held_out, *settings, learned=LATIN):
        text = tmp_path / "text.txt"
        text.write_text((540 * learned)[:5400] + (60 * held_out)[:600])
        small = ["data=text_file", f"data.path={text}", "data.batch_size=4", "data.num_steps=16"]
        small += ["model.hidden_size=8", "training.epochs=1", "samples.tokens=5", "device=cpu"]
        return type_command("train.py", *small, *settings)

    return train_with


def test_held_out_text_of_another_alphabet_is_warned_of(train_alphabets, type_command):
    code, output, _ = train_alphabets(CYRILLIC, "hydra.run.dir=runs/one")
    shares = "79.9 % of the validation text, 79.9 % of the test text"
    assert code == 0
    assert f"\nwarning: {shares} is not in the vocabulary, and counts as one token" in output
    assert "; data.vocabulary_from=whole_text data.minimum_count=1 lists every token\n" in output
    assert f"\nNot in the vocabulary, and counted as <unk>: {shares}.\n" in output
    summary = summary_of(Path("runs/one"))
    assert (summary["train/unknown"], summary["test/unknown"]) == (0, 239 / 299)
    assert summary["test/unknown_tokens"] == 239
    code, output, _ = type_command("train.py", "resume=runs/one", "training.epochs=2")
    assert code == 0 and f"\nwarning: {shares} is not" in output
    assert summary_of(Path("runs/one"))["test/unknown"] == 239 / 299


def test_rare_tokens_left_out_are_told_of_in_the_training_text_too(train_alphabets):
    rare = "aaaabbbcd\n"
    _, output, _ = train_alphabets(rare, "data.minimum_count=1000", learned=rare)
    shares = "30 % of the training text, 30.1 % of the validation text, 30.1 % of the test text"
    assert f"\nwarning: {shares} is not in the vocabulary" in output
    _, output, _ = train_alphabets(CYRILLIC, "data.vocabulary_from=whole_text")
    assert "not in the vocabulary" not in output.lower()


def test_few_unknown_tokens_are_told_of_without_a_warning(train_alphabets):
    _, output, _ = train_alphabets("abcdefgz \n" + LATIN)
    shares = "5.02 % of the validation text, 5.02 % of the test text"
    assert f"\n        {shares} is not in the vocabulary\n" in output
    assert "warning" not in output


def test_a_run_that_starts_from_another_is_not_told_to_change_its_vocabulary(
    train_alphabets, tmp_path
):
    train_alphabets(LATIN, "hydra.run.dir=runs/one")
    _, output, _ = train_alphabets(CYRILLIC, "init_from=runs/one")
    assert "warning: 79.9 %" in output
    assert "without init_from a run has its own vocabulary" in output


def test_a_comparison_shows_how_much_is_unknown(make_run, tmp_path, type_command):
    make_run(tmp_path / "a", best=2.0, **{"validation/unknown": 0.82, "test/unknown": 0.8})
    make_run(tmp_path / "b", best=3.0, **{"validation/unknown": 0.0, "test/unknown": 0.0})
    make_run(tmp_path / "of_before", best=4.0)
    _, output, _ = type_command("compare.py", str(tmp_path))
    assert "unknown" in output and "82 %" in output and "0 %" in output
    assert "Unknown: how much of the validation text is not in the vocabulary" in output
    table = (tmp_path / "summary.md").read_text()
    assert "| 82 % |" in table and "- Unknown: how much" in table
    assert [run["validation/unknown"] for run in runs(tmp_path)] == [0.82, 0, None]


def test_a_comparison_without_unknown_tokens_does_not_speak_of_them(make_run, tmp_path):
    make_run(tmp_path / "a", best=2.0, **{"validation/unknown": 0.0, "test/unknown": 0.0})
    write_report([tmp_path], tmp_path)
    assert "nknown" not in (tmp_path / "summary.md").read_text()


# Copies


COPIES = {
    "two paths": (
        {"data.text": "file", "data.path": "/a"},
        {"data.text": "file", "data.path": "/b"},
    ),
    "two roots": (
        {"data.text": "time_machine", "data.root": "/a"},
        {"data.text": "time_machine", "data.root": "/b"},
    ),
    "a named text and a file": (
        {"data.text": "time_machine"},
        {"data.text": "file", "data.path": "/a"},
    ),
}


@pytest.mark.parametrize("kind", COPIES)
def test_one_text_in_two_places_is_one(kind, make_run, tmp_path):
    for seed, settings in enumerate(COPIES[kind]):
        same = {"text_sha256": "1234567890", "validation": [3.0, 2.0], "best": 2.0}
        make_run(tmp_path / f"runs/{seed}", settings=settings | {"seed": seed}, **same)
    results = read_results([tmp_path / "runs"])
    assert differing_texts(results) == []
    assert len(completed_groups(results)) == 1
    assert seed_plot(results) is not None
    report = write_report([tmp_path / "runs"], tmp_path / "runs")
    assert report.command is not None and (tmp_path / "runs/best.yaml").exists()
    assert "data.path" not in runs(tmp_path / "runs")[0]


def test_copies_go_together_beside_another_text(make_run, tmp_path):
    for seed, (path, sha256) in enumerate([("/a", "1"), ("/b", "1"), ("/c", "2"), ("/c", "3")]):
        settings = {"seed": seed, "data.text": "file", "data.path": path}
        make_run(tmp_path / str(seed), best=2.0, settings=settings, text_sha256=8 * sha256)
    results = read_results([tmp_path])
    assert sorted(len(found.results) for found in completed_groups(results)) == [1, 1, 2]
    assert differing_texts(results) == ["data.path", "data.text_sha256"]


def test_a_job_that_has_not_begun_goes_with_the_runs_on_its_file(make_run, tmp_path):
    folder = tmp_path / "sweep"
    for seed, path in enumerate(["/a", "/b"]):
        settings = {"seed": seed, "data.text": "file", "data.path": path}
        make_run(folder / f"00{seed}", best=2.0, settings=settings, text_sha256="12345678")
    waiting = Job(2, "002", "x", {"seed": 2, "data.text": "file", "data.path": "/b"})
    known = [Job(seed, f"00{seed}", f"{seed}", {}) for seed in range(2)]
    SweepFolder(folder).write(Sweep({}, [*known, waiting]))
    assert differing_texts(read_results([folder])) == []


def test_the_same_bytes_split_by_their_own_rule_are_another_text(make_run, tmp_path):
    for name, settings in ("a", {"data.text": "wikitext2"}), ("b", COPIES["two paths"][0]):
        make_run(tmp_path / name, best=2.0, settings=settings, text_sha256="12345678")
    assert differing_texts(read_results([tmp_path])) == ["data.text", "data.path"]


def test_a_link_and_its_file_are_one_text_for_runs_that_were_trained(tiny_run, text_file, tmp_path):
    (tmp_path / "link.txt").symlink_to(text_file)
    train(tiny_run("training.steps=1"), tmp_path / "runs/a")
    config = tiny_run("training.steps=1", "seed=1", f"data.path={tmp_path / 'link.txt'}")
    train(config, tmp_path / "runs/b")
    report = write_report([tmp_path / "runs"], tmp_path)
    assert report.command is not None
    with (tmp_path / "summary.csv").open() as stream:
        assert "data.path" not in next(csv.reader(stream))


# Texts that were moved


@pytest.fixture
def moved(tiny_run, text_file, tmp_path):
    """A run's folder, and where its text is now."""
    train(tiny_run("training.epochs=1"), tmp_path / "run")
    return tmp_path / "run", Path(shutil.move(text_file, tmp_path / "moved.txt"))


@pytest.mark.parametrize("script", ["evaluate.py", "inspect_run.py"])
def test_a_text_that_was_moved_is_found_where_it_is_now(script, moved, type_command, tmp_path):
    run, text = map(str, moved)
    code, _, errors = type_command(script, run)
    assert (code, errors.count("\n")) == (2, 1)
    assert "text.txt: No such file or directory" in errors and "--text-path FILE" in errors
    code, output, errors = type_command(script, run, "--text-path", text)
    assert (code, errors) == (0, "")
    (tmp_path / "another.txt").write_text("another text")
    code, _, errors = type_command(script, run, "--text-path", str(tmp_path / "another.txt"))
    assert (code, errors.count("\n")) == (2, 1)
    assert "is not the one this run was trained on" in errors and "--text-path" in errors


def test_the_api_takes_the_place_of_a_text_too(moved):
    run, text = moved
    loaded = lstm_lm.load_run(run)
    score = loaded.evaluate(text_path=text)
    assert score.loss == pytest.approx(loaded.summary["test/loss"])
    longer = loaded.resume([f"data.path={text}", "training.epochs=2"])
    assert longer.evaluate().loss == pytest.approx(longer.summary["test/loss"])


def test_names_and_texts_that_only_python_can_give_are_refused(tiny_run, tmp_path):
    run = lstm_lm.train(tiny_run("training.steps=1"), tmp_path / "run")
    with pytest.raises(SettingsError, match="no file can have this name"):
        run.evaluate(file="a\0b")
    with pytest.raises(SettingsError, match="no folder can have the name"):
        train(tiny_run(), Path("a\0b"))
    with pytest.raises(SettingsError, match="the text contains .*, which is no character"):
        run.evaluate("the time\udcff")


def test_a_text_that_is_no_file_of_the_users_has_no_path(tiny_run, tmp_path):
    config = tiny_run("data=recall", "data.path=null", "data.max_tokens=3000", "training.steps=1")
    train(config, tmp_path / "run")
    with pytest.raises(SettingsError, match="trained on data=recall.* leave out --text-path"):
        lstm_lm.load_run(tmp_path / "run", "last").evaluate(text_path="text.txt")


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_goes_on_keeps_where_its_text_is_now(epochs, moved, monkeypatch):
    run, text = moved
    before = summary_of(run)["fingerprint"]
    with pytest.raises(SettingsError, match="set data.path=FILE to the text"):
        resume(run, {"training.epochs": epochs})
    monkeypatch.chdir(text.parent)
    resume(run, {"data.path": text.name, "training.epochs": epochs})
    assert RunFolder(run).read_config().data.path == str(text)
    assert summary_of(run)["fingerprint"] == before
    resume(run, {"training.epochs": 3})
    assert summary_of(run)["epochs"] == 3


def test_another_text_in_its_place_is_not_kept(moved, tmp_path):
    run, _ = moved
    (tmp_path / "another.txt").write_text("another text " * 500)
    config = RunFolder(run).config.read_bytes()
    with pytest.raises(SettingsError, match="is not the one this run was trained on"):
        resume(run, {"data.path": str(tmp_path / "another.txt")})
    assert RunFolder(run).config.read_bytes() == config


def test_a_run_may_start_from_one_whose_text_is_gone(moved, tiny_run, tmp_path):
    run, text = moved
    config = tiny_run(f"data.path={text}", f"init_from={run}", "training.steps=1")
    assert train(config, tmp_path / "two")["started_from"] is not None


@pytest.mark.slow
def test_a_sweep_goes_on_with_its_text_in_another_place(type_command, text_file, tmp_path):
    def sweep(path, epochs):
        return type_command(
            "train.py", "data=text_file", f"data.path={path}", "data.max_tokens=2000", "device=cpu",
            "data.batch_size=8", "data.num_steps=16", "model.hidden_size=8", "samples.tokens=5",
            f"training.epochs={epochs}", "seed=1", "hydra.sweep.dir=sweep", "-m",
        )  # fmt: skip

    assert sweep(text_file, 1)[0] == 0
    (config,) = map(RunFolder, (tmp_path / "sweep").glob("000*"))
    there = shutil.move(text_file, f"{tmp_path}/there.txt")
    code, output, _ = sweep(there, 1)
    assert code == 0 and "1 of them done before" in output
    assert config.read_config().data.path == there
    again = shutil.move(there, f"{tmp_path}/again.txt")
    code, output, _ = sweep(again, 2)
    assert code == 0 and len(SweepFolder(tmp_path / "sweep").read().jobs) == 1
    assert (config.read_config().data.path, summary_of(config.path)["epochs"]) == (again, 2)


# Marks, line ends and encodings


@pytest.mark.parametrize("level", [Level.character, Level.byte, Level.word])
@pytest.mark.parametrize("cleaning", Cleaning)
def test_a_byte_order_mark_is_no_part_of_a_text(level, cleaning, tmp_path):
    text = "To be or not to be.\n" * 40
    settings = {"level": level, "cleaning": cleaning}
    plain = read_splits(own_text(tmp_path / "plain", text.encode(), **settings))
    marked = read_splits(own_text(tmp_path / "marked", (BOM + text).encode(), **settings))
    assert marked.vocabulary.tokens == plain.vocabulary.tokens
    assert marked.training.ids.tolist() == plain.training.ids.tolist()
    assert marked.text_sha256 == plain.text_sha256


@pytest.mark.parametrize(
    "settings", [[], ["data.minimum_count=2"], ["data.cleaning=letters"], ["data.level=word"]]
)
def test_a_run_that_has_learned_a_mark_goes_on_with_it(
    settings, tiny_run, text_file, tmp_path, monkeypatch
):
    """As version 0.2.0 trained, with all bytes of the file."""
    content = (BOM + Path(text_file).read_text()).encode()
    Path(text_file).write_bytes(content)
    config = tiny_run("training.epochs=1", "data.batch_size=2", *settings)
    with monkeypatch.context() as patch:
        patch.setattr(codecs, "BOM_UTF8", b"\0")
        before = read_splits(config.data)
        train(config, tmp_path / "run")
    known = summary_of(tmp_path / "run")
    assert known["text_sha256"] == before.text_sha256
    again = read_splits(config.data, before.vocabulary, known["text_sha256"])
    assert again.training.ids.tolist() == before.training.ids.tolist()
    assert lstm_lm.load_run(tmp_path / "run").evaluate().loss == pytest.approx(known["test/loss"])
    resume(tmp_path / "run", {"training.epochs": 2})
    assert summary_of(tmp_path / "run")["fingerprint"] == known["fingerprint"]
    assert read_splits(config.data).text_sha256 != before.text_sha256


def test_a_mark_is_skipped_in_a_text_to_be_evaluated_and_in_a_data_module(tiny_run, tmp_path):
    train(tiny_run("training.steps=1"), tmp_path / "run")
    run = restore(tmp_path / "run", "last")
    (tmp_path / "marked").write_bytes((BOM + "time machine").encode())
    assert split_of_file(run, str(tmp_path / "marked")).predictions == len("time machine") - 1
    (tmp_path / "marked").write_bytes((BOM + "time machine " * 100).encode())
    data = TextDataModule(str(tmp_path / "marked"), batch_size=2, num_steps=4)
    assert BOM not in data.vocabulary.tokens


def test_a_mark_in_a_file_of_settings_is_skipped(tiny_run, type_command, tmp_path):
    train(tiny_run("training.epochs=1"), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    before = folder.read_config()
    for file in folder.config, folder.vocabulary, folder.summary:
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert folder.read_config() == before
    assert lstm_lm.load_run(tmp_path / "run").evaluate().tokens > 0
    (tmp_path / "conf").mkdir()
    for name, mark in ("plain", ""), ("marked", BOM):
        (tmp_path / f"conf/{name}.yaml").write_text(
            f"{mark}defaults:\n  - train\n  - _self_\nmodel:\n  hidden_size: 77\n"
        )
    _, plain, _ = type_command("train.py", "-cd", "conf", "-cn", "plain", "--cfg", "job")
    code, marked, errors = type_command("train.py", "-cd", "conf", "-cn", "marked", "--cfg", "job")
    assert (code, errors, marked) == (0, "", plain) and "hidden_size: 77" in marked


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("utf-16-be", "UTF-16"), ("utf-32-be", "UTF-32")],
)
def test_another_unicode_encoding_is_named_with_the_command_that_converts_it(
    encoding, named, tmp_path
):
    mark = BOM if encoding.endswith("be") else ""
    with pytest.raises(SettingsError) as error:
        read_splits(own_text(tmp_path / "text", (mark + "to be " * 9).encode(encoding)))
    assert f"is not UTF-8: it begins with the byte order mark of {named}; " in str(error.value)
    assert str(error.value).endswith(f"iconv -f {named} -t UTF-8")


def test_words_are_the_same_whatever_ends_the_lines(tmp_path):
    lines = ["to be", "or not", "to be"] * 30
    parts = {}
    for end in "\n", "\r\n", "\r":
        config = own_text(tmp_path / "text", end.join(lines).encode(), level=Level.word)
        parts[end] = read_splits(config).training.ids.tolist()
        vocabulary = read_splits(config).vocabulary.tokens
        assert all("\r" not in token for token in vocabulary)
    assert parts["\r\n"] == parts["\n"]
    assert set(parts["\r"]) < set(parts["\n"])  # one long line, with the same words


# What helps


@pytest.mark.parametrize(
    ("tokens", "settings", "says"),
    [
        (6000, {"validation_size": 1}, "set a larger data.validation_size; a value from 1 on is"),
        (6000, {"test_size": 1}, "set a larger data.test_size or 0; a value from 1 on is a n"),
        (15, {}, "use a longer text or set a larger data.validation_size$"),
        (30, {"test_size": 0.01}, "use a longer text or set a larger data.test_size or 0$"),
        (2, {}, "data.test_size=0.05: use a longer text$"),
        (2, {"max_tokens": 2}, "set a larger data.max_tokens$"),
        (2, {"max_tokens": 5}, "use a longer text$"),
        (100, {"validation_size": 0.6, "test_size": 0.5}, "test_size=0.5: hold out less, with a"),
        (100, {"validation_size": 200}, "use a longer text or hold out less, with a smaller data"),
    ],
)
def test_the_direction_that_helps_is_named(tokens, settings, says):
    with pytest.raises(SettingsError, match=says) as error:
        sizes(tokens, DataConfig(**settings))
    if "larger data" in says and "less" not in says:
        assert "hold out less" not in str(error.value)


def test_a_generated_text_is_made_longer_by_its_setting():
    config = DataConfig(text=TextName.recall, max_tokens=15)
    with pytest.raises(SettingsError, match="set a larger data.max_tokens or set a larger"):
        read_splits(config)


def test_a_training_part_shorter_than_a_batch_is_told_what_leaves_more(tmp_path):
    splits = read_splits(own_text(tmp_path / "text", b"abc" * 100, validation_size=0.5))
    data = DataConfig()
    with pytest.raises(SettingsError, match="smaller data.validation_size or data.test_size, or a"):
        TrainingBatches(splits.training.ids, 4, 50, data.order, 0)


def test_a_text_that_cleaning_leaves_nothing_of_is_told_so(tmp_path):
    config = own_text(
        tmp_path / "text", CYRILLIC.encode(), level=Level.word, cleaning=Cleaning.letters
    )
    with pytest.raises(SettingsError, match="is empty with data.cleaning=letters"):
        read_splits(config)
    with pytest.raises(SettingsError, match="is empty: there"):
        read_splits(replace(own_text(tmp_path / "text", b""), level=Level.word))


@pytest.mark.parametrize("link", ["/dev/stdin", "/proc/self/fd/0", "/tmp/../dev/stdin"])
def test_a_link_to_what_is_another_text_the_next_time_is_refused(link, tmp_path):
    (tmp_path / "link").symlink_to(link)
    (tmp_path / "second").symlink_to("link")
    config = DataConfig(text=TextName.file, path=str(tmp_path / "second"))
    with pytest.raises(SettingsError, match="is another text in the next run: save the text as a"):
        read_splits(config)


def test_an_empty_name_is_no_file():
    with pytest.raises(SettingsError, match="cannot read a text: the file's name is empty"):
        read_splits(DataConfig(text=TextName.file, path=""))
