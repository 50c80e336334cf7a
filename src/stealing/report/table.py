"""The closing tables: one result.json in, what a person reads out."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from stealing.evaluation.protocol import INFORMATIVE
from stealing.evaluation.statistics import SHARES, control_accuracy

SHORT = {"untrained": "untrained", "untrained_calibrated": "calibrated", "pixels": "pixels", "ssl_on_queries": "SimCLR"}
"""Names of the controls in a narrow column."""

LONG = {
    "untrained": "the untrained surrogate",
    "untrained_calibrated": "the untrained surrogate with calibrated BatchNorm",
    "pixels": "raw pixels",
    "ssl_on_queries": "SimCLR on the query images",
}
"""Names of the controls in a sentence."""

Row = tuple[str, str, str, dict[str, Any]]
"""Task, role, head and figures."""


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables of one run, or of the mean over several seeds of it."""
    console.print(_tasks_table(result))
    console.print(_roles_table(result))
    for line in remarks(result):
        console.print(line, soft_wrap=True)


def headline(result: dict[str, Any]) -> str:
    """Return what was asked and paid: to attack, and to measure the attack."""
    queries = result["queries"]
    attack = f"{queries['spent']} queries of {queries['budget']} allowed, cost {queries['cost']:.2f}"
    measuring = f"{queries['evaluation']} queries, cost {queries.get('evaluation_cost', 0.0):.2f}"
    return f"Attack: {attack}; measuring it: {measuring}; seeds {', '.join(map(str, result['seeds']))}"


def left_out(row: dict[str, Any]) -> str | None:
    """Return why a task says nothing about what was recovered, or None if it says something."""
    reference = reference_of(row)
    if row[share_of(row)] is not None:
        return None
    name = row["control"]["name"]
    gap = 100 * (row["held"][reference] - row["held"][name])
    test_gap = 100 * (row[reference] - row["controls"][name])
    said = f"the target loses to {LONG[name]} by {-gap:.1f} points"
    if gap >= 0:
        said = f"the target is {gap:.1f} points ahead of {LONG[name]}"
    return f"{said} on the slice of train ({test_gap:+.1f} on the test split)"


def reference_of(row: dict[str, Any]) -> str:
    """Return what the surrogate is measured by: TA_clean, or TA if the undefended target is unknown."""
    return "TA" if row["TA_clean"] is None else "TA_clean"


def share_of(row: dict[str, Any]) -> str:
    """Return the share that belongs to `reference_of`: `recovered` or `offered`."""
    return next(name for name, reference in SHARES.items() if reference == reference_of(row))


def rows_of(result: dict[str, Any]) -> Iterator[Row]:
    """Yield each task and head."""
    for task, heads in result["tasks"].items():
        for head, row in heads.items():
            if head != "role":
                yield task, heads["role"], head, row


def remarks(result: dict[str, Any]) -> list[str]:
    """Return what a reader must know beside the tables, a sentence each."""
    said = []
    for task, _, head, row in rows_of(result):
        if why := left_out(row):
            said.append(f"{task} ({head}) is left out: {why}.")
        reference = reference_of(row)
        pixels = 100 * (row["controls"]["pixels"] - row[reference])
        if pixels > 0 and row["control"]["name"] != "pixels":
            said.append(f"{task} ({head}): the target loses to raw pixels by {pixels:.1f} points.")
    if len(result["seeds"]) == 2:
        said.append("Two seeds say little about how seeds vary, so intervals may be too narrow: run three or more.")
    return said


def _tasks_table(result: dict[str, Any]) -> Table:
    share = _share_name(result)
    table = Table(title=headline(result), caption=_caption(result), caption_justify="left")
    last = "honest loss [95 %]" if _is_defended(result) else "agree (max)"
    for column in ("task (role)", "head", "TA", "SA", "SA/TA", "control C, lead", f"{share} [95 %]", last):
        table.add_column(column, no_wrap=column != "task (role)", overflow="fold")  # a long name folds, a figure stays
    for task, role, head, row in rows_of(result):
        table.add_row(f"{task} ({role})", head, *_cells(row, _is_defended(result)))
    return table


def _roles_table(result: dict[str, Any]) -> Table:
    """What was recovered of each role, and pooled over all of them."""
    share = _share_name(result)
    table = Table(title=f"{share} by role of the task", title_justify="left")
    for column in ("role", "head", f"{share} [95 %]", "tasks"):
        table.add_column(column, overflow="fold")
    for head, row in result["overall"].items():
        for role, of in row["roles"].items():
            table.add_row(role, head, _share_cell(of, share), ", ".join(of["tasks"]) or "none is informative")
        if len(row["roles"]) > 1:
            table.add_row("all, pooled", head, _share_cell(row, share), f"the {len(row['informative'])} above")
    return table


def _share_name(result: dict[str, Any]) -> str:
    return share_of(next(rows_of(result))[3])


def _share_cell(row: dict[str, Any], share: str) -> str:
    if row[share] is None:
        return "-"
    low, high = row["intervals"][share]
    return f"{row[share]:.2f} [{low:.2f}, {high:.2f}]"


def _is_defended(result: dict[str, Any]) -> bool:
    return result["defense"] is not None and result["defense"]["name"] != "none"


def _cells(row: dict[str, Any], defended: bool) -> list[str]:
    control = row["control"]
    share = share_of(row)
    if row[share] is None:
        recovered = "left out"
    else:
        gap = row["held"][reference_of(row)] - row["held"][control["name"]]
        recovered = _share_cell(row, share) + ("" if gap >= INFORMATIVE else " *")
    last = f"{row['agreement']:.2f} ({row['agreement_ceiling']:.2f})"
    if defended and row["honest_loss"] is not None:
        low, high = (100 * bound for bound in row["intervals"]["honest_loss"])
        last = f"{100 * row['honest_loss']:+.1f} [{low:+.1f}, {high:+.1f}]"
    return [
        f"{row['TA']:.3f}",
        f"{row['SA']:.3f}",
        f"{row['ratio']:.2f}",
        f"{control_accuracy(row):.3f} {SHORT[control['name']]} {control['lead']:+.3f}",
        recovered,
        last,
    ]


def _caption(result: dict[str, Any]) -> str:
    share = _share_name(result)
    reference = SHARES[share]
    unknown = " The target without its service's defense is unknown here." if share == "offered" else ""
    likeness = ", ".join(f"{name} {value:.3f}" for name, value in result["fidelity"].items())
    last = (
        "agree: equal predictions of two heads, each trained on its own bootstrap sample, one on the target and one\n"
        "on the surrogate (max: both on the target)."
    )
    if _is_defended(result):
        last = (
            f"honest loss: TA_clean - TA in points, what honest users lose by the defense {result['defense']['name']}."
        )
    return (
        "TA, SA: test accuracy on the target's and the surrogate's features.\n"
        f"{share} = (SA - C) / ({reference} - C).{unknown}\n"
        "The control C asked nothing: on a slice of train the best of raw pixels, the untrained surrogate (also with\n"
        "calibrated BatchNorm) and SimCLR on the query images; lead: how far the next best is behind it there.\n"
        f"*: on that slice the target is less than {INFORMATIVE:.2f} ahead of C: the task is in no figure of a role.\n"
        f"{last}\nFeatures: {likeness}."
    )
