"""Defenses: results with and without them in; the cost and the effect of each defense out.

`stealing.report.audited` computes the same figures from the run groups of an audit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stealing.errors import DataError
from stealing.report.common_controls import NO_TASK, check_scene
from stealing.report.shares import Share, held_loss, percent

MIN_TAKEN = 20
"""Percentage points of `recovered` that a useful defense takes from the attacker, at least."""

MAX_LOSS = 0.01
"""Greatest upper 95 % bound of the honest loss of a useful defense."""


@dataclass(frozen=True)
class Defense:
    """One defense at one strength against the strongest attack that was tried on it.

    Attributes:
        defense: its name; of a chain, names joined by `+`.
        strength: the settings that it has other than another strength, such as `k=16`.
        plan: query plan of that attack.
        share: what that attack recovers of all informative tasks, pooled over their roles.
        undefended: what the strongest attack recovers without a defense.
        loss: honest loss, the mean over tasks, as a share of 1.
        loss_interval: its 95 % interval.
        held_taken: `taken` on the held rows. A strength or a defense is chosen by it.
        held_loss: `loss` on the held rows. A strength or a defense is chosen by it too.
    """

    defense: str
    strength: str
    plan: str
    share: Share
    undefended: Share
    loss: float
    loss_interval: tuple[float, float]
    held_taken: int
    held_loss: float

    @property
    def name(self) -> str:
        """Name with strength, as a report writes it."""
        return f"{self.defense} {self.strength}".strip()

    @property
    def recovered(self) -> float:
        """Share that the strongest attack recovers."""
        return self.share.value

    @property
    def loss_points(self) -> tuple[float, float, float]:
        """Honest loss and the bounds of its interval, in percentage points."""
        low, high = self.loss_interval
        return 100 * self.loss, 100 * low, 100 * high

    @property
    def taken(self) -> int:
        """Percentage points that the defense takes from the strongest attack."""
        return self.undefended.percent - self.share.percent

    @property
    def useful(self) -> bool:
        """True if it takes enough, by more than chance, and surely costs honest users little."""
        takes_enough = self.taken >= MIN_TAKEN
        is_no_chance = self.share.high < self.undefended.value
        is_cheap = self.loss_interval[1] <= MAX_LOSS
        return takes_enough and is_no_chance and is_cheap


@dataclass(frozen=True)
class DefensePoint(Defense):
    """A defense as a frontier shows it, from results.

    Attributes:
        seeds: over which its figures are means.
        roles: what is recovered of the tasks of each role; None if none of them is informative.
        worst: the task that loses most on the held rows, and how much.
        attacks: by plan, what each attack recovered.
        milliseconds: latency that the defense adds to an answer.
        bytes: memory that the defense needs for an account.
    """

    seeds: tuple[int, ...]
    roles: dict[str, float | None]
    worst: tuple[str, float]
    attacks: dict[str, float]
    milliseconds: float
    bytes: float


def points(results: list[dict[str, Any]], head: str = "linear") -> list[DefensePoint]:
    """Return one point a defense, strength and list of seeds, in the order of their first result.

    Args:
        results: result.json of each cell, with `cell` saying which one it is; see `cell_of`.
        head: of the accuracies.

    Raises:
        DataError: they are of several targets, data sets or protocols, none is undefended, or a
            share is unknown.
    """
    by_seeds = dict[tuple[int, ...], list[dict[str, Any]]]()
    by_strength = dict[tuple[object, ...], list[dict[str, Any]]]()
    for result in results:
        cell = result["cell"]
        seeds = tuple(result["seeds"])
        by_seeds.setdefault(seeds, []).append(result)
        by_strength.setdefault((cell["defense"], cell["strength"], seeds), []).append(result)
    undefended = dict[tuple[int, ...], dict[str, Any]]()
    # Other seeds are other trainings, whose luck would look like a defense's effect.
    for seeds, of_seeds in by_seeds.items():
        check_scene(of_seeds)
        if any(result["overall"][head]["recovered"] is None for result in of_seeds):
            raise DataError(NO_TASK)
        # `check_scene` makes sure that there is one.
        bare = [result for result in of_seeds if result["cell"]["defense"] == "none"]
        undefended[seeds] = strongest(bare, head)
    found = []
    for attacks in by_strength.values():
        found.append(_point(attacks, undefended[tuple(attacks[0]["seeds"])], head))
    return found


def cell_of(result: dict[str, Any], choices: dict[str, str]) -> dict[str, Any]:
    """Return a result with the cell of a frontier that its choices make it.

    A defense's strength follows its name in `choices`.
    """
    defense, _, strength = choices["defense"].partition(" ")
    cell = {
        "defense": defense,
        "strength": strength,
        "plan": f"{choices['attack']}, {choices['plan']}",
    }
    return {**result, "cell": cell}


def strongest(results: Iterable[dict[str, Any]], head: str) -> dict[str, Any]:
    """Return the attack that recovers most on the held rows, so that no test image decides."""
    return max(results, key=lambda result: _held_share(result, head))


def _held_share(result: dict[str, Any], head: str) -> float:
    return float(result["overall"][head]["held"]["recovered"])


def _recovered(figures: dict[str, Any]) -> Share:
    low, high = figures["intervals"]["recovered"]
    return Share(figures["recovered"], low, high)


def _point(
    attacks: Sequence[dict[str, Any]], undefended: dict[str, Any], head: str
) -> DefensePoint:
    """Return one point.

    Args:
        attacks: results of all attacks on a defense at one strength.
        undefended: the strongest attack without a defense.
        head: of the accuracies.
    """
    best = strongest(attacks, head)
    recovered = dict[str, float]()
    once = []
    for result in attacks:
        plan = result["cell"]["plan"]
        recovered[plan] = float(result["overall"][head]["recovered"])
        if plan.endswith("once"):
            once.append(result)
    # All attacks on a defense measure what honest users lose. Of several, one figure has to stand
    # for the defense: that of the first plan without adaptation.
    plain = once[0] if once else best
    costs = plain["overall"][head]
    low, high = costs["intervals"]["honest_loss"]
    roles = best["overall"][head]["roles"]
    return DefensePoint(
        defense=best["cell"]["defense"],
        strength=best["cell"]["strength"],
        plan=best["cell"]["plan"],
        share=_recovered(best["overall"][head]),
        undefended=_recovered(undefended["overall"][head]),
        loss=costs["honest_loss"],
        loss_interval=(low, high),
        held_taken=percent(_held_share(undefended, head)) - percent(_held_share(best, head)),
        held_loss=held_loss(plain["tasks"], head),
        seeds=tuple(best["seeds"]),
        roles={role: figures["recovered"] for role, figures in roles.items()},
        worst=(costs["worst"]["task"], costs["worst"]["honest_loss"]),
        attacks=recovered,
        milliseconds=plain["defense"]["milliseconds"],
        bytes=plain["defense"]["bytes"],
    )


def cheapest(defenses: Sequence[DefensePoint]) -> list[DefensePoint]:
    """Return one point a defense: its cheapest strength that takes enough, else its strongest.

    Returns:
        First the points without a defense, one for each list of seeds. Then one point for each
        defense, by honest loss. The strength is chosen on the held rows.
    """
    bare = [point for point in defenses if point.defense == "none"]
    by_defense = dict[str, list[DefensePoint]]()
    for point in defenses:
        if point.defense != "none":
            by_defense.setdefault(point.defense, []).append(point)
    chosen = []
    for strengths in by_defense.values():
        # The best test figures would be too good by chance.
        enough = [point for point in strengths if point.held_taken >= MIN_TAKEN]
        if enough:
            chosen.append(min(enough, key=lambda point: point.held_loss))
        else:
            chosen.append(max(strengths, key=lambda point: (point.held_taken, -point.held_loss)))
    return [*bare, *sorted(chosen, key=lambda point: point.loss)]
