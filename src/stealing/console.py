"""The console of all tables and lines: any text in, the same text on the terminal out."""

from typing import Any

from rich.console import Console
from rich.text import Text

from stealing.text import printable


class TextConsole(Console):
    """A console that prints each `str` as plain text: no markup, emoji codes or control characters.

    Styled lines of this project are passed as `rich.text.Text`.

    Args:
        at_least: columns. A log has 80, in which a wide table would be folded.
        options: of `rich.console.Console`.
    """

    def __init__(self, at_least: int = 0, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)
        self.width = max(self.width, at_least)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text of a `str`; rich calls this for each part of a table, too."""
        return super().render_str(printable(text), **options)
