"""Paired intervals: which test images each encoder got right in, accuracies and what the theft recovered out.

A figure's *cloud* is the figure itself, then of each seed alone, then of each resample of the test images: whatever is
computed of accuracies is computed of all three at once.

C is the largest accuracy of several controls, and so is too large by luck: of controls that are equally good, one had
the easier test images. The figure itself keeps it, as whoever reads the accuracies would compute it; intervals leave
out what resamples estimate of it, or a share near nothing would lie under its truth more often than they say.

Shape letters: S seeds, N encoders, M test images, R resamples.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from stealing.evaluation.protocol import CONTROLS, INFORMATIVE, RECOVERABLE

Clouds = dict[str, NDArray[np.float64]]
"""By name an accuracy's cloud (1 + S + R,)."""

Right = dict[str, NDArray[np.bool_]]
"""For TA, TA_clean (absent for a remote target), SA and each control: right or wrong on each of M test images."""


def summarise(seeds: list[Right], *, resamples: int, seed: int = 0) -> dict[str, object]:
    """Accuracies, `recovered`, the honest users' loss TA_clean - TA, and their paired 95 % intervals.

    One resample of the test images serves TA, SA and all controls, so what they share cancels in `recovered`. Where
    there are two or more seeds, accuracies are means over them, and intervals hold their variance too.

    Args:
        seeds: one table of right answers a seed, on the same test images.
        resamples: R.
        seed: of the resampling.

    Returns:
        The figures of one task and head, as in `result.json`.
    """
    names = [name for name in ("TA", "TA_clean", "SA", *CONTROLS) if name in seeds[0]]
    clouds = _clouds(seeds, names, resamples, np.random.default_rng(seed))
    point, count = {name: float(cloud[0]) for name, cloud in clouds.items()}, len(seeds)
    intervals: dict[str, list[float]] = {
        name: _interval(clouds[name], count) for name in ("TA", "TA_clean", "SA") if name in clouds
    }
    recovered = _share([clouds], "TA_clean", count)
    if recovered is not None:
        intervals["recovered"] = recovered[1]
    if "TA_clean" in point:
        intervals["honest_loss"] = _interval(clouds["TA_clean"] - clouds["TA"], count)
    return {
        "TA": point["TA"],
        "TA_clean": point.get("TA_clean"),
        "SA": point["SA"],
        "ratio": point["SA"] / point["TA"],
        "recovered": recovered and recovered[0],
        "honest_loss": point["TA_clean"] - point["TA"] if "TA_clean" in point else None,
        "controls": {name: point[name] for name in CONTROLS},
        "intervals": intervals,
    }


def accuracy(right_M: NDArray[np.bool_], *, resamples: int, seed: int = 0) -> tuple[float, list[float]]:
    """Share that is right, and its 95 % interval over test images."""
    cloud = _clouds([{"it": right_M}], ["it"], resamples, np.random.default_rng(seed))["it"]
    return float(cloud[0]), _interval(cloud, 1)


def by_head(tables: list[Right]) -> dict[str, dict[str, list[Right]]]:
    """Tables of each seed, whose keys are `<task>/<head>/<name>`, by task and head."""
    found = dict[str, dict[str, list[Right]]]()
    for number, table in enumerate(tables):
        for place, rows in table.items():
            task, head, name = place.split("/")
            seeds = found.setdefault(task, {}).setdefault(head, [{} for _ in tables])
            seeds[number][name] = rows
    return found


def overall(
    tables: list[Right], resamples: int, seed: int = 0, tasks: Mapping[str, Collection[str]] | None = None
) -> dict[str, Any]:
    """Of each head over all tasks: what the honest users lose, and what a thief recovers.

    Args:
        tables: of each seed, as for `by_head`.
        resamples: R.
        seed: of the resampling.
        tasks: by head, on which `recovered` is to be given; of a head that is not named, the informative ones.

    Returns:
        By head: `SA`, the mean over all tasks; `honest_loss`, likewise, and `worst`, the task that loses most;
        `recovered`, the sum of SA - C over that of TA_clean - C, of the `informative` tasks alone, as the share of a
        small gap is noise; `offered`, the same with TA, known for a remote target too; and their intervals. What is
        not known is None.
    """
    found, rights = dict[str, Any](), by_head(tables)
    for head in next(iter(rights.values())):
        clouds = dict[str, Clouds]()
        for number, (task, heads) in enumerate(rights.items()):
            names = [name for name in ("TA", "TA_clean", "SA", *CONTROLS) if name in heads[head][0]]
            clouds[task] = _clouds(heads[head], names, resamples, np.random.default_rng((seed, number)))
        stolen = np.mean([cloud["SA"] for cloud in clouds.values()], axis=0)
        figures: dict[str, object] = {"SA": float(stolen[0]), "honest_loss": None, "worst": None}
        count, clean = len(tables), all("TA_clean" in cloud for cloud in clouds.values())
        intervals = {"SA": _interval(stolen, count)}
        known, best = (tasks or {}).get(head), "TA_clean" if clean else "TA"
        informative = [task for task, cloud in clouds.items() if _tells(task, cloud, best, known)]
        for name, reference in {"offered": "TA", "recovered": "TA_clean"}.items():
            share = _share([clouds[task] for task in informative], reference, count)
            figures[name] = share and share[0]
            if share is not None:
                intervals[name] = share[1]
        if clean:
            losses = {task: cloud["TA_clean"] - cloud["TA"] for task, cloud in clouds.items()}
            worst = max(losses, key=lambda task: float(losses[task][0]))
            loss = np.mean(list(losses.values()), axis=0)
            figures |= {"honest_loss": float(loss[0])}
            figures |= {"worst": {"task": worst, "honest_loss": float(losses[worst][0])}}
            intervals["honest_loss"] = _interval(loss, count)
        found[head] = {**figures, "informative": informative, "intervals": intervals}
    return found


def _tells(task: str, cloud: Clouds, reference: str, tasks: Collection[str] | None) -> bool:
    """Whether a task is one of these, or without them whether the reference is far enough ahead of all controls."""
    if tasks is not None:
        return task in tasks
    return bool(cloud[reference][0] - max(cloud[name][0] for name in CONTROLS) >= INFORMATIVE)


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


def _share(clouds: list[Clouds], reference: str, seeds: int) -> tuple[float, list[float]] | None:
    """(SA - C) / (reference - C), C the strongest control, tasks summed above and below; and its interval.

    None without a task, without a reference, or where that is so close to C that a share of the gap means nothing.
    """
    if not clouds or any(reference not in cloud for cloud in clouds):
        return None
    strongest = [max((cloud[name] for name in CONTROLS), key=lambda it: float(it[0])) for cloud in clouds]
    lucky = [
        np.mean(np.max([cloud[name][1 + seeds :] for name in CONTROLS], axis=0) - best[1 + seeds :])
        for cloud, best in zip(clouds, strongest, strict=True)
    ]
    stolen, whole, control = (
        np.sum(part, axis=0)
        for part in ([cloud["SA"] for cloud in clouds], [cloud[reference] for cloud in clouds], strongest)
    )
    if whole[0] - control[0] < RECOVERABLE * len(clouds):
        return None
    fair = control - np.sum(lucky)
    gap = np.where(np.abs(whole - fair) < 1e-9, np.nan, whole - fair)
    return float((stolen[0] - control[0]) / (whole[0] - control[0])), _interval((stolen - fair) / gap, seeds)
