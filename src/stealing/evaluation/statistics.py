"""Paired intervals: which test images each encoder got right in, accuracies and what the theft recovered out.

Shape letters: S seeds, M test images, R resamples.
"""

import numpy as np
from numpy.typing import NDArray

from stealing.evaluation.protocol import CONTROLS, RECOVERABLE

Right = dict[str, NDArray[np.bool_]]
"""For TA, TA_clean (absent for a remote target), SA and each control: right or wrong on each of M test images."""


def summarise(seeds: list[Right], *, resamples: int, seed: int = 0) -> dict[str, object]:
    """Accuracies, `recovered` and their paired 95 % intervals.

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
    return {
        "TA": point["TA"],
        "TA_clean": point.get("TA_clean"),
        "SA": point["SA"],
        "ratio": point["SA"] / point["TA"],
        "recovered": recovered if measurable else None,
        "controls": {name: point[name] for name in CONTROLS},
        "intervals": intervals,
    }


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
