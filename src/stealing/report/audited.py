"""Defenses of an audit. Input: run groups. Output: the cost and the effect of each defense."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from stealing.evaluation.statistics import control_accuracy
from stealing.report.defenses import MIN_TAKEN, Defense
from stealing.report.runs import RunGroup
from stealing.report.shares import Share, held_loss, percent
from stealing.training.levelling import is_finished


@dataclass(frozen=True)
class AuditedDefense(Defense):
    """A defense as an audit judges it, from run groups.

    Attributes:
        group: run group of the strongest attack.
        naive: what a naive attacker recovers, or None if that was not tried.
        naive_undefended: what a naive attacker recovers without the defense.
        worth: honest loss as a share of the encoder's value, or None if that is of other tasks.
        accuracy: of honest users without the defense.
        finished: True if each attack on the defense was trained to its end.
    """

    group: RunGroup
    naive: Share | None
    naive_undefended: Share | None
    worth: float | None
    accuracy: float
    finished: bool

    @property
    def useful(self) -> bool:
        """True as for every defense; an attack that was cut short cannot show it."""
        return self.finished and super().useful

    @property
    def only_naive(self) -> bool:
        """True if it is effective only against attackers that do not adapt."""
        if self.naive is None or self.naive_undefended is None:
            return False
        taken_from_naive = self.naive_undefended.percent - self.naive.percent
        gained_by_adapting = self.share.percent - self.naive.percent
        return taken_from_naive >= MIN_TAKEN and gained_by_adapting >= MIN_TAKEN


def finished(group: RunGroup) -> bool:
    """Return whether the attack was trained to its end with every seed."""
    return all(is_finished(training) for training in group.joined["training"])


def audited(
    defended: Sequence[RunGroup], bare: Sequence[RunGroup], shares: dict[str, Share], head: str
) -> tuple[list[AuditedDefense], list[str]]:
    """Return each defense with the strongest attack on it, beside the strongest without a defense.

    Args:
        defended: attacks on a defense.
        bare: attacks without a defense.
        shares: what each attack recovers, by its name.
        head: of the accuracies.

    Returns:
        The defenses, and those that have no attack without a defense to be compared with.
    """
    by_defense = dict[str, list[RunGroup]]()
    for group in defended:
        by_defense.setdefault(group.choices["defense"], []).append(group)
    judged = []
    omitted = []
    for name, attacks in by_defense.items():
        best = max(attacks, key=lambda group: group.chosen_by(head))
        rivals = _comparable(bare, best)
        if not rivals:
            omitted.append(f"{name} against {best.choices['plan']}")
        # For a remote target the honest loss is unknown, so nothing can be said of its cost.
        elif best.overall(head).get("honest_loss") is not None:
            judged.append(_audited(best, attacks, rivals, shares, head))
    return judged, omitted


def _audited(
    attack: RunGroup,
    attacks: Sequence[RunGroup],
    rivals: Sequence[RunGroup],
    shares: dict[str, Share],
    head: str,
) -> AuditedDefense:
    """Return one defense.

    Args:
        attack: the strongest one on it.
        attacks: all attacks on it.
        rivals: attacks without a defense, with its budget and seeds.
        shares: what each attack recovers, by its name.
        head: of the accuracies.
    """
    row = attack.overall(head)
    low, high = row["intervals"]["honest_loss"]
    best_rival = max(rivals, key=lambda group: group.chosen_by(head))
    accuracies = []
    leads = []
    for heads in attack.joined["tasks"].values():
        accuracies.append(heads[head]["TA_clean"])
        leads.append(heads[head]["TA_clean"] - control_accuracy(heads[head]))
    value = fmean(leads)
    # The loss is a mean over all tasks; a share of the value needs both to be of the same tasks.
    has_same_tasks = len(leads) == len(row["informative"])
    defense, _, strength = attack.choices["defense"].partition(" ")
    return AuditedDefense(
        defense=defense,
        strength=strength,
        plan=attack.choices["plan"],
        share=shares[attack.name],
        undefended=shares[best_rival.name],
        loss=row["honest_loss"],
        loss_interval=(low, high),
        held_taken=percent(best_rival.chosen_by(head)) - percent(attack.chosen_by(head)),
        held_loss=held_loss(attack.joined["tasks"], head),
        group=attack,
        naive=_naive(_comparable(attacks, attack), shares, head),
        naive_undefended=_naive(rivals, shares, head),
        worth=row["honest_loss"] / value if has_same_tasks and value > 0 else None,
        accuracy=fmean(accuracies),
        finished=all(map(finished, attacks)),
    )


def _comparable(groups: Sequence[RunGroup], attack: RunGroup) -> list[RunGroup]:
    """Return the run groups with the budget and the seeds of an attack."""
    seeds = attack.joined["seeds"]
    return [
        group
        for group in groups
        if group.budget == attack.budget and group.joined["seeds"] == seeds
    ]


def _naive(groups: Sequence[RunGroup], shares: dict[str, Share], head: str) -> Share | None:
    """Return what the strongest attack recovers among those that send each image once."""
    naive = [group for group in groups if group.choices["plan"] == "once"]
    if not naive:
        return None
    return shares[max(naive, key=lambda group: group.chosen_by(head)).name]
