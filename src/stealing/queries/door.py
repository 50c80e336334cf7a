"""The metered door: the only way to a target. Images and an account in, answers out; counted, capped and kept.

Shape letters: B images, D feature width.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stealing.artefacts import key
from stealing.errors import BudgetExceeded, ConfigError, DataError, Refused
from stealing.queries.bank import Bank
from stealing.queries.buying import Order, Settling, Target, buy
from stealing.queries.digests import digests
from stealing.queries.ledger import Ledger
from stealing.queries.tables import Purpose, Source

WORTH_A_SHARD = 500
"""Answers; fewer are read from the ledger, which is slower, instead of making many small files."""

PAGE = 10_000
"""Answers copied into the bank at a time."""

IN_DOUBT = ("resend", "forfeit")


@dataclass(frozen=True)
class Budget:
    """What may be asked.

    Attributes:
        images: most images that a run's attack may ask about.
        evaluation: most images that measuring the attack may ask about.
        images_total: most images that all runs on one ledger may ever send to a target to attack it; None for no cap.
        evaluation_total: the same for measuring.
        price: of one image, in the owner's currency.
        in_doubt: what becomes of requests that a crash left open, counted but perhaps not served. `resend`: sent
            again under their idempotency key, so a service that honours such keys bills them once, and another may
            bill them twice, which the ledger cannot see. `forfeit`: given up, and asked about anew: counted twice,
            which is the most that was billed.
    """

    images: int
    evaluation: int
    images_total: int | None = None
    evaluation_total: int | None = None
    price: float = 0.0
    in_doubt: str = "resend"

    def __post_init__(self) -> None:
        if self.in_doubt not in IN_DOUBT:
            raise ConfigError(f"budget.in_doubt={self.in_doubt} is none of {', '.join(IN_DOUBT)}: choose one.")


class MeteredTarget:
    """A target behind its meter.

    A run's spending is the number of distinct images it got answers to, paid now or by an earlier run: so the figure
    does not depend on which cell of a sweep came first. The budget is enforced here and in the ledger, nowhere else.

    Args:
        target: asked only for what the ledger has no answer to.
        ledger: of this run and those beside it.
        banks: folder of all banks.
        budget: caps by purpose.
    """

    def __init__(self, target: Target, ledger: Ledger, banks: Path, budget: Budget) -> None:
        self._target, self._ledger, self._banks, self.budget = target, ledger, banks, budget
        self.fingerprint, self.defense_fingerprint, self.size = (
            target.fingerprint,
            target.defense_fingerprint,
            target.size,
        )
        codec = f"/{target.codec}" if target.codec else ""
        self.identity = f"{target.fingerprint}/{target.defense_fingerprint}{codec}"  # all that answers depend on
        self.is_known = target.is_known
        self.remembers = isinstance(target, Settling) and target.remembers
        self._got: dict[Purpose, dict[tuple[str, int], set[bytes]]] = {"attack": {}, "evaluation": {}}
        self._opened: dict[str, tuple[Source, Bank]] = {}
        self.sent = 0  # images that really went to the target in this process
        ledger.allow(target.fingerprint, "attack", budget.images_total)
        ledger.allow(target.fingerprint, "evaluation", budget.evaluation_total)

    def spent(self, purpose: Purpose) -> int:
        """Distinct images that this run got answers to for this purpose, each as often as it was repeated."""
        return sum(map(len, self._got[purpose].values()))

    def in_doubt(self) -> int:
        """Images of this target that are counted, and neither answered nor given up."""
        return sum(self._ledger.in_doubt(self.fingerprint, purpose) for purpose in self._got)

    def ask(
        self, images_uint8: Tensor, account: str, purpose: Purpose, *, view: str = "raw", repeat: int = 0
    ) -> Tensor:
        """Answers (B, D), float32, from the bank or the ledger where they are there, else asked and stored first.

        Args:
            images_uint8: (B, 3, size, size).
            account: who asks.
            purpose: on whose bill.
            view: what the images are, for the ledger's reader.
            repeat: which of several answers to the same image; each is charged.

        Raises:
            BudgetExceeded: the images do not fit what is left; nothing is sent.
            DataError: images of another type, shape or size than the target takes; nothing is sent.
        """
        self._check(images_uint8)
        names = digests(images_uint8)
        self._charge(set(names), purpose, account, repeat)
        source, bank = self._source(account, repeat)
        there = bank.has(names)
        if there.all():
            return bank.read(names)
        places = {name: place for place, name in enumerate(names) if not there[place]}
        terms = {"purpose": purpose, "view": view, "repeat": repeat, "price": self.budget.price}
        order = Order(source, account, images_uint8, places, **terms, in_doubt=self.budget.in_doubt)  # type: ignore[arg-type]
        bought = buy(order, self._target, self._ledger)
        self.sent += len(bought)
        if len(names) < WORTH_A_SHARD:
            return self._read(source, names, bought, repeat)
        missing = list(places)
        for start in range(0, len(missing), PAGE):
            page = missing[start : start + PAGE]
            bank.add(page, self._read(source, page, bought, repeat))
        return bank.read(names)

    def ask_what_is_answered(
        self, images_uint8: Tensor, account: str, purpose: Purpose, *, view: str = "raw", repeat: int = 0
    ) -> tuple[Tensor, Tensor]:
        """As `ask`, of a target that may stop answering: the answers that there are, and for which images, bool (B,).

        Raises:
            Refused: there is none.
        """
        try:
            features = self.ask(images_uint8, account, purpose, view=view, repeat=repeat)
            return features, torch.ones(len(images_uint8), dtype=torch.bool)
        except Refused:
            names, (source, _) = digests(images_uint8), self._source(account, repeat)
            states = self._ledger.states(source, names, repeat)
            there = torch.tensor([states.get(name, ("", 0))[0] == "stored" for name in names])
            self._got[purpose][account, repeat] -= {name for name, is_ in zip(names, there, strict=True) if not is_}
            if not there.any():
                raise
            return self.ask(images_uint8[there], account, purpose, view=view, repeat=repeat), there

    def _read(self, source: Source, names: list[bytes], bought: dict[bytes, Tensor], repeat: int) -> Tensor:
        """Answers (B, D), as they were just stored or, of other processes, from the ledger."""
        others = [name for name in names if name not in bought]
        if others:
            bought = bought | dict(zip(others, self._ledger.read(source, others, repeat), strict=True))
        return torch.stack([bought[name] for name in names]).float()

    def _source(self, account: str, repeat: int) -> tuple[Source, Bank]:
        target = self._target
        inputs = {"target": target.fingerprint, "defense": target.defense_fingerprint}
        inputs |= {"account": account, "codec": target.codec}
        name = key(**inputs, repeat=repeat)
        if name not in self._opened:
            source = self._ledger.source(**inputs, size=target.size)
            self._opened[name] = source, Bank(self._banks / name, self._ledger.identity)
        return self._opened[name]

    def _check(self, images_uint8: Tensor) -> None:
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

    def _charge(self, asked: set[bytes], purpose: Purpose, account: str, repeat: int) -> None:
        cap = self.budget.images if purpose == "attack" else self.budget.evaluation
        got, spent = self._got[purpose].setdefault((account, repeat), set()), self.spent(purpose)
        if spent + len(asked - got) > cap:
            setting = "budget.images" if purpose == "attack" else "budget.evaluation"
            raise BudgetExceeded(
                f"{len(asked)} images were to be asked about and {cap - spent} are left: raise {setting}={cap}."
            )
        got |= asked
