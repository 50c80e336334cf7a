"""Tables of a report: settings in, one tidy table of all figures and a short one for people out."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import pyarrow as pa

from stealing.evaluation.statistics import control_accuracy, overall
from stealing.report.comparisons import Comparison
from stealing.report.runs import VARIED, Setting

FIGURES = ("TA", "TA_clean", "SA", "ratio", "recovered", "honest_loss", "agreement", "agreement_ceiling")
BOUNDED = ("TA", "TA_clean", "SA", "recovered", "honest_loss")
"""Figures of `result.json`, and those of them that have an interval."""

LATEX = str.maketrans({sign: "\\" + sign for sign in "&%$#_{}"} | {"~": r"\textasciitilde{}", "±": r"$\pm$"})


def tidy(found: Sequence[Setting]) -> pa.Table:
    """One row a run, task and head; a figure that is not known is null.

    Returns:
        Columns `run`, `seed`, the choices, queries and costs, `task`, `role`, `head`, each of `FIGURES`, the bounds of
        its 95 % interval as `<figure>_low` and `<figure>_high`, and each control.
    """
    rows = []
    for setting in found:
        for run in setting.runs:
            asked = run.result["queries"]
            shared = {"run": run.folder.name, "seed": run.result["seed"], **setting.choices, "budget": asked["budget"]}
            shared |= {name: asked[name] for name in ("spent", "evaluation", "cost")}
            for task, heads in run.result["tasks"].items():
                for head, row in heads.items():
                    if head == "role":
                        continue
                    figures = {name: row[name] for name in FIGURES}
                    for name in BOUNDED:
                        low, high = row["intervals"].get(name, (None, None))
                        figures |= {f"{name}_low": low, f"{name}_high": high}
                    controls = {f"control_{name}": value for name, value in row["controls"].items()}
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
    """One row a setting: what was asked and paid, SA, what was recovered and the honest loss, over all tasks.

    Each figure is the mean over seeds, ± the standard deviation over seeds where there are several, [95 % interval].
    In bold: the theft that got most of those with the same budget and defense, where there are several.
    """
    varied = [name for name in VARIED if len({setting.choices[name] for setting in found}) > 1] or ["attack"]
    known = [setting.overall(head).get("honest_loss") is not None for setting in found]
    shares = [*(["recovered"] if any(known) else []), *([] if all(known) else ["offered"])]
    paid = any(setting.joined["queries"]["cost"] for setting in found)
    unequal = len({len(setting.runs) for setting in found}) > 1
    columns = (*varied, "queries", *(["cost"] if paid else []), *(["seeds"] if unequal else []), "SA", *shares)
    columns = (*columns, "honest loss") if any(setting.defended for setting in found) else columns
    rows, best, rivals = [], set[tuple[int, int]](), dict[tuple[str, ...], list[tuple[float, int]]]()
    for number, setting in enumerate(found):
        asked, row = setting.joined["queries"], setting.overall(head)
        tasks = {head: row.get("informative", ())}
        roles = {task: heads["role"] for task, heads in setting.joined["tasks"].items()}
        runs = setting.runs if len(setting.runs) > 1 else []
        each = [overall([run.right], roles, 2, tasks=tasks)[head] for run in runs]
        rows.append(
            [
                *(setting.choices[name] for name in varied), f"{asked['spent']:,}",
                *([f"{asked['cost']:.2f}"] if paid else []), *([str(len(setting.runs))] if unequal else []),
                *(_figure(name, row, each) for name in ("SA", *shares)),
                *([_figure("honest_loss", row, each, 100)] if "honest loss" in columns else []),
            ]
        )  # fmt: skip
        place = (*setting.scene, setting.choices["defense"], str(setting.budget))
        for name in ("SA", *shares):
            if row.get(name) is not None:
                rivals.setdefault((name, *place), []).append((row[name], number))
    for key, several in rivals.items():
        if len(several) > 1:
            best.add((max(several)[1], columns.index(key[0])))
    return Sheet(columns, rows, best, len(varied) + 1)


def by_task(found: Sequence[Setting], head: str) -> Sheet:
    """One row a setting and task: TA, SA, their ratio, the best control and what was recovered.

    Figures as in `overview`; in bold the greatest SA of a task among thefts with the same budget and defense.
    """
    varied = [name for name in VARIED if len({setting.choices[name] for setting in found}) > 1] or ["attack"]
    columns = ("task", *varied, "queries", "TA", "SA", "SA/TA", "C", "recovered")
    rows, best = list[list[str]](), set[tuple[int, int]]()
    rivals = dict[tuple[str, ...], list[tuple[float, int]]]()
    for task in dict.fromkeys(task for setting in found for task in setting.joined["tasks"]):
        for setting in found:
            if task not in setting.joined["tasks"]:
                continue
            row = setting.joined["tasks"][task][head]
            each = [run.result["tasks"][task][head] for run in setting.runs]
            place = (task, *setting.scene, setting.choices["defense"], str(setting.budget))
            rivals.setdefault(place, []).append((row["SA"], len(rows)))
            rows.append(
                [
                    task, *(setting.choices[name] for name in varied), f"{setting.joined['queries']['spent']:,}",
                    _figure("TA", row, each), _figure("SA", row, each), f"{row['ratio']:.2f}",
                    f"{control_accuracy(row):.3f}", _figure("recovered", row, each),
                ]
            )  # fmt: skip
    for several in rivals.values():
        if len(several) > 1:
            best.add((max(several)[1], columns.index("SA")))
    return Sheet(columns, rows, best, len(varied) + 2)


def _figure(name: str, row: dict[str, Any], each: list[dict[str, Any]], unit: int = 1) -> str:
    if row.get(name) is None:
        return "not known" if name != "offered" and row.get("honest_loss") is None else "not informative"
    digits = 1 if unit == 100 else 3 if name in ("TA", "SA") else 2
    low, high = row["intervals"][name]
    values = [unit * found[name] for found in each if found.get(name) is not None]
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{unit * row[name]:z.{digits}f}{spread} [{unit * low:z.{digits}f}, {unit * high:z.{digits}f}]"


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
