"""The facts of an audit's verdict; `templates/verdict.jinja` makes sentences of them."""

from dataclasses import dataclass

from stealing.report.shares import Share
from stealing.report.words import Meaning


@dataclass(frozen=True)
class Attempt:
    """One attack without a defense.

    Attributes:
        attack, plan: in plain words.
        share: of the encoder's value that it recovered.
        queries, cost: to attack; the cost is 0 if no price is set.
    """

    attack: Meaning
    plan: Meaning
    share: Share
    queries: int
    cost: float


@dataclass(frozen=True)
class Training:
    """How long the best attack trained, and whether its loss had levelled off.

    Attributes:
        steps, batch_size, images: of its first seed.
        preset_steps: of the preset; None if they are not known.
        seeds, levelled: how many there are, and with how many of them the loss had levelled off.
        change: of the loss at the end, as a share, of the seed that changed most; None if too few
            steps were logged.
    """

    steps: int
    batch_size: int
    images: int
    preset_steps: int | None
    seeds: int
    levelled: int
    change: float | None


@dataclass(frozen=True)
class Limit:
    """What a limit on images for each account would do.

    Attributes:
        kind: `works`; `stops_honest_users`; `too_easy` if the smallest attack succeeded; `unclear`
            if it may have succeeded; `unfinished` if it was cut short.
        images: the limit, or the images of the smallest attack.
        honest: most images that an honest user sent.
    """

    kind: str
    images: int
    honest: int


@dataclass(frozen=True)
class Attacks:
    """What the attacks without a defense showed.

    Attributes:
        strongest: the best attack with each budget, by budget.
        best: the one of them that recovered most on the held rows.
        cheapest: of those that succeeded on the held rows; None if none did.
        count, unfinished: of all attacks without a defense, and of those that were cut short.
        longer: steps for a full training, if that is known.
        training: of the best attack.
        roles: of the tasks that are in the share, as words.
        by_role: what the best attack recovered of each role; None if none of its tasks is
            informative.
        evaluation, evaluation_cost: queries to measure the best attack.
        agreement, ceiling: how often a classifier on the surrogate predicts what one on the target
            does, and how often two on the target agree.
        limit: on images for each account.
    """

    strongest: list[Attempt]
    best: Attempt
    cheapest: Attempt | None
    count: int
    unfinished: int
    longer: int | None
    training: Training
    roles: str
    by_role: dict[str, Share | None]
    evaluation: int
    evaluation_cost: float
    agreement: float
    ceiling: float
    limit: Limit


@dataclass(frozen=True)
class Certainty:
    """What the figures depend on.

    Attributes:
        seeds: fewest and most of an attack.
        is_defended: whether a defense was tried.
        tasks: role of each informative task.
        task_count: of all tasks.
        left_out: tasks that are in no share, with the reason.
        blind_budgets: at which no task is informative.
        is_remote: whether the undefended target is unknown.
        failures: attacks that could not be tried.
    """

    seeds: tuple[int, int]
    is_defended: bool
    tasks: dict[str, str]
    task_count: int
    left_out: dict[str, str]
    blind_budgets: list[int]
    is_remote: bool
    failures: int


@dataclass(frozen=True)
class Assessment:
    """One defense against the strongest attack that met it.

    Attributes:
        name: in plain words, with a number if the defense was tried at several strengths.
        plan: of the attack that recovered most.
        share: recovered under the defense.
        taken: percentage points that the defense takes from the attacker.
        loss, low, most: of 100 test images, how many fewer honest users get right, and the 95 %
            interval.
        accuracy: of 100 test images, how many honest users get right without the defense.
        worth: the loss as a share of the encoder's value; None if they are not of the same tasks.
        naive: recovered by an attacker who does not adapt; None if that was not tried.
        is_naive_only: whether the defense is effective only against attackers that do not adapt.
        is_useful: whether it is worth its cost.
        is_finished: whether each attack on it was trained to its end.
        is_loss_unsure: whether it may cost more than a useful defense does.
        is_effect_unsure: whether it may take nothing from the attacker.
        has_seeds: whether there were several seeds.
    """

    name: str
    plan: str
    share: Share
    taken: int
    loss: float
    low: float
    most: float
    accuracy: float
    worth: float | None
    naive: Share | None
    is_naive_only: bool
    is_useful: bool
    is_finished: bool
    is_loss_unsure: bool
    is_effect_unsure: bool
    has_seeds: bool


@dataclass(frozen=True)
class Defenses:
    """All defenses that were tried.

    Attributes:
        bar: percentage points that a useful defense takes.
        kind: of the best: `useful`; `perhaps` if more images could show that it is; `costly` if it
            takes enough and costs too much; `weak` if it does not take enough; `unknown` if none
            can be judged.
        best: the one that the page speaks of, chosen on the held rows; None if the kind is
            `unknown`.
        all: in the order of their runs.
        not_judged: defense and plan of attacks without a counterpart that has no defense.
    """

    bar: int
    kind: str
    best: Assessment | None
    all: list[Assessment]
    not_judged: list[tuple[str, str]]


@dataclass(frozen=True)
class Verdict:
    """All that the first part of an audit's page says.

    Attributes:
        grade: `easy`, `at_least_partly`, `partly`, `hardly`, `undecided`, or `uninformative` if no
            task is informative.
        enough: percent from which on an attack succeeded.
        attacks: None if the grade is `uninformative`.
        defenses: None if none was tried.
        certainty: what the figures depend on.
        next_budgets: of a further audit with a smaller attack; empty if there was a small one.
        is_foreign: whether images and tasks were not the owner's own.
        options: what each plain name stands for, as typed on a command line.
        explained: attacks, plans and defenses that were tried, each kind with its meanings.
    """

    grade: str
    enough: int
    attacks: Attacks | None
    defenses: Defenses | None
    certainty: Certainty
    next_budgets: list[int]
    is_foreign: bool
    options: dict[str, str]
    explained: dict[str, list[Meaning]]
