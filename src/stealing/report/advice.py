"""What an owner should know: thefts at a few budgets, under a few defenses, in; a verdict in plain words out."""

from collections.abc import Sequence
from statistics import fmean

from stealing.report.frontier import COSTS, TAKES, percent
from stealing.report.runs import Setting
from stealing.report.shares import Share, share
from stealing.report.tried import Tried, best_of, judged, tried
from stealing.report.words import PLAIN, plan_of

SMALLEST = 128
"""Pictures of the smallest theft that is worth trying: a batch."""

Sentence = tuple[str, str]
"""What it is about, and what it says."""


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
        budget: max((s for s in bare if s.budget == budget), key=lambda s: s.chosen_by(head))
        for budget in sorted({setting.budget for setting in bare})
    }
    worst = max(best.values(), key=lambda setting: setting.chosen_by(head))
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
    told, apart = tried(defended, bare, shares, head)
    if defended:
        about = f"Defenses, against thefts of {max(one.budget for one in defended):,} pictures."
        verdict.append((about, judged(told, apart)))
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
        f"{PLAIN.get(first.choices['attack'], 'an attack of yours')}; {plan_of(first)}): it gets {shares[first.name]}. "
        f"From {enough:.0%} on we count a theft as a success (audit.enough)."
        f"{'' if first.joined['queries']['cost'] else ' No price is set: budget.price=0.002 gives this page prices.'}"
    )


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
    if best := best_of(told):
        said.append(f"Switch on {best.setting.choices['defense']}.")
    for one in told:
        if one.only_fools and one.most <= COSTS and not one.useful:
            said.append(
                f"{one.setting.choices['defense']} can be switched on at next to no cost against those who take no "
                "notice of it; it is little protection from those who do."
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
    asked = ",".join(map(str, budgets))
    more = [f"smaller thefts (audit.budgets=[{SMALLEST},{asked}])"] if budgets[0] > SMALLEST else []
    if not bare[0].choices["data"].startswith("folders"):
        more.append("pictures and tasks of your own customers (data=folders data.root=...)")
    if all(len(setting.runs) == 1 for setting in bare):
        more.append("other seeds (audit.seeds=[0,1,2])")
    if more:
        said.append(f"Next: add to the command that made this page (above) {'; '.join(more)}.")
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
