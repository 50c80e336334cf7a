"""One HTML page: tables, pictures and a verdict in, a text that loads nothing out."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stealing.report.picture import DARK_PAPER, Picture
from stealing.report.tables import Table
from stealing.report.verdict import Verdict
from stealing.report.wording import environment
from stealing.sweeps.cells import Cell
from stealing.training.levelling import LEVEL


@dataclass(frozen=True)
class Content:
    """All that a page shows.

    Attributes:
        title: at its top.
        notes: what was measured, where and when.
        command: that makes the page; empty if it is not known.
        verdict: of an audit; None for a report of any runs.
        key_pictures: of an audit, labelled in plain words.
        first: title, caption and table of each table above the pictures.
        pictures: in their order.
        more: tables below the pictures, as `first`.
        options: what names of options in the tables mean.
        tasks: names of tasks in the tables.
    """

    title: str
    notes: Sequence[str]
    command: str = ""
    verdict: Verdict | None = None
    key_pictures: Sequence[Picture] = ()
    first: Sequence[tuple[str, str, Table]] = ()
    pictures: Sequence[Picture] = ()
    more: Sequence[tuple[str, str, Table]] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    tasks: Sequence[str] = ()


def page(content: Content) -> str:
    """Return the page as HTML."""
    template = environment().get_template("audit.html" if content.verdict else "report.html")
    first = _tables(content.first, 0)
    more = _tables(content.more, len(first))
    return template.render(
        title=content.title,
        notes=content.notes,
        command=content.command,
        v=content.verdict,
        key_pictures=_figures("key", content.key_pictures),
        first=first,
        pictures=_figures("figure", content.pictures),
        more=more,
        options=content.options,
        tasks=content.tasks,
        level=f"{100 * LEVEL:.0f} %",
        dark_paper=DARK_PAPER,
    )


def _tables(tables: Sequence[tuple[str, str, Table]], start: int) -> list[dict[str, Any]]:
    """Return what a template shows of tables.

    Args:
        tables: title, caption and table of each.
        start: number of the first.
    """
    shown = []
    for number, (title, caption, table) in enumerate(tables, start):
        # The ids are the addresses of links to a part of a page, so they depend only on the order.
        place = f"table-{number}"
        shown.append({"id": place, "title": title, "caption": caption, "sheet": table})
    return shown


def _figures(kind: str, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Return what a template shows of pictures, with ids that begin with their kind."""
    shown = []
    for number, picture in enumerate(pictures):
        shown.append(
            {
                "id": f"{kind}-{number}",
                "title": picture.title,
                "alternative": picture.alternative,
                "caption": picture.caption,
                "runs": picture.runs,
                # Inside the page, which is one file that can be mailed.
                "data": base64.b64encode(picture.svg).decode(),
            }
        )
    return shown


def standing(cells: Sequence[Cell]) -> Table:
    """Return where the cells of a sweep stand, as a table."""
    rows = [[" ".join(cell.overrides), cell.state, cell.error] for cell in cells]
    return Table(("cell", "state", "why"), rows, set())
