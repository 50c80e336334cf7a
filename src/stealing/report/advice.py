"""What an owner should know: thefts at a few budgets, under a few defenses, in; a verdict in plain words out."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from stealing.evaluation.statistics import paired
from stealing.report.frontier import COSTS, TAKES
from stealing.report.runs import RESAMPLES, Setting

PLAIN = {
    "stolen_encoder": "copies the answers to each picture and to changed views of it",
    "conventional": "copies the answers to each picture",
    "topk": "only the largest numbers of an answer are given",
    "rounding": "answers are rounded",
    "poisoning": "answers are turned a little so as to mislead a thief's training",
    "additive": "a cheap form of poisoning",
    "noise": "noise is added to answers",
    "cosine": "answers are turned by a fixed angle",
    "b4b": "accounts that see much get noise, and each account numbers of its own",
    "transform": "each account gets numbers of its own",
    "guard": "suspicious accounts are slowed or stopped",
    "once": "ask about each picture once",
    "averaging": "ask about near copies of each picture too, and average",
    "repeating": "ask several times, and average",
    "completion": "fill in what was cut off",
    "standardising": "take scale, sign and shift out of each number",
    "sybil": "ask from several accounts",
}
"""Names of attacks, defenses and plans, in plain words."""

Sentence = tuple[str, str]
"""What it is about, and what it says."""


def glossary(found: Sequence[Setting]) -> dict[str, str]:
    """What the attacks, defenses and plans of these settings do."""
    options = [setting.choices[kind].split()[0] for kind in ("attack", "defense", "plan") for setting in found]
    names = dict.fromkeys([*(name for option in options for name in option.split("+")), "guard"])
    return {name: f"{PLAIN[name]}." for name in names if name in PLAIN}


@dataclass(frozen=True)
class Share:
    """What a thief got of what the encoder is worth beyond the best control, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def percent(self) -> int:
        """As it is told: nothing is zero."""
        return max(0, round(100 * self.value))

    def __str__(self) -> str:
        if self.value < 0.005:  # a surrogate that is worse than what a thief has anyway
            return f"nothing [at most {self.high:.0%}]" if self.high >= 0.005 else "nothing"
        return f"{self.value:.0%} [{max(self.low, 0):.0%} to {self.high:.0%}]"


def share(setting: Setting, head: str) -> Share | None:
    """Of a setting, or None where no task of it is informative."""
    row = setting.overall(head) or {}
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
            "On none of these tasks is the encoder ahead by 10 points of what the same pictures give without it, so "
            "they cannot tell whether it is worth stealing. Judge it on tasks that it is good at: data=."
        )
        return [("Not decided.", said), _sureness(found, head, failures)]
    best = {
        budget: max((s for s in bare if s.budget == budget), key=lambda s: shares[s.name].value)
        for budget in sorted({setting.budget for setting in bare})
    }
    worst = max(best.values(), key=lambda setting: shares[setting.name].value)
    top = shares[worst.name].value
    level = "Easy to steal." if top >= enough else "Partly stolen." if top >= TAKES else "Hardly stolen here."
    prices = "; ".join(f"{shares[setting.name]} by asking about {_asked(setting)}" for setting in best.values())
    worth = (
        f"Of what the encoder is worth, a thief gets at least {prices}. Its worth is how much better classifiers that "
        "a customer builds on its answers do than those built on the same pictures without it; a copy of equal worth "
        "may still answer otherwise."
    )
    verdict = [(level, worth), ("The cheapest theft.", _cheapest(bare, shares, enough))]
    defended = [setting for setting in found if setting.defended and setting.name in shares]
    useful = None
    if defended:
        text, useful = _best_defense(defended, bare, shares, head)
        verdict.append((f"Defenses, against thefts of {max(one.budget for one in defended):,} pictures.", text))
    verdict.append(("What would lower the risk.", _remedy(bare, shares, enough, useful)))
    return [*verdict, _sureness(found, head, failures)]


def _said(name: str) -> str:
    """A name with what it does."""
    words = PLAIN.get(name.split()[0].split("+")[0])
    return f"{name} ({words})" if words else name


def _asked(setting: Setting) -> str:
    asked, cost = setting.joined["queries"]["spent"], setting.joined["queries"]["cost"]
    return f"{asked:,} pictures" + (f" for {cost:.2f}" if cost else "")


def _cheapest(bare: Sequence[Setting], shares: dict[str, Share], enough: float) -> str:
    thefts = [setting for setting in bare if shares[setting.name].value >= enough]
    if not thefts:
        return f"No attack tried got {enough:.0%}, which counts as success here."
    first = min(thefts, key=lambda one: (one.joined["queries"]["cost"], one.budget, -shares[one.name].value))
    return (
        f"Of the {len(bare)} tried without a defense, {_said(first.choices['attack'])} with {_asked(first)}: it gets "
        f"{shares[first.name]}, and {enough:.0%} counts as success here."
        f"{'' if first.joined['queries']['cost'] else ' Set budget.price= to see what that costs.'}"
    )


def _plan(setting: Setting) -> str:
    return PLAIN.get(setting.choices["plan"], setting.choices["plan"])


@dataclass(frozen=True)
class Tried:
    """A defense against the strongest answer to it that was tried.

    Attributes:
        setting: that theft.
        share: what that theft gets.
        taken: percent that the thief loses by the defense.
        sure: whether the stolen encoder is worse than without it by more than chance.
        loss, low, most: what customers lose, and its 95 % interval.
        accuracy: of what they have without the defense.
        plainly: what a thief gets who asks as if there were no defense, or None where none was tried.
    """

    setting: Setting
    share: Share
    taken: int
    sure: bool
    loss: float
    low: float
    most: float
    accuracy: float
    plainly: Share | None

    @property
    def name(self) -> str:
        """With its strength, and what it does."""
        return _said(self.setting.choices["defense"])


def _tried(defended: Sequence[Setting], bare: Sequence[Setting], shares: dict[str, Share], head: str) -> list[Tried]:
    """Each defense, compared with the strongest theft of its own budget without one."""
    strongest = dict[str, Setting]()
    for setting in defended:
        name = setting.choices["defense"]
        if name not in strongest or shares[setting.name].value > shares[strongest[name].name].value:
            strongest[name] = setting
    told = []
    for name, setting in strongest.items():
        row, share_ = setting.overall(head) or {}, shares[setting.name]
        rivals = [one for one in bare if one.budget == setting.budget]
        rivals = [one for one in rivals if one.joined["seeds"] == setting.joined["seeds"]]
        if rivals and row.get("honest_loss") is not None:
            rival = max(rivals, key=lambda one: shares[one.name].value)
            taken = shares[rival.name].percent - share_.percent
            _, (worse, _), _ = paired(rival.right, setting.right, head, resamples=RESAMPLES)
            low, most = row["intervals"]["honest_loss"]
            clean = fmean(task[head]["TA_clean"] for task in setting.joined["tasks"].values())
            alike = [one for one in defended if one.choices["defense"] == name and one.choices["plan"] == "once"]
            plainly = next((shares[one.name] for one in alike), None)
            told.append(Tried(setting, share_, taken, worse > 0, row["honest_loss"], low, most, clean, plainly))
    return told


def _best_defense(
    defended: Sequence[Setting], bare: Sequence[Setting], shares: dict[str, Share], head: str
) -> tuple[str, str | None]:
    """What is said, and the useful defense if there is one."""
    told = _tried(defended, bare, shares, head)
    if not told:
        return "What customers lose is not known, so no defense can be judged.", None
    takes = [one for one in told if one.taken >= 100 * TAKES]
    useful = [one for one in takes if one.most <= COSTS and one.sure]
    if useful:
        best = max(useful, key=lambda one: one.taken)
        lead = f"{best.name} has the best trade and is worth its cost"
    elif perhaps := [one for one in takes if one.loss <= COSTS]:
        best = max(perhaps, key=lambda one: one.taken)
        lead = (
            f"None is shown to be worth its cost, which we take to be at most {100 * COSTS:.0f} percent of customers' "
            f"test pictures, but {best.name} may be; more test pictures would decide"
        )
    elif takes:
        best = min(takes, key=lambda one: one.loss)
        lead = (
            f"None is worth its cost: each that takes {100 * TAKES:.0f} percent from the thief makes customers' "
            f"classifiers wrong on more than {100 * COSTS:.0f} percent of test pictures more. The cheapest of those is "
            f"{best.name}"
        )
    else:
        best = max(told, key=lambda one: one.taken)
        lead = f"None of the {len(told)} tried takes {100 * TAKES:.0f} percent from the thief. The best is {best.name}"
    less = f"{best.taken} less" if best.taken > 0 else "no less"
    loses = f"{100 * best.loss:.1f} [{max(0.0, 100 * best.low):.1f} to {max(0.0, 100 * best.most):.1f}]"
    text = (
        f"{lead}. Against it the best thief ({_plan(best.setting)}) gets {best.share}, {less} than without it, and "
        f"customers' classifiers lose {loses if best.loss >= 0.0005 else 'nothing measurable'} of the "
        f"{100 * best.accuracy:.0f} percent of test pictures that they get right."
    )
    fooled = [one for one in told if one.plainly and one.share.percent - one.plainly.percent >= 100 * TAKES]
    for one in fooled:
        text += (
            f" Beware of {one.name}: a thief who takes no notice of it gets {one.plainly}, and one who answers it "
            f"({_plan(one.setting)}) {one.share}."
        )
    return text, best.name if useful else None


def _customers(found: Sequence[Setting]) -> int:
    """Pictures that an honest customer asked about, the mean over tasks."""
    joined = found[0].joined
    asked: int = joined["queries"]["evaluation"]
    return round(asked / len(joined["tasks"]))


def _remedy(bare: Sequence[Setting], shares: dict[str, Share], enough: float, useful: str | None) -> str:
    budgets = sorted({setting.budget for setting in bare})
    risky = [setting.budget for setting in bare if shares[setting.name].high >= enough]
    safe = [budget for budget in budgets if budget < min(risky, default=budgets[-1] + 1)]
    said = [f"Switch on {useful}."] if useful else []
    if safe:
        said.append(
            f"A limit of {max(safe):,} pictures for each account keeps these attacks below {enough:.0%}, as long as a "
            "thief cannot open several accounts; the customers who were measured here asked about "
            f"{_customers(bare):,} each."
        )
    else:
        most = max(shares[setting.name].value for setting in bare if setting.budget == budgets[0])
        are = "are already" if most >= enough else "may already be"
        said.append(
            f"No limit on pictures an account can be named: {budgets[0]:,}, the fewest tried, {are} enough for "
            f"{enough:.0%}; and whoever opens several accounts goes around any limit."
        )
    said.append(
        "Next: give the same command smaller thefts (audit.budgets=[100]), pictures and tasks of your own customers "
        "(data=folders), another seed (seed=1), and what watches accounts (audit.defenses=[guard])."
    )
    return " ".join(said)


def _sureness(found: Sequence[Setting], head: str, failures: int) -> Sentence:
    seeds = max(len(setting.results) for setting in found)
    rows = [setting.overall(head) or {} for setting in found]
    informative = sorted({task for row in rows for task in row.get("informative", [])})
    blind = sorted({setting.budget for setting, row in zip(found, rows, strict=True) if not row.get("informative")})
    told = ", ".join(informative) or "none"
    said = [
        "A thief with better pictures, more computing or a better attack gets more, and a defense that holds here met "
        "no other answers than those in the table. "
        + ("Each theft was run once" if seeds == 1 else f"Each theft was run with {seeds} seeds (starts of training)")
        + "; another run gives other figures. Brackets: 95 % intervals over test pictures"
        + f"{' and seeds' if seeds > 1 else ''}.",
        f"{len(informative)} of {len(found[0].joined['tasks'])} tasks could tell, the same for all thefts ({told}); "
        "others may differ.",
    ]
    if informative and blind:
        asked = " and ".join(f"{budget:,}" for budget in blind)
        said.append(f"Thefts with {asked} pictures are left out where no task could tell.")
    if informative and all(row.get("recovered") is None for row in rows):
        said.append("The undefended encoder is not known here: shares are of what the service offers.")
    if failures:
        said.append(f"{failures} thefts could not be tried, for reasons that the command printed.")
    return "How sure that is.", " ".join(said)
