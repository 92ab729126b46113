"""The real texts, held to their published counts."""

import hashlib
import io
import zipfile
from collections import Counter
from dataclasses import replace

import pytest

from lstm_lm.config import Cleaning, DataConfig, Level, TextName, VocabularySource
from lstm_lm.data import corpora, download
from lstm_lm.data.corpora import find_corpus
from lstm_lm.data.download import KnownFile
from lstm_lm.data.splits import read_splits
from lstm_lm.data.text import tokenize
from lstm_lm.data.vocabulary import Vocabulary
from lstm_lm.errors import SettingsError

CHAPTER = "<unk>| |" + "|".join("etainoshrdlmucfwgypbvkxzjq")


def sha1(tokens):
    return hashlib.sha1("".join(tokens).encode()).hexdigest()


def test_built_in_text_needs_nothing():
    corpus = find_corpus(DataConfig())
    (piece,) = corpus.pieces
    assert len(piece.content) > 300_000
    assert b"assert_stmt" in piece.content


def test_time_machine_by_the_rule_of_the_chapter(real_texts):
    text = find_corpus(DataConfig(text=TextName.time_machine)).pieces[0].content.decode()
    characters = list(tokenize(text, Level.character, Cleaning.letters_by_line))
    assert len(characters) == 170_580
    assert sha1(characters) == "7f4f69ca0213ddde2efcf59a4743a8bf0709e1ae"
    assert sha1(characters[:10_000]) == "0f68c0288d50ed028c733696a3e348eb98178344"
    vocabulary = Vocabulary.from_counts(Counter(characters))
    assert vocabulary.tokens == tuple(CHAPTER.split("|"))
    expected = [3, 9, 2, 1, 3, 5, 13, 2, 1, 13, 4, 15, 9, 5, 6, 2, 1, 21, 19, 1]
    assert vocabulary.encode(characters[:20]) == expected


def test_words_of_the_time_machine_with_ties_as_published(real_texts):
    text = find_corpus(DataConfig(text=TextName.time_machine)).pieces[0].content.decode()
    words = list(tokenize(text, Level.word, Cleaning.letters_by_line))
    vocabulary = Vocabulary.from_counts(Counter(words))
    assert (len(words), len(vocabulary)) == (32_775, 4_580)
    assert vocabulary.encode(words[:7]) == [1, 19, 50, 40, 2183, 2184, 400]


def test_tiny_shakespeare_is_split_as_nanogpt_does(real_texts):
    config = DataConfig(text=TextName.tiny_shakespeare, validation_size=0.1, test_size=0)
    splits = read_splits(config)
    assert (len(splits.training.ids), len(splits.validation.ids)) == (1_003_854, 111_540)
    assert len(splits.vocabulary) == 65 + 1
    assert splits.test_is_validation and splits.test is splits.validation


def test_wikitext2_has_its_published_counts_and_says_that_it_is_a_variant(real_texts):
    splits = read_splits(DataConfig(text=TextName.wikitext2, level=Level.word))
    sizes = [len(part.ids) for part in (splits.training, splits.validation, splits.test)]
    assert sizes == [2_088_628, 217_646, 245_569]
    assert len(splits.vocabulary) == 33_278
    assert "another order" in splits.text_note
    assert not splits.test_is_validation


def test_the_official_archive_of_wikitext2_comes_before_the_variant(monkeypatch, tmp_path):
    path = tmp_path / "wikitext-2" / "official.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("train", "valid", "test"):
            archive.writestr(f"wikitext-2/wiki.{split}.tokens", f" {split} text \n")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(corpora, "WIKITEXT2", KnownFile("wikitext-2/official.zip", sha256))
    corpus = find_corpus(DataConfig(text=TextName.wikitext2, root=str(tmp_path)))
    texts = [piece.content for piece in corpus.pieces]
    assert texts == [b" train text \n", b" valid text \n", b" test text \n"]
    assert corpus.note is None


def put(tmp_path, monkeypatch, name, content):
    """Let a known file have this content, and be there."""
    known = getattr(corpora, name)
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(corpora, name, KnownFile(known.path, sha256))
    path = tmp_path / known.path
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def zipped(**contents):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize("text", [TextName.text8, TextName.enwik8])
def test_a_text_is_taken_as_it_is_or_out_of_its_archive(text, tmp_path, monkeypatch):
    name, config = text.value.upper(), DataConfig(text=text, root=str(tmp_path))
    put(tmp_path, monkeypatch, f"{name}_ARCHIVE", zipped(**{text.value: b"to be or not"}))
    assert find_corpus(config).pieces[0].content == b"to be or not"
    path = put(tmp_path, monkeypatch, name, b"to be")
    assert find_corpus(config).pieces[0].content == b"to be"
    path.write_bytes(b"something else")
    with pytest.raises(SettingsError, match="is not the expected file"):
        find_corpus(config)


def test_bytes_are_tokens_even_of_what_is_not_utf8(tmp_path):
    config = own_text(tmp_path, b"\xff\x00 \xc3\xa9\n" * 100)
    splits = read_splits(replace(config, level=Level.byte))
    assert len(splits.vocabulary) == 6 + 1
    first = splits.vocabulary.decode(splits.training.ids[:6].tolist())
    assert first == ["ÿ", "Ā", "Ġ", "Ã", "©", "Ċ"]
    assert splits.training.bytes == len(splits.training.ids) - 1
    assert splits.training.characters == splits.training.bytes - 90  # "é" is two bytes


def test_penn_treebank_has_one_end_of_line_a_sentence(tmp_path, monkeypatch):
    contents = [b" no it was n't black monday \n but <unk> N \n", b" a \n", b" b \n b \n"]
    known = []
    for file, content in zip(corpora.PENN_TREEBANK, contents, strict=True):
        known.append(KnownFile(file.path, hashlib.sha256(content).hexdigest()))
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_bytes(content)
    monkeypatch.setattr(corpora, "PENN_TREEBANK", known)
    config = DataConfig(text=TextName.penn_treebank, level=Level.word, root=str(tmp_path))
    splits = read_splits(config)
    sizes = [len(part.ids) for part in (splits.training, splits.validation, splits.test)]
    assert sizes == [6 + 3 + 2, 2, 4]
    assert splits.vocabulary.tokens[:2] == ("<unk>", "<eos>")
    assert splits.unknown["train/unknown"] == pytest.approx(0.1)  # the one in the text


def test_wikitext103_comes_out_of_its_archive(tmp_path, monkeypatch):
    parts = {
        f"wikitext-103/wiki.{part}.tokens": f" {part} \n" for part in ("train", "valid", "test")
    }
    put(tmp_path, monkeypatch, "WIKITEXT103", zipped(**parts))
    pieces = find_corpus(DataConfig(text=TextName.wikitext103, root=str(tmp_path))).pieces
    assert [piece.content for piece in pieces] == [b" train \n", b" valid \n", b" test \n"]


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ("penn_treebank", "put the file with SHA-256 fcea919f.* at .*penn-treebank/ptb.train.txt"),
        ("wikitext103", "wikitext-103/wikitext-103-v1.zip"),
        ("text8", "text8/text8.zip"),
        ("enwik8", "enwik8/enwik8.zip"),
    ],
)
def test_a_corpus_that_is_nowhere_is_named_with_its_place(
    group, says, compose, tmp_path, monkeypatch
):
    def no_network(address):
        raise OSError("no network")

    monkeypatch.setattr(download, "download", no_network)
    config = compose(f"data={group}", f"data.root={tmp_path}").data
    with pytest.raises(SettingsError, match=says):
        find_corpus(config)
    held_out = {"text8": 5_000_000, "enwik8": 5_000_000}.get(group)
    assert held_out in (None, config.validation_size) and held_out in (None, config.test_size)


def own_text(tmp_path, content):
    path = tmp_path / "own.txt"
    path.write_bytes(content)
    return DataConfig(text=TextName.file, path=str(path))


def test_own_text_is_cut_by_position_before_anything_else(tmp_path):
    config = own_text(tmp_path, b"a" * 90 + b"b" * 5 + b"c" * 5)
    splits = read_splits(config)
    assert splits.vocabulary.tokens == ("<unk>", "a")
    assert splits.training.ids.tolist() == [1] * 90
    assert splits.validation.ids.tolist() == splits.test.ids.tolist() == [0] * 5


def test_the_chapter_builds_its_vocabulary_from_the_whole_text(tmp_path):
    config = own_text(tmp_path, b"a" * 90 + b"b" * 5 + b"c" * 5)
    config = replace(config, vocabulary_from=VocabularySource.whole_text, max_tokens=50)
    splits = read_splits(config)
    assert splits.vocabulary.tokens == ("<unk>", "a", "b", "c")


def test_sizes_from_one_on_are_numbers_of_tokens(tmp_path):
    config = replace(own_text(tmp_path, b"abcdefghij" * 10), validation_size=20, test_size=10)
    splits = read_splits(config)
    sizes = [len(part.ids) for part in (splits.training, splits.validation, splits.test)]
    assert sizes == [70, 20, 10]


def test_characters_and_bytes_are_those_of_the_text_but_its_first_token(tmp_path):
    text = "ä b\n" * 100
    characters = read_splits(own_text(tmp_path, text.encode())).training
    assert (characters.characters, characters.bytes) == (360 - 1, 360 + 90 - 2)
    words = read_splits(replace(own_text(tmp_path, text.encode()), level=Level.word)).training
    assert words.characters == len(("ä b\n" * 90)[1:].lstrip())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty: there is nothing to learn from"),
        (b"abc", "too short to hold out"),
        (b"abc \xff def", r"is not UTF-8: byte 4 is 0xff"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, reason):
    with pytest.raises(SettingsError, match=reason):
        read_splits(own_text(tmp_path, content))


def test_a_text_that_is_not_there_is_named():
    with pytest.raises(SettingsError, match="cannot read /no/such/file: No such file"):
        find_corpus(DataConfig(text=TextName.file, path="/no/such/file"))
