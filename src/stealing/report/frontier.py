"""The frontier of defenses: stored results in; tables and a figure out."""

from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from stealing.artefacts import write_atomically
from stealing.console import TextConsole
from stealing.report.common_controls import roles_of_tasks
from stealing.report.defenses import MAX_LOSS, MIN_TAKEN, DefensePoint, cheapest, points
from stealing.report.mixing import check_unmixed, code_note, mixture
from stealing.report.picture import WIDTH, Axes, Figure, style, svg
from stealing.report.shares import pooled, reason
from stealing.report.stored_cells import CommonGround
from stealing.report.tables import Table
from stealing.text import for_figure, for_markdown

CAPTION = (
    "honest loss: TA_clean - TA in points, the mean over tasks. recovered: of the strongest attack "
    "tried, of the\n"
    "informative tasks, by role of the task and pooled. points taken: of the pooled share, against "
    "no defense with\n"
    "the same seeds. Plan and worst task are chosen on held rows of the training split; figures "
    "are of the test split.\n"
    "Of several seeds they are means, with 95 % intervals over test images and seeds.\n"
    f"useful: takes {MIN_TAKEN} points, the upper bound of recovered is below what is recovered "
    "without a defense,\n"
    f"and that of the honest loss is at most {100 * MAX_LOSS:.0f} point."
)


def write(results: list[dict[str, Any]], folder: Path) -> list[DefensePoint]:
    """Write `table.txt`, `table.md` and `frontier.svg`.

    The first has a table of each number of queries. The other two show the first of them, and
    `table.md` of each defense the best strength.

    Returns:
        The points of the first.

    Raises:
        DataError: the first results cannot be compared, or a table mixes devices or precisions.
    """
    scenes = dict[int, list[dict[str, Any]]]()
    for result in results:
        images = result["cell"].get("images", result["queries"]["budget"])
        scenes.setdefault(images, []).append(result)
    first = list[DefensePoint]()
    page = ""
    # Nothing is written before all is computed, so that a refusal leaves the earlier tables whole.
    text = StringIO()
    # Wide enough for all columns: a file has no terminal to fit.
    console = TextConsole(file=text, width=220)
    for number, (images, of_scene) in enumerate(scenes.items()):
        print(f"{images:,} queries", file=text)
        is_undefended = any(one["cell"]["defense"] == "none" for one in of_scene)
        # A later table may wait for its cell without a defense.
        if number and not is_undefended:
            continue
        common = CommonGround.of(of_scene)
        found = points(common.attacks(of_scene))
        remarks = notes(common, of_scene)
        show(found, console)
        for line in remarks:
            console.print(line, soft_wrap=True)
        if not first:
            first = found
            lines = "".join(f"\n{for_markdown(line)}\n" for line in remarks)
            page = markdown(cheapest(first)) + lines
    picture = svg(draw(first), "frontier")
    write_atomically(folder / "table.txt", text.getvalue().encode())
    write_atomically(folder / "table.md", page.encode())
    write_atomically(folder / "frontier.svg", picture)
    return first


def notes(common: CommonGround, results: Sequence[dict[str, Any]]) -> list[str]:
    """Return what a reader of the table must know, one paragraph each.

    It names the tasks that the shares are of, why each other task is left out, and what made the
    results.

    Raises:
        DataError: they were made on several devices or in several precisions.
    """
    by_name = dict[str, dict[str, Any]]()
    by_defense = dict[str, list[dict[str, Any]]]()
    lacking = dict[str, None]()
    for result in results:
        cell = result["cell"]
        name = f"{cell['defense']} {cell['strength']}".strip()
        by_name[f"{name} {cell['plan']} seed {cell['seed']}"] = result
        by_defense.setdefault(cell["defense"], []).append(result)
        if cell["seed"] not in common.lenders:
            lacking[f"seed {cell['seed']}"] = None
    check_unmixed(by_name)
    roles = roles_of_tasks(results[0])
    shown = [f"{task} ({roles[task]})" for task in common.tasks]
    seeds = ", ".join(map(str, common.lenders))
    lines = [
        f"Shares are of {len(shown)} of {len(roles)} tasks: {', '.join(shown)}. Tasks and controls "
        f"are decided once for all rows, on held rows, over seeds {seeds} without a defense."
    ]
    for task, row in common.rows.items():
        if task not in common.tasks:
            lines.append(f"{task} ({roles[task]}) is left out: {reason(row)}.")
    if lacking:
        lines.append(f"Not shown: {', '.join(lacking)}, not measured without a defense.")
    lines.append(
        "Intervals of shares are put together from those of the tasks, as stored results hold no "
        "answers to single images."
    )
    made = (mixture(results), code_note(by_defense))
    return [*lines, *filter(None, made)]


def show(defenses: Sequence[DefensePoint], console: TextConsole) -> None:
    """Print the points as a table."""
    roles = _roles(defenses)
    rows = []
    for point in defenses:
        loss, low, high = point.loss_points
        task, worst = point.worst
        row = {
            "defense": point.name,
            **_seeds_cell(point, defenses),
            "honest loss [95 %]": f"{loss:+.1f} [{low:+.1f}, {high:+.1f}]",
            "worst task": f"{100 * worst:+.1f} {task}",
            **_role_cells(point, roles),
            f"recovered, {_whole(roles)} [95 %]": _share_cell(point),
            "attack": point.plan,
            "points taken": f"{point.taken}{' useful' if point.useful else ''}",
            "ms": f"{point.milliseconds:.3f}",
            "bytes": f"{point.bytes:.0f}",
        }
        rows.append(row)
    # Roles have long names, which may be narrowed. A figure never is.
    wrapped = list(_role_cells(defenses[0], roles))
    console.print(Table.of_records(rows).terminal(wrapped=wrapped, caption=CAPTION))


def markdown(defenses: Sequence[DefensePoint]) -> str:
    """Return the points as a table for a page."""
    roles = _roles(defenses)
    rows = []
    for point in defenses:
        loss, low, high = point.loss_points
        row = {
            "defense": point.name,
            **_seeds_cell(point, defenses),
            "honest loss, points [95 %]": f"{loss:.1f} [{low:.1f}, {high:.1f}]",
            **_role_cells(point, roles),
            f"recovered, {_whole(roles)} [95 %], by": f"{_share_cell(point)}, {point.plan}",
            "points taken": f"{point.taken}{', useful' if point.useful else ''}",
            "ms": f"{point.milliseconds:.3f}",
        }
        rows.append(row)
    return Table.of_records(rows).markdown()


def _seeds_cell(point: DefensePoint, defenses: Sequence[DefensePoint]) -> dict[str, str]:
    """Return the column of seeds and its cell; none if all rows are of the same seeds."""
    if all(other.seeds == point.seeds for other in defenses):
        return {}
    return {"seeds": ", ".join(map(str, point.seeds))}


def _share_cell(point: DefensePoint) -> str:
    return f"{point.share.value:.2f} [{point.share.low:.2f}, {point.share.high:.2f}]"


def _roles(defenses: Iterable[DefensePoint]) -> list[str]:
    """Return the roles of the tasks of these points."""
    roles = dict[str, None]()
    for point in defenses:
        roles |= dict.fromkeys(point.roles)
    return list(roles)


def _role_cells(point: DefensePoint, roles: Sequence[str]) -> dict[str, str]:
    """Return the columns by role and their cells.

    If all tasks are of one role, there are none: the column of all tasks has the same figure.
    """
    cells = dict[str, str]()
    if len(roles) > 1:
        for role in roles:
            share = point.roles.get(role)
            cells[f"recovered, {role}"] = "left out" if share is None else f"{share:.2f}"
    return cells


def _whole(roles: Sequence[str]) -> str:
    """Return the label of the figure over all tasks: `pooled`, or the role if there is only one."""
    return "pooled" if len(roles) > 1 else "".join(roles)


def is_shaded(defenses: Sequence[DefensePoint]) -> bool:
    """Return whether the figure shades where a useful defense lies: if there is enough to take."""
    return any(point.defense == "none" and point.share.percent >= MIN_TAKEN for point in defenses)


def draw(defenses: Sequence[DefensePoint]) -> Figure:
    """Draw honest loss against what the strongest attack recovers."""
    figure = Figure(figsize=(1.2 * WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    by_defense = dict[str, list[DefensePoint]]()
    for point in defenses:
        by_defense.setdefault(point.defense, []).append(point)
    bare = [point.recovered for point in by_defense["none"]]
    if is_shaded(defenses):
        # From -1, outside of the axes, so that the area reaches their edges.
        axes.fill_between(
            [-1, 100 * MAX_LOSS],
            -1,
            min(bare) - MIN_TAKEN / 100,
            color="#d8ead3",
            label="would be useful",
            zorder=0,
        )
    for number, recovered in enumerate(bare):
        # One line for each list of seeds, and one label for all.
        label = "_without defense" if number else "without defense"
        axes.axhline(recovered, color="#777777", linestyle=":", linewidth=1, label=label)
    for number, (name, strengths) in enumerate(by_defense.items()):
        _draw_defense(axes, name, sorted(strengths, key=lambda point: point.loss), number)
    _set_axes(axes, defenses, max(bare))
    figure.legend(fontsize=8, loc="outside upper center", ncols=4)
    return figure


def _draw_defense(axes: Axes, name: str, line: Sequence[DefensePoint], number: int) -> None:
    """Draw one defense at its strengths, as the n-th line."""
    across = []
    up = []
    widths = []
    heights = []
    for point in line:
        loss, low, high = point.loss_points
        share = point.share
        across.append(loss)
        up.append(share.value)
        # Bootstrap intervals need not hold the figure itself, and bars may not be negative.
        widths.append((abs(loss - low), abs(loss - high)))
        heights.append((abs(share.value - share.low), abs(share.value - share.high)))
        axes.annotate(
            for_figure(_short(point.strength)),
            (loss, share.value),
            (4, 3),
            textcoords="offset points",
            fontsize=6,
            color="#333333",
        )
    axes.errorbar(
        across,
        up,
        yerr=list(zip(*heights, strict=True)),
        xerr=list(zip(*widths, strict=True)),
        label=for_figure(name),
        linewidth=1,
        elinewidth=0.6,
        markersize=6,
        **style(number),
    )


def _set_axes(axes: Axes, defenses: Sequence[DefensePoint], bare: float) -> None:
    """Set scale, limits, ticks and labels."""
    least = -0.1
    most = 2.0
    roles = dict[str, None]()
    for point in defenses:
        _, _, highest_loss = point.loss_points
        least = min(least, point.recovered)
        most = max(most, highest_loss)
        for role, share in point.roles.items():
            if share is not None:
                roles[role] = None
    # Losses lie near 0 or far from it: the axis is linear up to 2 points and logarithmic beyond.
    axes.set_xscale("symlog", linthresh=2)
    axes.set_xlim(-1, 1.15 * most)
    axes.set_ylim(least - 0.05, max(1.0, bare + 0.1))
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50) if tick < 1.15 * most]
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.set_xlabel("honest loss: accuracy points that honest users lose (mean over tasks)")
    # Two lines: with three roles, one would be longer than the axis.
    axes.set_ylabel(f"recovered by the strongest attack tried,\n{for_figure(pooled(list(roles)))}")


def _short(strength: str) -> str:
    """Return only values, such as `0.4 fresh` for `sigma=0.4 fresh=true`."""
    words = []
    for setting in strength.split():
        name, _, value = setting.partition("=")
        words.append(name if value == "true" else value.strip("[]") or name)
    return " ".join(words)
