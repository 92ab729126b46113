import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import pytest
import torch

from lstm_lm.config import Cleaning, DataConfig, Level, TextName, VocabularySource
from lstm_lm.data import tokenized
from lstm_lm.data.splits import read_splits
from lstm_lm.data.tokenized import Tokenized, read_or_tokenize

TEXT = "Ties, ties; and\nsome words <eos> wörds more:\n\nsome\tmore words\n" * 20


@pytest.fixture(autouse=True)
def every_text_is_large(monkeypatch):
    monkeypatch.setattr(tokenized, "MIN_CACHED_CHARACTERS", 1)


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

    return lambda: monkeypatch.setattr(tokenized.Tokenized, "of", refuse)


def in_words(root, text=TEXT):
    return read_or_tokenize(text, Level.word, Cleaning.none, root)


def kept(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def assert_right(tokens, text=TEXT):
    expected = Tokenized.of(text, Level.word, Cleaning.none)
    assert tokens.distinct == expected.distinct
    assert tokens.numbers.dtype == expected.numbers.dtype
    assert tokens.numbers.tolist() == expected.numbers.tolist()


@pytest.mark.parametrize(
    ("level", "cleaning", "source"), list(product(Level, Cleaning, VocabularySource))
)
def test_splits_are_the_same_with_what_was_kept(level, cleaning, source, root, monkeypatch):
    path = root.parent / "own.txt"
    path.write_text(TEXT)
    config = DataConfig(
        text=TextName.file,
        path=str(path),
        root=str(root),
        level=level,
        cleaning=cleaning,
        vocabulary_from=source,
        minimum_count=3,
    )
    first, second = read_splits(config), read_splits(config)
    other_settings = replace(config, minimum_count=1, max_tokens=150)
    with_kept = read_splits(other_settings)
    monkeypatch.setattr(tokenized, "MIN_CACHED_CHARACTERS", 10**9)
    for settings, found in [(config, first), (config, second), (other_settings, with_kept)]:
        plain = read_splits(settings)
        assert found.vocabulary.tokens == plain.vocabulary.tokens
        assert found.text_sha256 == plain.text_sha256
        for name in ("training", "validation", "test"):
            one, other = getattr(found, name), getattr(plain, name)
            assert one.ids.dtype == other.ids.dtype and torch.equal(one.ids, other.ids)
            assert (one.characters, one.bytes) == (other.characters, other.bytes)


def test_a_text_is_cut_into_words_once(root, nothing_is_tokenized):
    in_words(root)
    (file,) = kept(root)
    assert file.parent == root / "tokens"
    before = file.read_bytes()
    nothing_is_tokenized()
    in_words(root)
    assert file.read_bytes() == before


def test_what_is_read_back_is_right_and_cannot_be_written(root):
    in_words(root)
    tokens = in_words(root)
    assert_right(tokens)
    with pytest.raises(ValueError, match="read-only"):
        tokens.numbers[0] = 1


def test_another_text_or_cleaning_is_not_mistaken_for_it(root):
    in_words(root)
    assert_right(in_words(root, TEXT[:-1] + " "), TEXT[:-1] + " ")
    letters = read_or_tokenize(TEXT, Level.word, Cleaning.letters, root)
    assert "Ties," not in letters.distinct
    assert len(kept(root)) == 3


def test_characters_and_small_texts_are_not_kept(root, monkeypatch):
    read_or_tokenize(TEXT, Level.character, Cleaning.none, root)
    monkeypatch.setattr(tokenized, "MIN_CACHED_CHARACTERS", len(TEXT) + 1)
    in_words(root)
    assert kept(root) == []


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
    in_words(root)
    (file,) = kept(root)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert_right(in_words(root))
    assert file.read_bytes() == whole


def test_what_other_rules_have_made_is_made_anew(root):
    in_words(root)
    (file,) = kept(root)
    with pytest.MonkeyPatch.context() as another_version:
        another_version.setattr(tokenized, "rules", lambda: "another version's")
        tokenized.write(file, Tokenized.of("other words", Level.word, Cleaning.none))
    assert_right(in_words(root))
    assert_right(tokenized.read(file))


def test_a_folder_that_is_read_only_is_left_alone(root, users_cache, nothing_is_tokenized):
    root.chmod(0o555)
    text = TEXT + "read-only"
    assert_right(in_words(root, text), text)
    assert kept(root) == []
    assert kept(users_cache)
    nothing_is_tokenized()
    in_words(root, text)


def test_a_folder_that_is_not_there_is_not_made(root):
    in_words(root / "mistyped")
    assert not (root / "mistyped").exists()


def test_a_text_that_cannot_be_kept_is_tokenized_all_the_same(root, monkeypatch):
    (root / "tokens").touch()
    monkeypatch.setattr(tokenized, "cache_folder", lambda: root / "tokens")
    assert_right(in_words(root))
    assert kept(root) == [root / "tokens"]


def test_a_full_disk_leaves_no_part_of_a_file(root, monkeypatch):
    monkeypatch.setattr(tokenized, "cache_folder", lambda: root)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        tokens = in_words(root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_right(tokens)
    assert kept(root) == []


def test_several_at_once_do_not_hurt_each_other(root):
    with ThreadPoolExecutor(8) as pool:
        for tokens in pool.map(lambda _: in_words(root), range(40)):
            assert_right(tokens)
    assert len(kept(root)) == 1


def test_the_folder_of_ones_own_text_is_left_alone(root, tmp_path):
    path = tmp_path / "own" / "own.txt"
    path.parent.mkdir()
    path.write_text(TEXT)
    read_splits(DataConfig(text=TextName.file, path=str(path), root=str(root), level=Level.word))
    assert kept(path.parent) == [path]
    assert len(kept(root)) == 1
