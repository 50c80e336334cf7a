"""Tables of a report: settings in, one tidy table of all figures and a short one for people out."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import pyarrow as pa

from stealing.evaluation.statistics import SHARES, control_accuracy, overall
from stealing.report.comparisons import Comparison, clearly_best
from stealing.report.runs import VARIED, Setting
from stealing.report.shares import reasons, roles_of
from stealing.report.table import SHORT

FIGURES = ("TA", "TA_clean", "SA", "ratio", *SHARES, "honest_loss", "agreement", "agreement_ceiling")
BOUNDED = ("TA", "TA_clean", "SA", *SHARES, "honest_loss")
"""Figures of `result.json`, and those of them that have an interval."""

POOLED = "pooled"
"""End of the name of a column whose figure is of all roles together."""

LATEX = str.maketrans({sign: "\\" + sign for sign in "&%$#_{}"} | {"~": r"\textasciitilde{}", "±": r"$\pm$"})


def tidy(found: Sequence[Setting]) -> pa.Table:
    """One row a run, task and head; a figure that is not known is null.

    Returns:
        Columns `run`, `seed`, the choices, queries and costs, `task`, `role`, `head`, each of `FIGURES`, the bounds of
        its 95 % interval as `<figure>_low` and `<figure>_high`, which control is C as `strongest_control`, how far the
        next best is behind it on the slice of train as `control_lead`, and each control's accuracy as `control_<name>`.
    """
    rows = []
    for setting in found:
        for run in setting.runs:
            asked = run.result["queries"]
            shared = {"run": run.folder.name, "seed": run.result["seed"], **setting.choices, "budget": asked["budget"]}
            shared |= {name: asked[name] for name in ("spent", "evaluation", "cost", "evaluation_cost")}
            for task, heads in run.result["tasks"].items():
                for head, row in heads.items():
                    if head == "role":
                        continue
                    figures = {name: row[name] for name in FIGURES}
                    for name in BOUNDED:
                        low, high = row["intervals"].get(name, (None, None))
                        figures |= {f"{name}_low": low, f"{name}_high": high}
                    controls = {"strongest_control": row["control"]["name"], "control_lead": row["control"]["lead"]}
                    controls |= {f"control_{name}": value for name, value in row["controls"].items()}
                    rows.append({**shared, "task": task, "role": heads["role"], "head": head, **figures, **controls})
    return pa.Table.from_pylist(rows)


@dataclass(frozen=True)
class Sheet:
    """A table for people: text cells, some of them the best of their kind.

    Attributes:
        columns: their names.
        rows: as many cells each.
        best: places (row, column) to show in bold.
        named: how many columns from the left say which row it is.
    """

    columns: tuple[str, ...]
    rows: list[list[str]]
    best: set[tuple[int, int]]
    named: int = 1

    def markdown(self) -> str:
        """As a table of GitHub's Markdown."""
        lines = ["| " + " | ".join(self.columns) + " |", "| " + " | ".join("---" for _ in self.columns) + " |"]
        for number, row in enumerate(self.rows):
            cells = [f"**{cell}**" if (number, place) in self.best else cell for place, cell in enumerate(row)]
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """As a `tabular` of the package booktabs."""
        lines = [r"\begin{tabular}{" + "l" * len(self.columns) + "}", r"\toprule"]
        lines += [" & ".join(name.translate(LATEX) for name in self.columns) + r" \\", r"\midrule"]
        for number, row in enumerate(self.rows):
            cells = [cell.translate(LATEX) for cell in row]
            cells = [
                rf"\textbf{{{cell}}}" if (number, place) in self.best else cell for place, cell in enumerate(cells)
            ]
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def overview(found: Sequence[Setting], head: str) -> Sheet:
    """Return one row a setting: what was asked and paid, SA, what was recovered by role, and the honest loss.

    Each figure is the mean over seeds, ± the standard deviation over seeds if there are several,
    [95 % interval]. In bold: the SA that is clearly the best of those with the same budget and defense.
    """
    varied = _varied(found)
    columns = _columns(found, head, varied)
    rows = [_row(setting, head, columns) for setting in found]
    rivals = dict[tuple[str, ...], list[int]]()
    for number, setting in enumerate(found):
        rivals.setdefault(_alike(setting), []).append(number)
    best = set[tuple[int, int]]()
    for numbers in rivals.values():
        winner = clearly_best([found[number] for number in numbers], head)
        best |= {(number, columns.index("SA")) for number in numbers if found[number] is winner}
    return Sheet(columns, rows, best, len(varied) + 1)


def _varied(found: Sequence[Setting]) -> list[str]:
    varied = [name for name in VARIED if len({setting.choices[name] for setting in found}) > 1]
    return varied or ["attack"]


def _alike(setting: Setting) -> tuple[str, ...]:
    """What settings have in common of which one can be the best."""
    return (*setting.scene, setting.choices["defense"], str(setting.budget))


def _shares(rows: Sequence[dict[str, Any]]) -> list[str]:
    """`recovered` if it is known of any of these rows, `offered` if the undefended target is unknown for any."""
    known = [row["honest_loss"] is not None for row in rows]
    return [*(["recovered"] if any(known) else []), *([] if all(known) else ["offered"])]


def _columns(found: Sequence[Setting], head: str, varied: Sequence[str]) -> tuple[str, ...]:
    asked = [setting.joined["queries"] for setting in found]
    roles = roles_of(found, head)
    columns = [*varied, "queries to attack"]
    if any(queries["cost"] for queries in asked):
        columns.append("cost of attack")
    columns.append("queries to measure")
    if any(queries["evaluation_cost"] for queries in asked):
        columns.append("cost of measuring")
    if len({len(setting.runs) for setting in found}) > 1:
        columns.append("seeds")
    columns.append("SA")
    for name in _shares([setting.overall(head) for setting in found]):
        columns += [f"{name}, {role}" for role in roles]
        if len(roles) > 1:  # else the role's figure is that of all tasks
            columns.append(f"{name}, {POOLED}")
    if any(setting.defended for setting in found):
        columns.append("honest loss")
    return tuple(columns)


def _row(setting: Setting, head: str, columns: Sequence[str]) -> list[str]:
    """The cells of one setting."""
    queries = setting.joined["queries"]
    row = setting.overall(head)
    each = _each(setting, head)
    known = {
        **setting.choices,
        "queries to attack": f"{queries['spent']:,}",
        "cost of attack": f"{queries['cost']:.2f}",
        "queries to measure": f"{queries['evaluation']:,}",
        "cost of measuring": f"{queries['evaluation_cost']:.2f}",
        "seeds": str(len(setting.runs)),
        "SA": _figure("SA", row, each),
        "honest loss": _figure("honest_loss", row, each, 100),
    }
    for name in SHARES:
        absent = _absent(name, row)
        known[f"{name}, {POOLED}"] = _figure(name, row, each, absent=absent)
        for role, of in row["roles"].items():
            of_each = [one["roles"][role] for one in each]
            known[f"{name}, {role}"] = _figure(name, of, of_each, absent=absent)
    return [known.get(column, "no such task") for column in columns]


def _each(setting: Setting, head: str) -> list[dict[str, Any]]:
    """The figures over tasks of each seed alone, of the same tasks as the mean; empty for one seed."""
    if len(setting.runs) < 2:
        return []
    tasks = {head: setting.overall(head)["informative"]}
    roles = {task: heads["role"] for task, heads in setting.joined["tasks"].items()}
    return [overall([run.right], roles, 2, tasks=tasks)[head] for run in setting.runs]


def by_task(found: Sequence[Setting], head: str) -> Sheet:
    """Return one row a setting and task: TA, SA, their ratio, the strongest control, and what was recovered.

    Figures as in `overview`. In bold: the SA of a task that is clearly the best of those with the same
    budget and defense.
    """
    varied = _varied(found)
    shares = _shares([setting.overall(head) for setting in found])
    columns = ("task", "role", *varied, "queries to attack", "TA", "SA", "SA/TA", "control C, lead", *shares)
    rows = list[list[str]]()
    best = set[tuple[int, int]]()
    for task in dict.fromkeys(task for setting in found for task in setting.joined["tasks"]):
        rivals = dict[tuple[str, ...], list[Setting]]()
        places = dict[int, int]()
        for setting in found:
            if task in setting.joined["tasks"]:
                rivals.setdefault(_alike(setting), []).append(setting)
                places[id(setting)] = len(rows)
                rows.append(_task_row(setting, task, head, varied, shares))
        for several in rivals.values():
            winner = clearly_best(several, head, task)
            if winner is not None:
                best.add((places[id(winner)], columns.index("SA")))
    return Sheet(columns, rows, best, len(varied) + 3)


def _task_row(setting: Setting, task: str, head: str, varied: Sequence[str], shares: Sequence[str]) -> list[str]:
    """The cells of one setting and task."""
    heads = setting.joined["tasks"][task]
    row = heads[head]
    each = [run.result["tasks"][task][head] for run in setting.runs]
    control = row["control"]
    ratio = "not known" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return [
        task,
        heads["role"],
        *(setting.choices[name] for name in varied),
        f"{setting.joined['queries']['spent']:,}",
        _figure("TA", row, each),
        _figure("SA", row, each),
        ratio,
        f"{control_accuracy(row):.3f} {SHORT[control['name']]} {control['lead']:+.3f}",
        *(_figure(name, row, each, absent=_absent(name, row)) for name in shares),
    ]


def _absent(name: str, row: dict[str, Any]) -> str:
    """What stands in place of a share that has no figure."""
    return "not known" if name == "recovered" and row["honest_loss"] is None else "left out"


def _figure(
    name: str, row: dict[str, Any], each: Sequence[dict[str, Any]], unit: int = 1, absent: str = "not known"
) -> str:
    if row.get(name) is None:
        return absent
    digits = 1 if unit == 100 else 3 if name in ("TA", "SA") else 2
    low, high = row["intervals"][name]
    values = [unit * found[name] for found in each if found.get(name) is not None]
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{unit * row[name]:z.{digits}f}{spread} [{unit * low:z.{digits}f}, {unit * high:z.{digits}f}]"


def tasks_left_out(found: Sequence[Setting], head: str) -> Sheet:
    """Return one row a task and reason why it is in no figure over tasks, with the settings that it is so for."""
    told = dict[tuple[str, str, str], list[Setting]]()
    for setting in found:
        for task, why in reasons(setting, head).items():
            told.setdefault((task, setting.joined["tasks"][task]["role"], why), []).append(setting)
    rows = []
    for (task, role, why), some in told.items():
        whom = "all" if len(some) == len(found) else "; ".join(one.name for one in some)
        rows.append([task, role, why, whom])
    return Sheet(("task", "role", "why it is left out", "settings"), rows, set(), 2)


def paired_tests(compared: Sequence[Comparison]) -> Sheet:
    """Paired tests, in bold where the difference is unlikely to be chance."""
    rows = [
        [
            one.first, one.second, one.alike, f"{one.budget:,}", str(one.seeds), f"{100 * one.difference:+.1f}",
            f"[{100 * one.interval[0]:+.1f}, {100 * one.interval[1]:+.1f}]", f"{one.p:.3f}", f"{one.adjusted:.3f}",
        ]
        for one in compared
    ]  # fmt: skip
    columns = ("first", "second", "both", "queries", "seeds", "SA, points", "95 %", "p", "p for all tests")
    sure = {(number, 5) for number, one in enumerate(compared) if one.adjusted < 0.05 and one.seeds > 1}
    return Sheet(columns, rows, sure, 4)
