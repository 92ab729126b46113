"""A text of one's own in two or three files."""

import json
import shutil
from dataclasses import replace

import pytest

import lstm_lm
from lstm_lm.config import DataConfig, Level, TextName, VocabularySource
from lstm_lm.data.splits import read_splits
from lstm_lm.errors import SettingsError
from lstm_lm.experiment import train
from lstm_lm.resume import resume

NAMES = "train", "valid", "test"
TEXTS = ["to be or not to be\n" * 40, "not to be\n" * 5, "to be\nor not\n" * 4]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, text in zip(NAMES, TEXTS, strict=True):
        (folder / f"{name}.txt").write_text(text)
    return folder


def own_files(folder, names=NAMES, **settings):
    kinds = "path", "validation_path", "test_path"
    paths = {kind: str(folder / f"{name}.txt") for kind, name in zip(kinds, names, strict=False)}
    return DataConfig(text=TextName.file, **paths, **settings)


def test_each_file_is_a_split_whose_vocabulary_is_that_of_the_first(folder):
    (folder / "valid.txt").write_text("not 2 b\n" * 5)
    splits = read_splits(own_files(folder, level=Level.word))
    assert len(splits.training.ids) == 40 * 7
    assert splits.vocabulary.decode(splits.validation.ids[:4].tolist()) == [
        "not",
        "<unk>",
        "<unk>",
        "<eos>",
    ]
    assert splits.vocabulary.decode(splits.test.ids[-3:].tolist()) == ["or", "not", "<eos>"]
    assert not splits.test_is_validation


@pytest.mark.parametrize("level", [Level.word, Level.subword])
def test_a_vocabulary_of_the_whole_text_lists_all_files(folder, level):
    (folder / "valid.txt").write_text("zz " * 500)
    size = 262 if level is Level.subword else None
    config = own_files(folder, level=level, vocabulary_size=size)
    assert "zz" not in read_splits(config).vocabulary.tokens
    whole = read_splits(replace(config, vocabulary_from=VocabularySource.whole_text))
    assert "zz" in whole.vocabulary.tokens


def test_without_a_test_file_the_validation_text_is_the_test_text(folder):
    splits = read_splits(own_files(folder, NAMES[:2]))
    assert splits.test_is_validation and splits.test is splits.validation
    assert len(splits.training.ids) == len(TEXTS[0])


def test_a_validation_text_that_is_the_training_text_is_remarked_on(folder):
    shutil.copy(folder / "train.txt", folder / "valid.txt")
    splits = read_splits(own_files(folder))
    assert splits.text_note.startswith("the validation text is the training text")
    assert read_splits(own_files(folder, ["train", "test"])).text_note is None


def test_the_checksum_covers_all_files_and_where_each_ends(folder):
    before = read_splits(own_files(folder)).text_sha256
    (folder / "test.txt").write_text(TEXTS[2] + "!")
    assert read_splits(own_files(folder)).text_sha256 != before
    (folder / "valid.txt").write_text(TEXTS[1] + TEXTS[2][:5])
    (folder / "test.txt").write_text(TEXTS[2][5:])
    assert read_splits(own_files(folder)).text_sha256 != before


def test_marks_of_byte_order_are_skipped_in_all_files(folder):
    before = read_splits(own_files(folder))
    for name, text in zip(NAMES, TEXTS, strict=True):
        (folder / f"{name}.txt").write_text("\ufeff" + text)
    after = read_splits(own_files(folder))
    assert after.text_sha256 == before.text_sha256
    assert after.test.ids.tolist() == before.test.ids.tolist()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"test_path": "b", "path": "a"}, "data.test_path needs data.validation_path=<the val"),
        ({"validation_path": "b"}, "data=text_file needs data.path"),
        ({"text": TextName.python_docs, "validation_path": "b"}, "need data=text_file and data.p"),
    ],
)
def test_files_without_those_before_them_are_refused(settings, says):
    with pytest.raises(SettingsError, match=says):
        DataConfig(**{"text": TextName.file} | settings)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (b"\xff", "is not UTF-8: byte 0 is 0xff"), (None, "No such file")],
)
def test_the_file_at_fault_is_named(name, content, says, folder):
    file = folder / f"{name}.txt"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=says) as error:
        read_splits(own_files(folder))
    assert str(file) in str(error.value)


def test_a_file_of_one_token_is_refused(folder):
    (folder / "test.txt").write_text("x")
    with pytest.raises(SettingsError, match="the test text is one token"):
        read_splits(own_files(folder))


def test_a_run_finds_its_moved_files(folder, tiny_run, tmp_path):
    config = tiny_run("data.batch_size=2", "training.epochs=1", "data.max_tokens=null")
    config = replace(config, data=replace(config.data, **paths_of(folder)))
    train(config, tmp_path / "run")
    loss = json.loads((tmp_path / "run/summary.json").read_text())["test/loss"]
    moved = shutil.move(folder, tmp_path / "moved")
    run = lstm_lm.load_run(tmp_path / "run")
    with pytest.raises(SettingsError, match="No such file"):
        run.evaluate()
    assert run.evaluate(text_path=f"{moved}/train.txt").loss == pytest.approx(loss)
    there = {f"data.{name}": path for name, path in paths_of(moved).items()}
    with pytest.raises(SettingsError, match="valid.txt: No such file"):
        resume(tmp_path / "run", {"data.path": there["data.path"], "training.epochs": 2})
    resume(tmp_path / "run", there | {"training.epochs": 2})
    assert lstm_lm.load_run(tmp_path / "run").evaluate().tokens == len(TEXTS[2]) - 1
    (tmp_path / "moved/valid.txt").write_text("another text")
    with pytest.raises(SettingsError, match="is not the one this run was trained on"):
        resume(tmp_path / "run", {"training.epochs": 3})


def paths_of(folder):
    names = dict(zip(("path", "validation_path", "test_path"), NAMES, strict=True))
    return {name: f"{folder}/{file}.txt" for name, file in names.items()}
