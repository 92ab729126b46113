"""Draw a text whose background shows the activity of single units at each token."""

import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

FONT = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf")
SIZE, HEIGHT, GAP = 14, 18, 12  # pixels: size of letters, height of lines, gap above titles
COLUMNS, LINES = 80, 8
VISIBLE = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
BLUE, WHITE, RED = np.array([[33, 102, 172], [255, 255, 255], [202, 0, 32]], np.float32)
TITLE = "#666666"
DARK = 0.75  # from this strength on letters are white

Pixels = UInt8[np.ndarray, "height width 3"]


class TextPicture:
    """The first lines of a text: its letters are drawn once, then colored for each unit."""

    def __init__(self, tokens: Sequence[str]) -> None:
        if any(len(token) > 1 for token in tokens) and not any(" " in token for token in tokens):
            tokens = [f"{token} " for token in tokens]  # words; subwords have their own blanks
        places = laid_out(tokens)
        self.shown = len(places)  # tokens
        lines = [""] * (places[-1][0] + 1)
        # Index of the token at each line and column; -1 where there is none.
        self.token_at = np.full((len(lines), COLUMNS), -1)
        for index, (token, (line, column)) in enumerate(zip(tokens, places, strict=False)):
            lines[line] += "".join(VISIBLE.get(letter, letter) for letter in token)
            self.token_at[line, column : column + columns_of(token)] = index
        self.letters = letters(lines)

    def colored(self, rows: Sequence[tuple[str, Float[np.ndarray, " time"]]]) -> Image.Image:
        """The text once per row, below the row's title: red for a value of 1, blue for -1."""
        width, height = self.letters.size
        step = GAP + HEIGHT + height
        image = Image.new("RGB", (width, len(rows) * step), "white")
        draw = ImageDraw.Draw(image)
        for top, (title, values) in zip(range(GAP, image.height, step), rows, strict=True):
            draw.text((0, top + 1), title[:COLUMNS], TITLE, load_font())
            # The zero at the end is for index -1, no token.
            of_tokens = np.append(values[: self.shown].astype(np.float32), 0)
            values_at = of_tokens[self.token_at]
            background, ink = (
                Image.fromarray(part).resize(self.letters.size, Image.Resampling.NEAREST)
                for part in (colors(values_at), inks(values_at))
            )
            image.paste(Image.composite(ink, background, self.letters), (0, top + HEIGHT))
        return image


def laid_out(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Line and column of each token that fits into the picture."""
    places: list[tuple[int, int]] = []
    line, column = 0, 0
    for token in tokens:
        if column > 0 and column + columns_of(token) > COLUMNS:
            line, column = line + 1, 0
        if line == LINES:
            break
        places.append((line, column))
        column += columns_of(token)
        if token.startswith("\n"):
            line, column = line + 1, 0
    return places


def letters(lines: Sequence[str]) -> Image.Image:
    """Coverage of each pixel by letters, from 0 to 255."""
    width = width_of_letter()
    image = Image.new("L", (COLUMNS * width, len(lines) * HEIGHT))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        column = 0
        for letter in line:  # one at a time, to keep them in their columns
            place = column * width, number * HEIGHT + 1
            draw.text(place, letter, 255, font_that_has(letter))
            column += columns_of(letter)
    return image


def colors(values: Float[np.ndarray, "lines columns"]) -> Pixels:
    ends = np.where(values[..., None] > 0, RED, BLUE)
    mixed = WHITE + np.abs(values).clip(0, 1)[..., None] * (ends - WHITE)
    return np.asarray(mixed.round(), np.uint8)


def inks(values: Float[np.ndarray, "lines columns"]) -> Pixels:
    """Colors of letters: white on a dark background, else black."""
    white = np.abs(values) >= DARK
    return np.repeat(np.where(white, np.uint8(255), np.uint8(0))[..., None], 3, axis=2)


def width_of_letter() -> int:
    return round(load_font().getlength("m"))


def columns_of(text: str) -> int:
    """Width of a text in columns; Chinese and other wide letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


@cache
def font_that_has(letter: str) -> ImageFont.FreeTypeFont:
    """The default font; for a letter it lacks, another font of this machine that has it."""
    if ord(letter) not in letters_of(FONT):
        for file in other_fonts():
            with suppress(OSError, RuntimeError):  # a font of one size, a missing or a broken one
                if ord(letter) in letters_of(file):
                    return load_font(file)
    return load_font()


@cache
def letters_of(file: str) -> frozenset[int]:
    return frozenset(FT2Font(file).get_charmap())


@cache
def other_fonts() -> list[str]:
    """Files of this machine's fonts, upright and regular first; not the one with boxes only."""
    from matplotlib.font_manager import fontManager  # its first import reads all fonts

    fonts = sorted(
        fontManager.ttflist,
        key=lambda font: (font.style != "normal", abs(int(font.weight) - 400), font.fname),
    )
    return list(dict.fromkeys(font.fname for font in fonts if "LastResort" not in font.fname))


@cache
def load_font(file: str = FONT) -> ImageFont.FreeTypeFont:
    # Raqm, the other layout, fails on paragraph separators; single letters do not need it.
    return ImageFont.truetype(file, SIZE, layout_engine=ImageFont.Layout.BASIC)
