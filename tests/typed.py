"""Commands that pages show: Markdown in, each command with its place and its mark out.

A command stands in a block of bash, in an indented block, in a table or in a sentence. What is said
about a block of text stands in a comment after it, which neither GitHub nor the site shows:
`<!-- not run: reason -->` or `<!-- run by: file -->`.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MARK = re.compile(r"<!-- (not run|run by): (.+?) -->", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
PLACEHOLDER = re.compile(r"<[\w ]+>")

PROGRAM = re.compile(
    r"(?:[A-Z_]+=\S* )*"
    r"(?:(?:\.venv/bin/)?(?:python3?|pip|pytest|ruff|mypy|sphinx-build)|git|tensorboard|wandb) "
)
"""How a command starts, with the variables that are set for it."""

OPERATOR = re.compile(r" (?:&&|\|\||\||>|2>|&|;)(?: |$)")
"""What ends a command of the shell."""

SPANS_OF_WORDS = ("table", "sentence")


class Typed(NamedTuple):
    """A command of a page.

    Attributes:
        text: in one line.
        kind: `block`, `indented`, `table` or `sentence`.
        mark: the reason why it is not run, or the file that runs it; None without a mark.
    """

    text: str
    kind: str
    mark: str | None


def typed_in(page: Path) -> list[Typed]:
    """Return the commands of a page, in their order."""
    found: list[Typed] = []
    for kind, text, mark in _parts(page.read_text()):
        for line in _lines(kind, text):
            line = COMMENT.sub("", line).strip()
            for command in _commands(line):
                found.append(Typed(command, kind, mark))
    return found


def _commands(line: str) -> Iterator[str]:
    """Yield the commands of a line, which `&&` joins."""
    for part in re.split(r" && |; do | \| ", line):
        start = PROGRAM.match(part)
        if start is not None:
            yield part


def _parts(text: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield the kind, the text and the mark of each part of a page, which empty lines separate."""
    # an empty line within a block of code separates nothing
    blocks = re.split(r"^(```\w*\n.*?^```)$", text, flags=re.DOTALL | re.MULTILINE)
    parts: list[str] = []
    for number, block in enumerate(blocks):
        if number % 2:
            parts.append(block)
        else:
            parts += [part for part in re.split(r"\n(?:[ \t]*\n)+", block) if part.strip()]
    for place, part in enumerate(parts):
        following = parts[place + 1].strip() if place + 1 < len(parts) else ""
        # a mark stands at the end of a part, or alone after it
        marks = MARK.findall(part)
        if not marks and following.startswith("<!--"):
            marks = MARK.findall(following.partition("-->")[0] + "-->")
        yield _kind(part), part, marks[-1][1] if marks else None


def _kind(part: str) -> str:
    if part.startswith("```"):
        return "block" if part.startswith("```bash") else "other"
    if part.lstrip("\n").startswith("    "):
        return "indented"
    return "table" if part.lstrip("\n").startswith("|") else "sentence"


def _lines(kind: str, text: str) -> list[str]:
    """Return the lines of code of a part."""
    if kind in SPANS_OF_WORDS:
        return [" ".join(span.split()).replace(r"\|", "|") for span in SPAN.findall(text)]
    if kind == "other":
        return []
    return text.replace("\\\n", " ").splitlines()


def words_of(command: str) -> list[str]:
    """Return the words of a command up to its first operator, without `...` and comments."""
    alone = OPERATOR.split(f"{command} ")[0]
    words = shlex.split(PLACEHOLDER.sub("x", alone), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    return [word for word in words if word != "..."]


def is_open_pattern(command: str) -> bool:
    """Return True if a bracket stands outside of quotes, which zsh reads as a pattern."""
    without_quotes = re.sub(r"'[^']*'|\"[^\"]*\"", "", command)
    without_comment = re.sub(r"\s#.*", "", without_quotes)
    return "[" in without_comment
