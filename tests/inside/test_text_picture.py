import numpy as np
import pytest

from lstm_lm.inside.text_picture import (
    COLUMNS,
    GAP,
    HEIGHT,
    LINES,
    TextPicture,
    laid_out,
    load_font,
)

WHITE, RED, BLUE = (255, 255, 255), (202, 0, 32), (33, 102, 172)


def pixels_of(text, *rows):
    return np.asarray(TextPicture(text).colored(rows))


def colors_of(pixels):
    return {tuple(map(int, pixel)) for pixel in pixels.reshape(-1, 3)}


def test_lines_break_where_they_end_and_where_they_are_full():
    assert laid_out("ab\nc") == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert laid_out("x" * (COLUMNS + 1))[-1] == (1, 0)
    assert laid_out(["word "] * 17)[16] == (1, 0)
    assert len(laid_out("\n" * 100)) == LINES  # there is no room for more


def test_each_row_colors_the_text_anew():
    rows = ("", np.array([1.0, 0.5, -1.0])), ("", np.array([-2.0, 0.0, 0.0]))
    pixels = pixels_of("   ", *rows)
    half = len(pixels) // 2
    half_red = tuple(round(255 + 0.5 * (part - 255)) for part in RED)
    assert colors_of(pixels[:half]) == {WHITE, RED, half_red, BLUE}
    assert colors_of(pixels[half:]) == {WHITE, BLUE}
    width = pixels.shape[1] // COLUMNS
    line = pixels[half - 1]
    assert tuple(line[0]) == tuple(line[width - 1]) == RED
    assert tuple(line[2 * width]) == BLUE and tuple(line[3 * width]) == WHITE


@pytest.mark.parametrize(("value", "ink"), [(0.0, (0, 0, 0)), (1.0, WHITE)])
def test_letters_can_be_read_on_any_color(value, ink):
    pixels = pixels_of("M", ("", np.array([value])))
    assert ink in colors_of(pixels[len(pixels) // 2 :, : pixels.shape[1] // COLUMNS])


def test_words_are_kept_apart():
    words = pixels_of(["ab", "c"], ("", np.zeros(2)))
    assert np.array_equal(words, pixels_of("ab c", ("", np.zeros(4))))


def test_a_title_stands_above():
    one, other = (pixels_of("a", (title, np.zeros(1))) for title in ("one", ""))
    assert not np.array_equal(one, other)
    assert np.array_equal(one[GAP + HEIGHT :], other[GAP + HEIGHT :])


def test_a_long_text_is_cut():
    pixels = pixels_of("x" * 5000, ("t" * 200, np.ones(5000)))
    assert len(pixels) == GAP + HEIGHT * (1 + LINES)


def test_wide_letters_have_room_for_themselves():
    assert laid_out("中文a") == [(0, 0), (0, 2), (0, 4)]
    assert laid_out("a" * (COLUMNS - 1) + "中")[-1] == (1, 0)
    pixels = pixels_of("中 ", ("", np.array([0.0, 1.0])))
    width = pixels.shape[1] // COLUMNS
    assert tuple(pixels[-1, 2 * width]) == RED
    assert {tuple(pixel) for pixel in pixels[-1, : 2 * width]} == {WHITE}


def test_a_letter_that_the_usual_font_lacks_is_taken_from_another():
    braille, box = "⠿", chr(0x10FFFF)  # the one is in another font of Matplotlib, no font has this
    usual, others = (np.asarray(load_font().getmask(letter)) for letter in (braille, box))
    assert np.array_equal(usual, others)  # both boxes
    pixels = pixels_of(braille, ("", np.zeros(1)))
    assert not np.array_equal(pixels, pixels_of(box, ("", np.zeros(1))))
