"""Pictures of what attacks recover, against queries or money: run groups in, one picture out."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from stealing.report.picture import GREY, WIDTH, Axes, Figure, Picture, names, style, svg
from stealing.report.runs import RunGroup, varied_choices
from stealing.report.selection import by_budget, choices_of
from stealing.report.shares import pooled_over
from stealing.report.wording import words
from stealing.report.words import plain_names
from stealing.text import for_figure

SHARES = {"recovered": "recovered share", "offered": "share of what the service offers"}
"""Of the target without a defense if that is known, else of the target as it is offered."""

Figures = dict[str, Any]
"""Of one head on one task, or over all tasks."""

Lines = Mapping[str, Sequence[RunGroup]]
"""Run groups by the label of their line, in the order of their budgets."""


def with_errors(rows: Sequence[Figures], name: str) -> tuple[list[float], NDArray[np.float64]]:
    """Return a figure of each row, and the lengths of its bars to both sides: (2, rows)."""
    values = []
    bars = []
    for row in rows:
        low, high = row["intervals"][name]
        values.append(row[name])
        # Bootstrap intervals need not hold the figure itself, and bars may not be negative.
        bars.append((abs(row[name] - low), abs(row[name] - high)))
    return values, np.array(bars).T


def measure(groups: Sequence[RunGroup], head: str) -> str:
    """Return what is known of all these groups: one of `SHARES`, or SA."""
    for share in SHARES:
        if all(group.overall(head).get(share) is not None for group in groups):
            return share
    return "SA"


def budgets(
    groups: list[RunGroup], head: str, *, priced: bool = False, plain: bool = False
) -> Picture:
    """Draw what is recovered, or SA if that is unknown, against queries or money.

    Args:
        groups: attacks.
        head: of the accuracies.
        priced: whether to draw it against money.
        plain: whether to label attacks in plain words, with those of only one budget too.
    """
    name = measure(groups, head)
    lines = _plain_lines(groups) if plain else _lines(groups)
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    points = _draw_lines(axes, lines, name, head, priced=priced)
    roles = pooled_over(groups, head)
    facts = {"share": SHARES.get(name), "roles": roles, "priced": priced, "plain": plain}
    title, alternative, caption, across_label, up_label = words(
        "figures.jinja", "budgets", lines=points, **facts
    )
    axes.set_xlabel(across_label)
    axes.set_ylabel(for_figure(up_label))
    if not priced:
        _set_queries(axes, groups)
    axes.grid(alpha=0.3)
    if name in SHARES:
        # The strongest control, and the target itself.
        axes.axhline(0, color=GREY, linestyle=":", linewidth=1)
        axes.axhline(1, color=GREY, linestyle=":", linewidth=1)
        if plain:
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    figure.legend(fontsize=8, loc="outside upper center", ncols=2)
    unit = "money" if priced else "queries"
    shown = list(chain.from_iterable(lines.values()))
    return Picture(title, svg(figure, f"budgets-{unit}"), alternative, caption, names(shown))


def _draw_lines(
    axes: Axes, lines: Lines, name: str, head: str, *, priced: bool
) -> dict[str, list[tuple[float, float]]]:
    """Draw all lines with their error bars; return the points of each by its label."""
    points = dict[str, list[tuple[float, float]]]()
    for number, (label, line) in enumerate(lines.items()):
        across = [price_of(group, priced=priced) for group in line]
        values, errors = with_errors([group.overall(head) for group in line], name)
        axes.errorbar(
            across,
            values,
            yerr=errors,
            label=for_figure(label),
            capsize=2,
            linewidth=1,
            markersize=6,
            **style(number),
        )
        points[label] = list(zip(across, values, strict=True))
    return points


def _set_queries(axes: Axes, groups: Sequence[RunGroup]) -> None:
    # Each budget is a multiple of the last: on a linear axis the small ones would touch.
    if len(by_budget(groups)) > 1:
        axes.set_xscale("log")
    ticks = sorted({price_of(group, priced=False) for group in groups})
    axes.set_xticks(ticks, list(map("{:,.0f}".format, ticks)))
    axes.minorticks_off()


def price_of(group: RunGroup, *, priced: bool) -> float:
    """Return what an attack spent: money, or queries."""
    return float(group.joined["queries"]["cost" if priced else "spent"])


def _lines(groups: Sequence[RunGroup]) -> Lines:
    """Return the curves over budgets, labelled by the choices in which they differ."""
    varied = varied_choices(groups) or ["attack"]
    lines = dict[str, list[RunGroup]]()
    for group in sorted(groups, key=lambda group: group.budget):
        label = ", ".join(map(group.choices.__getitem__, varied))
        lines.setdefault(label, []).append(group)
    # What was tried at only one budget is no curve, if others are.
    longer = {label: line for label, line in lines.items() if len(line) > 1}
    return longer or lines


def _plain_lines(groups: Sequence[RunGroup]) -> Lines:
    """Return the attacks by plain names of attack and plan."""
    attacks = plain_names("attack", choices_of(groups, "attack"))
    plans = plain_names("plan", choices_of(groups, "plan"))
    lines = dict[str, list[RunGroup]]()
    for group in sorted(groups, key=lambda group: group.budget):
        label = attacks[group.choices["attack"]]
        if len(plans) > 1:
            label += f": {plans[group.choices['plan']]}"
        lines.setdefault(label, []).append(group)
    return lines
