"""Byte-pair encoding: learned from the training text, able to cut every text."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import lstm_lm
from lstm_lm.config import Cleaning, DataConfig, Level, TextName
from lstm_lm.data import subwords
from lstm_lm.data.splits import read_splits
from lstm_lm.data.subwords import learn_subwords, subwords_of, tokenize_subwords
from lstm_lm.data.text import spell
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import DamagedFile, SettingsError
from lstm_lm.experiment import train
from lstm_lm.resume import resume
from lstm_lm.saved.run_folder import RunFolder

TEXT = "to be or not to be, that is the question:\nwhether 'tis nobler é in the mind 漢\n" * 20
NEVER_SEEN = "Ümläute, жук\r\n\n  漢字 😀 <unk> <eos>\t\0end"
SUBWORDS = "data.level=subword", "data.vocabulary_size=270"


@pytest.fixture(scope="module")
def vocabulary():
    return learn_subwords([TEXT], 300)


def own_text(tmp_path, content=TEXT, **settings):
    path = tmp_path / "own.txt"
    path.write_text(content, newline="")
    settings = {"level": Level.subword, "vocabulary_size": 270} | settings
    return DataConfig(text=TextName.file, path=str(path), **settings)


def test_all_bytes_are_tokens_and_then_frequent_pairs(vocabulary):
    assert len(vocabulary) == 300
    assert vocabulary.tokens[0] == "<unk>"
    assert all(len(token) == 1 for token in vocabulary.tokens[1:257])
    assert len(vocabulary.merges) == 300 - 257
    assert subwords_of("to be or", vocabulary)[0] == "to"


@pytest.mark.parametrize("text", [TEXT, NEVER_SEEN, "", "\n", " ", "x" * 3000])
@pytest.mark.parametrize("block", [1, 7, 2**18])
def test_every_text_is_cut_and_spelled_again(text, block, vocabulary, monkeypatch):
    monkeypatch.setattr(subwords, "BLOCK", block)
    tokens = tokenize_subwords(text, vocabulary)
    cut = vocabulary.decode(tokens.numbers.tolist())
    assert cut == subwords_of(text, vocabulary)
    assert spell(cut, Level.subword) == text
    assert tokens.spelled_lengths(Level.subword) == (len(text), len(text.encode()))
    assert 0 not in tokens.numbers


def test_the_same_text_gives_the_same_subwords_in_any_process(vocabulary):
    program = f"from lstm_lm.data.subwords import *; print(learn_subwords([{TEXT!r}], 300).merges)"
    for threads in "1", "3":
        environment = os.environ | {"RAYON_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment
        )
        assert done.stdout.strip() == str(vocabulary.merges)


def test_only_the_training_text_is_learned_from(tmp_path):
    splits = read_splits(own_text(tmp_path, TEXT + "zyx" * 40, validation_size=60, test_size=60))
    assert splits.vocabulary.for_json() == learn_subwords([TEXT], 270).for_json()
    assert "zy" not in splits.vocabulary.tokens
    assert splits.unknown == {"train/unknown": 0, "validation/unknown": 0, "test/unknown": 0}


def test_splits_are_those_of_characters_so_that_bits_can_be_compared(tmp_path):
    config = own_text(tmp_path)
    cut = read_splits(config)
    whole = read_splits(replace(config, level=Level.character, vocabulary_size=None))
    for one, other in (cut.training, whole.training), (cut.validation, whole.validation):
        first = spell([cut.vocabulary.tokens[one.ids[0]]], Level.subword)
        assert one.characters + len(first) == other.characters + 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"vocabulary_size": None}, "subword needs data.vocabulary_size"),
        ({"vocabulary_size": 256}, "at least 257, for all bytes and <unk>, and .*, not 256"),
        ({"vocabulary_size": 10**9}, "at most 1,048,576, not 1,000,000,000"),
        ({"level": Level.word}, "data.vocabulary_size needs data.level=subword, not word"),
        ({"minimum_count": 2}, "data.minimum_count needs another data.level than subword"),
        ({"vocabulary_size": 5000}, "has only .* that occur twice: use a longer text or a smaller"),
        ({"content": "a"}, "a text of 1 characters is too short"),
        ({"content": ""}, "is empty"),
        ({"content": "aaaa " * 30, "vocabulary_size": 257, "test_size": 1}, "out one token"),
    ],
)
def test_what_cannot_be_learned_is_refused(settings, says, tmp_path):
    with pytest.raises(SettingsError, match=says):
        read_splits(own_text(tmp_path, **settings))


def test_a_part_that_is_one_subword_is_refused(tmp_path):
    settings = {"vocabulary_size": 258, "validation_size": 2, "test_size": 0}
    config = own_text(tmp_path, "ab" * 100, **settings)
    with pytest.raises(SettingsError, match="validation text is one token"):
        read_splits(config)


@pytest.mark.parametrize(
    "content",
    [
        {"tokens": ["<unk>", "a"], "merges": []},
        {"tokens": ["<unk>"], "merges": [["a", "b"]]},
        {"merges": 1},
        {"tokens": 1, "merges": [["a"]]},
    ],
)
def test_a_vocabulary_that_cannot_cut_is_no_vocabulary(content):
    with pytest.raises((ValueError, TypeError)):
        Vocabulary.from_json(content)


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def test_a_run_is_resumed_scored_and_sampled(tiny_run, tmp_path, assert_same_end):
    config = tiny_run(*SUBWORDS, "data.batch_size=2", "samples.prompts=['to é 漢']")
    train(config, tmp_path / "whole")
    train(replace(config, training=replace(config.training, epochs=1)), tmp_path / "run")
    resume(tmp_path / "run", {"training.epochs": 3})
    assert_same_end(tmp_path / "whole", tmp_path / "run")
    run = lstm_lm.load_run(tmp_path / "run")
    assert run.evaluate().loss == pytest.approx(run.summary["test/loss"])
    score = run.evaluate(NEVER_SEEN)
    assert (score.unknown, score.bits_per_byte < score.bits_per_character) == (0, True)
    pieces = list(run.stream("to é 漢字", tokens=20, samples=2))
    assert pieces[0] == ["to é 漢字"] * 2
    assert len(pieces) in (21, 22)  # one more if a sample ends within a character


def test_the_weights_of_a_run_know_its_subwords(tiny_run, tmp_path):
    config = tiny_run(*SUBWORDS, "data.batch_size=2", "training.epochs=1")
    train(config, tmp_path / "run")
    train(replace(config, init_from=str(tmp_path / "run")), tmp_path / "next")
    one, other = (RunFolder(tmp_path / name).vocabulary.read_bytes() for name in ("run", "next"))
    assert one == other
    larger = replace(config.data, vocabulary_size=280)
    with pytest.raises(SettingsError, match="need data.vocabulary_size=270"):
        train(replace(config, data=larger, init_from=str(tmp_path / "run")), tmp_path / "other")


def test_a_vocabulary_whose_merges_were_changed_is_damaged(tiny_run, tmp_path):
    train(tiny_run(*SUBWORDS, "data.batch_size=2", "training.steps=1"), tmp_path / "run")
    file = Path(tmp_path / "run" / "vocabulary.json")
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"merges": content["merges"][1:]}))
    with pytest.raises(DamagedFile, match="was changed"):
        lstm_lm.load_run(tmp_path / "run", "last")


def test_letters_are_cleaned_before_they_are_cut(tmp_path):
    splits = read_splits(own_text(tmp_path, cleaning=Cleaning.letters))
    spelled = spell(splits.vocabulary.decode(splits.training.ids.tolist()), Level.subword)
    assert spelled.startswith("to be or not to be that is the question whether tis")
