import re

import pytest

from lstm_lm.config import Cleaning, Level
from lstm_lm.data.text import Speller, pieces_of_words, spell, tokenize, tokenize_prompt, words

TEXT = "It's 3 o'clock,\nsaid He.\n\nOh"


@pytest.mark.parametrize(
    ("cleaning", "characters"),
    [
        (Cleaning.none, TEXT),
        (Cleaning.letters, "it s o clock said he oh"),
        (Cleaning.letters_by_line, "it s o clocksaid heoh"),
    ],
)
def test_characters(cleaning, characters):
    assert list(tokenize(TEXT, Level.character, cleaning)) == list(characters)


@pytest.mark.parametrize(
    ("cleaning", "words"),
    [
        (Cleaning.none, "It's 3 o'clock, <eos> said He. <eos> <eos> Oh <eos>"),
        (Cleaning.letters, "it s o clock said he oh"),
        (Cleaning.letters_by_line, "it s o clock said he oh"),
    ],
)
def test_words(cleaning, words):
    assert list(tokenize(TEXT, Level.word, cleaning)) == words.split()


def test_letters_are_those_of_the_latin_alphabet_and_all_else_is_one_blank():
    for text in (TEXT, " éA\u212a\x00Zz[`{@ \n\n\U0001f600q", "", "  "):
        letters = "".join(tokenize(text, Level.character, Cleaning.letters))
        assert letters == re.sub("[^A-Za-z]+", " ", text).lower()


def test_spelling_characters_gives_the_text_back():
    assert spell(tokenize(TEXT, Level.character, Cleaning.none), Level.character) == TEXT


def test_only_line_feeds_end_lines():
    assert list(tokenize("a\x0cb\u2028c\r\nd\n", Level.word, Cleaning.none)) == [
        *"abc",
        "<eos>",
        "d",
        "<eos>",
    ]
    assert list(tokenize("", Level.word, Cleaning.none)) == []


def test_bytes_are_written_as_visible_characters_and_spell_the_text():
    tokens = tokenize("é b\n", Level.byte, Cleaning.none)
    assert list(tokens) == ["Ã", "©", "Ġ", "b", "Ċ"]
    assert spell(tokens, Level.byte) == "é b\n"
    assert spell(tokens[1:], Level.byte) == "\ufffd b\n"


def test_words_may_lie_across_blocks():
    for blocks in (["to b", "e or", " n", "ot\nto ", "", "be\n"], ["to be or not\nto be", "\n"]):
        assert list(words(blocks, Cleaning.none)) == "to be or not <eos> to be <eos>".split()
        assert list(words(blocks, Cleaning.letters)) == "to be or not to be".split()


def test_spelled_words_keep_their_lines():
    words = tokenize("a  b\n\nc", Level.word, Cleaning.none)
    assert spell(words, Level.word) == "a b\n\nc\n"


def test_a_prompt_keeps_its_last_blank_and_its_last_line_open():
    assert tokenize_prompt("The ", Level.character, Cleaning.letters) == list("the ")
    assert tokenize_prompt("one\ntwo", Level.word, Cleaning.none) == ["one", "<eos>", "two"]
    assert tokenize_prompt(" one  two \n", Level.word, Cleaning.none) == ["one", "two", "<eos>"]


def test_an_empty_prompt_has_no_tokens():
    for level in Level.character, Level.byte, Level.word:
        for cleaning in Cleaning:
            assert tokenize_prompt("", level, cleaning) == []


@pytest.mark.parametrize("level", [Level.character, Level.byte, Level.word])
def test_tokens_spelled_one_by_one_give_the_whole_text(level):
    tokens = list(tokenize("it é\n漢 a\n", level, Cleaning.none))
    speller = Speller(level)
    assert "".join(map(speller.add, tokens)) + speller.finish() == spell(tokens, level)


def test_half_a_character_is_spelled_only_at_the_end():
    speller = Speller(Level.byte)
    assert [*map(speller.add, ["a", "Ã"]), speller.finish()] == ["a", "", "\ufffd"]


def test_pieces_of_words_do_not_depend_on_blocks():
    text = "to be \n or  not\nto be\n"
    pieces = ["to", " be", " \n or", "  not", "\nto", " be", "\n"]
    for size in range(1, len(text) + 1):
        blocks = [text[start : start + size] for start in range(0, len(text), size)]
        assert list(pieces_of_words(blocks)) == pieces
