"""Tables of a leaderboard: a board in; Markdown for a page of the docs out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from stealing.artefacts import write_atomically
from stealing.report.claim_figures import POOLED
from stealing.report.comparisons import Comparison
from stealing.report.costs import facts_of, record_of
from stealing.report.leaderboard import Board, Entry
from stealing.report.mixing import code_note, mixture
from stealing.report.published import PUBLISHED, UNKNOWN
from stealing.report.shares import SHORT
from stealing.report.tables import Table
from stealing.text import for_markdown

NAME = "table.md"
"""File that a board's folder gets."""

ABSENT = "-"


def write_board(folder: Path) -> Path:
    """Write the tables of the claims in a folder beside them, and return the path.

    Raises:
        DamageError, DataError: a claim does not verify, or belongs to another board.
    """
    path = folder / NAME
    write_atomically(path, markdown(Board.read(folder)).encode())
    return path


def markdown(board: Board) -> str:
    """Return all tables of a board, with a title and a caption each."""
    lines = list[str]()
    for head in board.heads:
        lines += _section(f"Recovered by budget ({head})", CURVES, _curves(board, head))
    for budget, rivals in board.at_budgets().items():
        lines += _comparison(board, rivals, f"equal queries, {budget:,}")
    for images, rivals in board.at_images().items():
        lines += _comparison(board, rivals, f"equal images, {images:,}")
    lines += _section("What each attack cost", COST, _cost(board))
    lines += _section("Beside published figures", PAPERS, _published(board))
    lines += notes(board)
    return "\n\n".join(lines) + "\n"


CURVES = (
    "Equal queries: share of the target's value that each attack recovered, pooled over the "
    "informative tasks of all roles, by how many queries it was allowed; mean and 95 % interval "
    "over seeds and test images. Where seeds are fewer than three, their number follows."
)

COMPARED = (
    "recovered = (SA - C) / (TA_clean - C) of the informative tasks of a role; SA is the mean over "
    "all tasks of a role. C is the accuracy of the control that is strongest on held rows; the "
    "images are those that SimCLR was trained on."
)

TESTED = (
    "The best attack of the held rows against each other one: difference of SA in points, the mean "
    "over all tasks, on the same seeds and test images, and p-values adjusted after Holm."
)

COST = (
    "Means over seeds. Queries are answers that the ledger billed. A theft is its queries and the "
    "training of its surrogate; images forward and backward are those that training pushes through "
    "networks. The training of the target is as its card says."
)

PAPERS = "A published figure is of another target, other images and another network than ours."


def notes(board: Board) -> list[str]:
    """Return what a reader of the tables must know, one paragraph each."""
    lines = []
    for head, tasks in board.tasks.items():
        names = ", ".join(tasks) or "none"
        lines.append(f"Shares under the head {head} are of the tasks: {names}.")
    seeds = list[dict[str, Any]]()
    by_claim = dict[str, list[dict[str, Any]]]()
    for entry in board.entries:
        of_entry = list(entry.claim["seeds"].values())
        seeds += of_entry
        by_claim[f"{entry.attack} at {entry.budget:,}"] = of_entry
    lines += filter(None, (mixture(seeds), code_note(by_claim)))
    return list(map(for_markdown, lines))


def _section(title: str, caption: str, table: Table) -> list[str]:
    if not table.rows:
        return []
    return [f"### {title}", caption, table.markdown().rstrip("\n")]


def _comparison(board: Board, rivals: Sequence[Entry], what: str) -> list[str]:
    """Return the tables of attacks with something equal: their figures, and the tests of them."""
    lines = list[str]()
    for head in board.heads:
        figures = Table.of_records(list(_rows(board, rivals, head)))
        lines += _section(f"Attacks at {what} ({head})", COMPARED, figures)
        tests = Table.of_records(list(map(_test_row, board.tests(rivals, head))))
        lines += _section(f"Paired tests at {what} ({head})", TESTED, tests)
    return lines


def _curves(board: Board, head: str) -> Table:
    """Return what each attack recovered at each budget."""
    cells = dict[str, dict[str, str]]()
    columns = ["attack"]
    for budget, rivals in board.at_budgets().items():
        columns.append(f"{budget:,} queries")
        for entry in rivals:
            figures = board.figures(entry, rivals, head)
            if figures is not None:
                cell = _interval(figures.recovered[POOLED])
                few = f" ({len(entry.seeds)})" if len(entry.seeds) < 3 else ""
                cells.setdefault(entry.attack, {})[columns[-1]] = cell + few
    rows = []
    for attack, of_attack in cells.items():
        row = [attack]
        for column in columns[1:]:
            row.append(of_attack.get(column, ABSENT))
        rows.append(row)
    return Table(tuple(columns), rows)


def _rows(board: Board, rivals: Sequence[Entry], head: str) -> Iterator[dict[str, str]]:
    """Yield a row of each attack: what it asked, and its figures by role."""
    for entry in rivals:
        figures = board.figures(entry, rivals, head)
        if figures is None:
            continue
        row = {
            "attack": entry.attack,
            "seeds": ", ".join(map(str, sorted(entry.seeds))),
            "queries": f"{_mean_of(entry, 'spent'):,.0f}",
            "images": f"{entry.images:,}",
        }
        for role in board.roles:
            row[f"recovered, {role}"] = _interval(figures.recovered[role])
        for role in board.roles:
            row[f"SA, {role}"] = _interval(figures.accuracies[role], digits=3)
        names = dict.fromkeys(SHORT[name] for name in figures.controls.values())
        row["control C"] = f"{', '.join(names)}; {figures.lender.held:,} images"
        yield row


def _test_row(test: Comparison) -> dict[str, str]:
    low, high = test.interval
    return {
        "best": test.first,
        "against": test.second,
        "seeds": str(test.seeds),
        "difference, points [95 %]": (
            f"{100 * test.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        ),
        "p": _p_value(test.p),
        "p, adjusted": _p_value(test.adjusted),
    }


def _cost(board: Board) -> Table:
    """Return what each theft took, and before it the training of the target."""
    rows = list[dict[str, str]]()
    for rivals in board.at_budgets().values():
        for entry in rivals:
            seeds = list(entry.claim["seeds"].values())
            target = [facts_of(seed, "target") for seed in seeds]
            if not rows and target[0] is not None:
                rows.append(record_of("training of the target", target, None))
            theft = [facts_of(seed, "surrogate") for seed in seeds]
            queries = {name: round(_mean_of(entry, name)) for name in ("spent", "images")}
            rows.append(record_of(f"{entry.attack}, {entry.budget:,} allowed", theft, queries))
    return Table.of_records(rows)


def _published(board: Board) -> Table:
    """Return published figures beside ours, at the largest budget of each attack."""
    largest = dict[str, Entry]()
    for rivals in board.at_budgets().values():
        largest |= {entry.attack: entry for entry in rivals}
    rows = []
    for attack, entry in largest.items():
        known = PUBLISHED.get(attack)
        row = {"attack": attack, "published": UNKNOWN}
        row |= dict.fromkeys(("ours", "gap, points", "suspected cause"), ABSENT)
        if known is not None:
            row["published"] = (
                f"{known.accuracy:.3f} of {known.target:.3f} on {known.task} ({known.head}), "
                f"{known.queries:,} queries: {known.source}"
            )
            row["suspected cause"] = known.cause
            accuracies = _accuracies(entry, known.task, known.head)
            if accuracies is not None:
                ours, target = accuracies
                row["ours"] = f"{ours:.3f} of {target:.3f}, {entry.budget:,} queries"
                row["gap, points"] = f"{100 * (ours - known.accuracy):+.1f}"
        rows.append(row)
    return Table.of_records(rows)


def _accuracies(entry: Entry, task: str, head: str) -> tuple[float, float] | None:
    """Return SA and TA_clean of one task, means over seeds; None if it was not judged so."""
    rows = []
    for cell in entry.cells.values():
        row = cell["tasks"].get(task, {}).get(head)
        if row is None:
            return None
        rows.append(row)
    return fmean(row["SA"] for row in rows), fmean(row["TA_clean"] for row in rows)


def _mean_of(entry: Entry, name: str) -> float:
    """Return the mean over seeds of a count of the ledger."""
    return fmean(entry.claim["ledger"][name])


def _interval(figure: dict[str, Any] | None, digits: int = 2) -> str:
    if figure is None:
        return ABSENT
    low, high = figure["interval"]
    return f"{figure['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _p_value(p: float) -> str:
    """Return a p-value as text; no test shows that something is impossible."""
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"
