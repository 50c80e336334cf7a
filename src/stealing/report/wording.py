"""Sentences of reports: facts in; text for a terminal, or HTML for a page, out of `templates/`.

A template holds the English, and the code computes what it says.
"""

import re
from functools import cache
from typing import Any

from stealing.errors import DataError
from stealing.report.verdict import Verdict
from stealing.text import printable

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
except ImportError:
    raise DataError("A report needs Jinja2: pip install -e '.[report]'.") from None


END = "\x1e"
"""Ends a paragraph of a template. No value has it: `printable` escapes control characters."""


def paragraphs(text: str) -> list[Markup]:
    """Return the paragraphs of what a template made, each in one line of HTML."""
    found = []
    for part in text.split(END):
        line = " ".join(part.split())
        if line:
            # What a macro made is HTML already: its values are escaped.
            found.append(Markup(line))
    return found


def plain(text: str) -> str:
    """Return a paragraph without its tags."""
    return Markup(text).striptags()


def anchor(word: str) -> str:
    """Return the place of a word in the glossary of a page."""
    return "word-" + re.sub(r"\W+", "-", word.lower()).strip("-")


def _term(word: str, text: str = "") -> Markup:
    """A word of the glossary, as a link to it."""
    return Markup('<a href="#{}">{}</a>').format(anchor(word), text or word)


def _lead(text: str) -> Markup:
    """The first sentence of a paragraph, which stands out."""
    # `_finalized` leaves HTML as it is, so names in this text are made harmless here.
    return Markup("<strong>{}</strong>").format(printable(text))


def _finalized(value: Any) -> Any:
    """Return HTML that a macro made as it is, and text without what steers its reader."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value) if is_text else value


@cache
def environment() -> Environment:
    """Return what renders the templates of reports."""
    made = Environment(
        loader=PackageLoader("stealing.report", "templates"),
        autoescape=True,
        # A fact that a template misspells stops the page; else its sentence would have a hole.
        undefined=StrictUndefined,
        finalize=_finalized,
    )
    made.filters["paragraphs"] = paragraphs
    made.filters["plain"] = plain
    made.filters["anchor"] = anchor
    made.filters["count"] = "{:,}".format
    made.filters["money"] = "{:,.2f}".format
    made.filters["percent"] = "{:.0%}".format
    made.filters["decimal"] = "{:.1f}".format
    made.globals["end"] = Markup(END)
    made.globals["term"] = _term
    made.globals["lead"] = _lead
    return made


def words(template: str, macro: str, **facts: Any) -> list[str]:
    """Return the paragraphs that a macro of a template makes of facts, as plain text."""
    module = environment().get_template(template).make_module()
    text = getattr(module, macro)(**facts)
    return list(map(plain, paragraphs(text)))


def verdict_sections(verdict: Verdict) -> dict[str, str]:
    """Return the verdict as plain text: each section's title with its sentences."""

    def section(name: str) -> str:
        return " ".join(words("verdict.jinja", name, v=verdict))

    sections = {section("grade"): section("summary")}
    if verdict.attacks:
        sections["The best attack."] = section("compute")
        sections["The cheapest attack."] = section("cheapest")
        sections["What to do."] = section("recommendations")
    sections["How sure that is."] = section("certainty")
    sections["Settings."] = "; ".join(words("verdict.jinja", "settings", v=verdict)) + "."
    return sections
