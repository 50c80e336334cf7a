"""What an owner should know: thefts at a few budgets, under a few defenses, in; a verdict in plain words out."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean

from stealing.report.frontier import COSTS, TAKES, is_useful, percent
from stealing.report.runs import Setting
from stealing.report.words import PLAIN, explained, strengths

SMALLEST = 128
"""Pictures of the smallest theft that is worth trying: a batch."""

Sentence = tuple[str, str]
"""What it is about, and what it says."""


@dataclass(frozen=True)
class Share:
    """What a thief got of what the encoder is worth beyond the best control, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def percent(self) -> int:
        """As it is told: nothing is zero."""
        return percent(self.value)

    def reaches(self, enough: float) -> bool:
        """Whether a theft succeeded, by figures as they are told."""
        return self.percent >= percent(enough)

    def __str__(self) -> str:
        if self.value < 0.005:  # a surrogate that is worse than what a thief has anyway
            return f"nothing [at most {self.high:.0%}]" if self.high >= 0.005 else "nothing"
        return f"{self.value:.0%} [{max(self.low, 0):.0%} to {self.high:.0%}]"


def share(setting: Setting, head: str) -> Share | None:
    """Of a setting, or None where no task of it is informative."""
    row = setting.overall(head)
    for name in ("recovered", "offered"):
        if row.get(name) is not None:
            low, high = row["intervals"][name]
            return Share(row[name], low, high)
    return None


def advice(found: Sequence[Setting], head: str, enough: float, failures: int = 0) -> list[Sentence]:
    """The verdict.

    Args:
        found: settings of one target and data set.
        head: kind of classifier of the figures.
        enough: share from which on a theft succeeded.
        failures: thefts that could not be tried.
    """
    shares = {setting.name: got for setting in found if (got := share(setting, head)) is not None}
    bare = [setting for setting in found if not setting.defended and setting.name in shares]
    if not bare:
        said = (
            "There is no task on which the encoder is, for each of these thefts, ahead by 10 points of what the same "
            "pictures give without it, so they cannot tell whether it is worth stealing. Judge it on tasks that it is "
            "good at: data=."
        )
        return [("Not decided.", said), _sureness(found, head, failures)]
    best = {
        budget: max((s for s in bare if s.budget == budget), key=lambda s: shares[s.name].value)
        for budget in sorted({setting.budget for setting in bare})
    }
    worst = max(best.values(), key=lambda setting: shares[setting.name].value)
    top = shares[worst.name]
    level = "Partly stolen." if top.percent >= TAKES else "Hardly stolen here."
    level = "Easy to steal." if top.reaches(enough) else level
    prices = "; ".join(f"{shares[setting.name]} by asking about {_asked(setting)}" for setting in best.values())
    alike, ceiling = (
        fmean(task[head][name] for task in worst.joined["tasks"].values())
        for name in ("agreement", "agreement_ceiling")
    )
    worth = (
        f"Of what the encoder is worth, the best thief tried gets {prices}. Its worth is how many more test "
        "pictures classifiers get right by its answers than by what a thief can make of the same pictures without "
        "asking. Even a copy of full worth is not the same encoder: a classifier on this copy and one on the encoder "
        f"agree on {alike:.0%} of test pictures, two on the encoder, trained on different samples, on {ceiling:.0%}."
    )
    verdict = [(level, worth), ("The cheapest theft.", _cheapest(bare, shares, enough))]
    defended = [setting for setting in found if setting.defended and setting.name in shares]
    told, apart = _tried(defended, bare, shares, head)
    if defended:
        about = f"Defenses, against thefts of {max(one.budget for one in defended):,} pictures."
        verdict.append((about, _judged(told, apart)))
    verdict.append(("What would lower the risk.", _remedy(bare, shares, enough, told)))
    return [*verdict, _sureness(found, head, failures)]


def _asked(setting: Setting) -> str:
    asked, cost = setting.joined["queries"]["spent"], setting.joined["queries"]["cost"]
    return f"{asked:,} pictures" + (f" for {cost:.2f}" if cost else "")


def _cheapest(bare: Sequence[Setting], shares: dict[str, Share], enough: float) -> str:
    thefts = [setting for setting in bare if shares[setting.name].reaches(enough)]
    if not thefts:
        return f"No attack tried got {enough:.0%}, which counts as success here."
    first = min(thefts, key=lambda one: (one.joined["queries"]["cost"], one.budget, -shares[one.name].value))
    return (
        f"Of the {len(bare)} tried without a defense, {first.choices['attack']} with {_asked(first)} ("
        f"{PLAIN.get(first.choices['attack'], 'an attack of yours')}; {_plan(first)}): it gets {shares[first.name]}. "
        f"From {enough:.0%} on we count a theft as a success (audit.enough)."
        f"{'' if first.joined['queries']['cost'] else ' No price is set: budget.price=0.002 gives this page prices.'}"
    )


def _plan(setting: Setting) -> str:
    return PLAIN.get(setting.choices["plan"], setting.choices["plan"])


@dataclass(frozen=True)
class Tried:
    """A defense against the strongest answer to it that was tried.

    Attributes:
        setting: that theft.
        share: what that theft gets.
        without: what the strongest theft gets without the defense.
        loss, low, most: what customers lose, and its 95 % interval.
        worth: share of the encoder's worth that this loss is.
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
    worth: float
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


def _tried(
    defended: Sequence[Setting], bare: Sequence[Setting], shares: dict[str, Share], head: str
) -> tuple[list[Tried], list[str]]:
    """Each defense, by the plan that gets most from it, beside the strongest theft without one; and what has none."""
    told, apart = [], []
    for name in dict.fromkeys(one.choices["defense"] for one in defended):
        mine = [one for one in defended if one.choices["defense"] == name]
        setting = max(mine, key=lambda one: shares[one.name].value)
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
        tasks = [setting.joined["tasks"][task][head] for task in row["informative"]]
        gap = sum(task["TA_clean"] - max(task["controls"].values()) for task in tasks)
        worth = sum(task["TA_clean"] - task["TA"] for task in tasks) / gap
        without = max((shares[one.name] for one in rivals), key=attrgetter("value"))
        told.append(
            Tried(
                setting, shares[setting.name], without, row["honest_loss"], low, high, worth,
                accuracy=fmean(task[head]["TA_clean"] for task in setting.joined["tasks"].values()),
                plainly=max(plain, key=attrgetter("value"), default=None),
                unaware=max(unaware, key=attrgetter("value"), default=None),
            )
        )  # fmt: skip
    return told, apart


def _place(setting: Setting) -> tuple[int, list[int]]:
    return setting.budget, setting.joined["seeds"]


def _judged(told: Sequence[Tried], apart: Sequence[str]) -> str:
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
    if useful := _useful(told):
        best = useful
        lead = f"{best.name} has the best trade and is worth its cost"
    elif perhaps := [one for one in takes if one.loss <= COSTS]:
        best = max(perhaps, key=lambda one: one.taken)
        costs = f"whether it costs customers at most {100 * COSTS:.0f} of 100 test pictures"
        unsure = costs if best.most > COSTS else "whether it takes anything from the thief"
        lead = f"None is shown to be worth its cost, but {best.name} may be: more test pictures would decide {unsure}"
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
        f"{lead}. Against it the best thief ({_plan(best.setting)}) gets {best.share}, {less} than without it, and "
        f"customers' classifiers get {fewer if best.loss >= 0.0005 else 'as many'} {right} without it"
        f"{f': {best.worth:.0%} of that worth' if best.loss >= 0.0005 else ''}."
    )
    for one in told:
        if one.only_fools:
            text += (
                f" Beware of {one.name}: a thief who takes no notice of it gets {one.plainly}, and one who works "
                f"around it ({_plan(one.setting)}) {one.share}."
            )
    return f"{text} {omitted}".rstrip()


def _useful(told: Sequence[Tried]) -> Tried | None:
    """The defense that takes most of those that are worth their cost."""
    return max((one for one in told if one.useful), key=lambda one: one.taken, default=None)


def _customers(found: Sequence[Setting]) -> int:
    """Pictures that an honest customer asked about, the mean over tasks."""
    joined = found[0].joined
    asked: int = joined["queries"]["evaluation"]
    return round(asked / len(joined["tasks"]))


def _remedy(bare: Sequence[Setting], shares: dict[str, Share], enough: float, told: Sequence[Tried]) -> str:
    budgets = sorted({setting.budget for setting in bare})
    risky = [setting.budget for setting in bare if percent(shares[setting.name].high) >= percent(enough)]
    safe = [budget for budget in budgets if budget < min(risky, default=budgets[-1] + 1)]
    said = []
    if useful := _useful(told):
        said.append(f"Switch on {useful.setting.choices['defense']}.")
    for one in told:
        if one.only_fools and one.most <= COSTS:
            said.append(
                f"{one.setting.choices['defense']} can be switched on at next to no cost against those who take no "
                "notice of it; it is no protection from those who do."
            )
    if safe:
        said.append(
            f"A limit of {max(safe):,} pictures for each account keeps these attacks below {enough:.0%}, as long as a "
            "thief cannot open several accounts; the customers who were measured here asked about "
            f"{_customers(bare):,} each."
        )
    else:
        fewest = [shares[setting.name] for setting in bare if setting.budget == budgets[0]]
        are = "are already" if any(one.reaches(enough) for one in fewest) else "may already be"
        said.append(
            f"No limit on pictures for each account can be recommended: {budgets[0]:,}, the fewest tried, {are} "
            f"enough for {enough:.0%}; and whoever opens several accounts goes around any limit."
        )
    tried = ",".join(map(str, budgets))
    smaller = f"smaller thefts (audit.budgets=[{SMALLEST},{tried}]), " if budgets[0] > SMALLEST else ""
    said.append(
        f"Next: add to the command that made this page (above) {smaller}pictures and tasks of your own customers "
        "(data=folders data.root=...), and other seeds (audit.seeds=[0,1,2])."
    )
    return " ".join(said)


def _sureness(found: Sequence[Setting], head: str, failures: int) -> Sentence:
    seeds = sorted({len(setting.runs) for setting in found})
    several = f"with {' to '.join(map(str, dict.fromkeys([seeds[0], seeds[-1]])))} seeds (starts of training)"
    rows = [setting.overall(head) for setting in found]
    informative = sorted({task for row in rows for task in row.get("informative", [])})
    blind = sorted({setting.budget for setting, row in zip(found, rows, strict=True) if not row.get("informative")})
    told, met = ", ".join(informative) or "none", any(setting.defended for setting in found)
    said = [
        "A thief with better pictures, more computing or a better attack may get more"
        + (
            ", and each defense met only the plans, and acted only at the strengths, that this page names. "
            if met
            else ". "
        )
        + f"Each theft was run {'once' if seeds == [1] else several}"
        + "; another run gives other figures. Brackets: 95 % intervals over test pictures"
        + f"{' and seeds' if seeds != [1] else ''}.",
        f"Shares are of {len(informative)} of {len(found[0].joined['tasks'])} tasks, the same for all thefts ({told}): "
        "there the encoder is at least 10 points ahead of what the pictures give without it. Other tasks may differ.",
    ]
    if informative and blind:
        asked = " and ".join(f"{budget:,}" for budget in blind)
        said.append(f"Thefts with {asked} pictures are left out where it is so on no task.")
    if informative and all(row.get("recovered") is None for row in rows):
        said.append("The undefended encoder is not known here: shares are of what the service offers.")
    if failures:
        said.append(f"{failures} thefts could not be tried, for reasons that the command printed.")
    return "How sure that is.", " ".join(said)
