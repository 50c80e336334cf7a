"""Defenses that were tried: attacks with and without them in; in plain words which is worth its cost out."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean

from stealing.evaluation.statistics import control_accuracy
from stealing.report.frontier import COSTS, TAKES, is_useful
from stealing.report.runs import Setting
from stealing.report.shares import Share
from stealing.report.words import explained, plan_of, strengths
from stealing.training.levelling import is_finished


@dataclass(frozen=True)
class Tried:
    """A defense against the strongest plan that was tried against it.

    Attributes:
        setting: that attack.
        share: what that attack recovers.
        without: what the strongest attack recovers without the defense.
        loss, low, most: what honest users lose, and its 95 % interval.
        worth: share of the encoder's value that this loss is, or None if that is of other tasks.
        accuracy: of what honest users have without the defense.
        naive: what an attacker recovers who asks as if there were no defense, or None if that was not tried.
        naive_without: what that attacker recovers without the defense.
        finished: whether each attack on the defense was trained to its end.
    """

    setting: Setting
    share: Share
    without: Share
    loss: float
    low: float
    most: float
    worth: float | None
    accuracy: float
    naive: Share | None
    naive_without: Share | None
    finished: bool

    @property
    def taken(self) -> int:
        """Percentage points that the attacker loses by the defense."""
        return self.without.percent - self.share.percent

    @property
    def useful(self) -> bool:
        """Whether it is worth its cost; an attack that was cut short cannot show that."""
        return self.finished and is_useful(self.without.value, self.share.value, self.share.high, self.most)

    @property
    def only_naive(self) -> bool:
        """Whether it is effective only against attackers that do not adapt."""
        if self.naive is None or self.naive_without is None:
            return False
        got = self.naive.percent
        return self.naive_without.percent - got >= TAKES and self.share.percent - got >= TAKES

    @property
    def name(self) -> str:
        """With its strength, and what it does."""
        name = self.setting.choices["defense"]
        given = ", ".join(strengths(self.setting).values())
        return explained(name) + (f" at {given}" if given and " " not in name else "")


def finished(setting: Setting) -> bool:
    """Return whether the attack was trained to its end with every seed."""
    return all(is_finished(training) for training in setting.joined["training"])


def tried(
    defended: Sequence[Setting], bare: Sequence[Setting], shares: dict[str, Share], head: str
) -> tuple[list[Tried], list[str]]:
    """Return each defense by the plan that recovers most, beside the strongest attack without a defense.

    Returns:
        The defenses, and those that have no attack without a defense to be compared with.
    """
    told = []
    omitted = []
    for name in dict.fromkeys(one.choices["defense"] for one in defended):
        mine = [one for one in defended if one.choices["defense"] == name]
        setting = max(mine, key=lambda one: one.chosen_by(head))
        rivals = [one for one in bare if _place(one) == _place(setting)]
        if not rivals:
            omitted.append(f"{name} against {setting.choices['plan']}")
        elif setting.overall(head).get("honest_loss") is not None:
            told.append(_tried(setting, mine, rivals, shares, head))
    return told, omitted


def _tried(
    setting: Setting, mine: Sequence[Setting], rivals: Sequence[Setting], shares: dict[str, Share], head: str
) -> Tried:
    """One defense.

    Args:
        setting: the strongest attack on it.
        mine: all attacks on it.
        rivals: attacks without a defense, with the budget and seeds of `setting`.
    """
    row = setting.overall(head)
    low, high = row["intervals"]["honest_loss"]
    alike = [one for one in mine if _place(one) == _place(setting)]
    naive = [shares[one.name] for one in alike if one.choices["plan"] == "once"]
    naive_without = [shares[one.name] for one in rivals if one.choices["plan"] == "once"]
    tasks = [heads[head] for heads in setting.joined["tasks"].values()]
    gap = fmean(task["TA_clean"] - control_accuracy(task) for task in tasks)
    same_tasks = len(tasks) == len(row["informative"])
    strongest = max(rivals, key=lambda one: one.chosen_by(head))
    return Tried(
        setting=setting,
        share=shares[setting.name],
        without=shares[strongest.name],
        loss=row["honest_loss"],
        low=low,
        most=high,
        worth=row["honest_loss"] / gap if same_tasks else None,
        accuracy=fmean(task["TA_clean"] for task in tasks),
        naive=max(naive, key=attrgetter("value"), default=None),
        naive_without=max(naive_without, key=attrgetter("value"), default=None),
        finished=all(map(finished, mine)),
    )


def _place(setting: Setting) -> tuple[int, list[int]]:
    return setting.budget, setting.joined["seeds"]


def judged(told: Sequence[Tried], omitted: Sequence[str]) -> str:
    """Return whether a defense is worth its cost, what the best of them does, and which look better than they are."""
    left_out = ""
    if omitted:
        left_out = (
            f"Not judged: {', '.join(omitted)}, as no attack without a defense ended with the same seeds. Run the "
            "command again to finish those that failed."
        )
    if not told:
        return left_out or "What honest users lose is not known, so no defense can be judged."
    best, lead = _lead(told)
    sentences = [f"{lead}.", _effect(best)]
    for one in told:
        if one.only_naive:
            sentences.append(
                f"Beware of {one.name}: an attacker that does not adapt recovers {one.naive}, and one that works "
                f"around it ({plan_of(one.setting)}) {one.share}."
            )
    short = [one.setting.choices["defense"] for one in told if not one.finished]
    if short:
        sentences.append(f"Attacks on {', '.join(short)} were not trained to their end: longer ones may recover more.")
    return " ".join([*sentences, left_out]).rstrip()


def _lead(told: Sequence[Tried]) -> tuple[Tried, str]:
    """The defense to speak of, and what is said of it, without a full stop."""
    takes = [one for one in told if one.taken >= TAKES]
    much = f"{TAKES} percentage points of the value from the attacker"
    if best := best_of(told):
        return best, f"{best.name} has the best trade and is worth its cost"
    if perhaps := [one for one in takes if one.loss <= COSTS]:
        best = max(perhaps, key=lambda one: one.taken)
        return best, f"None is shown to be worth its cost, but {best.name} may be: {_undecided(best)}"
    if takes:
        best = min(takes, key=lambda one: one.loss)
        return best, (
            f"None is worth its cost by our bar: each that takes at least {much} makes honest users' classifiers wrong "
            f"on over {100 * COSTS:.0f} of 100 further test images. The cheapest of those is {best.name}"
        )
    best = max(told, key=lambda one: one.taken)
    return best, f"None of the {len(told)} tried takes at least {much}. The best is {best.name}"


def _undecided(one: Tried) -> str:
    """What would decide whether a defense is worth its cost."""
    unsure = []
    if one.most > COSTS:
        unsure.append(f"whether it costs honest users at most {100 * COSTS:.0f} of 100 test images")
    if one.share.high >= one.without.value:
        unsure.append("whether it takes anything from the attacker")
    said = []
    if unsure:
        more = "more test images" + (" or seeds" if len(one.setting.runs) > 1 else "")
        said.append(f"{more} would decide {' and '.join(unsure)}")
    if not one.finished:
        said.append("longer attacks would decide whether it takes as much from them")
    return "; ".join(said)


def _effect(best: Tried) -> str:
    """What a defense does to the attacker and to honest users."""
    less = f"{best.taken} percentage points less" if best.taken > 0 else "no less"
    attacker = (
        f"Against it the best attack ({plan_of(best.setting)}) recovers {best.share}, {less} than without it, and "
        "honest users' classifiers get"
    )
    if best.loss < 0.0005:
        return f"{attacker} as many of 100 test images right as the {100 * best.accuracy:.0f} without it."
    interval = f"{max(0.0, 100 * best.low):.1f} to {max(0.0, 100 * best.most):.1f}"
    worth = f": {best.worth:.0%} of that value" if best.worth is not None else ""
    return (
        f"{attacker} {100 * best.loss:.1f} [{interval}] fewer of 100 test images right than the "
        f"{100 * best.accuracy:.0f} without it{worth}."
    )


def best_of(told: Sequence[Tried]) -> Tried | None:
    """Return the defense that takes most of those that are worth their cost."""
    return max((one for one in told if one.useful), key=lambda one: one.taken, default=None)
