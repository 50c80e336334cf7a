"""Whether a defense is worth its cost: attacks on defenses in, facts for the page out."""

from collections.abc import Sequence

from stealing.report.audited import AuditedDefense
from stealing.report.defenses import MAX_LOSS, MIN_TAKEN
from stealing.report.runs import RunGroup
from stealing.report.selection import choices_of
from stealing.report.verdict import Assessment, Defenses
from stealing.report.words import meaning, plain_names


def assess(
    defended: Sequence[RunGroup], judged: Sequence[AuditedDefense], omitted: Sequence[str]
) -> Defenses:
    """Return what the defenses do and cost.

    Args:
        defended: all attacks on a defense.
        judged: each defense by its strongest attack.
        omitted: defenses that cannot be judged, each as `<defense> against <plan>`.
    """
    names = plain_names("defense", choices_of(defended, "defense"))
    assessments = [_assessment(one, names) for one in judged]
    kind, best = _lead(judged)
    not_judged = list[tuple[str, str]]()
    for pair in omitted:
        defense, _, plan = pair.rpartition(" against ")
        not_judged.append((names.get(defense, defense), meaning("plan", plan).name))
    return Defenses(
        bar=MIN_TAKEN,
        kind=kind,
        best=_assessment(best, names) if best else None,
        all=assessments,
        not_judged=not_judged,
    )


def _assessment(one: AuditedDefense, names: dict[str, str]) -> Assessment:
    choice = one.group.choices["defense"]
    loss, low, most = one.loss_points
    return Assessment(
        name=names[choice],
        plan=meaning("plan", one.group.choices["plan"]).name,
        share=one.share,
        taken=one.taken,
        loss=loss,
        low=max(0.0, low),
        most=max(0.0, most),
        accuracy=100 * one.accuracy,
        worth=one.worth,
        naive=one.naive,
        is_naive_only=one.only_naive,
        is_useful=one.useful,
        is_finished=one.finished,
        is_loss_unsure=one.loss_interval[1] > MAX_LOSS,
        is_effect_unsure=one.share.high >= one.undefended.value,
        has_seeds=len(one.group.runs) > 1,
    )


def _lead(judged: Sequence[AuditedDefense]) -> tuple[str, AuditedDefense | None]:
    """Return the defense that the page speaks of first, and what the test images say of it.

    The held rows choose it: the best of several test figures would be too good by chance.
    """
    if not judged:
        return "unknown", None
    best = _best(judged)
    if best.useful:
        return "useful", best
    if best.taken < MIN_TAKEN:
        return "weak", best
    # It takes enough. If its price is low too, the intervals or a short attack leave it open.
    return "costly" if best.loss > MAX_LOSS else "perhaps", best


def _best(judged: Sequence[AuditedDefense]) -> AuditedDefense:
    """Return the best defense by the held rows."""
    enough = [one for one in judged if one.held_taken >= MIN_TAKEN]
    cheap = [one for one in enough if one.held_loss <= MAX_LOSS]
    # A short attack shows no upper bound of what a longer one would recover.
    for several in ([one for one in cheap if one.finished], cheap):
        if several:
            return max(several, key=lambda one: one.held_taken)
    if enough:
        return min(enough, key=lambda one: one.held_loss)
    return max(judged, key=lambda one: one.held_taken)
