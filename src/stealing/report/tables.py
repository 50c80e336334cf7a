"""A table: columns and rows of cells in; a terminal's table, Markdown, LaTeX or Arrow data out."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa
import rich.table
from rich.text import Text

from stealing.text import for_latex, for_markdown


@dataclass(frozen=True)
class Table:
    """A table for people, or for programs.

    A page reads `columns`, `rows`, `best` and `key_columns` in its template.

    Attributes:
        columns: their names.
        rows: as many cells each. Cells for people are text; `arrow` takes numbers and None too.
        best: places (row, column) of cells in bold, the best of their kind.
        key_columns: how many columns from the left say which row it is.
    """

    columns: tuple[str, ...]
    rows: list[list[Any]]
    best: set[tuple[int, int]] = field(default_factory=set)
    key_columns: int = 1

    @classmethod
    def of_records(
        cls,
        records: Sequence[Mapping[str, Any]],
        *,
        best: Iterable[tuple[int, str]] = (),
        key_columns: int = 1,
    ) -> Self:
        """Return a table of records, each a row by column.

        Args:
            records: a cell that one lacks is None.
            best: row and column of cells in bold.
            key_columns: how many columns from the left say which row it is.
        """
        names = dict[str, None]()
        for record in records:
            names |= dict.fromkeys(record)
        columns = tuple(names)
        rows = [list(map(record.get, columns)) for record in records]
        places = {(row, columns.index(column)) for row, column in best}
        return cls(columns, rows, places, key_columns)

    def markdown(self) -> str:
        """Return a table of GitHub's Markdown."""
        lines = [list(map(for_markdown, self.columns)), ["---"] * len(self.columns)]
        lines += self._escaped(for_markdown, "**{}**")
        text = ""
        for line in lines:
            text += f"| {' | '.join(line)} |\n"
        return text

    def latex(self) -> str:
        """Return a `tabular` of the package booktabs."""
        lines = [r"\begin{tabular}{" + "l" * len(self.columns) + "}", r"\toprule"]
        lines.append(" & ".join(map(for_latex, self.columns)) + r" \\")
        lines.append(r"\midrule")
        for cells in self._escaped(for_latex, r"\textbf{{{}}}"):
            lines.append(" & ".join(cells) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        return "\n".join(lines) + "\n"

    def terminal(
        self,
        *,
        wrapped: Collection[str] | None = None,
        colours: Mapping[str, str] | None = None,
        caption: str = "",
        **options: Any,
    ) -> rich.table.Table:
        """Return a table for `TextConsole`, which shows every cell as plain text.

        Args:
            wrapped: columns that may be narrowed to fit the terminal; None for all.
            colours: styles of cells by their text. Key columns stay as they are.
            caption: lines below the table, ours, so that line ends are kept.
            options: of `rich.table.Table`.
        """
        # A `str` would lose its line ends: `TextConsole` shows each as one line.
        note = Text(caption, style="table.caption") if caption else None
        table = rich.table.Table(caption=note, caption_justify="left", **options)
        for column in self.columns:
            fixed = wrapped is not None and column not in wrapped
            # A long name folds. Nothing is cut off.
            table.add_column(column, no_wrap=fixed, overflow="fold")
        for row in self.rows:
            cells = list[str | Text](row)
            for place in range(self.key_columns, len(cells)):
                # A `Text` is shown unescaped, so only words of our own may become one.
                style = (colours or {}).get(row[place])
                if style is not None:
                    cells[place] = Text(row[place], style)
            table.add_row(*cells)
        return table

    def arrow(self) -> pa.Table:
        """Return the same cells as Arrow data, for Parquet, CSV and pandas."""
        records = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return pa.Table.from_pylist(records)

    def _escaped(self, escape: Callable[[str], str], bold: str) -> Iterator[list[str]]:
        """Yield the cells of each row, escaped, the best of them in the format `bold`."""
        for number, row in enumerate(self.rows):
            cells = list(map(escape, row))
            for place, cell in enumerate(cells):
                if (number, place) in self.best:
                    cells[place] = bold.format(cell)
            yield cells
