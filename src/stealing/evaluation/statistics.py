"""Paired intervals: which images each encoder got right in; accuracies and what an attack recovers out.

Every figure has a *cloud*: the figure itself, then that of each seed alone, then that of each resample
of the test images. Whatever is computed from accuracies is computed from all of these at once.

Choices are made on a slice of train, by the rows that end in `/held`: which control is the strongest
and so is C, which tasks can tell something about an attack, which of several attacks is the strongest.
The test split is read for accuracies alone, so C is not too large by the luck of the test images.

Shape letters: S seeds, N encoders, M test images, V held images of train, R resamples.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from stealing.evaluation.protocol import CONTROLS, INFORMATIVE, RECOVERABLE

Clouds = dict[str, NDArray[np.float64]]
"""By name an accuracy's cloud (1 + S + R,)."""

Right = dict[str, NDArray[np.bool_]]
"""Of TA, TA_clean (absent for a remote target), SA and each control: right or wrong on each of M test
images and, under the name with `/held`, on each of V held images of train."""

HELD = "/held"
"""End of the names of rows on the slice of train."""


@dataclass(frozen=True)
class Control:
    """The strongest of the controls on the slice of train: C.

    Attributes:
        name: one of `CONTROLS`.
        next: the second strongest.
        lead: by how much accuracy the second is behind there.
    """

    name: str
    next: str
    lead: float


def held_accuracies(seeds: list[Right]) -> dict[str, float]:
    """Return each encoder's accuracy on the slice of train, the mean over seeds."""
    names = [name.removesuffix(HELD) for name in seeds[0] if name.endswith(HELD)]
    return {name: fmean(float(right[name + HELD].mean()) for right in seeds) for name in names}


def strongest(held: Mapping[str, float]) -> Control:
    """Return which control is the strongest on the slice of train; of equal ones, the first of `CONTROLS`."""
    first, second, *_ = sorted(CONTROLS, key=lambda name: -held[name])
    return Control(first, second, held[first] - held[second])


def control_accuracy(row: Mapping[str, Any]) -> float:
    """Return C of one task and head of `result.json`: the test accuracy of its strongest control."""
    return float(row["controls"][row["control"]["name"]])


def summarise(seeds: list[Right], *, resamples: int, seed: int = 0) -> dict[str, Any]:
    """Accuracies, `recovered`, the honest users' loss TA_clean - TA, and their paired 95 % intervals.

    One resample of the test images serves TA, SA and all controls, so what they share cancels in
    `recovered`. With two or more seeds, accuracies are means over them, and intervals hold their
    variance too.

    Args:
        seeds: one table of right answers a seed, on the same images.
        resamples: R.
        seed: of the resampling.

    Returns:
        The figures of one task and head, as in `result.json`: `held` holds accuracies on the slice of
        train, `control` says which control is C.
    """
    names = [name for name in ("TA", "TA_clean", "SA", *CONTROLS) if name in seeds[0]]
    clouds = _clouds(seeds, names, resamples, np.random.default_rng(seed))
    point = {name: float(cloud[0]) for name, cloud in clouds.items()}
    count = len(seeds)
    held = held_accuracies(seeds)
    control = strongest(held)
    intervals: dict[str, list[float]] = {}
    for name in ("TA", "TA_clean", "SA"):
        if name in clouds:
            intervals[name] = _accuracy_interval(clouds[name], count)
    figures: dict[str, Any] = {
        "TA": point["TA"],
        "TA_clean": point.get("TA_clean"),
        "SA": point["SA"],
        "ratio": point["SA"] / point["TA"] if point["TA"] else None,
        "honest_loss": None,
        "controls": {name: point[name] for name in CONTROLS},
        "control": asdict(control),
        "held": held,
        "intervals": intervals,
    }
    for name, reference in SHARES.items():
        share = _share([_Task(clouds, held, control.name)], reference, count)
        figures[name] = share and share[0]
        if share is not None:
            intervals[name] = share[1]
    if "TA_clean" in point:
        figures["honest_loss"] = point["TA_clean"] - point["TA"]
        intervals["honest_loss"] = _interval(clouds["TA_clean"] - clouds["TA"], count)
    return figures


def accuracy(right_M: NDArray[np.bool_], *, resamples: int, seed: int = 0) -> tuple[float, list[float]]:
    """Share that is right, and its 95 % interval over test images."""
    cloud = _clouds([{"it": right_M}], ["it"], resamples, np.random.default_rng(seed))["it"]
    return float(cloud[0]), _accuracy_interval(cloud, 1)


def by_head(tables: list[Right]) -> dict[str, dict[str, list[Right]]]:
    """Tables of each seed, whose keys are `<task>/<head>/<name>` or `<task>/<head>/<name>/held`, by task and head."""
    found = dict[str, dict[str, list[Right]]]()
    for number, table in enumerate(tables):
        for place, rows in table.items():
            task, head, name = place.split("/", 2)
            seeds = found.setdefault(task, {}).setdefault(head, [{} for _ in tables])
            seeds[number][name] = rows
    return found


def overall(
    tables: list[Right],
    roles: Mapping[str, str],
    resamples: int,
    seed: int = 0,
    tasks: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """Of each head over all tasks: what honest users lose, and what an attack recovers, by role and pooled.

    Args:
        tables: of each seed, as for `by_head`.
        roles: of each task: `own`, `query_domain` or `unseen`.
        resamples: R.
        seed: of the resampling.
        tasks: by head, on which `recovered` is to be given; of a head that is not named, the informative ones.

    Returns:
        By head: `SA`, the mean over all tasks; `honest_loss`, likewise, and `worst`, the task that loses most;
        `recovered`, the sum of SA - C over that of TA_clean - C, of the `informative` tasks alone, as the share of a
        small gap is noise; `offered`, the same with TA, known for a remote target too; and their intervals. `roles`
        gives `tasks`, `recovered`, `offered` and intervals of each role alone: a pooled figure mixes what the target
        was trained on with what it never saw. `held` gives `SA`, `recovered` and `offered` on the slice of train, by
        which attacks are chosen. What is not known is None.
    """
    found = dict[str, Any]()
    rights = by_head(tables)
    for head in next(iter(rights.values())):
        judged = {
            task: _task(heads[head], resamples, np.random.default_rng((seed, number)))
            for number, (task, heads) in enumerate(rights.items())
        }
        found[head] = _over_tasks(judged, roles, len(tables), (tasks or {}).get(head))
    return found


@dataclass(frozen=True)
class _Task:
    """One task under one head: clouds on the test split, accuracies on the slice of train, and which control is C."""

    clouds: Clouds
    held: Mapping[str, float]
    control: str

    def gap(self, reference: str) -> float:
        """The reference's lead over C on the slice of train."""
        return self.held[reference] - self.held[self.control]


SHARES = {"recovered": "TA_clean", "offered": "TA"}
"""What an attack gets, by the reference that it is a share of: the undefended target, or the target as offered."""


def _task(seeds: list[Right], resamples: int, rng: np.random.Generator) -> _Task:
    names = [name for name in ("TA", "TA_clean", "SA", *CONTROLS) if name in seeds[0]]
    held = held_accuracies(seeds)
    return _Task(_clouds(seeds, names, resamples, rng), held, strongest(held).name)


def _over_tasks(
    judged: Mapping[str, _Task], roles: Mapping[str, str], seeds: int, known: Collection[str] | None
) -> dict[str, Any]:
    """The figures of one head; see `overall`."""
    stolen = np.mean([task.clouds["SA"] for task in judged.values()], axis=0)
    clean = all("TA_clean" in task.clouds for task in judged.values())
    reference = "TA_clean" if clean else "TA"
    informative = [name for name, task in judged.items() if task.gap(reference) >= INFORMATIVE]
    if known is not None:
        informative = [name for name in judged if name in known]
    figures: dict[str, Any] = {
        "SA": float(stolen[0]),
        "honest_loss": None,
        "worst": None,
        "informative": informative,
        "intervals": {"SA": _accuracy_interval(stolen, seeds)},
        **dict.fromkeys(SHARES),
    }
    _add_shares(figures, [judged[name] for name in informative], seeds)
    figures["roles"] = {}
    for role in dict.fromkeys(roles[name] for name in judged):
        names = [name for name in informative if roles[name] == role]
        figures["roles"][role] = {"tasks": names, "intervals": {}, **dict.fromkeys(SHARES)}
        _add_shares(figures["roles"][role], [judged[name] for name in names], seeds)
    figures["held"] = _held([judged[name] for name in informative], list(judged.values()))
    if clean:
        losses = {name: task.clouds["TA_clean"] - task.clouds["TA"] for name, task in judged.items()}
        worst = max(losses, key=lambda name: float(losses[name][0]))
        loss = np.mean(list(losses.values()), axis=0)
        figures["honest_loss"] = float(loss[0])
        figures["worst"] = {"task": worst, "honest_loss": float(losses[worst][0])}
        figures["intervals"]["honest_loss"] = _interval(loss, seeds)
    return figures


def _add_shares(figures: dict[str, Any], tasks: list[_Task], seeds: int) -> None:
    for name, reference in SHARES.items():
        share = _share(tasks, reference, seeds)
        if share is not None:
            figures[name] = share[0]
            figures["intervals"][name] = share[1]


def _held(informative: list[_Task], all_tasks: list[_Task]) -> dict[str, float | None]:
    """What an attack gets on the slice of train: by these figures attacks are compared when one is to be chosen."""
    figures: dict[str, float | None] = {"SA": fmean(task.held["SA"] for task in all_tasks)}
    for name, reference in SHARES.items():
        known = informative and all(reference in task.held for task in informative)
        gap = sum(task.gap(reference) for task in informative) if known else 0.0
        figures[name] = sum(task.gap("SA") for task in informative) / gap if gap > 0 else None
    return figures


def paired(
    first: list[Right], second: list[Right], head: str, *, resamples: int, seed: int = 0
) -> tuple[float, tuple[float, float], float]:
    """Whether one theft gets more than another from the same seeds and test images: SA of the first less the second's.

    Args:
        first, second: tables of each seed, as for `by_head`, of equal seeds in equal order.
        head: of the accuracies.
        resamples: of the test images, for both alike.
        seed: of the resampling.

    Returns:
        The difference, a mean over seeds and tasks; its 95 % interval; and p of no difference, two-sided.
    """
    differences = []
    for number, task in enumerate(sorted({place.split("/")[0] for place in first[0]})):
        pairs = [
            {"first": one[f"{task}/{head}/SA"], "second": other[f"{task}/{head}/SA"]}
            for one, other in zip(first, second, strict=True)
        ]
        cloud = _clouds(pairs, ["first", "second"], resamples, np.random.default_rng((seed, number)))
        differences.append(cloud["first"] - cloud["second"])
    mean = np.mean(differences, axis=0)
    error, freedom = _error(mean, len(first))
    difference, half = float(mean[0]), float(student.ppf(0.975, freedom)) * error
    p = float(2 * student.sf(abs(difference) / error, freedom)) if error else float(difference == 0)
    return difference, (difference - half, difference + half), p


def _clouds(seeds: list[Right], names: list[str], resamples: int, rng: np.random.Generator) -> Clouds:
    """Of each name the accuracy: its mean over seeds, that of each seed, the mean in each resample."""
    table_SNM = np.stack([[right[name] for name in names] for right in seeds]).astype(np.float32)
    images, mean_NM = table_SNM.shape[2], table_SNM.mean(0)
    draws = []
    for _ in range(resamples):
        counts = np.bincount(rng.integers(images, size=images), minlength=images).astype(np.float32)
        draws.append(mean_NM @ counts / images)
    by_seed_SN = table_SNM.mean(2, dtype=np.float64)
    return dict(zip(names, np.vstack([by_seed_SN.mean(0), by_seed_SN, draws]).T, strict=True))


def _error(cloud: NDArray[np.float64], seeds: int) -> tuple[float, float]:
    """Standard error of a figure, over test images and over seeds where there are several, and its degrees of freedom.

    Few seeds are few: resampling two or three of them finds differences where there are none, so the error is taken to
    have Student's distribution, by Welch's and Satterthwaite's approximation for a sum of variances.
    """
    images, between = float(np.nanvar(cloud[1 + seeds :], ddof=1)), 0.0
    if seeds > 1:
        between = float(np.nanvar(cloud[1 : 1 + seeds], ddof=1)) / seeds
    freedom = (seeds - 1) * ((images + between) / between) ** 2 if between else np.inf
    return (images + between) ** 0.5, freedom


def _interval(cloud: NDArray[np.float64], seeds: int) -> list[float]:
    """95 %: quantiles over the resamples of one seed, else by the error."""
    if seeds == 1:
        return [float(bound) for bound in np.nanquantile(cloud[1 + seeds :], (0.025, 0.975))]
    error, freedom = _error(cloud, seeds)
    half = float(student.ppf(0.975, freedom)) * error
    return [float(cloud[0]) - half, float(cloud[0]) + half]


def _accuracy_interval(cloud: NDArray[np.float64], seeds: int) -> list[float]:
    """As `_interval`, within what an accuracy can be."""
    return [min(max(bound, 0.0), 1.0) for bound in _interval(cloud, seeds)]


def _share(tasks: list[_Task], reference: str, seeds: int) -> tuple[float, list[float]] | None:
    """(SA - C) / (reference - C), tasks summed above and below; and its interval.

    None without a task, without a reference, if that is so close to C on the slice of train that a
    share of the gap means nothing, or if it is not ahead on the test split.
    """
    if not tasks or any(reference not in task.clouds for task in tasks):
        return None
    if sum(task.gap(reference) for task in tasks) < RECOVERABLE * len(tasks):
        return None
    control = np.sum([task.clouds[task.control] for task in tasks], axis=0)
    stolen = np.sum([task.clouds["SA"] for task in tasks], axis=0) - control
    whole = np.sum([task.clouds[reference] for task in tasks], axis=0) - control
    if whole[0] <= 0:
        return None
    gap = np.where(np.abs(whole) < 1e-9, np.nan, whole)
    return float(stolen[0] / whole[0]), _interval(stolen / gap, seeds)
