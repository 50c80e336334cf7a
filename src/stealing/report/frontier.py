"""The frontier of defenses: results of one scene under many defenses in, what each costs and saves out.

A *point* is a defense at one strength: what it costs the honest users, and what the strongest attack recovers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stealing.artefacts import write_whole
from stealing.report.common_controls import check_scene, on_common_controls
from stealing.report.picture import WIDTH, Figure, style, svg

TAKES = 20
"""Least percentage points of `recovered` that a useful defense takes."""

COSTS = 0.01
"""Greatest upper 95 % bound of the honest loss of a useful defense."""


def percent(recovered: float) -> int:
    """Return percent as reports write it: an attacker that gets less than the controls gets nothing."""
    return max(0, round(100 * recovered))


def is_useful(bare: float, recovered: float, high: float, most: float) -> bool:
    """Return whether a defense takes enough from the attacker, by more than chance, and surely little from the honest.

    Args:
        bare: recovered by the strongest attack without the defense.
        recovered, high: by the strongest that met it, and the upper bound of its interval.
        most: upper bound of what honest users lose.
    """
    return percent(bare) - percent(recovered) >= TAKES and high < bare and most <= COSTS


def pooled(roles: Sequence[str]) -> str:
    """Return the words that say of which roles a share is, such as `pooled over own and unseen tasks`."""
    if not roles:
        return "of no task"
    return f"{'pooled over' if len(roles) > 1 else 'of'} {' and '.join(roles)} tasks"


@dataclass(frozen=True)
class Point:
    """One defense at one strength against the strongest attack that met it.

    Attributes:
        defense: its name.
        strength: its settings, as typed.
        plan: of the attack that recovered most.
        loss: of the honest users, the mean over tasks, with its interval.
        worst: the task that loses most, and how much.
        recovered: of all informative tasks, pooled over their roles, with its interval.
        roles: what is recovered of the tasks of each role alone; None if none of them is informative.
        bare: what the strongest attack recovers without a defense.
        milliseconds, bytes: an answer's latency, an account's memory.
        attacks: by plan, what each recovered.
    """

    defense: str
    strength: str
    plan: str
    loss: float
    loss_interval: tuple[float, float]
    worst: tuple[str, float]
    recovered: float
    recovered_interval: tuple[float, float]
    roles: dict[str, float | None]
    bare: float
    milliseconds: float
    bytes: float
    attacks: dict[str, float]

    @property
    def name(self) -> str:
        """Of the defense, with its strength."""
        return f"{self.defense} {self.strength}".strip()

    @property
    def taken(self) -> int:
        """Percentage points that the defense takes from the strongest attack."""
        return percent(self.bare) - percent(self.recovered)

    @property
    def useful(self) -> bool:
        """Whether it is worth its cost; see `is_useful`."""
        return is_useful(self.bare, self.recovered, self.recovered_interval[1], self.loss_interval[1])


def points(results: list[dict[str, Any]], head: str = "linear") -> list[Point]:
    """One point a defense and strength, in the order of their first result.

    Args:
        results: result.json of each cell, with `cell` saying which one it is.
        head: of the accuracies.

    Raises:
        DataError: they are not of one scene and protocol, or none is undefended.
    """
    check_scene(results, head)
    cells = dict[tuple[str, str], list[dict[str, Any]]]()
    for result in results:
        cells.setdefault((result["cell"]["defense"], result["cell"]["strength"]), []).append(result)
    undefended = [result for result in results if result["cell"]["defense"] == "none"]
    strongest = max(undefended, key=lambda result: float(result["overall"][head]["held"]["recovered"]))
    bare = float(strongest["overall"][head]["recovered"])
    return [_point(name, strength, found, bare, head) for (name, strength), found in cells.items()]


def _point(name: str, strength: str, results: list[dict[str, Any]], bare: float, head: str) -> Point:
    shares = {result["cell"]["plan"]: float(result["overall"][head]["recovered"]) for result in results}
    best = max(results, key=lambda result: float(result["overall"][head]["held"]["recovered"]))  # on a slice of train
    plain = next((result for result in results if result["cell"]["plan"].endswith("once")), best)
    met, costs, protection = best["overall"][head], plain["overall"][head], plain["defense"]
    return Point(
        defense=name,
        strength=strength,
        plan=best["cell"]["plan"],
        loss=costs["honest_loss"],
        loss_interval=tuple(costs["intervals"]["honest_loss"]),
        worst=(costs["worst"]["task"], costs["worst"]["honest_loss"]),
        recovered=met["recovered"],
        recovered_interval=tuple(met["intervals"]["recovered"]),
        roles={role: of["recovered"] for role, of in met["roles"].items()},
        bare=bare,
        milliseconds=protection["milliseconds"],
        bytes=protection["bytes"],
        attacks=shares,
    )


def cheapest(found: list[Point]) -> list[Point]:
    """Of each defense the cheapest strength that takes enough, or, if none does, the one that takes most.

    Returns:
        One point a defense, that without a defense first, the others by what they cost.
    """
    chosen = []
    for name in dict.fromkeys(point.defense for point in found):
        mine = [point for point in found if point.defense == name]
        enough = [point for point in mine if point.taken >= TAKES]
        chosen.append(min(enough, key=lambda p: p.loss) if enough else max(mine, key=lambda p: (p.taken, -p.loss)))
    return sorted(chosen, key=lambda point: (point.defense != "none", point.loss))


def markdown(found: list[Point]) -> str:
    """Return the points as a table for a page."""
    roles = _roles(found)
    columns = ["defense", "honest loss, points [95 %]", *_role_columns(roles)]
    columns += [f"recovered, {_whole(roles)} [95 %], by", "takes", "ms"]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for point in found:
        low, high = (100 * bound for bound in point.loss_interval)
        least, most = point.recovered_interval
        cells = [
            point.name,
            f"{100 * point.loss:.1f} [{low:.1f}, {high:.1f}]",
            *_role_cells(point, roles),
            f"{point.recovered:.2f} [{least:.2f}, {most:.2f}], {point.plan}",
            f"{point.taken}" + (", useful" if point.useful else ""),
            f"{point.milliseconds:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _roles(found: Sequence[Point]) -> list[str]:
    """The roles of the tasks of these points."""
    return list(dict.fromkeys(role for point in found for role in point.roles))


def _role_columns(roles: Sequence[str]) -> list[str]:
    """Names of the columns by role; of one role alone, the figure of all tasks is its own."""
    return [f"recovered, {role}" for role in roles] if len(roles) > 1 else []


def _role_cells(point: Point, roles: Sequence[str]) -> list[str]:
    if len(roles) < 2:
        return []
    shares = [point.roles.get(role) for role in roles]
    return ["left out" if share is None else f"{share:.2f}" for share in shares]


def _whole(roles: Sequence[str]) -> str:
    """What the figure of all tasks is of."""
    return "pooled" if len(roles) > 1 else "".join(roles)


def is_shaded(found: Sequence[Point]) -> bool:
    """Return whether the figure shades where a useful defense would lie: if there is enough to take."""
    return any(point.defense == "none" and percent(point.recovered) >= TAKES for point in found)


def show(found: list[Point], console: Console) -> None:
    """Print the points as a table."""
    caption = (
        "honest loss: TA_clean - TA in points, the mean over tasks. recovered: of the strongest attack tried, of the\n"
        "informative tasks, by role of the task and pooled. takes: of the pooled share.\n"
        f"useful: takes {TAKES} points, the upper bound of recovered is below what is recovered without a defense,\n"
        f"and that of the honest loss is at most {100 * COSTS:.0f} point."
    )
    roles = _roles(found)
    table = Table(caption=caption, caption_justify="left")
    columns = ["defense", "honest loss [95 %]", "worst task", *_role_columns(roles)]
    columns += [f"recovered, {_whole(roles)} [95 %]", "attack", "takes", "ms", "bytes"]
    for column in columns:
        table.add_column(column, no_wrap=column not in _role_columns(roles))
    for point in found:
        low, high = (100 * bound for bound in point.loss_interval)
        least, most = point.recovered_interval
        table.add_row(
            escape(point.name),
            f"{100 * point.loss:+.1f} [{low:+.1f}, {high:+.1f}]",
            f"{100 * point.worst[1]:+.1f} {point.worst[0]}",
            *_role_cells(point, roles),
            f"{point.recovered:.2f} [{least:.2f}, {most:.2f}]",
            point.plan,
            f"{point.taken}" + (" useful" if point.useful else ""),
            f"{point.milliseconds:.3f}",
            f"{point.bytes:.0f}",
        )
    console.print(table)


def write(results: list[dict[str, Any]], folder: Path) -> list[Point]:
    """Write a table of each seed and number of queries, and of the first of them a table for a page and the picture.

    Returns:
        The points of the first.
    """
    scenes = dict[tuple[int, int], list[dict[str, Any]]]()
    for result in results:
        cell = result["cell"]
        scenes.setdefault((cell.get("images", result["queries"]["budget"]), cell["seed"]), []).append(result)
    with (folder / "table.txt").open("w") as file:
        for (images, seed), some in scenes.items():
            print(f"{images:,} queries, seed {seed}", file=file)
            if any(result["cell"]["defense"] == "none" for result in some):
                show(points(on_common_controls(some)), Console(file=file, width=220))
    first = points(on_common_controls(next(iter(scenes.values()))))
    write_whole(folder / "table.md", markdown(cheapest(first)).encode())
    write_whole(folder / "frontier.svg", svg(draw(first), "frontier"))
    return first


def cell_of(result: dict[str, Any], choices: dict[str, str]) -> dict[str, Any]:
    """A run's result with the cell of a frontier that it is, by its choices; a defense's strength follows its name."""
    defense, _, strength = choices["defense"].partition(" ")
    cell = {"defense": defense, "strength": strength, "plan": f"{choices['attack']}, {choices['plan']}"}
    return {**result, "cell": cell}


def _short(strength: str) -> str:
    """Values alone, such as `0.4 fresh` for `sigma=0.4 fresh=true`."""
    settings = [part.partition("=") for part in strength.split()]
    return " ".join(name if value == "true" else value.strip("[]") or name for name, _, value in settings)


def draw(found: list[Point]) -> Figure:
    """Draw honest loss against what the strongest attack recovers."""
    figure = Figure(figsize=(1.2 * WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    bare = next(point for point in found if point.defense == "none").recovered
    if is_shaded(found):
        axes.fill_between([-1, 100 * COSTS], -1, bare - TAKES / 100, color="#d8ead3", label="would be useful", zorder=0)
    axes.axhline(bare, color="#777777", linestyle=":", linewidth=1, label="without defense")
    for number, name in enumerate(dict.fromkeys(point.defense for point in found)):
        mine = sorted((point for point in found if point.defense == name), key=lambda point: point.loss)
        across = [100 * point.loss for point in mine]
        up = [point.recovered for point in mine]
        widths = [[100 * abs(point.loss - point.loss_interval[side]) for point in mine] for side in (0, 1)]
        heights = [[abs(point.recovered - point.recovered_interval[side]) for point in mine] for side in (0, 1)]
        axes.errorbar(
            across, up, yerr=heights, xerr=widths, label=name, linewidth=1, elinewidth=0.6, markersize=6,
            **style(number),
        )  # fmt: skip
        for point, x, y in zip(mine, across, up, strict=True):
            axes.annotate(
                _short(point.strength), (x, y), (4, 3), textcoords="offset points", fontsize=6, color="#333333"
            )
    axes.set_xscale("symlog", linthresh=2)
    axes.set_ylim(min(-0.1, *(point.recovered for point in found)) - 0.05, max(1.0, bare + 0.1))
    most = 1.15 * max(2.0, *(100 * point.loss_interval[1] for point in found))
    axes.set_xlim(-1, most)
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50) if tick < most]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("honest loss: accuracy points that honest users lose (mean over tasks)")
    told = dict.fromkeys(role for point in found for role, share in point.roles.items() if share is not None)
    axes.set_ylabel(f"recovered by the strongest attack tried, {pooled(list(told))}")
    figure.legend(fontsize=8, loc="outside upper center", ncols=4)
    return figure
