"""Paired intervals: which test images each encoder got right in, accuracies and what the theft recovered out.

Shape letters: S seeds, M test images, R resamples.
"""

import numpy as np
from numpy.typing import NDArray

from stealing.evaluation.protocol import CONTROLS, INFORMATIVE, RECOVERABLE

Right = dict[str, NDArray[np.bool_]]
"""For TA, TA_clean (absent for a remote target), SA and each control: right or wrong on each of M test images."""


def summarise(seeds: list[Right], *, resamples: int, seed: int = 0) -> dict[str, object]:
    """Accuracies, `recovered`, the honest users' loss TA_clean - TA, and their paired 95 % intervals.

    One resample of the test images serves TA, SA and all controls, so what they share cancels in `recovered`. Where
    there are two or more seeds, seeds are resampled first and accuracies are means over them.

    Args:
        seeds: one table of right answers a seed, on the same test images.
        resamples: R.
        seed: of the resampling.

    Returns:
        The figures of one task and head, as in `result.json`.
    """
    names = [name for name in ("TA", "TA_clean", "SA", *CONTROLS) if name in seeds[0]]
    table = np.stack([[seed_right[name] for name in names] for seed_right in seeds]).astype(np.float32)
    point = dict(zip(names, table.mean((0, 2), dtype=np.float64).tolist(), strict=True))
    draws = _resampled(table, resamples, np.random.default_rng(seed))
    clouds = dict(zip(names, draws.T.astype(float), strict=True))
    recovered = float(_recovered({name: np.array(value) for name, value in point.items()}))
    measurable = "TA_clean" in point and point["TA_clean"] - max(point[c] for c in CONTROLS) >= RECOVERABLE
    intervals: dict[str, list[float]] = {
        name: _interval(clouds[name]) for name in ("TA", "TA_clean", "SA") if name in clouds
    }
    if measurable:
        intervals["recovered"] = _interval(_recovered(clouds))
    if "TA_clean" in point:
        intervals["honest_loss"] = _interval(clouds["TA_clean"] - clouds["TA"])
    return {
        "TA": point["TA"],
        "TA_clean": point.get("TA_clean"),
        "SA": point["SA"],
        "ratio": point["SA"] / point["TA"],
        "recovered": recovered if measurable else None,
        "honest_loss": point["TA_clean"] - point["TA"] if "TA_clean" in point else None,
        "controls": {name: point[name] for name in CONTROLS},
        "intervals": intervals,
    }


def by_head(tables: list[Right]) -> dict[str, dict[str, list[Right]]]:
    """Tables of each seed, whose keys are `<task>/<head>/<name>`, by task and head."""
    found = dict[str, dict[str, list[Right]]]()
    for number, table in enumerate(tables):
        for place, rows in table.items():
            task, head, name = place.split("/")
            seeds = found.setdefault(task, {}).setdefault(head, [{} for _ in tables])
            seeds[number][name] = rows
    return found


def overall(tables: list[Right], resamples: int, seed: int = 0) -> dict[str, object]:
    """Of each head over all tasks: what the honest users lose, and what a thief recovers.

    Args:
        tables: of each seed, as for `by_head`.
        resamples: R.
        seed: of the resampling.

    Returns:
        By head: `honest_loss`, the mean over all tasks, and `worst`, the task that loses most; `recovered`, the sum of
        SA - C over that of TA_clean - C, of the `informative` tasks alone, as the share of a small gap is noise; and
        their intervals. Empty where TA_clean is unknown.
    """
    found, tasks = dict[str, object](), by_head(tables)
    for head in next(iter(tasks.values())):
        losses, gains, gaps = [], [], []
        points: dict[str, float] = {}
        informative = []
        for number, (task, heads) in enumerate(tasks.items()):
            names = [name for name in ("TA", "TA_clean", "SA", *CONTROLS) if name in heads[head][0]]
            if "TA_clean" not in names:
                return {}
            table = np.stack([[right[name] for name in names] for right in heads[head]]).astype(np.float32)
            draws = _resampled(table, resamples, np.random.default_rng((seed, number))).astype(float)
            cloud = dict(zip(names, np.vstack([table.mean((0, 2), dtype=np.float64), draws]).T, strict=True))
            losses.append(cloud["TA_clean"] - cloud["TA"])
            points[task] = float(losses[-1][0])
            strongest = np.max([cloud[name] for name in CONTROLS], axis=0)
            if cloud["TA_clean"][0] - strongest[0] >= INFORMATIVE:
                informative.append(task)
                gains.append(cloud["SA"] - strongest)
                gaps.append(cloud["TA_clean"] - strongest)
        loss = np.mean(losses, axis=0)
        intervals = {"honest_loss": _interval(loss[1:])}
        recovered = None
        if informative:
            share = np.sum(gains, axis=0) / np.sum(gaps, axis=0)
            recovered, intervals["recovered"] = float(share[0]), _interval(share[1:])
        worst = max(points, key=lambda task: points[task])
        found[head] = {
            "honest_loss": float(loss[0]), "worst": {"task": worst, "honest_loss": points[worst]},
            "recovered": recovered, "informative": informative, "intervals": intervals,
        }  # fmt: skip
    return found


def _resampled(table_SNM: NDArray[np.float32], resamples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Mean accuracies (R, N) over resampled seeds and resampled images."""
    seeds, _, images = table_SNM.shape
    out = []
    for _ in range(resamples):
        chosen = table_SNM[rng.integers(seeds, size=seeds)].mean(0) if seeds > 1 else table_SNM[0]
        counts = np.bincount(rng.integers(images, size=images), minlength=images).astype(np.float32)
        out.append(chosen @ counts / images)
    return np.stack(out)


def _recovered(accuracy: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """(SA - C) / (TA_clean - C), C the strongest control."""
    if "TA_clean" not in accuracy:
        return np.array(np.nan)
    strongest = np.max([accuracy[name] for name in CONTROLS], axis=0)
    gap = accuracy["TA_clean"] - strongest
    share: NDArray[np.float64] = (accuracy["SA"] - strongest) / np.where(np.abs(gap) < 1e-9, np.nan, gap)
    return share


def _interval(values: NDArray[np.float64]) -> list[float]:
    return [float(q) for q in np.nanquantile(values, (0.025, 0.975))]
