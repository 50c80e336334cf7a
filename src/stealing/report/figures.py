"""The pictures of a report: settings in, each with an alternative text and the runs that it shows out."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from stealing.errors import DataError
from stealing.evaluation.statistics import control_accuracy
from stealing.report import frontier
from stealing.report.picture import COLOURS, WIDTH, Figure, Picture, names, style, svg
from stealing.report.runs import VARIED, Setting
from stealing.report.samples import agreement, neighbours, queries, sample_of, space
from stealing.report.shares import pooled_over
from stealing.training.levelling import curve_of

SHARES = {"recovered": "recovered share", "offered": "share of what the service offers"}
"""Of the target without a defense if that is known, else of the target as it is offered."""


def pictures(found: list[Setting], head: str) -> list[Picture]:
    """All that can be drawn of these settings; what needs something that they lack is left out."""
    shown = headline(found, head)
    drawn: list[Picture | None] = [accuracies(shown, head), budgets(found, head)]
    if any(setting.joined["queries"]["cost"] > 0 for setting in found):
        drawn.append(budgets(found, head, priced=True))
    with suppress(DataError):  # there is no defense, nothing to compare it with, or no task that could tell
        drawn.append(defenses(found, head))
    drawn.append(curves(shown))
    if (sample := sample_of(shown)) is not None:
        task = shown.runs[0].result["sample"]["task"]
        drawn += [queries(shown, sample), space(shown, sample, task), neighbours(shown, sample, task)]
        drawn.append(agreement(shown, sample, task, head))
    return [picture for picture in drawn if picture is not None]


def headline(found: Sequence[Setting], head: str) -> Setting:
    """Return the attack that figures of one setting show: the best on a slice of train, without a defense if one is."""
    bare = [setting for setting in found if not setting.defended] or found
    return max(bare, key=lambda setting: setting.overall(head)["held"]["SA"])


def accuracies(setting: Setting, head: str) -> Picture:
    """TA, SA and C of each task."""
    tasks = {task: heads[head] for task, heads in setting.joined["tasks"].items()}
    figure = Figure(figsize=(WIDTH, 1.2 + 0.62 * len(tasks)), layout="constrained")
    axes = figure.subplots()
    series = [
        ("target without defense, TA_clean", "TA_clean"),
        ("target as offered, TA", "TA"),
        ("surrogate, SA", "SA"),
    ]
    if not setting.defended:
        series = series[1:]
    for number, (label, name) in enumerate(series):
        values = [row[name] for row in tasks.values()]
        spans = [row["intervals"].get(name) for row in tasks.values()]
        if None in values or None in spans:
            continue
        errors = np.abs(np.array(spans).T - np.array(values))
        places = np.arange(len(tasks)) + 0.18 * (number - len(series) / 2)
        axes.errorbar(values, places, xerr=errors, label=label, capsize=2, markersize=6, linestyle="", **style(number))
    strongest = [control_accuracy(row) for row in tasks.values()]
    axes.scatter(
        strongest, np.arange(len(tasks)) + 0.09 * len(series), marker="|", s=120, color="black", label="best control, C"
    )
    for number in range(1, len(tasks), 2):
        axes.axhspan(number - 0.5, number + 0.5, color="#f2f2f2", zorder=0)
    axes.set_yticks(np.arange(len(tasks)), list(tasks))
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlabel(f"test accuracy of a {head} head, with 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, loc="outside upper center", ncols=2)
    told = "; ".join(
        f"{task}: TA {row['TA']:.3f}, SA {row['SA']:.3f}, C {control:.3f}"
        for (task, row), control in zip(tasks.items(), strongest, strict=True)
    )
    return Picture(
        "How good is the stolen encoder on each task?",
        svg(figure, "accuracies"),
        f"Accuracies by task of {setting.name}. {told}.",
        f"{setting.name}. The attack paid off on a task if SA lies well to the right of C, which needs no query.",
        names([setting]),
    )


def measure(found: Sequence[Setting], head: str) -> str:
    """Return what is known of all these settings: one of `SHARES`, or SA."""
    rows = [setting.overall(head) for setting in found]
    return next((share for share in SHARES if all(row.get(share) is not None for row in rows)), "SA")


def budgets(found: list[Setting], head: str, *, priced: bool = False) -> Picture:
    """Draw what is recovered, or SA if that is unknown, against queries or money."""
    name = measure(found, head)
    recovered = name in SHARES
    label_of_share = f"{SHARES[name]}, {pooled_over(found, head)}" if recovered else "SA, mean over tasks"
    lines = dict[str, list[Setting]]()
    varied = [key for key in VARIED if len({setting.choices[key] for setting in found}) > 1] or ["attack"]
    for setting in found:
        lines.setdefault(", ".join(setting.choices[key] for key in varied), []).append(setting)
    longer = {label: line for label, line in lines.items() if len(line) > 1}
    lines = longer or lines  # what was tried at one budget alone is no curve, where others are
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    words = []
    for number, (label, line) in enumerate(lines.items()):
        line.sort(key=lambda setting: setting.budget)
        across = [float(s.joined["queries"]["cost"]) if priced else float(s.joined["queries"]["spent"]) for s in line]
        rows = [setting.overall(head) for setting in line]
        values = [row[name] for row in rows]
        errors = np.abs(np.array([row["intervals"][name] for row in rows]).T - np.array(values))
        axes.errorbar(across, values, yerr=errors, label=label, capsize=2, linewidth=1, markersize=6, **style(number))
        points = ", ".join(f"{x:g}: {y:.2f}" for x, y in zip(across, values, strict=True))
        words.append(f"{label} ({points})")
    axes.set_xlabel("money spent on queries" if priced else "queries")
    axes.set_ylabel(label_of_share)
    if not priced and len({setting.budget for setting in found}) > 1:
        axes.set_xscale("log")
        ticks = sorted({setting.joined["queries"]["spent"] for setting in found})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
    axes.grid(alpha=0.3)
    if recovered:
        axes.axhline(0, color="#777777", linestyle=":", linewidth=1)
        axes.axhline(1, color="#777777", linestyle=":", linewidth=1)
    figure.legend(fontsize=8, loc="outside upper center", ncols=2)
    unit = "money" if priced else "queries"
    return Picture(
        f"How much is stolen for how much {unit}?" if priced else "How much is stolen with how many queries?",
        svg(figure, f"budgets-{unit}"),
        f"{label_of_share[0].upper()}{label_of_share[1:]}, against {unit}: {'; '.join(words)}.",
        f"The {SHARES[name]} is {pooled_over(found, head)}. Dotted lines: 0 is the strongest control, which needs no "
        f"query, 1 is the target itself{' as it is offered' if name == 'offered' else ''}. Bars: 95 % intervals."
        if recovered
        else "Mean SA over the tasks, with 95 % intervals. The recovered share is not known for all of these runs.",
        names(setting for line in lines.values() for setting in line),
    )


def defended(found: Sequence[Setting], head: str) -> tuple[list[frontier.Point], list[Setting]]:
    """The frontier of defenses, at the greatest budget that was tried with and without one, and its settings.

    Raises:
        DataError: there is none, or no task that could tell.
    """
    scene = headline(found, head).scene
    alike = [setting for setting in found if setting.scene == scene]
    without, with_ = ({setting.budget for setting in alike if setting.defended is state} for state in (False, True))
    if not without & with_:
        raise DataError("No budget was tried both with and without a defense: add defense=none at the same budget.")
    chosen = [setting for setting in alike if setting.budget == max(without & with_)]
    bare = headline([setting for setting in chosen if not setting.defended], head)
    chosen = [setting for setting in chosen if setting.joined["seeds"] == bare.joined["seeds"]]
    return frontier.points([frontier.cell_of(setting.joined, setting.choices) for setting in chosen], head), chosen


def defenses(found: Sequence[Setting], head: str) -> Picture:
    """Draw what each defense costs honest users and takes from the attacker; raises as `defended` does."""
    points, chosen = defended(found, head)
    over = pooled_over(chosen, head)
    told = "; ".join(
        f"{point.name}: loss {100 * point.loss:.1f} points, recovered {point.recovered:.2f}" for point in points
    )
    said = [
        "A good defense lies low and left: the attacker recovers little, honest users lose little.",
        f"The recovered share is {over}.",
    ]
    if frontier.is_shaded(points):
        said.append("Shaded: where a useful defense would lie.")
    if any(point.strength for point in points):
        said.append("Beside a point: the strength of its defense, if several settings differ in it.")
    said.append("The axis of what honest users lose is stretched near 0.")
    return Picture(
        "Which defense takes more from the attacker than from honest users?",
        svg(frontier.draw(points), "frontier"),
        f"Honest loss against recovered share, {over}, at {chosen[0].budget} queries: {told}.",
        " ".join(said),
        names(chosen),
    )


def curves(setting: Setting) -> Picture | None:
    """The training loss of the surrogate, by seed."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    last = []
    for number, run in enumerate(setting.runs):
        curve = curve_of(run.folder.parent.parent / str(run.result["artefacts"].get("surrogate", "")))
        if curve:
            steps = [step for step, _ in curve]
            losses = [loss for _, loss in curve]
            name = f"seed {run.result['seed']}"
            axes.plot(steps, losses, color=COLOURS[number % len(COLOURS)], label=name, linewidth=1)
            last.append(f"{name} from {losses[0]:.3f} to {losses[-1]:.3f} in {steps[-1] + 1} steps")
    if not last:
        return None
    axes.set_xlabel("step")
    axes.set_ylabel("steal/loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return Picture(
        "Did the attack train to its end?",
        svg(figure, "curves"),
        f"Training loss of {setting.name}: {'; '.join(last)}.",
        f"{setting.name}. The loss is what training makes small. If a curve still falls at its end, the attack was cut "
        "short, and a longer one may recover more. A flat end alone proves little: the learning rate falls to zero in "
        "most presets, which flattens any curve.",
        names([setting]),
    )
