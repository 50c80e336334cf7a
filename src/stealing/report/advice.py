"""What an owner should know: attacks with a few budgets, under a few defenses, in; a verdict in plain words out.

No verdict calls an encoder safe, and no limit is proposed, because of an attack that was cut short: a longer
one may recover more. What an attack did recover counts, however short it was.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from stealing.report.frontier import COSTS, TAKES, percent
from stealing.report.runs import Setting
from stealing.report.shares import Share, pooled_over, reasons, share, share_by_role
from stealing.report.tried import Tried, best_of, finished, judged, tried
from stealing.report.words import PLAIN, plan_of

SMALLEST = 128
"""Images of the smallest attack that is worth trying: a batch."""

Sentence = tuple[str, str]
"""What it is about, and what it says."""


def advice(found: Sequence[Setting], head: str, enough: float, failures: int = 0) -> list[Sentence]:
    """Return the verdict.

    Args:
        found: settings of one target and data set.
        head: kind of classifier of the figures.
        enough: share from which on an attack succeeded.
        failures: attacks that could not be tried.
    """
    shares = {setting.name: got for setting in found if (got := share(setting, head)) is not None}
    bare = [setting for setting in found if not setting.defended and setting.name in shares]
    if not bare:
        return [("Not decided.", _uninformative(found, head)), _sureness(found, head, failures)]
    strongest = {
        budget: max((s for s in bare if s.budget == budget), key=lambda s: s.chosen_by(head))
        for budget in sorted({setting.budget for setting in bare})
    }
    worst = max(strongest.values(), key=lambda setting: setting.chosen_by(head))
    verdict = [
        (_level(shares[worst.name], enough, all(map(finished, bare))), _worth(strongest, worst, shares, head)),
        ("The attack's compute.", _compute(worst, bare)),
        ("The cheapest attack.", _cheapest(bare, shares, enough)),
    ]
    defended = [setting for setting in found if setting.defended and setting.name in shares]
    told, omitted = tried(defended, bare, shares, head)
    if defended:
        about = f"Defenses, against attacks with {max(one.budget for one in defended):,} images."
        verdict.append((about, judged(told, omitted)))
    verdict.append(("What would lower the risk.", _remedy(bare, shares, enough, told)))
    return [*verdict, _sureness(found, head, failures)]


def _uninformative(found: Sequence[Setting], head: str) -> str:
    """Why these attacks cannot tell whether the encoder is worth stealing."""
    told = dict.fromkeys(f"{task}: {why}." for setting in found for task, why in reasons(setting, head).items())
    return " ".join(
        [
            "On no task is the target at least 10 points ahead of the strongest control for each of these attacks, so "
            "they cannot tell whether the encoder is worth stealing.",
            *told,
            "Judge it on tasks that it is good at: data=.",
        ]
    )


def _level(top: Share, enough: float, all_finished: bool) -> str:
    """The verdict in a few words.

    Args:
        top: what the strongest attack recovered.
        enough: share from which on an attack succeeded.
        all_finished: whether every attack without a defense was trained to its end.
    """
    if top.reaches(enough):
        return "Easy to steal."
    if not all_finished:
        return "At least partly stolen." if top.percent >= TAKES else "Not decided: attacks were cut short."
    return "Partly stolen." if top.percent >= TAKES else "Hardly stolen here."


def _worth(strongest: dict[int, Setting], worst: Setting, shares: dict[str, Share], head: str) -> str:
    """What the strongest attack of each budget recovered, of which tasks, and what that means."""
    prices = "; ".join(f"{shares[setting.name]} with {_asked(setting)}" for setting in strongest.values())
    said = [
        f"Of the encoder's value, the best attack recovered {prices}, {pooled_over([worst], head)}.",
        _by_role(worst, head),
        _measuring(worst),
        "The value is how many more test images classifiers get right on the target's features than on those of the "
        "strongest control, which needs no query.",
    ]
    rows = [task[head] for task in worst.joined["tasks"].values()]
    alike = fmean(row["agreement"] for row in rows)
    ceiling = fmean(row["agreement_ceiling"] for row in rows)
    said.append(
        "Even a surrogate of full value is not the same encoder: a classifier on this surrogate and one on the target "
        f"agree on {alike:.0%} of test images, two on the target, trained on different samples, on {ceiling:.0%}."
    )
    return " ".join(sentence for sentence in said if sentence)


def _by_role(setting: Setting, head: str) -> str:
    """What an attack recovered of the tasks of each role, if there are several."""
    by_role = share_by_role(setting, head)
    if len(by_role) < 2:
        return ""
    told = ", ".join(f"{role} {got or 'not known, as no task is informative'}" for role, got in by_role.items())
    return f"By role of the task, that with {setting.budget:,} images: {told}."


def _asked(setting: Setting) -> str:
    queries = setting.joined["queries"]
    return f"{queries['spent']:,} queries" + (f" for {queries['cost']:.2f}" if queries["cost"] else "")


def _measuring(setting: Setting) -> str:
    """What it took to measure an attack, beside what it took to attack."""
    queries = setting.joined["queries"]
    cost = f" for {queries['evaluation_cost']:.2f}" if queries["evaluation_cost"] else ""
    return f"{_asked(setting)} to attack, {queries['evaluation']:,} more{cost} to measure."


def _compute(worst: Setting, bare: Sequence[Setting]) -> str:
    """How long the attacks trained, and whether their losses had levelled off."""
    trainings = worst.joined["training"]
    first = trainings[0]
    preset = first["preset_steps"]
    own = "The steps of its preset are not known." if preset is None else f"Its preset trains for {preset:,} steps."
    said = [
        f"The best attack trained for {first['steps']:,} steps of {first['batch_size']:,} images and pushed "
        f"{first['images']:,} images through the surrogate. {own}",
        _loss(trainings),
    ]
    short = [setting for setting in bare if not finished(setting)]
    if short:
        said.append(
            f"Not trained to the end: {len(short)} of {len(bare)} attacks without a defense. Longer ones may recover "
            "more, and nothing here shows that the encoder is safe."
        )
        steps = [training["preset_steps"] for setting in short for training in setting.joined["training"]]
        known = [number for number in steps if number is not None]
        if known:
            said.append(f"Train for longer: attack.steps={max(known)} or more.")
    return " ".join(said)


def _loss(trainings: Sequence[dict[str, Any]]) -> str:
    """Whether the loss of an attack had levelled off, over all seeds."""
    changes = [training["last_change"] for training in trainings]
    if any(change is None for change in changes):
        return "Too few steps were logged to see whether its loss had levelled off."
    level = sum(training["levelled"] for training in trainings)
    most = max(changes, key=abs)
    whose = "Its loss had" if len(trainings) == 1 else f"With {level} of {len(trainings)} seeds its loss had"
    denied = " not" if len(trainings) == 1 and not level else ""
    return f"{whose}{denied} levelled off: it changed by {100 * most:+.1f} % from the last tenth but one to the last."


def _cheapest(bare: Sequence[Setting], shares: dict[str, Share], enough: float) -> str:
    attacks = [setting for setting in bare if shares[setting.name].reaches(enough)]
    if not attacks:
        return f"No attack tried recovered {enough:.0%}, which counts as success here (audit.enough)."
    first = min(attacks, key=lambda one: (one.joined["queries"]["cost"], one.budget, -shares[one.name].value))
    name = first.choices["attack"]
    price = "" if first.joined["queries"]["cost"] else " No price is set: budget.price=0.002 gives this page prices."
    return (
        f"Of the {len(bare)} tried without a defense, {name} with {_asked(first)} "
        f"({PLAIN.get(name, 'an attack of yours')}; {plan_of(first)}): it recovers {shares[first.name]}. "
        f"From {enough:.0%} on we count an attack as a success (audit.enough).{price}"
    )


def _remedy(bare: Sequence[Setting], shares: dict[str, Share], enough: float, told: Sequence[Tried]) -> str:
    said = []
    if best := best_of(told):
        said.append(f"Switch on {best.setting.choices['defense']}.")
    for one in told:
        if one.only_naive and one.finished and one.most <= COSTS and not one.useful:
            said.append(
                f"{one.setting.choices['defense']} can be switched on at next to no cost against attackers that do not "
                "adapt; it is little protection from those that do."
            )
    said.append(_limit(bare, shares, enough))
    if more := _next(bare):
        said.append(f"Next: add to the command that made this page (above) {'; '.join(more)}.")
    return " ".join(said)


def _limit(bare: Sequence[Setting], shares: dict[str, Share], enough: float) -> str:
    """Whether a limit on images for each account stops the attacks and lets honest users work."""
    budgets = sorted({setting.budget for setting in bare})
    high = [setting.budget for setting in bare if percent(shares[setting.name].high) >= percent(enough)]
    short = [setting.budget for setting in bare if not finished(setting)]
    beyond = min([*high, *short], default=budgets[-1] + 1)
    safe = [budget for budget in budgets if budget < beyond]
    honest = max(int(setting.joined["honest_user"]) for setting in bare)
    several = "An attacker that opens several accounts goes around any limit."
    if safe and safe[-1] >= honest:
        return (
            f"A limit of {safe[-1]:,} images for each account keeps these attacks below {enough:.0%}; the honest users "
            f"that were measured here asked about at most {honest:,} each. {several}"
        )
    if safe:
        return (
            f"No limit on images for each account stops these attacks without stopping honest users: the attacks stay "
            f"below {enough:.0%} up to {safe[-1]:,} images, and an honest user that was measured here asked about "
            f"{honest:,}."
        )
    if budgets[0] in high:
        fewest = [shares[setting.name] for setting in bare if setting.budget == budgets[0]]
        are = "are already" if any(one.reaches(enough) for one in fewest) else "may already be"
        return (
            f"No limit on images for each account can be recommended: {budgets[0]:,}, the fewest tried, {are} "
            f"enough for {enough:.0%}. {several}"
        )
    return (
        f"No limit on images for each account can be recommended: attacks with {budgets[0]:,} images, the fewest "
        f"tried, were not trained to their end and may recover more. {several}"
    )


def _next(bare: Sequence[Setting]) -> list[str]:
    """What an owner could try next, as overrides."""
    budgets = sorted({setting.budget for setting in bare})
    more = []
    if budgets[0] > SMALLEST:
        asked = ",".join(map(str, budgets))
        more.append(f"smaller attacks (audit.budgets=[{SMALLEST},{asked}])")
    if not bare[0].choices["data"].startswith("folders"):
        more.append("images and tasks of your own honest users (data=folders data.root=...)")
    if all(len(setting.runs) == 1 for setting in bare):
        more.append("other seeds (audit.seeds=[0,1,2])")
    return more


def _sureness(found: Sequence[Setting], head: str, failures: int) -> Sentence:
    rows = [setting.overall(head) for setting in found]
    informative = sorted({task for row in rows for task in row["informative"]})
    said = [_repeats(found), _tasks(found, head, informative)]
    blind = sorted({setting.budget for setting, row in zip(found, rows, strict=True) if not row["informative"]})
    if informative and blind:
        asked = " and ".join(f"{budget:,}" for budget in blind)
        said.append(f"Attacks with {asked} images are left out if no task is informative for them.")
    if any(row["honest_loss"] is None for row in rows):
        said.append(
            "The target without its service's defense is unknown here, so TA_clean and recovered are too. All shares "
            "are what is reported instead: offered, of what the service offers."
        )
    if failures:
        said.append(f"{failures} attacks could not be tried, for reasons that the command printed.")
    return "How sure that is.", " ".join(said)


def _repeats(found: Sequence[Setting]) -> str:
    """What other attackers and other seeds may change."""
    seeds = sorted({len(setting.runs) for setting in found})
    counts = " to ".join(map(str, dict.fromkeys([seeds[0], seeds[-1]])))
    times = "once" if seeds == [1] else f"with {counts} seeds (starts of training)"
    said = ["An attacker with better images, more compute or a better attack may recover more."]
    if any(setting.defended for setting in found):
        said.append("Each defense met only the plans, and acted only at the strengths, that this page names.")
    over = "test images" if seeds == [1] else "test images and seeds"
    said.append(f"Each attack was run {times}; another run gives other figures.")
    said.append(f"Brackets: 95 % intervals over {over}.")
    return " ".join(said)


def _tasks(found: Sequence[Setting], head: str, informative: Sequence[str]) -> str:
    """Of which tasks the shares are, and why others are left out."""
    tasks = found[0].joined["tasks"]
    if not informative:
        return f"None of the {len(tasks)} tasks is informative, so no share is given."
    named = ", ".join(f"{task} ({tasks[task]['role']})" for task in informative if task in tasks)
    said = [
        f"Shares are of {len(informative)} of {len(tasks)} tasks, the same for all attacks: {named}. On these the "
        "target is at least 10 points ahead of the strongest control on a slice of train. Other tasks may differ."
    ]
    omitted = dict.fromkeys(task for setting in found for task in reasons(setting, head) if task not in informative)
    if omitted:
        said.append(f"Left out: {', '.join(omitted)}; the reasons stand in a table of this page.")
    return " ".join(said)
