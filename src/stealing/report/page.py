"""One self-contained HTML page: settings and pictures in, a file that loads nothing out."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from stealing.errors import DataError
from stealing.report.advice import Sentence
from stealing.report.picture import Picture
from stealing.report.summary import Sheet
from stealing.report.sweep import Cell

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
except ImportError:
    raise DataError("A page needs Jinja2: pip install -e '.[report]'.") from None

WORDS = {
    "encoder": "a network that makes a list of numbers, its features, of a picture, on which classifiers are built.",
    "target": "the encoder that is offered: a picture goes in, a list of numbers, its features, comes out.",
    "surrogate": "the copy that a thief trains on the target's answers.",
    "query": "one picture that the target is asked about; each counts, and each may cost money.",
    "task": "labelled pictures on which customers' classifiers are trained and tested; it can tell where the target is "
    "well ahead of the controls.",
    "TA, SA": "test accuracy of a small classifier on the target's and on the surrogate's features. TA_clean is TA "
    "without a defense.",
    "control, C": "the best accuracy that a thief gets without asking anything: from raw pixels, from the untrained "
    "copy, or from training on the same pictures without the answers.",
    "recovered": "(SA - C) / (TA_clean - C), the share of its worth that a verdict speaks of: 0 means that the answers "
    "were worth nothing, 1 that the copy is as good as the target. Over the tasks on which the target beats C by at "
    "least 0.10 together.",
    "offered": "recovered with TA in place of TA_clean: the share of what the service offers, where the target "
    "without its defense is not known.",
    "honest loss": "TA_clean - TA: the accuracy that honest customers lose by a defense, in points of a hundred.",
    "defense": "what the owner does to answers or to accounts to spoil a theft.",
    "strength": "how strongly a defense acts, such as epsilon=1, k=16 or decimals=0; each file of conf/defense says.",
    "useful defense": "takes at least 20 percent of the encoder's worth from the thief, and costs honest customers at "
    "most one percent of their test pictures.",
    "95 % interval": "in brackets: how far the figure moves in 95 of 100 draws of the same number of test images, and "
    "of seeds where there are several (two say little); other targets or tasks may lie elsewhere.",
    "seed": "the number that all chance of a run hangs on: which pictures are asked about, and how training starts.",
    "p": "how often a difference this large would come up if there were none; for all tests together after Holm.",
}


def page(
    title: str,
    subtitle: str,
    verdict: Sequence[Sentence],
    sheets: Sequence[tuple[str, str, Sheet]],
    pictures: Sequence[Picture],
    more: Sequence[tuple[str, str, Sheet]] = (),
    glossary: Mapping[str, str] | None = None,
) -> str:
    """The page as HTML.

    Args:
        title, subtitle: at its top.
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
    contents = [(part["id"], part["title"]) for part in [*above, *figures, *below]] + [("words", "What the words mean")]
    environment = Environment(loader=PackageLoader("stealing.report", "."), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        title=title, subtitle=subtitle, verdict=verdict, contents=contents, sheets=above, pictures=figures,
        more=below, words={**WORDS, **(glossary or {})}.items(),
    )  # fmt: skip


def standing(cells: Sequence[Cell]) -> Sheet:
    """Where the cells of a sweep stand."""
    return Sheet(("cell", "state", "why"), [[" ".join(one.overrides), one.state, one.error] for one in cells], set())
