"""How runs are told apart in a picture, by color-blind readers too.

Up to ten runs have a color, a dash and a marker each; of more only the best eight, and the
others are gray.
"""

from dataclasses import dataclass
from typing import Any

# Okabe and Ito (2008), without the yellow, which is hard to see on white.
COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"
DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1, 1.2))]
MARKERS = "osD^vPX*h<"
GRAY = "#BDBDBD"
ALL_COLORED = 10
BEST_COLORED = 8
FEW_POINTS = 30  # up to which each has its marker


@dataclass(frozen=True)
class Style:
    color: str = GRAY
    dash: Any = "-"
    marker: str = ""
    width: float = 0.8
    height: float = 1  # above lines with less

    @property
    def is_colored(self) -> bool:
        return self.color != GRAY

    def line(self, has_markers: bool = True) -> dict[str, Any]:
        return {
            "color": self.color,
            "linestyle": self.dash,
            "linewidth": self.width,
            "marker": self.marker if has_markers else "",
            "markersize": 4,
            "zorder": self.height,
        }


def styles(count: int) -> list[Style]:
    """For so many lines, the best first."""
    colored = count if count <= ALL_COLORED else BEST_COLORED
    return [
        Style(
            COLORS[index % len(COLORS)],
            DASHES[index // len(COLORS)],
            MARKERS[index],
            1.6,
            99 - index,
        )
        for index in range(colored)
    ] + [Style()] * (count - colored)
