"""A whole report: runs in; a tidy table, tables for papers, pictures and one page out."""

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from stealing.artefacts import write_atomically
from stealing.report.comparisons import comparisons
from stealing.report.costs import compute, nominal_queries, share_of_training
from stealing.report.mixing import mixture
from stealing.report.runs import RunGroup, check_head, find_runs, group_runs
from stealing.report.selection import choices_of, results_of
from stealing.report.summary import by_task, overview, paired_tests, tasks_left_out, tidy
from stealing.report.tables import Table
from stealing.report.verdict import Verdict
from stealing.report.words import option_glossary
from stealing.settings.options import first_line
from stealing.sweeps.cells import cells
from stealing.text import for_spreadsheet

Captioned = tuple[str, str, Table]
"""Title, caption and table."""


def write(
    paths: Sequence[Path],
    out: Path,
    head: str,
    title: str = "How easy is this encoder to steal?",
    verdict: Verdict | None = None,
    command: str = "",
    protocol: str | None = None,
) -> Path:
    """Write tables, pictures and the page of these runs; return the path of the page.

    Args:
        paths: runs, folders of runs, or sweeps, whose missing cells are shown as missing.
        out: folder to write to.
        head: kind of classifier of the figures.
        title: of the page.
        verdict: at its top; None for a report without one.
        command: that makes it.
        protocol: by which the runs were judged; others are left out.

    Raises:
        DataError: there is no run, they cannot be compared, or what draws them is not installed.
    """
    groups = group_runs(find_runs(paths), protocol)
    return write_groups(groups, paths, out, head, title, verdict, command)


def write_groups(
    groups: list[RunGroup],
    paths: Sequence[Path],
    out: Path,
    head: str,
    title: str,
    verdict: Verdict | None,
    command: str,
) -> Path:
    """Write the same of run groups that were read already; see `write`."""
    # What draws is not installed everywhere.
    from stealing.report.figures import key_pictures, pictures
    from stealing.report.page import Content, page

    check_head(groups, head)
    # All is computed before anything is written, so that a refusal leaves the earlier report whole.
    table = tidy(groups)
    first = _first_tables(groups, head)
    more = _more_tables(groups, head, paths)
    drawn = pictures(groups, head)
    text = page(
        Content(
            title=title,
            notes=about(groups, head),
            command=command,
            verdict=verdict,
            key_pictures=key_pictures(groups, head) if verdict and verdict.attacks else [],
            first=first,
            pictures=drawn,
            more=more,
            options=option_glossary(groups),
            tasks=_tasks(groups),
        )
    )
    out.mkdir(parents=True, exist_ok=True)
    _remove_figures(out)
    pyarrow.parquet.write_table(table, out / "runs.parquet")
    pyarrow.csv.write_csv(_for_spreadsheets(table), out / "runs.csv")
    _write_sheets([sheet for _, _, sheet in (*first, *more)], out)
    for number, picture in enumerate(drawn):
        write_atomically(out / f"figure-{number}.svg", picture.svg)
    write_atomically(out / "index.html", text.encode())
    return out / "index.html"


def _write_sheets(sheets: Sequence[Table], out: Path) -> None:
    markdown = []
    latex = []
    for sheet in sheets:
        markdown.append(sheet.markdown())
        latex.append(sheet.latex())
    write_atomically(out / "tables.md", "\n".join(markdown).encode())
    write_atomically(out / "tables.tex", "\n".join(latex).encode())


def _remove_figures(out: Path) -> None:
    """Remove the figures that the page in this folder names, as a new report may have fewer."""
    path = out / "index.html"
    if not path.exists():
        return
    for name in re.findall(r'<section id="(figure-\d+)"', path.read_text()):
        (out / f"{name}.svg").unlink(missing_ok=True)


def _tasks(groups: Sequence[RunGroup]) -> list[str]:
    tasks = dict[str, None]()
    for group in groups:
        tasks |= dict.fromkeys(group.joined["tasks"])
    return list(tasks)


def _first_tables(groups: Sequence[RunGroup], head: str) -> list[Captioned]:
    """Return the tables above the pictures."""
    title = "What did each attack recover, at what cost?"
    tables = [(title, overview_caption(groups), overview(groups, head))]
    omitted = tasks_left_out(groups, head)
    if omitted.rows:
        tables.append(("Which tasks are left out, and why?", _caption("left_out"), omitted))
    return tables


def _more_tables(groups: Sequence[RunGroup], head: str, paths: Sequence[Path]) -> list[Captioned]:
    """Return the tables below the pictures."""
    from stealing.report.page import standing

    tables = [("What was stolen on each task?", task_caption(groups), by_task(groups, head))]
    title = "How many queries were named, and how many were sent?"
    tables.append((title, _caption("nominal"), nominal_queries(groups)))
    costs = " ".join([_caption("compute"), *share_of_training(groups)])
    tables.append(("What does a theft cost, beside the training?", costs, compute(groups)))
    compared = paired_tests(comparisons(groups, head))
    if compared.rows:
        tables.append(("Which differences are more than chance?", _caption("tests"), compared))
    missing = []
    for sweep in _sweeps(paths):
        missing += [cell for cell in cells(sweep) if cell.state != "done"]
    if missing:
        tables.append(("What is missing?", _caption("missing"), standing(missing)))
    return tables


def _for_spreadsheets(table: pa.Table) -> pa.Table:
    """Return the same table without a cell that is a formula; numbers stay numbers."""
    # Names of tasks and classes come from folders and files of others.
    columns = []
    for column in table.columns:
        cells = column.to_pylist()
        if pa.types.is_string(column.type):
            cells = list(map(for_spreadsheet, cells))
        columns.append(pa.array(cells, column.type))
    return pa.table(columns, names=list(map(for_spreadsheet, table.column_names)))


def _sweeps(paths: Sequence[Path]) -> list[Path]:
    """Return the sweeps that are named, and those whose runs lie in a named folder `runs`."""
    named = []
    beside = []
    for path in map(Path.resolve, paths):
        if (path / "sweep.json").exists():
            named.append(path)
        if path.name == "runs":
            for file in sorted(path.parent.glob("sweeps/*/sweep.json")):
                beside.append(file.parent)
    # A sweep may be named and stand beside the runs too.
    return list(dict.fromkeys([*named, *beside]))


def _caption(macro: str, groups: Sequence[RunGroup] = ()) -> str:
    from stealing.report.wording import words

    # Captions of some tables say nothing about their figures.
    if not groups:
        return " ".join(words("captions.jinja", macro))
    seeds = max(len(group.runs) for group in groups)
    mixed = mixture(results_of(groups))
    return " ".join(words("captions.jinja", macro, seeds=seeds, mixture=mixed))


def overview_caption(groups: Sequence[RunGroup]) -> str:
    """Return how to read the first table."""
    return _caption("overview", groups)


def task_caption(groups: Sequence[RunGroup]) -> str:
    """Return how to read the table by task."""
    return _caption("tasks", groups)


def about(groups: Sequence[RunGroup], head: str) -> list[str]:
    """Return the notes of a report: what was measured, where, when, and for how many queries."""
    from stealing.report.wording import words

    results = results_of(groups)
    first = results[0]
    dates = set[str]()
    encoders = dict[str, None]()
    for result in results:
        dates.add(result["date"])
        # The first digits of the checksum of its weights, as every message shows them.
        encoders[result["target"][:8]] = None
    machine = first["hardware"]
    largest = max(groups, key=lambda group: group.joined["queries"]["spent"])
    return words(
        "captions.jinja",
        "about",
        targets=_explained("target", groups),
        encoders=list(encoders),
        data=_explained("data", groups),
        queries=largest.joined["queries"],
        is_unknown=any(group.overall(head)["honest_loss"] is None for group in groups),
        runs=len(results),
        groups=len(groups),
        head=head,
        first=first,
        hardware=machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}",
        dates=[min(dates), max(dates)],
    )


def _explained(kind: str, groups: Sequence[RunGroup]) -> dict[str, str]:
    """Return what each option of a kind means, without a full stop."""
    explained = dict[str, str]()
    for choice in choices_of(groups, kind):
        explained[choice] = first_line(kind, choice.split()[0]).rstrip(".")
    return explained
