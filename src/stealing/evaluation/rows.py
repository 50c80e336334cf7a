"""The training rows of a head: a task's features in; rows to fit on, rows to choose by, and all of them out.

Whatever is chosen about a head or by its accuracy is chosen on the held rows, a slice of train.
The test split is read once, by `stealing.evaluation.protocol`.

Shape letters: N training rows, D feature width.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from stealing.data.draws import generator

Whole = tuple[Tensor, Tensor]
"""Features (n, D) and labels (n,)."""


@dataclass(frozen=True)
class Rows:
    """Features of a training split, with a slice that is held back.

    Attributes:
        features: (N, D).
        labels: int64 (N,).
        is_held: bool (N,), True for the slice.
    """

    features: Tensor
    labels: Tensor
    is_held: Tensor

    @classmethod
    def split(cls, features_ND: Tensor, labels_N: Tensor, share: float, sample: int | None = None) -> Self:
        """Hold back a share of the rows, the same ones for every encoder.

        Args:
            features_ND: of the training split, in its order.
            labels_N: int64.
            share: of the rows that is held back, in (0, 1).
            sample: number of a bootstrap sample to draw from both parts; None for the rows themselves.
                The parts are split first, so that no row is both fitted on and held back.
        """
        count = len(labels_N)
        order = torch.randperm(count, generator=generator("probe holdout"))
        is_held = torch.zeros(count, dtype=torch.bool)
        is_held[order[: max(1, int(count * share))]] = True
        if sample is None:
            return cls(features_ND, labels_N, is_held)
        drawn = []
        for name, part in (("fit", ~is_held), ("held", is_held)):
            places = part.nonzero()[:, 0]
            dice = generator("bootstrap", sample, name)
            drawn.append(places[torch.randint(len(places), (len(places),), generator=dice)])
        rows = torch.cat(drawn)
        return cls(features_ND[rows], labels_N[rows], is_held[rows])

    @property
    def fit(self) -> Whole:
        """The rows to fit on while something is chosen."""
        return self.features[~self.is_held], self.labels[~self.is_held]

    @property
    def held(self) -> Whole:
        """The rows to choose by."""
        return self.features[self.is_held], self.labels[self.is_held]

    @property
    def all(self) -> Whole:
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
        """Return the rows with each feature centred and divided."""
        return replace(self, features=(self.features - mean_D) / deviation_D)
