"""Escape text that other people chose: a name or message in, text that is safe to output out.

Class names come from folders, task names from files, and messages from services. Each of them may
hold characters that control a terminal, a spreadsheet, LaTeX, Markdown or matplotlib.
"""

import re
from typing import Any

_UNPRINTABLE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters; some of them start an escape sequence of a terminal
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of the text after them
    "\u2028\u2029"  # separators of lines and paragraphs
    "\ud800-\udfff"  # halves of pairs, from file names that are not UTF-8; no file can hold them
    "\ufeff\ufffe\uffff"
    "]"
)

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")

_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""First characters of a spreadsheet's formula; the last four are wide, as East Asians type them."""

_LATEX = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
    }
)

_MARKDOWN = str.maketrans({"\\": r"\\", "|": r"\|", "`": r"\`", "<": r"\<"})


def printable(text: str) -> str:
    r"""Return one line that controls no terminal; a control character is escaped as in `\x1b`."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def printable_lines(text: str) -> str:
    """Return text that controls no terminal and keeps its line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def for_spreadsheet(value: Any) -> Any:
    """Return a cell that no spreadsheet computes.

    Text that looks like a formula gets an apostrophe. A number stays a number.
    """
    if not isinstance(value, str):
        return value
    is_formula = value.startswith(_FORMULA) and not _NUMBER.fullmatch(value)
    return printable(f"'{value}" if is_formula else value)


def for_latex(text: str) -> str:
    """Return LaTeX source that prints the text."""
    # After a line break, LaTeX reads a leading bracket or star as an option of that line break.
    guard = "{}" if text.startswith(("[", "*")) else ""
    return guard + printable(text).translate(_LATEX)


def for_markdown(text: str) -> str:
    """Return a cell for a table in GitHub's Markdown; code, HTML and links in it are escaped."""
    return printable(text).translate(_MARKDOWN).replace("](", "]\\(")


def for_figure(text: str) -> str:
    """Return text that matplotlib prints, and never reads as a formula."""
    return printable(text).replace("$", r"\$")
