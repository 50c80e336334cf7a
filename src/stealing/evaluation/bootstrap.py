"""Estimates with errors: correctly classified test images in, accuracies with intervals out.

An accuracy varies for two reasons, and both are in its standard error:

- The test images are a sample. The bootstrap measures this: the resampling unit is one test image,
  and a resample draws as many images as there are, with replacement. All encoders see the same
  resample (a paired bootstrap), so what they share cancels in a difference or a ratio of their
  accuracies.
- Another seed gives another surrogate. The variance between the figures of single seeds measures
  this. Seeds are not resampled: there are two or three of them, and resampling so few finds
  differences that do not exist.

Shape letters: S seeds, N encoders, M test images, R resamples.
Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 6 and 13;
Satterthwaite 1946 and Welch 1947 for the degrees of freedom of a sum of two variances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

LOWER = 0.025
UPPER = 0.975
"""Quantiles at the ends of a 95 % interval."""


@dataclass(frozen=True)
class Estimate:
    """One figure, with the values that its standard error is computed from.

    A difference or a ratio of estimates is computed for all of these values at once.

    Attributes:
        values: float64 (1 + S + R,). First the figure itself, a mean over seeds; then the figure of
            each single seed; then the figure in each resample of the test images. NaN in a resample
            where the figure is not defined.
        seeds: S.
    """

    values: NDArray[np.float64]
    seeds: int

    @property
    def point(self) -> float:
        """The figure itself."""
        return float(self.values[0])

    @property
    def by_seed(self) -> NDArray[np.float64]:
        """The figure of each single seed, (S,)."""
        return self.values[1 : 1 + self.seeds]

    @property
    def resampled(self) -> NDArray[np.float64]:
        """The figure in each bootstrap resample, (R,)."""
        return self.values[1 + self.seeds :]

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.values - other.values, self.seeds)

    def __truediv__(self, other: "Estimate") -> "Estimate":
        # A resample may leave no gap to divide by. It says nothing about the ratio then.
        divisor = np.where(np.abs(other.values) < 1e-9, np.nan, other.values)
        return Estimate(self.values / divisor, self.seeds)

    @classmethod
    def sum(cls, estimates: Sequence["Estimate"]) -> Self:
        """Return the sum of estimates of the same seeds, such as one of each task."""
        return cls(np.sum(_stacked(estimates), axis=0), estimates[0].seeds)

    @classmethod
    def mean(cls, estimates: Sequence["Estimate"]) -> Self:
        """Return the mean of estimates of the same seeds."""
        return cls(np.mean(_stacked(estimates), axis=0), estimates[0].seeds)

    def standard_error(self) -> tuple[float, float]:
        """Return the standard error over test images and seeds, and its degrees of freedom.

        The error is the root of the sum of two variances: that over the resamples and, with
        several seeds, that of the mean over seeds. The second is estimated from few values. So the
        estimate divided by its error has Student's distribution, approximately (Welch and
        Satterthwaite). With one seed it has the normal distribution: infinitely many degrees.
        """
        # ddof=1: a variance over few values would be too small without it.
        of_images = float(np.nanvar(self.resampled, ddof=1))
        return standard_error(of_images, self.by_seed)

    def margin(self) -> float:
        """Return half the width of the symmetric 95 % confidence interval."""
        return margin(*self.standard_error())

    def interval(self) -> list[float]:
        """Return the 95 % confidence interval.

        With one seed: the percentile interval of the bootstrap, which need not be symmetric. With
        several seeds: symmetric, by `standard_error`.
        """
        if self.seeds == 1:
            low, high = np.nanquantile(self.resampled, (LOWER, UPPER))
            return [float(low), float(high)]
        margin = self.margin()
        return [self.point - margin, self.point + margin]

    def accuracy_interval(self) -> list[float]:
        """Return the interval of an accuracy, cut off at 0 and 1."""
        low, high = self.interval()
        return [min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0)]

    def p_value(self) -> float:
        """Return the two-sided p-value of the hypothesis that the true value is 0."""
        return p_value(self.point, *self.standard_error())


def standard_error(of_images: float, by_seed: NDArray[np.float64]) -> tuple[float, float]:
    """Return the standard error of a mean over seeds, and its degrees of freedom.

    Args:
        of_images: its variance over test images.
        by_seed: the figure of each seed, (S,).
    """
    seeds = len(by_seed)
    of_seeds = 0.0
    if seeds > 1:
        # A mean over seeds has the variance of one seed, divided by their number.
        of_seeds = float(np.nanvar(by_seed, ddof=1)) / seeds
    freedom = np.inf
    if of_seeds:
        freedom = (seeds - 1) * ((of_images + of_seeds) / of_seeds) ** 2
    return (of_images + of_seeds) ** 0.5, freedom


def margin(error: float, freedom: float) -> float:
    """Return half the width of the symmetric 95 % interval of an estimate with such an error."""
    return float(student.ppf(UPPER, freedom)) * error


def p_value(point: float, error: float, freedom: float) -> float:
    """Return the two-sided p-value of the hypothesis that what was estimated is 0.

    Args:
        point: the estimate.
        error: its standard error.
        freedom: degrees of freedom of the error.
    """
    if error == 0:
        return float(point == 0)
    return float(2 * student.sf(abs(point) / error, freedom))


def _stacked(estimates: Sequence[Estimate]) -> NDArray[np.float64]:
    return np.stack([estimate.values for estimate in estimates])


def estimate_accuracies(
    seeds: Sequence[Mapping[str, NDArray[np.bool_]]],
    names: Sequence[str],
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Estimate the accuracy of each encoder, all from the same resamples.

    Args:
        seeds: one mapping a seed: by an encoder's name, bool (M,), True for each test image that
            the head on its features classifies correctly.
        names: of the N encoders to estimate.
        resamples: R.
        rng: draws the resamples.
    """
    tables = []
    for table in seeds:
        tables.append(np.stack([table[name] for name in names]))
    # float32 makes the products fast; its rounding is far below the error of a resample.
    correct_SNM = np.stack(tables).astype(np.float32)
    images = correct_SNM.shape[2]
    mean_NM = correct_SNM.mean(0)
    resampled = []
    for _ in range(resamples):
        # How often each image is drawn: one product then gives the accuracies of all encoders.
        counts = np.bincount(rng.integers(images, size=images), minlength=images)
        resampled.append(mean_NM @ counts.astype(np.float32) / images)
    # Figures themselves are exact: sums of correct images in float64.
    by_seed_SN = correct_SNM.mean(2, dtype=np.float64)
    values = np.vstack([by_seed_SN.mean(0), by_seed_SN, resampled])
    estimates = {}
    for column, name in enumerate(names):
        estimates[name] = Estimate(values[:, column], len(seeds))
    return estimates
