"""One picture of a report: SVG with its title, an alternative text, and the runs that it shows.

Colours are those of Okabe and Ito, which people with any kind of colour vision tell apart. The pale
ones are darkened until they stand out from a white and from a dark page by at least 3 to 1; markers
differ too.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stealing.errors import DataError
from stealing.report.runs import RunGroup

try:
    from matplotlib import rcParams
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
except ImportError:
    raise DataError("Figures need matplotlib: pip install -e '.[report]'.") from None

WIDTH = 5.0
"""Of a picture in inches. A phone shows it whole, and its letters of 8 points can still be read."""

COLOURS = ("#0072B2", "#D55E00", "#00875F", "#B8608F", "#A87400", "#2B8CC4", "#000000", "#8C6D31")
MARKERS = "osD^vP*X"

GREY = "#777777"
"""Of lines to compare with."""

STRIPE = "#f2f2f2"
"""Of every second row of a picture."""

DARK_PAPER = "#16191d"
"""Behind a picture on a dark page."""

DARK = {
    "#ffffff": DARK_PAPER,
    "#000000": "#e8e8e8",
    "#333333": "#cccccc",
    "#cccccc": "#4a5058",
    STRIPE: "#20252b",
    "#d8ead3": "#1f3a2a",
}
"""What stands for a colour on a dark page. All others can be seen on both."""


def style(number: int) -> dict[str, Any]:
    """Colour and marker of the n-th line: no two of the first 64 have both in common."""
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
    """Return a figure as SVG for light and dark pages; the same figure gives the same bytes."""
    # Without a salt the ids of its parts are random, and so the bytes.
    rcParams["svg.hashsalt"] = name
    rcParams["svg.image_inline"] = True
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue().replace(b"</style>", _dark_rules() + b"</style>", 1)


def _dark_rules() -> bytes:
    """Return the style that changes the colours on a dark page.

    Matplotlib writes each colour into a `style` attribute, so a rule selects by that text, and
    needs `!important` to win. Letters have no colour of their own: they inherit that of the whole.
    """
    rules = [f"svg {{ fill: {DARK['#000000']} }}"]
    for light, dark in DARK.items():
        for kind in ("fill", "stroke"):
            rules.append(f'[style*="{kind}: {light}"] {{ {kind}: {dark} !important }}')
    return f"@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}".encode()


def names(groups: Iterable[RunGroup], *, first: bool = False) -> list[str]:
    """Return the runs that a picture shows.

    Args:
        groups: that it is drawn from.
        first: whether it shows only one run of each.
    """
    shown = list[str]()
    for group in groups:
        for run in group.runs[:1] if first else group.runs:
            shown.append(run.folder.name)
    return shown
