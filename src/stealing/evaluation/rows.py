"""The training rows of a head: those that are fitted on, and the held rows for choices.

Whatever is chosen about a head, or by its accuracy, is chosen on the held rows: a slice of the
training split. The test split is read once, by `stealing.evaluation.protocol`.

Shape letters: N training rows, D feature width.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from stealing.data.sampling import generator

Labelled = tuple[Tensor, Tensor]
"""Features (n, D) and labels (n,)."""


@dataclass(frozen=True)
class Rows:
    """Features of a training split, of which a slice is held back.

    Attributes:
        features: (N, D).
        labels: int64 (N,).
        is_held: bool (N,), True for the slice.
    """

    features: Tensor
    labels: Tensor
    is_held: Tensor

    @classmethod
    def split(
        cls,
        features_ND: Tensor,
        labels_N: Tensor,
        share: float,
        sample: int | None = None,
    ) -> Self:
        """Hold back a share of the rows, the same rows for every encoder.

        Args:
            features_ND: features of the training split, in its order.
            labels_N: int64.
            share: share of the rows that is held back, in (0, 1).
            sample: number of a bootstrap sample to draw; None for the rows themselves.
        """
        count = len(labels_N)
        order = torch.randperm(count, generator=generator("probe holdout"))
        is_held = torch.zeros(count, dtype=torch.bool)
        # At least one row, also of a tiny task: penalties could not be chosen without any.
        is_held[order[: max(1, int(count * share))]] = True
        if sample is None:
            return cls(features_ND, labels_N, is_held)
        # Each part is drawn by itself, so that no row is both fitted on and held back.
        fitted = _draw(~is_held, sample, "fit")
        held = _draw(is_held, sample, "held")
        rows = torch.cat([fitted, held])
        return cls(features_ND[rows], labels_N[rows], is_held[rows])

    @property
    def fit(self) -> Labelled:
        """The rows to fit on while something is chosen."""
        return self.features[~self.is_held], self.labels[~self.is_held]

    @property
    def held(self) -> Labelled:
        """The rows to choose by."""
        return self.features[self.is_held], self.labels[self.is_held]

    @property
    def all(self) -> Labelled:
        """All rows, in their order."""
        return self.features, self.labels

    def to(self, device: str) -> Self:
        """Return the rows on a device."""
        return replace(
            self,
            features=self.features.to(device),
            labels=self.labels.to(device),
            is_held=self.is_held.to(device),
        )

    def scaled(self, mean_D: Tensor, deviation_D: Tensor) -> Self:
        """Return the rows with the mean subtracted from each feature, divided by the deviation."""
        return replace(self, features=(self.features - mean_D) / deviation_D)


def _draw(
    part: Tensor,
    sample: int,
    name: str,
) -> Tensor:
    """Draw as many rows of a part as it has, with replacement; a function of (sample, name)."""
    places = part.nonzero()[:, 0]
    rng = generator("bootstrap", sample, name)
    return places[torch.randint(len(places), (len(places),), generator=rng)]
