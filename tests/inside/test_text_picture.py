import numpy as np
import pytest

from lstm_lm.inside.text_picture import COLUMNS, LINES, TextPicture, laid_out

WHITE, RED, BLUE = (255, 255, 255), (202, 0, 32), (33, 102, 172)


def colors_of(pixels):
    return {tuple(map(int, pixel)) for pixel in pixels.reshape(-1, 3)}


def test_lines_break_where_they_end_and_where_they_are_full():
    assert laid_out("ab\nc") == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert laid_out("x" * (COLUMNS + 1))[-1] == (1, 0)
    assert laid_out(["word "] * 17)[16] == (1, 0)
    assert len(laid_out("\n" * 100)) == LINES  # there is no room for more


def test_each_row_colors_the_text_anew():
    picture = TextPicture("   ")
    pixels = picture.colored([("", np.array([1.0, 0.5, -1.0])), ("", np.array([-2.0, 0.0, 0.0]))])
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
    pixels = TextPicture("M").colored([("", np.array([value]))])
    assert ink in colors_of(pixels[len(pixels) // 2 :, : pixels.shape[1] // COLUMNS])


def test_words_are_kept_apart():
    words = TextPicture(["ab", "c"]).colored([("", np.array([0.0, 0.0]))])
    assert np.array_equal(words, TextPicture("ab c").colored([("", np.zeros(4))]))


def test_a_title_stands_above():
    row = np.zeros(1)
    one, other = (TextPicture("a").colored([(title, row)]) for title in ("one", ""))
    assert not np.array_equal(one, other)
    half = len(one) // 2
    assert np.array_equal(one[half:], other[half:])


def test_a_long_text_is_cut():
    TextPicture("x" * 5000).colored([("t" * 200, np.ones(5000))])
