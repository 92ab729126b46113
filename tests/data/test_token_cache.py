"""Ids of large texts, kept on disk."""

import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from lstm_lm.config import Cleaning, DataConfig, Level, TextName, VocabularySource
from lstm_lm.data import splits as module
from lstm_lm.data.splits import read_splits
from lstm_lm.data.vocabulary import Vocabulary

TEXT = "Ties, ties; and\nsome words <eos> wörds more:\n\nsome\tmore words\n" * 20
NEVER = 10**9  # bytes


@pytest.fixture(autouse=True)
def every_text_is_large(monkeypatch):
    monkeypatch.setattr(module, "MIN_CACHED_BYTES", 1)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    return folder


@pytest.fixture
def nothing_is_tokenized(monkeypatch):
    """From when this is called."""

    def refuse(*_):
        raise AssertionError("tokenized anew")

    return lambda: monkeypatch.setattr(module, "tokenize_splits", refuse)


def own_text(root, text=TEXT, **settings):
    path = root.parent / "own.txt"
    path.write_text(text)
    settings = {"level": Level.word} | settings
    return DataConfig(text=TextName.file, path=str(path), root=str(root), **settings)


def kept(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_right(found, config, vocabulary=None):
    with pytest.MonkeyPatch.context() as without_cache:
        without_cache.setattr(module, "MIN_CACHED_BYTES", NEVER)
        plain = read_splits(config, vocabulary)
    assert found.vocabulary.tokens == plain.vocabulary.tokens
    assert found.text_sha256 == plain.text_sha256
    assert found.test_is_validation == plain.test_is_validation
    for name in ("training", "validation", "test"):
        one, other = getattr(found, name), getattr(plain, name)
        assert one.ids.dtype == other.ids.dtype and torch.equal(one.ids, other.ids)
        assert (one.characters, one.bytes) == (other.characters, other.bytes)


@pytest.mark.parametrize(
    ("level", "cleaning", "source"), list(product(Level, Cleaning, VocabularySource))
)
def test_splits_are_the_same_with_what_was_kept(level, cleaning, source, root):
    way = {"vocabulary_size": 258} if level is Level.subword else {"minimum_count": 3}
    config = own_text(root, level=level, cleaning=cleaning, vocabulary_from=source, **way)
    other = replace(config, minimum_count=1, max_tokens=150, test_size=0)
    for settings in config, config, other, other:
        assert_right(read_splits(settings), settings)
    assert len(kept(root)) == 2


def test_a_text_is_tokenized_once(root, nothing_is_tokenized):
    config = own_text(root)
    first = read_splits(config)
    (file,) = kept(root)
    assert file.parent == root / "tokens"
    before = file.read_bytes()
    nothing_is_tokenized()
    again = read_splits(config)
    assert torch.equal(first.training.ids, again.training.ids)
    assert_same_vocabulary_is_found_too(config, first.vocabulary)
    assert file.read_bytes() == before


def assert_same_vocabulary_is_found_too(config, vocabulary):
    """As a run that is resumed or evaluated brings its own."""
    assert read_splits(config, vocabulary).vocabulary.tokens == vocabulary.tokens


def test_another_text_setting_or_vocabulary_is_not_mistaken_for_it(root):
    config = own_text(root)
    vocabulary = Vocabulary(["<unk>", "words", "some"])
    read_splits(config)
    assert_right(
        read_splits(replace(config, cleaning=Cleaning.letters)),
        replace(config, cleaning=Cleaning.letters),
    )
    for _ in range(2):
        assert_right(read_splits(config, vocabulary), config, vocabulary)
    config = own_text(root, TEXT[:-1] + " ")
    assert_right(read_splits(config), config)
    assert len(kept(root)) == 4


def test_small_texts_are_not_kept(root, monkeypatch):
    monkeypatch.setattr(module, "MIN_CACHED_BYTES", len(TEXT.encode()) + 1)
    read_splits(own_text(root))
    assert kept(root) == []


def test_what_is_read_back_takes_no_memory_and_is_never_written(root):
    config = own_text(root)
    read_splits(config)
    (file,) = kept(root)
    before = file.read_bytes()
    found = read_splits(config)
    assert str(file) in Path("/proc/self/maps").read_text()
    found.training.ids.fill_(0)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content.replace(b"more", b"less"),
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"0" + content[1:] if content[:1] != b"0" else b"1" + content[1:],
    ],
    ids=["empty", "cut early", "cut late", "longer", "another token", "a flipped bit", "the seal"],
)
def test_a_damaged_file_is_made_anew(damage, root):
    config = own_text(root)
    read_splits(config)
    (file,) = kept(root)
    whole = file.read_bytes()
    file.unlink()  # its pages may be in use
    file.write_bytes(damage(whole))
    assert_right(read_splits(config), config)
    assert file.read_bytes() == whole


def test_what_other_rules_have_made_is_made_anew(root):
    config = own_text(root)
    with pytest.MonkeyPatch.context() as another_version:
        another_version.setattr(module, "rules", lambda: "another version's")
        read_splits(config)
    (file,) = kept(root)
    before = file.read_bytes()
    assert_right(read_splits(config), config)
    assert kept(root) == [file] and file.read_bytes() != before


def test_a_folder_that_is_read_only_is_left_alone(root, users_cache, nothing_is_tokenized):
    root.chmod(0o555)
    config = own_text(root, TEXT + "read-only")
    assert_right(read_splits(config), config)
    assert kept(root) == []
    assert kept(users_cache)
    nothing_is_tokenized()
    read_splits(config)


def test_a_folder_that_is_not_there_is_not_made(root):
    read_splits(replace(own_text(root), root=str(root / "mistyped")))
    assert not (root / "mistyped").exists()


def test_a_text_that_cannot_be_kept_is_tokenized_all_the_same(root, monkeypatch):
    (root / "tokens").touch()
    monkeypatch.setattr(module, "cache_folder", lambda: root / "tokens")
    config = own_text(root)
    assert_right(read_splits(config), config)
    assert kept(root) == [root / "tokens"]


def test_a_full_disk_leaves_no_part_of_a_file(root, monkeypatch):
    monkeypatch.setattr(module, "cache_folder", lambda: root)
    config = own_text(root)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        found = read_splits(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_right(found, config)
    assert kept(root) == []


def test_several_at_once_do_not_hurt_each_other(root):
    config = own_text(root)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: read_splits(config), range(40)))
    for splits in found:
        assert_right(splits, config)
    assert len(kept(root)) == 1


def test_the_folder_of_ones_own_text_is_left_alone(root, tmp_path):
    config = own_text(root)
    own = tmp_path / "own" / "own.txt"
    own.parent.mkdir()
    own.write_text(TEXT)
    read_splits(replace(config, path=str(own)))
    assert kept(own.parent) == [own]
    assert len(kept(root)) == 1
