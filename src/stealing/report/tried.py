"""Defenses that were tried: thefts with and without them in; in plain words which is worth its cost out."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean

from stealing.evaluation.statistics import control_accuracy
from stealing.report.frontier import COSTS, TAKES, is_useful
from stealing.report.runs import Setting
from stealing.report.shares import Share
from stealing.report.words import explained, plan_of, strengths


@dataclass(frozen=True)
class Tried:
    """A defense against the strongest answer to it that was tried.

    Attributes:
        setting: that theft.
        share: what that theft gets.
        without: what the strongest theft gets without the defense.
        loss, low, most: what customers lose, and its 95 % interval.
        worth: share of the encoder's worth that this loss is, or None where that is of other tasks.
        accuracy: of what they have without the defense.
        plainly: what a thief gets who asks as if there were no defense, or None where none was tried.
        unaware: what that thief gets without the defense.
    """

    setting: Setting
    share: Share
    without: Share
    loss: float
    low: float
    most: float
    worth: float | None
    accuracy: float
    plainly: Share | None
    unaware: Share | None

    @property
    def taken(self) -> int:
        """Percentage points that the thief loses by the defense."""
        return self.without.percent - self.share.percent

    @property
    def useful(self) -> bool:
        """Whether it is worth its cost."""
        return is_useful(self.without.value, self.share.value, self.share.high, self.most)

    @property
    def only_fools(self) -> bool:
        """Whether it stops those alone who take no notice of it."""
        if self.plainly is None or self.unaware is None:
            return False
        got = self.plainly.percent
        return self.unaware.percent - got >= TAKES and self.share.percent - got >= TAKES

    @property
    def name(self) -> str:
        """With its strength, and what it does."""
        name, given = self.setting.choices["defense"], ", ".join(strengths(self.setting).values())
        return explained(name) + (f" at {given}" if given and " " not in name else "")


def tried(
    defended: Sequence[Setting], bare: Sequence[Setting], shares: dict[str, Share], head: str
) -> tuple[list[Tried], list[str]]:
    """Each defense, by the plan that gets most from it, beside the strongest theft without one; and what has none."""
    told, apart = [], []
    for name in dict.fromkeys(one.choices["defense"] for one in defended):
        mine = [one for one in defended if one.choices["defense"] == name]
        setting = max(mine, key=lambda one: one.chosen_by(head))
        row = setting.overall(head)
        rivals, alike = ([one for one in some if _place(one) == _place(setting)] for some in (bare, mine))
        if not rivals:
            apart.append(f"{name} against {setting.choices['plan']}")
        if not rivals or row.get("honest_loss") is None:
            continue
        low, high = row["intervals"]["honest_loss"]
        plain, unaware = (
            [shares[one.name] for one in some if one.choices["plan"] == "once"] for some in (alike, rivals)
        )
        tasks = [heads[head] for heads in setting.joined["tasks"].values()]
        gap = fmean(task["TA_clean"] - control_accuracy(task) for task in tasks)
        worth = row["honest_loss"] / gap if len(tasks) == len(row["informative"]) else None
        without = shares[max(rivals, key=lambda one: one.chosen_by(head)).name]
        told.append(
            Tried(
                setting, shares[setting.name], without, row["honest_loss"], low, high, worth,
                accuracy=fmean(task["TA_clean"] for task in tasks),
                plainly=max(plain, key=attrgetter("value"), default=None),
                unaware=max(unaware, key=attrgetter("value"), default=None),
            )
        )  # fmt: skip
    return told, apart


def _place(setting: Setting) -> tuple[int, list[int]]:
    return setting.budget, setting.joined["seeds"]


def judged(told: Sequence[Tried], apart: Sequence[str]) -> str:
    """Whether a defense is worth its cost, what the best of them does, and which look better than they are."""
    omitted = (
        f"Not judged: {', '.join(apart)}, as no theft without a defense ended with the same seeds; run the command "
        "again to finish those that failed."
        if apart
        else ""
    )
    if not told:
        return omitted or "What customers lose is not known, so no defense can be judged."
    much = f"{TAKES} percentage points of that worth from the thief"
    takes = [one for one in told if one.taken >= TAKES]
    if worthwhile := best_of(told):
        best = worthwhile
        lead = f"{best.name} has the best trade and is worth its cost"
    elif perhaps := [one for one in takes if one.loss <= COSTS]:
        best = max(perhaps, key=lambda one: one.taken)
        costs = f"whether it costs customers at most {100 * COSTS:.0f} of 100 test pictures"
        unsure = [costs] if best.most > COSTS else []
        unsure += ["whether it takes anything from the thief"] if best.share.high >= best.without.value else []
        more = "more test pictures" + (" or seeds" if len(best.setting.runs) > 1 else "")
        lead = f"None is shown to be worth its cost, but {best.name} may be: {more} would decide {' and '.join(unsure)}"
    elif takes:
        best = min(takes, key=lambda one: one.loss)
        lead = (
            f"None is worth its cost by our bar: each that takes at least {much} makes customers' classifiers wrong "
            f"on over {100 * COSTS:.0f} of 100 further test pictures. The cheapest of those is {best.name}"
        )
    else:
        best = max(told, key=lambda one: one.taken)
        lead = f"None of the {len(told)} tried takes at least {much}. The best is {best.name}"
    less = f"{best.taken} percentage points less" if best.taken > 0 else "no less"
    fewer = f"{100 * best.loss:.1f} [{max(0.0, 100 * best.low):.1f} to {max(0.0, 100 * best.most):.1f}] fewer"
    right = f"of 100 test pictures right {'than' if best.loss >= 0.0005 else 'as'} the {100 * best.accuracy:.0f}"
    text = (
        f"{lead}. Against it the best thief ({plan_of(best.setting)}) gets {best.share}, {less} than without it, and "
        f"customers' classifiers get {fewer if best.loss >= 0.0005 else 'as many'} {right} without it"
        f"{f': {best.worth:.0%} of that worth' if best.worth is not None and best.loss >= 0.0005 else ''}."
    )
    for one in told:
        if one.only_fools:
            text += (
                f" Beware of {one.name}: a thief who takes no notice of it gets {one.plainly}, and one who works "
                f"around it ({plan_of(one.setting)}) {one.share}."
            )
    return f"{text} {omitted}".rstrip()


def best_of(told: Sequence[Tried]) -> Tried | None:
    """The defense that takes most of those that are worth their cost."""
    return max((one for one in told if one.useful), key=lambda one: one.taken, default=None)
