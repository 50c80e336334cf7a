"""The plan of views: images and the door in, an answer to each of several views of each image out.

Each view is one query, like any image: it is quantised, charged, banked and found by its pixels.

Shape letters: N images, M images whose views all have an answer, V views of each, D feature width.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from stealing.data.asked_views import AskedViews, draw_views
from stealing.data.images import Images
from stealing.data.views import Views
from stealing.errors import ConfigError, Refused, TargetError
from stealing.numbers import check_integer
from stealing.queries.digests import digests_of
from stealing.queries.door import MeteredTarget

BLOCK = 2**28
"""Bytes of pixels that go through the door at a time."""


@runtime_checkable
class AsksViews(Protocol):
    """A query plan that keeps an answer to each view, beside what every plan has.

    Attributes:
        count: views of each image, V.
    """

    count: int

    def asked_views(self, images: Images, seed: int) -> AskedViews:
        """Return the views of these images that are sent, a function of the arguments."""


class ViewPlan:
    """Send `count` views of each image, and keep the answer to each of them.

    The raw image is not sent. Two views with the same pixels are one query.

    Args:
        count: views of each image, V. It is null if it follows another setting that is null.
        views: their distribution.

    Raises:
        ConfigError: the number is null or out of range.
    """

    def __init__(self, count: int | None, views: Views) -> None:
        if count is None:
            raise ConfigError(
                "plan.count is null: set it, or attack.epochs, whose number plan=fresh_views sends."
            )
        check_integer("plan.count", count, 1)
        self.count = count
        self.views = views

    @property
    def grows(self) -> bool:
        """True: a larger attack begins with all views of the images of a smaller one."""
        return True

    def images(self, budget: int) -> int:
        """Return the number of images whose views all fit into a budget of this many queries.

        Raises:
            ConfigError: the budget is too small for the views of one image.
        """
        if budget < self.count:
            raise ConfigError(
                f"budget.images={budget} is not enough for plan.count={self.count} views of one "
                "image: raise it, or lower plan.count."
            )
        return budget // self.count

    def asked_views(self, images: Images, seed: int) -> AskedViews:
        """Return the views of these images that are sent."""
        return draw_views(self.views, digests_of(images), self.count, images.size, seed)

    def carry_out(
        self, door: MeteredTarget, images: Images, context: str, seed: int, least: int
    ) -> tuple[Images, Tensor]:
        """Send the views image by image; return the images, and the answers (M, V, D).

        Args:
            door: to the target.
            images: N, in the order in which they are sent.
            context: end of the account's name; see `stealing.attacks.query_plan.plan_context`.
            seed: of the views.
            least: fewest images with an answer that the attack can be trained on.

        Raises:
            Refused: the target answered no view.
            TargetError: it stopped before all views of `least` images had an answer.
        """
        asked = self.asked_views(images, seed)
        at_once = max(1, BLOCK // (self.count * 3 * images.size**2))
        places = np.arange(len(images))
        answered = list[Tensor]()
        features = list[Tensor]()
        for block in np.split(places, places[at_once::at_once]):
            sent = torch.cat([self._sent(images, asked, place) for place in block])
            try:
                answers, is_answered = door.ask_what_is_answered(
                    sent, f"attacker/0{context}", "attack", view="view"
                )
            except Refused:
                if not features:
                    raise
                break  # the account is stopped, and keeps the answers that it has
            whole, answers = self._whole_images(answers, is_answered)
            answered.append(torch.from_numpy(block)[whole])
            features.append(answers)
        return self._checked(images, torch.cat(answered), torch.cat(features), least)

    def _sent(self, images: Images, asked: AskedViews, place: int) -> Tensor:
        """Return all views of one image, uint8 (V, 3, size, size)."""
        # one image at a time: the last bits of a larger batch may depend on its size, and a view
        # that differed by a bit under another budget would be bought again
        raw = images.batch(np.array([place])).float() / 255
        numbers = torch.arange(self.count)
        return asked.pixels(
            raw.expand(self.count, -1, -1, -1), torch.full_like(numbers, place), numbers
        )

    def _whole_images(self, answers: Tensor, is_answered: Tensor) -> tuple[Tensor, Tensor]:
        """Return which images have an answer to every view, bool, and their answers (M, V, D)."""
        answers_of = answers.new_zeros(len(is_answered), answers.shape[1])
        answers_of[is_answered] = answers
        whole = is_answered.view(-1, self.count).all(1)
        return whole, answers_of.view(-1, self.count, answers.shape[1])[whole]

    def _checked(
        self, images: Images, answered: Tensor, features: Tensor, least: int
    ) -> tuple[Images, Tensor]:
        if len(features) < least:
            raise TargetError(
                f"The target answered all views of {len(features)} images before it stopped, "
                f"fewer than attack.batch_size={least}: lower attack.batch_size, or choose "
                "another plan=."
            )
        if len(features) < len(images):
            images = images.part(answered.numpy())
        return images, features
