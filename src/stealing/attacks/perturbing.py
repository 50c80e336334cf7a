"""The pairing of IPES: images in; augmented and perturbed samples of them with banked answers out.

Shape letters: B images, H and W pixels. Images are float in [0, 1].

Source: Zhang et al. 2023 (IPES), of which we could read the abstract only. It trains on augmented
and on perturbed samples by a contrastive loss, and saves queries as a well-trained encoder answers
all of them alike. Kind and size of the perturbation are our reading.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.attacks.pairing import Pair
from stealing.data.sampling import RandomNumbers
from stealing.data.views import Views
from stealing.numbers import check_integer, check_number

MOST_CELLS = 64
"""Most cells along an edge: each takes three random numbers an image in every step."""


@dataclass(frozen=True)
class ViewAndPerturbed:
    """A view of each image, and the raw image with bounded noise, both with the one answer to it.

    The noise is constant on each of `cells` x `cells` squares: the number of random numbers does
    not depend on the size of the images.

    Attributes:
        views: distribution of the augmented samples.
        radius: greatest change of a channel of a pixel, in [0, 1]; changes are uniform.
        cells: squares along each edge, 1 to 64.

    Raises:
        ConfigError: a number is out of range.
    """

    views: Views
    radius: float
    cells: int

    def __post_init__(self) -> None:
        check_number("attack.pairing.radius", self.radius, high=1)
        check_integer("attack.pairing.cells", self.cells, 1, MOST_CELLS)

    @property
    def passes(self) -> int:
        """Samples of each image that the surrogate sees in one step."""
        return 2

    def __call__(self, images: Tensor, rows: Tensor, random: RandomNumbers) -> Iterator[Pair]:
        """Give the one pair of a step: all views, then all perturbed images, in one pass."""
        views = self.views(images, random)
        yield 1.0, torch.cat([views, self._perturbed(images, random)]), rows

    def _perturbed(self, images: Tensor, random: RandomNumbers) -> Tensor:
        numbers = random.uniform(3 * self.cells**2)
        noise = self.radius * (2 * numbers - 1)
        noise = noise.view(len(images), 3, self.cells, self.cells)
        return (images + F.interpolate(noise, size=images.shape[2:])).clamp(0, 1)
