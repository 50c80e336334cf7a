"""The pictures of a report: run groups in, SVG with titles, captions and alternative texts out."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from matplotlib.ticker import PercentFormatter

from stealing.errors import DataError
from stealing.evaluation.statistics import control_accuracy
from stealing.report import frontier
from stealing.report.budgets import Figures, budgets, price_of, with_errors
from stealing.report.defenses import DefensePoint, cell_of, points
from stealing.report.picture import (
    COLOURS,
    STRIPE,
    WIDTH,
    Axes,
    Figure,
    Picture,
    names,
    style,
    svg,
)
from stealing.report.runs import RunGroup
from stealing.report.samples import agreement, neighbours, queries, sample_of, space
from stealing.report.selection import by_budget, with_defense, without_defense
from stealing.report.shares import pooled_over
from stealing.report.wording import words
from stealing.report.words import meaning
from stealing.saved.files import ARTEFACT
from stealing.text import for_figure
from stealing.training.levelling import curve_of

SPACING = 0.18
"""Between the series of one task, where tasks are 1 apart."""


def pictures(groups: list[RunGroup], head: str) -> list[Picture]:
    """Return all pictures that these groups have the data for."""
    shown = headline(groups, head)
    drawn = [accuracies(shown, head), budgets(groups, head)]
    most_paid = max(price_of(group, priced=True) for group in groups)
    if most_paid > 0:
        drawn.append(budgets(groups, head, priced=True))
    # There may be no defense, nothing to compare it with, or no informative task.
    with suppress(DataError):
        drawn.append(defenses(groups, head))
    # A surrogate's folder may be gone, or may have been made without a log of its losses.
    training = curves(shown)
    if training is not None:
        drawn.append(training)
    sample = sample_of(shown, head)
    if sample is not None:
        task = shown.runs[0].result["sample"]["task"]
        drawn.append(queries(shown, sample))
        drawn.append(space(shown, sample, task))
        drawn.append(neighbours(shown, sample, task))
        drawn.append(agreement(shown, sample, task, head))
    return drawn


def key_pictures(groups: list[RunGroup], head: str) -> list[Picture]:
    """Return the pictures that an owner of an encoder needs, labelled in plain words."""
    drawn = [budgets(without_defense(groups) or groups, head, plain=True)]
    with suppress(DataError):
        drawn.append(defenses(groups, head, plain=True))
    return drawn


def headline(groups: Sequence[RunGroup], head: str) -> RunGroup:
    """Return the attack that figures of one group show, without a defense if there is one.

    It is the best on the held rows, so that no test image decides what a page shows.
    """
    rivals = without_defense(groups) or groups
    # As the verdict chooses; SA decides if no share is known.
    return max(
        rivals,
        key=lambda group: (group.chosen_by(head), group.overall(head)["held"]["SA"]),
    )


def accuracies(group: RunGroup, head: str) -> Picture:
    """Draw TA, SA and C of each task."""
    rows = {task: heads[head] for task, heads in group.joined["tasks"].items()}
    figure = Figure(figsize=(WIDTH, 1.2 + 0.62 * len(rows)), layout="constrained")
    axes = figure.subplots()
    series = {"target as offered, TA": "TA", "surrogate, SA": "SA"}
    if group.defended:
        # Without a defense it equals TA, and would only hide behind it.
        series = {"target without defense, TA_clean": "TA_clean", **series}
    for number, (label, name) in enumerate(series.items()):
        offset = SPACING * (number - len(series) / 2)
        _draw_accuracies(axes, list(rows.values()), name, label, number, offset)
    controls = list(map(control_accuracy, rows.values()))
    axes.scatter(
        controls,
        np.arange(len(rows)) + SPACING * len(series) / 2,
        marker="|",
        s=120,
        color="black",
        label="best control, C",
    )
    for number in range(1, len(rows), 2):
        axes.axhspan(number - 0.5, number + 0.5, color=STRIPE, zorder=0)
    axes.set_yticks(np.arange(len(rows)), list(map(for_figure, rows)))
    # Upside down: the first task of the tables stands at the top.
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(for_figure(f"test accuracy of a {head} head, with 95 % intervals"))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, loc="outside upper center", ncols=2)
    figures = list(zip(rows, rows.values(), controls, strict=True))
    title, alternative, caption = words(
        "figures.jinja", "accuracies", group=group.name, rows=figures
    )
    return Picture(title, svg(figure, "accuracies"), alternative, caption, names([group]))


def _draw_accuracies(
    axes: Axes, rows: Sequence[Figures], name: str, label: str, number: int, offset: float
) -> None:
    """Draw one accuracy of all tasks, if it is known of all."""
    for row in rows:
        # TA_clean of a remote target is unknown.
        if row[name] is None or name not in row["intervals"]:
            return
    values, errors = with_errors(rows, name)
    axes.errorbar(
        values,
        np.arange(len(rows)) + offset,
        xerr=errors,
        label=label,
        capsize=2,
        markersize=6,
        linestyle="",
        **style(number),
    )


def defended(groups: Sequence[RunGroup], head: str) -> tuple[list[DefensePoint], list[RunGroup]]:
    """Return the frontier of defenses and the groups that it is drawn from.

    It is of the greatest budget that was tried both with and without a defense.

    Raises:
        DataError: there is no such budget, or no informative task.
    """
    scene = headline(groups, head).scene
    comparable = [group for group in groups if group.scene == scene]
    common = by_budget(without_defense(comparable)).keys() & by_budget(with_defense(comparable))
    if not common:
        raise DataError(
            "No budget was tried both with and without a defense: add defense=none at the same "
            "budget."
        )
    rivals = by_budget(comparable)[max(common)]
    seeds = headline(without_defense(rivals), head).joined["seeds"]
    chosen = []
    cells = []
    for group in rivals:
        # Other seeds are other trainings, whose variance would look like a defense's effect.
        if group.joined["seeds"] == seeds:
            chosen.append(group)
            cells.append(cell_of(group.joined, group.choices))
    return points(cells, head), chosen


def defenses(groups: Sequence[RunGroup], head: str, *, plain: bool = False) -> Picture:
    """Draw what each defense costs honest users and takes from the attacker.

    Args:
        groups: attacks with and without defenses.
        head: of the accuracies.
        plain: whether to name defenses in plain words, without their strengths.

    Raises:
        DataError: as `defended` does.
    """
    drawn, chosen = defended(groups, head)
    if plain:
        drawn = list(map(_plain_point, drawn))
    figure = frontier.draw(drawn)
    title, alternative, caption, across_label, up_label = words(
        "figures.jinja",
        "defenses",
        points=drawn,
        roles=pooled_over(chosen, head),
        budget=chosen[0].budget,
        is_shaded=frontier.is_shaded(drawn),
        has_strengths=any(point.strength for point in drawn),
        plain=plain,
    )
    if plain:
        [axes] = figure.axes
        axes.set_xlabel(across_label)
        axes.set_ylabel(up_label)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        [legend] = figure.legends
        for label in legend.get_texts():
            if label.get_text() == "none":
                label.set_text("no defense")
    return Picture(title, svg(figure, "frontier"), alternative, caption, names(chosen))


def _plain_point(point: DefensePoint) -> DefensePoint:
    # `frontier.draw` finds the point without a defense by its name.
    name = point.defense if point.defense == "none" else meaning("defense", point.defense).name
    return replace(point, defense=name, strength="")


def curves(group: RunGroup) -> Picture | None:
    """Draw the training loss of the surrogate, by seed; None if no loss was logged."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    ends = list[tuple[int, float, float, int]]()
    for number, run in enumerate(group.runs):
        surrogate = run.result["artefacts"].get("surrogate")
        # The place stands in a file: it must not lead elsewhere.
        if not isinstance(surrogate, str) or not ARTEFACT.fullmatch(surrogate):
            continue
        # A run stands in `runs` of its work folder, a surrogate in `surrogates` beside it.
        curve = curve_of(run.folder.parent.parent / surrogate)
        if not curve:
            continue
        steps, losses = zip(*curve, strict=True)
        seed = run.result["seed"]
        axes.plot(
            steps,
            losses,
            color=COLOURS[number % len(COLOURS)],
            label=for_figure(f"seed {seed}"),
            linewidth=1,
        )
        ends.append((seed, losses[0], losses[-1], steps[-1] + 1))
    if not ends:
        return None
    axes.set_xlabel("step")
    axes.set_ylabel("steal/loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    title, alternative, caption = words("figures.jinja", "curves", group=group.name, ends=ends)
    return Picture(title, svg(figure, "curves"), alternative, caption, names([group]))
