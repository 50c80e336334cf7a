"""Paired intervals: which test images each encoder got right in, accuracies and what the theft recovered out.

Shape letters: S seeds, M test images, R resamples.
"""

from collections.abc import Collection
from typing import Any

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


def accuracy(right_M: NDArray[np.bool_], *, resamples: int, seed: int = 0) -> tuple[float, list[float]]:
    """Share that is right, and its 95 % interval over test images."""
    table = right_M.astype(np.float32)[None, None]
    draws = _resampled(table, resamples, np.random.default_rng(seed))
    return float(right_M.mean()), _interval(draws[:, 0].astype(float))


def by_head(tables: list[Right]) -> dict[str, dict[str, list[Right]]]:
    """Tables of each seed, whose keys are `<task>/<head>/<name>`, by task and head."""
    found = dict[str, dict[str, list[Right]]]()
    for number, table in enumerate(tables):
        for place, rows in table.items():
            task, head, name = place.split("/")
            seeds = found.setdefault(task, {}).setdefault(head, [{} for _ in tables])
            seeds[number][name] = rows
    return found


def overall(tables: list[Right], resamples: int, seed: int = 0, tasks: Collection[str] | None = None) -> dict[str, Any]:
    """Of each head over all tasks: what the honest users lose, and what a thief recovers.

    Args:
        tables: of each seed, as for `by_head`.
        resamples: R.
        seed: of the resampling.
        tasks: on which `recovered` is to be given; by default the informative ones.

    Returns:
        By head: `SA`, the mean over all tasks; `honest_loss`, likewise, and `worst`, the task that loses most;
        `recovered`, the sum of SA - C over that of TA_clean - C, of the `informative` tasks alone, as the share of a
        small gap is noise; `offered`, the same with TA, known for a remote target too; and their intervals. What is
        not known is None.
    """
    found, rights = dict[str, Any](), by_head(tables)
    for head in next(iter(rights.values())):
        clouds = dict[str, dict[str, NDArray[np.float64]]]()
        for number, (task, heads) in enumerate(rights.items()):
            names = [name for name in ("TA", "TA_clean", "SA", *CONTROLS) if name in heads[head][0]]
            table = np.stack([[right[name] for name in names] for right in heads[head]]).astype(np.float32)
            outer = np.random.default_rng(seed)  # a seed that is drawn is drawn for every task
            draws = _resampled(table, resamples, np.random.default_rng((seed, number)), outer).astype(float)
            rows = np.vstack([table.mean((0, 2), dtype=np.float64), draws]).T
            clouds[task] = dict(zip(names, rows, strict=True))
        stolen = np.mean([cloud["SA"] for cloud in clouds.values()], axis=0)
        figures: dict[str, object] = {"SA": float(stolen[0]), "honest_loss": None, "worst": None, "recovered": None}
        intervals = {"SA": _interval(stolen[1:])}
        figures["offered"], informative, span = _share(clouds, "TA", tasks)
        intervals |= {"offered": span} if span else {}
        if all("TA_clean" in cloud for cloud in clouds.values()):
            losses = {task: cloud["TA_clean"] - cloud["TA"] for task, cloud in clouds.items()}
            worst = max(losses, key=lambda task: float(losses[task][0]))
            loss = np.mean(list(losses.values()), axis=0)
            figures |= {"honest_loss": float(loss[0])}
            figures |= {"worst": {"task": worst, "honest_loss": float(losses[worst][0])}}
            intervals["honest_loss"] = _interval(loss[1:])
            figures["recovered"], informative, span = _share(clouds, "TA_clean", tasks)
            intervals |= {"recovered": span} if span else {}
        found[head] = {**figures, "informative": informative, "intervals": intervals}
    return found


def _share(
    clouds: dict[str, dict[str, NDArray[np.float64]]], reference: str, tasks: Collection[str] | None
) -> tuple[float | None, list[str], list[float] | None]:
    """Of what the reference has over the controls, what the surrogate has; on which tasks; and its interval."""
    strongest = {task: np.max([cloud[name] for name in CONTROLS], axis=0) for task, cloud in clouds.items()}
    gaps = {task: cloud[reference] - strongest[task] for task, cloud in clouds.items()}
    informative = [task for task, gap in gaps.items() if (gap[0] >= INFORMATIVE if tasks is None else task in tasks)]
    if not informative:
        return None, [], None
    gains = [clouds[task]["SA"] - strongest[task] for task in informative]
    share = np.sum(gains, axis=0) / np.sum([gaps[task] for task in informative], axis=0)
    return float(share[0]), informative, _interval(share[1:])


def paired(
    first: list[Right], second: list[Right], head: str, *, resamples: int, seed: int = 0
) -> tuple[float, tuple[float, float], float]:
    """Whether one theft gets more than another from the same seeds and test images: SA of the first less the second's.

    Args:
        first, second: tables of each seed, as for `by_head`, of equal seeds in equal order.
        head: of the accuracies.
        resamples: R; seeds are resampled first where there are several, then test images, for both alike.
        seed: of the resampling.

    Returns:
        The difference, a mean over tasks; its 95 % interval; and p, twice the share of resamples on the other side
        of zero, never below 2 / (R + 1).
    """
    tasks = sorted({place.split("/")[0] for place in first[0]})
    clouds = []
    for number, task in enumerate(tasks):
        rows = [[right[f"{task}/{head}/SA"] for right in pair] for pair in zip(first, second, strict=True)]
        table = np.array(rows, np.float32)
        # one stream of seeds for all tasks: a seed that is drawn is drawn for every task
        draws = _resampled(table, resamples, np.random.default_rng((seed, number)), np.random.default_rng(seed))
        means = np.vstack([table.mean((0, 2), dtype=np.float64), draws])
        clouds.append(means[:, 0] - means[:, 1])
    cloud = np.mean(clouds, axis=0)
    aside = min((cloud[1:] <= 0).sum(), (cloud[1:] >= 0).sum())
    low, high = _interval(cloud[1:])
    return float(cloud[0]), (low, high), min(1.0, 2 * float(aside + 1) / (resamples + 1))


def _resampled(
    table_SNM: NDArray[np.float32], resamples: int, rng: np.random.Generator, outer: np.random.Generator | None = None
) -> NDArray[np.float32]:
    """Mean accuracies (R, N) over resampled seeds, by a stream of their own where it is given, and resampled images."""
    seeds, _, images = table_SNM.shape
    out = []
    for _ in range(resamples):
        chosen = table_SNM[(outer or rng).integers(seeds, size=seeds)].mean(0) if seeds > 1 else table_SNM[0]
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
