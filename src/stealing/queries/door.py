"""The metered door: the only way to a target. Images and an account in, answers out; counted, capped and kept.

Shape letters: B images, D feature width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from stealing.artefacts import claim, key
from stealing.errors import BudgetExceeded, DataError
from stealing.queries.bank import Bank
from stealing.queries.digests import digests

Purpose = Literal["attack", "evaluation"]


class Target(Protocol):
    """What answers. Local or remote, it owns its defense.

    Attributes:
        fingerprint: which encoder, endpoint and version.
        defense_fingerprint: which defense.
        feature_dim: width of the answers.
        size: height and width of the images that it takes.
    """

    fingerprint: str
    defense_fingerprint: str
    feature_dim: int
    size: int

    def answer(self, images_uint8: Tensor, account: str) -> Tensor:
        """Features (B, D) of uint8 images (B, 3, size, size)."""


@dataclass(frozen=True)
class Budget:
    """What a run may ask.

    Attributes:
        images: most images that its attack may ask about.
        evaluation: most images that measuring the attack may ask about.
        price: of one image, in the owner's currency.
    """

    images: int
    evaluation: int
    price: float = 0.0


class MeteredTarget:
    """A target behind its meter.

    A run's spending is the number of distinct images it got answers to, paid now or banked by an earlier run: so the
    figure does not depend on which cell of a sweep came first. The budget is enforced here and nowhere else.

    Args:
        target: asked only for what the bank lacks.
        banks: folder of all banks.
        budget: caps by purpose.
    """

    def __init__(self, target: Target, banks: Path, budget: Budget) -> None:
        self._target, self._banks, self.budget = target, banks, budget
        self.fingerprint, self.defense_fingerprint = target.fingerprint, target.defense_fingerprint
        self.feature_dim, self.size = target.feature_dim, target.size
        self._got: dict[Purpose, set[tuple[str, bytes]]] = {"attack": set(), "evaluation": set()}
        self.sent = 0  # images that really went to the target in this process

    def spent(self, purpose: Purpose) -> int:
        """Distinct images that this run got answers to for this purpose."""
        return len(self._got[purpose])

    def ask(self, images_uint8: Tensor, account: str, purpose: Purpose) -> Tensor:
        """Answers (B, D), from the bank where they are there, else asked, stored and then returned.

        Raises:
            BudgetExceeded: the images do not fit what is left; nothing is sent.
            DataError: images of another type, shape or size than the target takes; nothing is sent.
        """
        wanted = (3, self.size, self.size)
        if (
            images_uint8.ndim != 4
            or tuple(images_uint8.shape[1:]) != wanted
            or str(images_uint8.dtype) != "torch.uint8"
        ):
            got = f"{images_uint8.dtype} {tuple(images_uint8.shape[1:])}"
            raise DataError(
                f"The target takes uint8 images of shape {wanted} and was given {got}: set data.size={self.size}."
            )
        names = digests(images_uint8)
        self._charge({(account, name) for name in names}, purpose)
        inputs = {"target": self.fingerprint, "defense": self.defense_fingerprint, "account": account}
        folder = self._banks / key(**inputs)
        bank = Bank(folder)
        if all(name in bank for name in names):  # reading needs no claim: a shard is there whole or not at all
            return bank.read(names)
        with claim(folder, patient=True):  # another run that fills the same bank is waited for
            bank = Bank(folder)
            places = {name: place for place, name in enumerate(names) if name not in bank}
            if places:
                missing = list(places)
                answers = self._target.answer(images_uint8[list(places.values())], account)
                self.sent += len(missing)
                bank.store(missing, answers)
            return bank.read(names)

    def _charge(self, asked: set[tuple[str, bytes]], purpose: Purpose) -> None:
        cap = self.budget.images if purpose == "attack" else self.budget.evaluation
        total = self._got[purpose] | asked
        if len(total) > cap:
            setting = "budget.images" if purpose == "attack" else "budget.evaluation"
            left = cap - len(self._got[purpose])
            raise BudgetExceeded(
                f"{len(asked)} images were to be asked about and {left} are left: raise {setting}={cap}."
            )
        self._got[purpose] = total
