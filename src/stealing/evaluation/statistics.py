"""Figures of a run: correctly classified images in; accuracies, `recovered` and intervals out.

How errors are estimated stands in `stealing.evaluation.bootstrap`. What is estimated stands here:

- TA, TA_clean, SA: accuracy of a head on the features of the target as it is offered, of the target
  without its defense, and of the surrogate.
- C: accuracy of the strongest control, which is an encoder that an attacker has without any query.
- recovered = (SA - C) / (TA_clean - C), the share of the target's value that the attack took.
- offered = (SA - C) / (TA - C), the same with the target as it is offered.

Whatever is chosen is chosen on held rows, a slice of the training split: the strongest control, the
informative tasks, the best of several attacks, the task that a defense harms most. The test split
gives only accuracies: a control chosen there would be too strong, by the variance of the test
images.

Shape letters: M test images, V held rows, R resamples.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stealing.evaluation.bootstrap import Estimate, estimate_accuracies
from stealing.evaluation.protocol import BESIDE, INFORMATIVE, controls_among
from stealing.evaluation.shares import (
    TaskEstimates,
    held_share,
    reaches,
    share,
    strongest_control,
)

Outcomes = dict[str, NDArray[np.bool_]]
"""By encoder (TA, TA_clean, SA and each control): bool (M,), True for each test image that the head
on its features classifies correctly; and bool (V,) for the held rows, under the name with `/held`.
A remote target has no TA_clean."""

HELD = "/held"
"""End of the names of held rows."""

SHARES = {"recovered": "TA_clean", "offered": "TA"}
"""Each share of the target's value, with the reference that it is a share of."""


def held_accuracies(seeds: Sequence[Outcomes]) -> dict[str, float]:
    """Return the accuracy of each encoder on the held rows, a mean over seeds."""
    accuracies = {}
    for name in seeds[0]:
        if name.endswith(HELD):
            by_seed = [float(right[name].mean()) for right in seeds]
            accuracies[name.removesuffix(HELD)] = fmean(by_seed)
    return accuracies


def control_accuracy(row: Mapping[str, Any]) -> float:
    """Return C of one task and head of `result.json`, an accuracy on the test split."""
    return float(row["controls"][row["control"]["name"]])


def summarise(
    seeds: Sequence[Outcomes],
    *,
    resamples: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the figures of one task and head, as in `result.json`.

    With two or more seeds, figures are means over seeds, and intervals hold the variance between
    seeds too.

    Args:
        seeds: one table a seed, of the same images.
        resamples: R.
        seed: of the resampling.

    Returns:
        `TA`, `TA_clean`, `SA`, `recovered`, `offered`, `honest_loss` (TA_clean - TA), `ratio` (SA /
        TA), `controls` on the test split, their 95 % `intervals`; `held`, the accuracies on the
        held rows; and `control`, which of the controls is C. What is not known is None.
    """
    task = _estimate_task(seeds, resamples, np.random.default_rng(seed))
    points = {name: estimate.point for name, estimate in task.estimates.items()}
    controls = controls_among(points)
    controls += [name for name in BESIDE if name in points]
    intervals: dict[str, list[float]] = {}
    for name in ("TA", "TA_clean", "SA"):
        if name in task.estimates:
            intervals[name] = task.estimates[name].accuracy_interval()
    figures: dict[str, Any] = {
        "TA": points["TA"],
        "TA_clean": points.get("TA_clean"),
        "SA": points["SA"],
        # The measure of the StolenEncoder paper. It says little: controls have a high ratio too.
        "ratio": points["SA"] / points["TA"] if points["TA"] else None,
        "honest_loss": None,
        "controls": {name: points[name] for name in controls},
        "control": asdict(task.control),
        "held": task.held,
        "intervals": intervals,
    }
    figures.update(dict.fromkeys(SHARES))
    _add_shares(figures, [task])
    if "TA_clean" in task.estimates:
        figures["honest_loss"] = points["TA_clean"] - points["TA"]
        intervals["honest_loss"] = (task.estimates["TA_clean"] - task.estimates["TA"]).interval()
    return figures


def accuracy(
    right_M: NDArray[np.bool_], *, resamples: int, seed: int = 0
) -> tuple[float, list[float]]:
    """Return the share of correct predictions, and its 95 % interval over test images.

    Args:
        right_M: bool (M,), True for a correct prediction.
        resamples: R.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    estimate = estimate_accuracies([{"accuracy": right_M}], ["accuracy"], resamples, rng)
    return estimate["accuracy"].point, estimate["accuracy"].accuracy_interval()


def group_by_head(tables: Sequence[Outcomes]) -> dict[str, dict[str, list[Outcomes]]]:
    """Group the tables of all seeds by task and head.

    Args:
        tables: one a seed, with the keys `<task>/<head>/<encoder>` and
            `<task>/<head>/<encoder>/held`.

    Returns:
        By task and head, one table a seed with the keys `<encoder>` and `<encoder>/held`.
    """
    grouped: dict[str, dict[str, list[Outcomes]]] = {}
    for number, table in enumerate(tables):
        for place, rows in table.items():
            task, head, name = place.split("/", 2)
            heads = grouped.setdefault(task, {})
            if head not in heads:
                heads[head] = [{} for _ in tables]
            heads[head][number][name] = rows
    return grouped


def overall(
    tables: Sequence[Outcomes],
    roles: Mapping[str, str],
    resamples: int,
    seed: int = 0,
    tasks: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """Return the figures of each head over all tasks.

    `recovered` and `offered` are ratios of sums over tasks; see `stealing.evaluation.shares`. They
    are given only for informative tasks, and once more for each role: a figure over all roles
    mixes data that the target was trained on with data that it never saw.

    Args:
        tables: one a seed, as for `group_by_head`.
        roles: `own`, `query_domain` or `unseen`, by task.
        resamples: R.
        seed: of the resampling.
        tasks: by head, the tasks that count for `recovered` and `offered`; None, or a head that is
            not in it, for the informative ones.

    Returns:
        A mapping by head, of the following; what is not known is None.
        `SA`, `honest_loss`: means over all tasks.
        `worst`: the task with the greatest honest loss on the held rows, and its honest loss.
        `informative`: the tasks that count for `recovered` and `offered`.
        `recovered`, `offered`: over these tasks.
        `intervals`: the 95 % intervals of these figures.
        `roles`: by role, `tasks`, both shares and their `intervals`.
        `held`: `SA` and both shares on the held rows; the best of several attacks has the largest.
    """
    by_task = group_by_head(tables)
    figures: dict[str, Any] = {}
    for head in next(iter(by_task.values())):
        estimates = {}
        for number, (name, heads) in enumerate(by_task.items()):
            # Tasks have no images in common, so each is resampled by itself.
            rng = np.random.default_rng((seed, number))
            estimates[name] = _estimate_task(heads[head], resamples, rng)
        chosen = None if tasks is None else tasks.get(head)
        figures[head] = _over_tasks(estimates, roles, chosen)
    return figures


def paired_difference(
    first: Sequence[Outcomes],
    second: Sequence[Outcomes],
    head: str,
    *,
    resamples: int,
    seed: int = 0,
) -> tuple[float, tuple[float, float], float]:
    """Test whether one attack is better than another on the same seeds and test images.

    The estimator is the mean over tasks of SA of the first minus SA of the second. Both see the
    same resamples of the test images, and seeds are paired.

    Args:
        first, second: tables of each seed, as for `group_by_head`, of the same seeds in the same
        order.
        head: of the accuracies.
        resamples: R.
        seed: of the resampling.

    Returns:
        The difference; its 95 % interval; and the two-sided p-value of no difference.
    """
    # Sorted, so that the resamples of a task do not depend on the order of the table.
    tasks = {place.split("/")[0] for place in first[0]}
    differences = []
    for number, task in enumerate(sorted(tasks)):
        place = f"{task}/{head}/SA"
        pairs = []
        for one, other in zip(first, second, strict=True):
            pairs.append({"first": one[place], "second": other[place]})
        rng = np.random.default_rng((seed, number))
        estimates = estimate_accuracies(pairs, ["first", "second"], resamples, rng)
        differences.append(estimates["first"] - estimates["second"])
    difference = Estimate.mean(differences)
    margin = difference.margin()
    interval = (difference.point - margin, difference.point + margin)
    return difference.point, interval, difference.p_value()


def _estimate_task(
    seeds: Sequence[Outcomes], resamples: int, rng: np.random.Generator
) -> TaskEstimates:
    first = seeds[0]
    known = ("TA", "TA_clean", "SA", *controls_among(first), *BESIDE)
    names = [name for name in known if name in first]
    estimates = estimate_accuracies(seeds, names, resamples, rng)
    held = held_accuracies(seeds)
    return TaskEstimates(estimates, held, strongest_control(held))


def _over_tasks(
    estimates: Mapping[str, TaskEstimates],
    roles: Mapping[str, str],
    chosen: Collection[str] | None,
) -> dict[str, Any]:
    """Return the figures of one head; see `overall`."""
    tasks = list(estimates.values())
    is_local = all("TA_clean" in task.estimates for task in tasks)
    reference = "TA_clean" if is_local else "TA"
    counted: dict[str, TaskEstimates] = {}
    for name, task in estimates.items():
        is_informative = reaches(task.held_gap(reference), INFORMATIVE)
        is_counted = is_informative if chosen is None else name in chosen
        if is_counted:
            counted[name] = task
    surrogate = Estimate.mean([task.estimates["SA"] for task in tasks])
    figures: dict[str, Any] = {
        "SA": surrogate.point,
        "honest_loss": None,
        "worst": None,
        "informative": list(counted),
        "intervals": {"SA": surrogate.accuracy_interval()},
        **dict.fromkeys(SHARES),
    }
    _add_shares(figures, list(counted.values()))
    figures["roles"] = _by_role(estimates, counted, roles)
    figures["held"] = {"SA": fmean(task.held["SA"] for task in tasks)}
    for name, of in SHARES.items():
        figures["held"][name] = held_share(list(counted.values()), of)
    if is_local:
        _add_honest_loss(figures, estimates)
    return figures


def _by_role(
    estimates: Mapping[str, TaskEstimates],
    counted: Mapping[str, TaskEstimates],
    roles: Mapping[str, str],
) -> dict[str, Any]:
    """Return the shares over the counted tasks of each role that any task has."""
    tasks: dict[str, dict[str, TaskEstimates]] = {}
    for name in estimates:  # a role without a counted task is listed, without shares
        tasks.setdefault(roles[name], {})
    for name, task in counted.items():
        tasks[roles[name]][name] = task
    figures: dict[str, Any] = {}
    for role, some in tasks.items():
        figures[role] = {"tasks": list(some), "intervals": {}, **dict.fromkeys(SHARES)}
        _add_shares(figures[role], list(some.values()))
    return figures


def _add_shares(figures: dict[str, Any], tasks: Sequence[TaskEstimates]) -> None:
    """Add those of `recovered` and `offered` that are known, with their intervals."""
    for name, reference in SHARES.items():
        known = share(tasks, reference)
        if known is not None:
            figures[name], figures["intervals"][name] = known


def _add_honest_loss(figures: dict[str, Any], estimates: Mapping[str, TaskEstimates]) -> None:
    """Add what the defense takes from honest users: the mean over tasks, and the worst task."""
    losses: dict[str, Estimate] = {}
    held: dict[str, float] = {}
    for name, task in estimates.items():
        losses[name] = task.estimates["TA_clean"] - task.estimates["TA"]
        held[name] = task.held["TA_clean"] - task.held["TA"]
    mean = Estimate.mean(list(losses.values()))
    # The greatest of many test figures would be too great by chance.
    worst = max(held, key=held.__getitem__)
    figures["honest_loss"] = mean.point
    figures["worst"] = {"task": worst, "honest_loss": losses[worst].point}
    figures["intervals"]["honest_loss"] = mean.interval()
