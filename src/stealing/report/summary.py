"""Tables of a report: run groups in; a tidy table of all figures, and tables for people, out."""

from collections.abc import Sequence
from statistics import stdev
from typing import Any

import pyarrow as pa

from stealing.evaluation.statistics import SHARES, overall
from stealing.report.common_controls import roles_of_tasks
from stealing.report.comparisons import Comparison, clearly_best
from stealing.report.run_files import FinishedRun
from stealing.report.runs import RunGroup, varied_choices
from stealing.report.shares import control_cell, reasons, roles_of
from stealing.report.tables import Table

FIGURES = (
    "TA",
    "TA_clean",
    "SA",
    "ratio",
    *SHARES,
    "honest_loss",
    "agreement",
    "agreement_ceiling",
)
"""Figures of one head on one task, as `result.json` names them."""

BOUNDED = ("TA", "TA_clean", "SA", *SHARES, "honest_loss")
"""Those of `FIGURES` that have an interval."""

POOLED = "pooled"
"""End of the name of a column whose figure is of all roles together."""

Record = dict[str, Any]
"""A row of the tidy table, by column."""


def tidy(groups: Sequence[RunGroup]) -> pa.Table:
    """Return one row a run, task and head; a figure that is not known is null.

    Returns:
        Columns `run`, `seed`, the choices, queries and costs, `task`, `role`, `head`, each of
        `FIGURES`, the bounds of its 95 % interval as `<figure>_low` and `<figure>_high`, which
        control is C as `strongest_control`, how far the next best is behind it on the held
        rows as `control_lead`, and each control's accuracy as `control_<name>`.
    """
    records = list[Record]()
    for group in groups:
        for run in group.runs:
            records += _records(run, group.choices)
    return Table.of_records(records).arrow()


def _records(run: FinishedRun, choices: dict[str, str]) -> list[Record]:
    """Return one record a task and head of a run."""
    queries = run.result["queries"]
    shared: Record = {"run": run.folder.name, "seed": run.result["seed"], **choices}
    for name in ("budget", "spent", "evaluation", "cost", "evaluation_cost"):
        shared[name] = queries[name]
    records = []
    for task, heads in run.result["tasks"].items():
        for head, row in heads.items():
            if head != "role":
                place = {"task": task, "role": heads["role"], "head": head}
                records.append({**shared, **place, **_figures(row)})
    return records


def _figures(row: dict[str, Any]) -> Record:
    """Return the figures of one task and head with their bounds and controls."""
    figures: Record = {name: row[name] for name in FIGURES}
    for name in BOUNDED:
        # A figure that is not known has no interval.
        low, high = row["intervals"].get(name, (None, None))
        figures[f"{name}_low"] = low
        figures[f"{name}_high"] = high
    figures["strongest_control"] = row["control"]["name"]
    figures["control_lead"] = row["control"]["lead"]
    for name, accuracy in row["controls"].items():
        figures[f"control_{name}"] = accuracy
    return figures


def overview(groups: Sequence[RunGroup], head: str) -> Table:
    """Return one row a run group: queries, costs, SA, what was recovered by role, and honest loss.

    Each figure is the mean over seeds, ± the standard deviation over seeds if there are several,
    [95 % interval]. In bold: the SA that is clearly the best of those with the same budget and
    defense.
    """
    varied = varied_choices(groups) or ["attack"]
    columns = _columns(groups, head, varied)
    rows = list[list[str]]()
    rivals = dict[tuple[str, ...], list[RunGroup]]()
    places = dict[str, int]()
    for group in groups:
        places[group.name] = len(rows)
        rows.append(_row(group, head, columns))
        rivals.setdefault(_rivalry(group), []).append(group)
    best = set[tuple[int, int]]()
    for several in rivals.values():
        winner = clearly_best(several, head)
        if winner is not None:
            best.add((places[winner.name], columns.index("SA")))
    # The budget tells rows apart too.
    return Table(columns, rows, best, len(varied) + 1)


def _rivalry(group: RunGroup) -> tuple[str, ...]:
    """Return what groups have in common if one of them can be the best."""
    return (*group.scene, group.choices["defense"], str(group.budget))


def _share_names(groups: Sequence[RunGroup], head: str) -> list[str]:
    """Return which shares these groups have.

    `recovered` if the undefended target is known for any, `offered` if it is unknown for any.
    """
    names = set[str]()
    for group in groups:
        is_known = group.overall(head)["honest_loss"] is not None
        names.add("recovered" if is_known else "offered")
    return sorted(names, reverse=True)


def _columns(groups: Sequence[RunGroup], head: str, varied: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the overview. Costs, seeds and losses that all lack are left out."""
    roles = roles_of(groups, head)
    is_paid = False
    is_measuring_paid = False
    is_defended = False
    seeds = set[int]()
    for group in groups:
        queries = group.joined["queries"]
        is_paid |= bool(queries["cost"])
        is_measuring_paid |= bool(queries["evaluation_cost"])
        is_defended |= group.defended
        seeds.add(len(group.runs))
    columns = [*varied, "queries to attack", "images"]
    if is_paid:
        columns.append("cost of attack")
    columns.append("queries to measure")
    if is_measuring_paid:
        columns.append("cost of measuring")
    if len(seeds) > 1:
        columns.append("seeds")
    columns.append("SA")
    for name in _share_names(groups, head):
        for role in roles:
            columns.append(f"{name}, {role}")
        if len(roles) > 1:  # of only one role, the pooled figure is the same
            columns.append(f"{name}, {POOLED}")
    if is_defended:
        columns.append("honest loss")
    return tuple(columns)


def _row(group: RunGroup, head: str, columns: Sequence[str]) -> list[str]:
    """Return the cells of one run group."""
    queries = group.joined["queries"]
    row = group.overall(head)
    by_seed = _by_seed(group, head)
    # All cells that any report can have; its columns choose.
    cells = {
        **group.choices,
        "queries to attack": f"{queries['spent']:,}",
        "images": f"{queries['images']:,}",
        "cost of attack": f"{queries['cost']:.2f}",
        "queries to measure": f"{queries['evaluation']:,}",
        "cost of measuring": f"{queries['evaluation_cost']:.2f}",
        "seeds": str(len(group.runs)),
        "SA": _figure("SA", row, by_seed),
        "honest loss": _figure("honest_loss", row, by_seed, 100),
    }
    for name in SHARES:
        absent = _absent(name, row)
        cells[f"{name}, {POOLED}"] = _figure(name, row, by_seed, absent=absent)
        for role, of_role in row["roles"].items():
            role_by_seed = [figures["roles"][role] for figures in by_seed]
            cells[f"{name}, {role}"] = _figure(name, of_role, role_by_seed, absent=absent)
    return [cells.get(column, "no such task") for column in columns]


def _by_seed(group: RunGroup, head: str) -> list[dict[str, Any]]:
    """Return the figures over the informative tasks by seed; empty for one seed."""
    if len(group.runs) < 2:
        return []
    tasks = {head: group.overall(head)["informative"]}
    roles = roles_of_tasks(group.joined)
    figures = []
    for table in group.tables:
        # Two resamples: only the figures themselves are read, not their intervals.
        figures.append(overall([table], roles, 2, tasks=tasks)[head])
    return figures


def by_task(groups: Sequence[RunGroup], head: str) -> Table:
    """Return one row a run group and task: TA, SA, ratio, control, and what was recovered.

    Figures as in `overview`. In bold: the SA of a task that is clearly the best of those with the
    same budget and defense.
    """
    varied = varied_choices(groups) or ["attack"]
    shares = _share_names(groups, head)
    columns = (
        "task",
        "role",
        *varied,
        "queries to attack",
        "TA",
        "SA",
        "SA/TA",
        "control C, lead",
        *shares,
    )
    tasks = dict[str, None]()
    for group in groups:
        tasks |= dict.fromkeys(group.joined["tasks"])
    rows = list[list[str]]()
    best = set[tuple[int, int]]()
    for task in tasks:
        rivals = dict[tuple[str, ...], list[RunGroup]]()
        places = dict[str, int]()
        for group in groups:
            if task in group.joined["tasks"]:
                rivals.setdefault(_rivalry(group), []).append(group)
                places[group.name] = len(rows)
                rows.append(_task_row(group, task, head, varied, shares))
        for several in rivals.values():
            winner = clearly_best(several, head, task)
            if winner is not None:
                best.add((places[winner.name], columns.index("SA")))
    # Besides the choices: task, role and budget.
    return Table(columns, rows, best, len(varied) + 3)


def _task_row(
    group: RunGroup, task: str, head: str, varied: Sequence[str], shares: Sequence[str]
) -> list[str]:
    """Return the cells of one run group and task."""
    heads = group.joined["tasks"][task]
    row = heads[head]
    by_seed = [run.result["tasks"][task][head] for run in group.runs]
    # A target that gets nothing right has no ratio.
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
    cells = [
        task,
        heads["role"],
        *group.options(varied),
        f"{group.joined['queries']['spent']:,}",
        _figure("TA", row, by_seed),
        _figure("SA", row, by_seed),
        ratio,
        control_cell(row),
    ]
    for name in shares:
        cells.append(_figure(name, row, by_seed, absent=_absent(name, row)))
    return cells


def _absent(name: str, row: dict[str, Any]) -> str:
    """Return what stands in place of a share that has no figure."""
    return "not known" if name == "recovered" and row["honest_loss"] is None else "left out"


def _figure(
    name: str,
    row: dict[str, Any],
    by_seed: Sequence[dict[str, Any]],
    unit: int = 1,
    absent: str = "not known",
) -> str:
    """Return a figure with its spread over seeds and its interval.

    Args:
        name: of the figure.
        row: figures over all seeds, with `intervals`.
        by_seed: figures of each seed.
        unit: 100 for percentage points, else 1.
        absent: the text if there is no figure.
    """
    if row.get(name) is None:
        return absent
    # A share is noisier than an accuracy, so it has fewer digits.
    if unit == 100:
        digits = 1
    elif name in ("TA", "SA"):
        digits = 3
    else:
        digits = 2
    low, high = row["intervals"][name]
    values = [unit * figures[name] for figures in by_seed if figures.get(name) is not None]
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    # z: no minus before a zero
    form = f"z.{digits}f"
    interval = f"[{unit * low:{form}}, {unit * high:{form}}]"
    return f"{unit * row[name]:{form}}{spread} {interval}"


def tasks_left_out(groups: Sequence[RunGroup], head: str) -> Table:
    """Return one row for each task that is left out and each reason, with the run groups."""
    by_reason = dict[tuple[str, str, str], list[str]]()
    for group in groups:
        for task, why in reasons(group, head).items():
            role = group.joined["tasks"][task]["role"]
            by_reason.setdefault((task, role, why), []).append(group.name)
    rows = []
    for (task, role, why), names in by_reason.items():
        whose = "all" if len(names) == len(groups) else "; ".join(names)
        rows.append([task, role, why, whose])
    return Table(("task", "role", "why it is left out", "run groups"), rows, key_columns=2)


def paired_tests(compared: Sequence[Comparison]) -> Table:
    """Return one row a test; in bold the differences that are unlikely to be chance."""
    records = []
    likely = []
    for number, test in enumerate(compared):
        low, high = test.interval
        record = {
            "first": test.first,
            "second": test.second,
            "both": test.both,
            "queries": f"{test.budget:,}",
            "seeds": str(test.seeds),
            "SA, points": f"{100 * test.difference:+.1f}",
            "95 %": f"[{100 * low:+.1f}, {100 * high:+.1f}]",
            "p": f"{test.p:.3f}",
            "p for all tests": f"{test.adjusted:.3f}",
        }
        records.append(record)
        # One seed shows nothing of how training varies.
        if test.adjusted < 0.05 and test.seeds > 1:
            likely.append((number, "SA, points"))
    return Table.of_records(records, best=likely, key_columns=4)
