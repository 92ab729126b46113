"""A text as a picture, its background colored by how active single units were at each token."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

FONT = "fonts/ttf/DejaVuSansMono.ttf"  # of Matplotlib
SIZE = 14  # pixels
COLUMNS, LINES = 80, 12
VISIBLE = {"\n": "⏎", "\t": "⇥"}
BLUE, WHITE, RED = np.array([[33, 102, 172], [255, 255, 255], [202, 0, 32]], dtype=np.float64)


def text_picture(
    tokens: Sequence[str], rows: Sequence[tuple[str, Float[np.ndarray, " time"]]]
) -> Image.Image:
    """The text's first lines for each row, below its title: red where the value is 1, blue at -1.

    Args:
        rows: titles, and a value from -1 to 1 for each token.
    """
    if any(len(token) > 1 for token in tokens):
        tokens = [f"{token} " for token in tokens]  # words
    font = load_font()
    width, height = round(font.getlength("m")), SIZE + 4
    places = laid_out(tokens)
    block = (places[-1][0] + 2) * height + height // 2
    image = Image.new("RGB", (width * (COLUMNS + 1), block * len(rows)), "white")
    draw = ImageDraw.Draw(image)
    for number, (title, values) in enumerate(rows):
        top = number * block
        draw.text((width // 2, top + 1), title, "black", font)
        for token, (line, column), value in zip(tokens, places, values, strict=False):
            x, y = width // 2 + column * width, top + (line + 1) * height
            shown = "".join(VISIBLE.get(character, character) for character in token)
            box = (x, y, x + len(shown) * width - 1, y + height - 1)
            draw.rectangle(box, color(float(value)))
            if shown.strip():
                draw.text((x, y + 1), shown, "black" if abs(value) < 0.75 else "white", font)
    return image


def laid_out(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Line and column of each token that there is room for."""
    places: list[tuple[int, int]] = []
    line, column = 0, 0
    for token in tokens:
        if column > 0 and column + len(token) > COLUMNS:
            line, column = line + 1, 0
        if line == LINES:
            break
        places.append((line, column))
        column += len(token)
        if token.startswith("\n"):
            line, column = line + 1, 0
    return places


def color(value: float) -> tuple[int, int, int]:
    end = RED if value > 0 else BLUE
    red, green, blue = WHITE + min(abs(value), 1.0) * (end - WHITE)
    return round(red), round(green), round(blue)


@cache
def load_font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / FONT), SIZE)
