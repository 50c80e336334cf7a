"""What an owner should know: attacks without and with defenses in, the facts of a verdict out.

No verdict calls an encoder safe, and no limit is proposed, because of an attack that was cut short:
a longer one may recover more. What an attack did recover counts, however short it was.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from stealing.report.assessment import assess
from stealing.report.audited import audited, finished
from stealing.report.defenses import MIN_TAKEN
from stealing.report.runs import RunGroup
from stealing.report.selection import by_budget, choices_of, with_defense, without_defense
from stealing.report.shares import Share, percent, pooled_over, reasons, share, share_by_role
from stealing.report.verdict import Attacks, Attempt, Certainty, Limit, Training, Verdict
from stealing.report.words import Meaning, meaning, plain_names, strengths

KINDS = ("attack", "plan", "defense")
"""What is tried in an audit."""

SMALLEST = 128
"""Images of the smallest attack that is worth trying: a batch."""


def advice(groups: Sequence[RunGroup], head: str, enough: float, failures: int = 0) -> Verdict:
    """Return the verdict.

    Args:
        groups: of one target and data set.
        head: kind of classifier of the figures.
        enough: share from which on an attack succeeded.
        failures: attacks that could not be tried.
    """
    shares = dict[str, Share]()
    known = list[RunGroup]()
    for group in groups:
        recovered = share(group, head)
        # It is unknown if no task is informative for the attack.
        if recovered is not None:
            shares[group.name] = recovered
            known.append(group)
    bare = without_defense(known)
    defended = with_defense(known)
    attacks = None
    defenses = None
    grade = "uninformative"
    if bare:
        attacks = _attacks(bare, shares, head, enough)
        grade = _grade(attacks, enough)
        if defended:
            defenses = assess(defended, *audited(defended, bare, shares, head))
    return Verdict(
        grade=grade,
        enough=percent(enough),
        attacks=attacks,
        defenses=defenses,
        certainty=_certainty(groups, head, failures),
        next_budgets=_next_budgets(bare),
        # Images of another source say little of what the owner's own users and attackers send.
        is_foreign=not groups[0].choices["data"].startswith("folders"),
        options=_options(groups),
        explained=_explained(groups),
    )


def _grade(attacks: Attacks, enough: float) -> str:
    top = attacks.best.share
    if top.reaches(enough):
        return "easy"
    # A longer attack may recover more, so one that was cut short shows no upper bound.
    if attacks.unfinished:
        return "at_least_partly" if top.percent >= MIN_TAKEN else "undecided"
    return "partly" if top.percent >= MIN_TAKEN else "hardly"


def _next_budgets(bare: Sequence[RunGroup]) -> list[int]:
    """Return the budgets of an audit with a smaller attack, or none if there was a small one."""
    budgets = list(by_budget(bare))
    if budgets and budgets[0] > SMALLEST:
        return [SMALLEST, *budgets]
    return []


def _attacks(
    bare: Sequence[RunGroup], shares: Mapping[str, Share], head: str, enough: float
) -> Attacks:
    # Chosen on the held rows: a maximum over test figures would be too high by chance.
    strongest = list[RunGroup]()
    for rivals in by_budget(bare).values():
        strongest.append(max(rivals, key=lambda group: group.chosen_by(head)))
    best = max(strongest, key=lambda group: group.chosen_by(head))
    cheapest = _cheapest(bare, head, enough)
    unfinished = _unfinished(bare)
    agreements = []
    ceilings = []
    for heads in best.joined["tasks"].values():
        agreements.append(heads[head]["agreement"])
        ceilings.append(heads[head]["agreement_ceiling"])
    return Attacks(
        strongest=[_attempt(group, shares) for group in strongest],
        best=_attempt(best, shares),
        cheapest=_attempt(cheapest, shares) if cheapest else None,
        count=len(bare),
        unfinished=len(unfinished),
        longer=_longest_preset(unfinished),
        training=_training(best.joined["training"]),
        roles=pooled_over([best], head),
        by_role=share_by_role(best, head),
        evaluation=best.joined["queries"]["evaluation"],
        evaluation_cost=best.joined["queries"]["evaluation_cost"],
        agreement=fmean(agreements),
        ceiling=fmean(ceilings),
        limit=_limit(bare, shares, enough),
    )


def _unfinished(groups: Sequence[RunGroup]) -> list[RunGroup]:
    return [group for group in groups if not finished(group)]


def _longest_preset(groups: Sequence[RunGroup]) -> int | None:
    """Return the most steps of a preset of these attacks, or None if none is known."""
    longest = None
    for group in groups:
        for training in group.joined["training"]:
            steps = training["preset_steps"]
            if steps is not None:
                longest = max(steps, longest or 0)
    return longest


def _attempt(group: RunGroup, shares: Mapping[str, Share]) -> Attempt:
    queries = group.joined["queries"]
    return Attempt(
        attack=meaning("attack", group.choices["attack"]),
        plan=meaning("plan", group.choices["plan"]),
        share=shares[group.name],
        queries=queries["spent"],
        cost=queries["cost"],
    )


def _cheapest(bare: Sequence[RunGroup], head: str, enough: float) -> RunGroup | None:
    """Return the cheapest attack that succeeded on the held rows, or None if none did.

    The test images have no part in it: of many attacks, one would reach the bar there by chance.
    """

    def price(group: RunGroup) -> tuple[float, int, float]:
        # If no price is set all costs are 0, and queries decide; of equals, the better attack.
        return group.joined["queries"]["cost"], group.budget, -group.chosen_by(head)

    successes = []
    for group in bare:
        if percent(group.chosen_by(head)) >= percent(enough):
            successes.append(group)
    return min(successes, key=price, default=None)


def _training(trainings: Sequence[Mapping[str, Any]]) -> Training:
    """Return how long an attack trained.

    Args:
        trainings: of `result.json`, one a seed.
    """
    first = trainings[0]
    changes = []
    levelled = 0
    for training in trainings:
        levelled += bool(training["levelled"])
        if training["last_change"] is not None:
            changes.append(training["last_change"])
    # If one seed logged too few steps, the value is unknown for all.
    is_known = len(changes) == len(trainings)
    return Training(
        steps=first["steps"],
        batch_size=first["batch_size"],
        images=first["images"],
        preset_steps=first["preset_steps"],
        seeds=len(trainings),
        levelled=levelled,
        change=max(changes, key=abs) if is_known else None,
    )


def _limit(bare: Sequence[RunGroup], shares: Mapping[str, Share], enough: float) -> Limit:
    """Return what a limit on images for each account does to attackers and honest users."""
    honest = max(int(group.joined["honest_user"]) for group in bare)
    safe = None
    # Tests in a fixed order, which end at the first that fails: none is the best of several.
    for budget, attacks in by_budget(bare).items():
        # A limit lets all smaller attacks through, so it lies below the first that is not held off.
        if _unfinished(attacks) or _may_succeed(attacks, shares, enough):
            break
        safe = budget
    if safe is not None:
        return Limit("works" if safe >= honest else "stops_honest_users", safe, honest)
    smallest, fewest = next(iter(by_budget(bare).items()))
    if not _may_succeed(fewest, shares, enough):
        return Limit("unfinished", smallest, honest)
    succeeded = any(shares[group.name].reaches(enough) for group in fewest)
    return Limit("too_easy" if succeeded else "unclear", smallest, honest)


def _may_succeed(attacks: Sequence[RunGroup], shares: Mapping[str, Share], enough: float) -> bool:
    """Return whether the interval of an attack reaches the bar: it may have succeeded."""
    highest = max(shares[group.name].high for group in attacks)
    return percent(highest) >= percent(enough)


def _certainty(groups: Sequence[RunGroup], head: str, failures: int) -> Certainty:
    informative = set[str]()
    blind = set[int]()
    seeds = set[int]()
    is_remote = False
    for group in groups:
        row = group.overall(head)
        informative |= set(row["informative"])
        if not row["informative"]:
            blind.add(group.budget)
        # The honest loss needs the target without its defense, which a service does not offer.
        is_remote |= row["honest_loss"] is None
        seeds.add(len(group.runs))
    left_out = dict[str, str]()
    for group in groups:
        for task, why in reasons(group, head).items():
            if task not in informative:
                left_out.setdefault(task, why)
    tasks = groups[0].joined["tasks"]
    return Certainty(
        seeds=(min(seeds), max(seeds)),
        is_defended=bool(with_defense(groups)),
        tasks={task: tasks[task]["role"] for task in sorted(informative) if task in tasks},
        task_count=len(tasks),
        left_out=left_out,
        blind_budgets=sorted(blind) if informative else [],
        is_remote=is_remote,
        failures=failures,
    )


def _options(groups: Sequence[RunGroup]) -> dict[str, str]:
    """Return the options as typed behind each plain name."""
    typed = dict[str, str]()
    for kind in KINDS:
        for choice, name in plain_names(kind, choices_of(groups, kind)).items():
            if choice != "none":
                typed[name] = f"{kind}={choice}"
    for group in groups:
        # A choice of an option that was tried at several strengths says its settings itself.
        choice = group.choices["defense"]
        name = meaning("defense", choice).name
        settings = ", ".join(strengths(group).values())
        if settings and name in typed and " " not in choice:
            typed[name] = f"defense={choice} with {settings}"
    return typed


def _explained(groups: Sequence[RunGroup]) -> dict[str, list[Meaning]]:
    """Return what the attacks, plans and defenses that were tried mean, by their kind."""
    explained = dict[str, list[Meaning]]()
    for kind in KINDS:
        explained[kind] = []
        for choice in choices_of(groups, kind):
            words = meaning(kind, choice)
            # One option at two strengths is one thing to explain.
            if choice != "none" and words not in explained[kind]:
                explained[kind].append(words)
    return explained
