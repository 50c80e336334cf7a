"""The query plan: the images of an attack and the door in, one answer an image out.

A plan of the user's own needs `grows`, `images` and `carry_out` of `Plan`, and nothing else.

Shape letters: N images, M images with an answer, D feature width.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealing.artefacts import key
from stealing.attacks.recovery import completed, remapped, standardised
from stealing.data.images import Images
from stealing.data.sampling import BatchRandom, generator
from stealing.data.views import Views, quantised
from stealing.errors import ConfigError, Refused, TargetError
from stealing.numbers import check_integer
from stealing.queries.door import MeteredTarget

LEAST = {"repeats": 1, "near": 0, "accounts": 1, "shared": 0, "rank": 1}
"""Least value of each number of a plan."""


@dataclass(frozen=True)
class Plan:
    """Which queries are sent for each image, and how their answers are combined into one.

    Attributes:
        repeats: how often the same image is sent; answers are averaged, against noise that is drawn
            anew.
        near: views of each image that are sent, too; answers are averaged, against rounding and
            against noise that depends on the image.
        views: distribution of the near views.
        accounts: accounts that share the images, so that each account sends fewer.
        shared: images that every account sends, so that its answers can be mapped to the first
            account's.
        rank: of the completion of truncated answers, or None for no completion.
        standardise: true to undo each feature's scale, sign and shift, against a representation per
            account.

    Raises:
        ConfigError: a number is out of range.
    """

    repeats: int
    near: int
    views: Views
    accounts: int
    shared: int
    rank: int | None
    standardise: bool

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None:
                check_integer(f"plan.{name}", value, least)

    @property
    def queries_an_image(self) -> int:
        """Queries that one account sends for one image."""
        return self.repeats * (1 + self.near)

    @property
    def grows(self) -> bool:
        """True if one account sends all queries, and those of a smaller budget first."""
        return self.accounts == 1 and self.queries_an_image == 1

    def images(self, budget: int) -> int:
        """Return the number of images that a budget of this many queries is enough for.

        Raises:
            ConfigError: the budget is too small for this plan.
        """
        sent_again = self.shared * (self.accounts - 1)
        count = budget // self.queries_an_image - sent_again
        # without shared images, each account needs one of its own
        least = self.shared or self.accounts
        if count < least:
            needed = (least + sent_again) * self.queries_an_image
            raise ConfigError(
                f"budget.images={budget} queries are too few for this plan: set "
                f"budget.images={needed} or more, or choose another plan=."
            )
        return count

    def carry_out(
        self, door: MeteredTarget, images: Images, context: str, seed: int, least: int
    ) -> tuple[Images, Tensor]:
        """Send the queries; return the images that have an answer, and their answers.

        Args:
            door: to the target; `door.ask` and `door.ask_what_is_answered` send a batch.
            images: the N images to send, in order.
            context: end of the account names; see `plan_context`.
            seed: of random choices of the plan.
            least: fewest images with an answer that the attack can be trained on.

        Returns:
            M of the images, and their answers, float32 (M, D).

        Raises:
            Refused: no account got an answer.
            TargetError: the target stopped answering before `least` images had an answer.
        """
        features, answered = self.ask(door, images.batch(slice(None)), context, seed)
        if len(features) < least:
            raise TargetError(
                f"The target answered {len(features)} images before it stopped, fewer than "
                f"attack.batch_size={least}: lower attack.batch_size, or choose another plan=."
            )
        if len(features) < len(images):
            images = images.part(np.flatnonzero(answered.numpy()))
        return images, features

    def ask(
        self, door: MeteredTarget, images_uint8: Tensor, context: str, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Send the queries; return the answers, (M, D), and which images they belong to, bool (N,).

        Args:
            door: to the target.
            images_uint8: (N, 3, size, size).
            context: end of the account names, which separates attackers for a stateful defense; see
                `plan_context`.
            seed: of the near views.

        Raises:
            Refused: no account got an answer.
        """
        places = np.arange(len(images_uint8))
        merged = _MergedAnswers(len(images_uint8), self.shared)
        refused: Refused | None = None
        for number, part in enumerate(np.array_split(places[self.shared :], self.accounts)):
            sent = np.concatenate([places[: self.shared], part])
            account = f"attacker/{number}{context}"
            try:
                features, answered = self._ask_as(door, images_uint8[sent], account, seed)
            except Refused as error:
                refused = error  # other accounts may still get answers
                continue
            merged.add(features, sent[answered.numpy()])
        if merged.features is None:
            assert refused is not None
            raise refused
        features = merged.features[merged.answered]
        if self.rank is not None:
            features = completed(features, self.rank)
        if self.standardise:
            features = standardised(features)
        return features, merged.answered

    def _ask_as(
        self, door: MeteredTarget, images_uint8: Tensor, account: str, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return one account's mean answer to each image, (M, D), and which images have any.

        An account that is stopped keeps the answers that it has.

        Raises:
            Refused: the account got no answer at all.
        """
        total: Tensor | None = None
        count = torch.zeros(len(images_uint8))
        for copy, repeat in product(range(1 + self.near), range(self.repeats)):
            view = f"near/{copy}" if copy else "raw"
            sent = self._copies(images_uint8, copy, account, seed)
            try:
                features, answered = door.ask_what_is_answered(
                    sent, account, "attack", view=view, repeat=repeat
                )
            except Refused:
                if total is None:
                    raise
                break
            if total is None:
                total = features.new_zeros(len(sent), features.shape[1])
            total[answered] += features
            count += answered
        assert total is not None
        has_answer = count > 0
        return total[has_answer] / count[has_answer, None], has_answer

    def _copies(self, images_uint8: Tensor, copy: int, account: str, seed: int) -> Tensor:
        """Return the images themselves for copy 0, else near views of them."""
        if copy == 0:
            return images_uint8
        source = generator("near", seed, copy, account)
        random = BatchRandom(source, len(images_uint8), slice(None))
        return quantised(self.views(images_uint8.float() / 255, random))


class _MergedAnswers:
    """Answers of several accounts, one an image, in the first account's representation.

    "First" is the first account that got any answer. The first answer to an image counts.

    Attributes:
        features: (N, D), or None before the first answer.
        answered: which images have an answer, bool (N,).
    """

    def __init__(self, count: int, shared: int) -> None:
        self.features: Tensor | None = None
        self.answered = torch.zeros(count, dtype=torch.bool)
        self._shared = shared

    def add(self, features: Tensor, places: NDArray[np.int64]) -> None:
        """Add one account's answers (M, D) to the images at these M places, in ascending order."""
        if self.features is None:
            self._first_features = features
            self._first_places = places
            self.features = features.new_zeros(len(self.answered), features.shape[1])
        elif self._shared:
            features = self._in_first_representation(features, places)
        is_new = ~self.answered[places]
        self.features[places[is_new.numpy()]] = features[is_new]
        self.answered[places] = True

    def _in_first_representation(self, features: Tensor, places: NDArray[np.int64]) -> Tensor:
        """Map features by the shared images that both accounts got answers to.

        Without such images, return them as they are.
        """
        shared = places[places < self._shared]
        both, rows, first_rows = np.intersect1d(shared, self._first_places, return_indices=True)
        if len(both) == 0:
            return features
        return remapped(features, features[rows], self._first_features[first_rows])


def plan_context(door: MeteredTarget, **inputs: str | int) -> str:
    """Return what separates this attacker's accounts from others'.

    It is empty if the target treats all accounts alike, so that attacks share their answers.
    """
    return f"/{key(**inputs)}" if door.remembers else ""
