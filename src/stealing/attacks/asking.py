"""The query plan: the images of an attack and the door in, one answer an image out, every question counted.

Shape letters: N images, D feature width.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from stealing.artefacts import key
from stealing.attacks.recovery import completed, remapped, standardised
from stealing.data.draws import Dice, generator
from stealing.data.images import Images
from stealing.data.views import Views
from stealing.errors import ConfigError, Refused, TargetError
from stealing.queries.door import MeteredTarget


@dataclass(frozen=True)
class Plan:
    """What is asked about each image, by whom, and what one answer is made of.

    Attributes:
        repeats: how often the same image is asked about; the mean is taken, against fresh noise.
        near: how many near copies of each image are asked about as well; the mean is taken, against rounding and noise
            by content.
        views: what a near copy is.
        accounts: over how many the images are dealt, so that each has seen less.
        shared: how many images all accounts ask about, so that their representations can be mapped to the first's.
        rank: of the completion of truncated answers, or None for none.
        standardise: whether each feature's scale, sign and shift are taken out, against a representation of one's own.

    Raises:
        ConfigError: a number that means nothing.
    """

    repeats: int
    near: int
    views: Views
    accounts: int
    shared: int
    rank: int | None
    standardise: bool

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("near", 0), ("accounts", 1), ("shared", 0), ("rank", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"plan.{name}={value} means nothing: set it to {least} or more.")

    @property
    def grows(self) -> bool:
        """Whether a larger theft begins with the questions of a smaller one, so that both can be one account's."""
        return self.accounts == self.repeats == 1 + self.near == 1

    def images(self, budget: int) -> int:
        """How many images this many queries are enough for.

        Raises:
            ConfigError: for none.
        """
        count = budget // (self.repeats * (1 + self.near)) - self.shared * (self.accounts - 1)
        if count < max(1, self.shared):
            raise ConfigError(
                f"budget.images={budget} is not enough for {self.accounts} accounts that share {self.shared} images, "
                f"{self.repeats * (1 + self.near)} queries each: raise it, or lower plan.shared."
            )
        return count

    def carry_out(
        self, door: MeteredTarget, images: Images, scene: str, seed: int, least: int
    ) -> tuple[Images, Tensor]:
        """The images that were answered and one answer to each; see `ask`.

        Raises:
            TargetError: fewer than `least`, as the target stopped answering.
        """
        features, answered = self.ask(door, images.batch(slice(None)), scene, seed)
        if len(features) < least:
            raise TargetError(
                f"The target answered {len(features)} images before it stopped, fewer than attack.batch_size={least}: "
                "that is the end of this theft, or lower attack.batch_size."
            )
        return images.part(np.flatnonzero(answered.numpy())) if len(features) < len(images) else images, features

    def ask(self, door: MeteredTarget, images_uint8: Tensor, scene: str, seed: int) -> tuple[Tensor, Tensor]:
        """Answers (M, D) to the M images that were answered, and which they are, bool (N,).

        Args:
            door: to the target.
            images_uint8: (N, 3, size, size).
            scene: names this attacker among those that a defense which remembers must not take for one.
            seed: of the near copies.

        Raises:
            Refused: nothing was answered.
        """
        places = np.arange(len(images_uint8))
        dealt = np.array_split(places[self.shared :], self.accounts)
        told: Tensor | None = None
        refused: Refused | None = None
        answered = torch.zeros(len(images_uint8), dtype=torch.bool)
        for number, part in enumerate(dealt):
            mine = np.concatenate([places[: self.shared], part])
            account = f"attacker/{number}{scene}"
            try:
                features, there = self._averaged(door, images_uint8[mine], account, seed)
            except Refused as error:  # this account was told nothing; the others may be
                refused = error
                continue
            kept = mine[there.numpy()]
            if told is None:
                first, firsts = features, kept
                told = features.new_zeros(len(images_uint8), features.shape[1])
            elif self.shared:
                both, here, in_first = np.intersect1d(kept[kept < self.shared], firsts, return_indices=True)
                features = remapped(features, features[here], first[in_first]) if len(both) else features
            fresh = ~answered[kept]
            told[kept[fresh.numpy()]], answered[kept] = features[fresh], True
        if told is None:
            assert refused is not None
            raise refused
        told = told[answered]
        told = told if self.rank is None else completed(told, self.rank)
        return (standardised(told) if self.standardise else told), answered

    def _averaged(self, door: MeteredTarget, images_uint8: Tensor, account: str, seed: int) -> tuple[Tensor, Tensor]:
        """One account's means (M, D) over the answers to each image and its copies, and which images have any.

        Raises:
            Refused: nothing was answered; what was answered before an account was stopped is kept.
        """
        total: Tensor | None = None
        count = torch.zeros(len(images_uint8))
        for copy, repeat in product(range(1 + self.near), range(self.repeats)):
            pictures, view = self._pictures(images_uint8, copy, account, seed), f"near/{copy}" if copy else "raw"
            try:
                features, now = door.ask_what_is_answered(pictures, account, "attack", view=view, repeat=repeat)
            except Refused:
                if total is None:
                    raise
                break
            total = features.new_zeros(len(pictures), features.shape[1]) if total is None else total
            total[now] += features
            count += now
        assert total is not None
        there = count > 0
        return total[there] / count[there, None], there

    def _pictures(self, images_uint8: Tensor, copy: int, account: str, seed: int) -> Tensor:
        """The images themselves, or near copies of them."""
        if not copy:
            return images_uint8
        dice = Dice(generator("near", seed, copy, account), len(images_uint8), slice(None))
        return (self.views(images_uint8.float() / 255, dice) * 255).round().to(torch.uint8)


def scene_of(door: MeteredTarget, **inputs: str | int) -> str:
    """What tells this attacker from others: nothing where the target treats all alike, so that answers are shared."""
    return f"/{key(**inputs)}" if door.remembers else ""
