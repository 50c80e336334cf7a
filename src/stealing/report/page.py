"""One self-contained HTML page: settings and pictures in, a file that loads nothing out."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from stealing.errors import DataError
from stealing.report.advice import Sentence
from stealing.report.picture import Picture
from stealing.report.summary import Sheet
from stealing.report.sweep import Cell
from stealing.report.words import WORDS

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
except ImportError:
    raise DataError("A page needs Jinja2: pip install -e '.[report]'.") from None


def page(
    title: str,
    notes: Sequence[str],
    verdict: Sequence[Sentence],
    sheets: Sequence[tuple[str, str, Sheet]],
    pictures: Sequence[Picture],
    more: Sequence[tuple[str, str, Sheet]] = (),
    glossary: Mapping[str, str] | None = None,
) -> str:
    """The page as HTML.

    Args:
        title: at its top.
        notes: under it.
        verdict: paragraphs that answer the question, or none.
        sheets: title, caption and table of each.
        pictures: in their order.
        more: tables below the pictures.
        glossary: what names in the tables mean, besides the words of every page.
    """
    tables = [
        {"id": f"table-{number}", "title": name, "caption": caption, "sheet": sheet}
        for number, (name, caption, sheet) in enumerate([*sheets, *more])
    ]
    above, below = tables[: len(sheets)], tables[len(sheets) :]
    figures: list[dict[str, Any]] = [
        {
            "id": f"figure-{number}", "title": one.title, "alternative": one.alternative, "caption": one.caption,
            "runs": one.runs, "data": base64.b64encode(one.svg).decode(),
        }
        for number, one in enumerate(pictures)
    ]  # fmt: skip
    contents = [("verdict", "Verdict")] if verdict else []
    contents += [(part["id"], part["title"]) for part in [*above, *figures, *below]]
    contents += [("words", "What the words mean")]
    environment = Environment(loader=PackageLoader("stealing.report", "."), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        title=title, notes=notes, verdict=verdict, contents=contents, sheets=above, pictures=figures,
        more=below, words={**WORDS, **(glossary or {})}.items(),
    )  # fmt: skip


def standing(cells: Sequence[Cell]) -> Sheet:
    """Where the cells of a sweep stand."""
    return Sheet(("cell", "state", "why"), [[" ".join(one.overrides), one.state, one.error] for one in cells], set())
