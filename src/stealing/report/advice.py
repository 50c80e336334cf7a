"""What an owner should know: thefts at a few budgets, under a few defenses, in; a verdict in plain words out."""

from collections.abc import Sequence
from dataclasses import dataclass

from stealing.report.frontier import COSTS, TAKES
from stealing.report.runs import Setting

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
        return f"{self.value:.0%} [{self.low:.0%} to {self.high:.0%}]"


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


def _best_defense(
    defended: Sequence[Setting], bare: Sequence[Setting], shares: dict[str, Share], head: str
) -> tuple[str, str | None]:
    """What is said, and the useful defense if there is one; each is compared with thefts of its own budget."""
    strongest = dict[str, Setting]()
    for setting in defended:
        name = setting.choices["defense"]
        if name not in strongest or shares[setting.name].value > shares[strongest[name].name].value:
            strongest[name] = setting
    told = []
    for name, setting in strongest.items():
        row = setting.overall(head) or {}
        without = max((shares[s.name].value for s in bare if s.budget == setting.budget), default=None)
        if without is not None and row.get("honest_loss") is not None:
            high = row["intervals"]["honest_loss"][1]
            told.append((name, without - shares[setting.name].value, row["honest_loss"], high, setting))
    if not told:
        return "What customers lose is not known, so no defense can be judged.", None
    useful = [entry for entry in told if entry[1] >= TAKES and entry[3] <= COSTS]
    if useful:
        name, taken, loss, high, setting = max(useful, key=lambda entry: entry[1])
        lead = f"{_said(name)} has the best trade and is worth its cost"
    elif strong := [entry for entry in told if entry[1] >= TAKES]:
        name, taken, loss, high, setting = min(strong, key=lambda entry: entry[2])
        lead = f"None is worth its cost. The cheapest that hurts the thief is {_said(name)}"
    else:
        name, taken, loss, high, setting = max(told, key=lambda entry: entry[1])
        lead = f"None of the {len(told)} tried takes {100 * TAKES:.0f} points from the thief. The best is {_said(name)}"
    less = f"{100 * taken:.0f} points less" if taken >= 0.005 else "no less"
    text = (
        f"{lead}: the strongest answer to it that was tried ({_plan(setting)}) still gets {shares[setting.name]}, "
        f"{less} than without it, and customers' classifiers lose {100 * loss:.1f} points of accuracy (97.5 % sure: no "
        f"more than {100 * high:.1f})."
    )
    return text, _said(name) if useful else None


def _remedy(bare: Sequence[Setting], shares: dict[str, Share], enough: float, useful: str | None) -> str:
    budgets = sorted({setting.budget for setting in bare})
    risky = [setting.budget for setting in bare if shares[setting.name].high >= enough]
    safe = [budget for budget in budgets if budget < min(risky, default=budgets[-1] + 1)]
    said = [f"Switch on {useful}."] if useful else []
    if safe:
        said.append(
            f"A cap of {max(safe):,} pictures for each account keeps these attacks below {enough:.0%}, as long as a "
            "thief cannot open several accounts."
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
    told = ", ".join(informative) or "none"
    said = [
        "A lower bound on the risk: a thief with better pictures, more computing or a better attack gets more. Each "
        "figure is of one theft for each seed, and another start of its training gives another.",
        f"The brackets hold the chance of test pictures{' and seeds' if seeds > 1 else '; one seed was run'}.",
        f"{len(informative)} of {len(found[0].joined['tasks'])} tasks could tell ({told}); other tasks may differ.",
    ]
    if informative and all(row.get("recovered") is None for row in rows):
        said.append("The undefended encoder is not known here: shares are of what the service offers.")
    if failures:
        said.append(f"{failures} thefts could not be tried, for reasons that the command printed.")
    return "How sure that is.", " ".join(said)
