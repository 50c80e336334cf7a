"""One picture of a report: SVG with its title, an alternative text, and the runs that it shows.

Colours are those of Okabe and Ito, which people with any kind of colour vision tell apart, the pale ones darkened until
they stand out from white by at least 3 to 1; markers differ too.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stealing.errors import DataError
from stealing.report.runs import Setting

try:
    from matplotlib import rcParams
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
except ImportError:
    raise DataError("Pictures need matplotlib: pip install -e '.[report]'.") from None

WIDTH = 5.0
"""Of a picture in inches: its letters of 8 to 10 points can still be read when a phone shows it whole."""

COLOURS = ("#0072B2", "#D55E00", "#00875F", "#B8608F", "#A87400", "#2B8CC4", "#000000", "#8C6D31")
MARKERS = "osD^vP*X"


def style(number: int) -> dict[str, Any]:
    """Colour and marker of the n-th line: no two of the first 64 have both alike."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
    }


@dataclass(frozen=True)
class Picture:
    """One figure of a page.

    Attributes:
        title: what question it answers.
        svg: the picture, without anything that it would have to load.
        alternative: says in words what is seen, with the figures.
        caption: how to read it.
        runs: folders that it is drawn from.
    """

    title: str
    svg: bytes
    alternative: str
    caption: str
    runs: list[str]


def svg(figure: Figure, name: str) -> bytes:
    """The same bytes for the same picture."""
    rcParams["svg.hashsalt"] = name
    rcParams["svg.image_inline"] = True
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def names(found: Iterable[Setting], *, first: bool = False) -> list[str]:
    """Of the runs that a picture shows."""
    return [run.folder.name for setting in found for run in (setting.runs[:1] if first else setting.runs)]
