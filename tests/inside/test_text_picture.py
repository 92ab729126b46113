import numpy as np

from lstm_lm.inside.text_picture import COLUMNS, LINES, color, laid_out, text_picture


def test_colors_go_from_blue_over_white_to_red():
    assert color(0.0) == (255, 255, 255)
    assert color(1.0) == color(2.0) == (202, 0, 32)
    assert color(-1.0) == (33, 102, 172)


def test_lines_break_where_they_end_and_where_they_are_full():
    assert laid_out("ab\nc") == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert laid_out("x" * (COLUMNS + 1))[-1] == (1, 0)
    assert laid_out(["word "] * 17)[16] == (1, 0)
    assert len(laid_out("\n" * 100)) == LINES  # there is no room for more


def test_each_row_colors_the_text_anew():
    rows = [("one", np.array([1.0, 0.0, -1.0])), ("other", np.array([-1.0, 0.0, 0.0]))]
    pixels = np.asarray(text_picture("   ", rows))
    half = len(pixels) // 2
    colors = [
        {tuple(map(int, pixel)) for pixel in part.reshape(-1, 3)}
        for part in (pixels[:half], pixels[half:])
    ]
    assert color(1.0) in colors[0] and color(-1.0) in colors[0]
    assert color(1.0) not in colors[1] and color(-1.0) in colors[1]


def test_words_are_kept_apart():
    row = [("", np.zeros(2))]
    assert text_picture(["ab", "c"], row).size == text_picture("ab c ", [("", np.zeros(5))]).size
    assert np.array_equal(
        text_picture(["ab", "c"], row), text_picture(list("ab c"), [("", np.zeros(4))])
    )
