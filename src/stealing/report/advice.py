"""What an owner should know: thefts at a few budgets, under a few defenses, in; a verdict in plain words out."""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Share:
    """What a thief got of what the encoder is worth beyond the best control, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.value < 0.005:  # a surrogate that is worse than what a thief has anyway
            return f"nothing [at most {max(self.high, 0):.0%}]"
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
    prices = "; ".join(f"asking about {_asked(setting)} gets {shares[setting.name]}" for setting in best.values())
    verdict = [
        (level, f"Of what the encoder is worth beyond what the same pictures give without asking it, {prices}."),
        ("The cheapest theft.", _cheapest(bare, shares, enough)),
    ]
    defended = [setting for setting in found if setting.defended and setting.name in shares]
    useful = None
    if defended:
        text, useful = _best_defense(defended, bare, shares, head)
        verdict.append(("Defenses.", text))
    verdict.append(("What would lower the risk.", _remedy(bare, shares, enough, useful)))
    return [*verdict, _sureness(found, head, failures)]


def _said(name: str) -> str:
    """A name with what it does."""
    words = PLAIN.get(name.split()[0].split("+")[0])
    return f"{name} ({words})" if words else name


def _asked(setting: Setting) -> str:
    asked, cost = setting.joined["queries"]["spent"], setting.joined["queries"]["cost"]
    return f"{asked:,} pictures" + (f", for {cost:.2f}," if cost else "")


def _cheapest(bare: Sequence[Setting], shares: dict[str, Share], enough: float) -> str:
    thefts = [setting for setting in bare if shares[setting.name].value >= enough]
    if not thefts:
        return f"No attack tried got {enough:.0%}, which counts as success here."
    first = min(thefts, key=lambda one: (one.joined["queries"]["cost"], one.budget, -shares[one.name].value))
    return (
        f"{_said(first.choices['attack'])} succeeds (at least {enough:.0%}) with {_asked(first)} and gets "
        f"{shares[first.name]}; it was the cheapest of those tried."
    )


def _plan(setting: Setting) -> str:
    return PLAIN.get(setting.choices["plan"], setting.choices["plan"])


@dataclass(frozen=True)
class Tried:
    """A defense against the strongest answer to it that was tried.

    Attributes:
        setting: that theft.
        taken: share that the thief loses by the defense.
        sure: whether the stolen encoder is worse than without it by more than chance.
        loss, most: what customers lose, and its upper 97.5 % bound.
    """

    setting: Setting
    taken: float
    sure: bool
    loss: float
    most: float

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
    for setting in strongest.values():
        row = setting.overall(head) or {}
        rivals = [
            one for one in bare if one.budget == setting.budget and one.joined["seeds"] == setting.joined["seeds"]
        ]
        if rivals and row.get("honest_loss") is not None:
            rival = max(rivals, key=lambda one: shares[one.name].value)
            taken = max(0.0, shares[rival.name].value) - max(0.0, shares[setting.name].value)
            _, (worse, _), _ = paired(rival.right, setting.right, head, resamples=RESAMPLES)
            loss = row["intervals"]["honest_loss"]
            told.append(Tried(setting, taken, worse > 0, row["honest_loss"], loss[1]))
    return told


def _best_defense(
    defended: Sequence[Setting], bare: Sequence[Setting], shares: dict[str, Share], head: str
) -> tuple[str, str | None]:
    """What is said, and the useful defense if there is one."""
    told = _tried(defended, bare, shares, head)
    if not told:
        return "What customers lose is not known, so no defense can be judged.", None
    takes = [one for one in told if one.taken >= TAKES]
    useful = [one for one in takes if one.most <= COSTS and one.sure]
    if useful:
        best = max(useful, key=lambda one: one.taken)
        lead = f"{best.name} has the best trade and is worth its cost"
    elif perhaps := [one for one in takes if one.loss <= COSTS]:
        best = max(perhaps, key=lambda one: one.taken)
        lead = (
            f"None is shown to be worth its cost, which is at most {100 * COSTS:.0f} point of customers' accuracy, but "
            f"{best.name} may be; more test pictures would decide"
        )
    elif takes:
        best = min(takes, key=lambda one: one.loss)
        lead = (
            f"None is worth its cost, as each that takes {100 * TAKES:.0f} points from the thief costs customers more "
            f"than {100 * COSTS:.0f}. The cheapest of those is {best.name}"
        )
    else:
        best = max(told, key=lambda one: one.taken)
        lead = f"None of the {len(told)} tried takes {100 * TAKES:.0f} points from the thief. The best is {best.name}"
    less = f"{100 * best.taken:.0f} points less" if best.taken >= 0.005 else "no less"
    loses = f"lose {100 * best.loss:.1f} points of accuracy" if best.loss >= 0.0005 else "lose nothing measurable"
    text = (
        f"{lead}: the strongest answer to it that was tried ({_plan(best.setting)}) gets {shares[best.setting.name]}, "
        f"{less} than without it, and customers' classifiers {loses} (97.5 % sure: no more than {100 * best.most:.1f})."
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
            f"A cap of {max(safe):,} pictures for each account keeps these attacks below {enough:.0%}, as long as a "
            "thief cannot open several accounts; the customers who were measured here asked about "
            f"{_customers(bare):,} each."
        )
    else:
        said.append(
            f"No cap can be named: {budgets[0]:,} pictures, the least that was tried, may already be enough for "
            f"{enough:.0%}; and whoever opens several accounts goes around any cap."
        )
    said.append("Watching accounts (defense=guard) was not tried here.")
    return " ".join(said)


def _sureness(found: Sequence[Setting], head: str, failures: int) -> Sentence:
    seeds = max(len(setting.results) for setting in found)
    rows = [setting.overall(head) or {} for setting in found]
    informative = sorted({task for row in rows for task in row.get("informative", [])})
    blind = sorted({setting.budget for setting, row in zip(found, rows, strict=True) if not row.get("informative")})
    told = ", ".join(informative) or "none"
    said = [
        "A lower bound on the risk: a thief with better pictures, more computing or a better attack gets more. Each "
        "figure is of one theft for each seed, and another start of its training gives another.",
        f"The brackets hold the chance of test pictures{' and seeds' if seeds > 1 else '; one seed was run'}.",
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
