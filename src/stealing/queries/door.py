"""The metered door, the only way to a target: images and an account in, answers out.

"How is a query counted?" `MeteredTarget.ask` is the answer, from top to bottom:

1. Each image gets a digest; equal images have equal digests and are one query.
2. The run's own budget is charged with the images that this run has not sent before. If they do not
   fit, nothing is sent.
3. The bank is read. An answer that is there costs nothing and sends nothing.
4. `stealing.queries.purchase.buy` buys the other answers. The ledger, which all runs share, counts
   an image before it is sent, and refuses images that exceed the total of all runs.
5. Many answers are copied into the bank, for the next time.

Shape letters: B images, M of them that the bank lacks, D feature width.
"""

from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealing.artefacts import key
from stealing.errors import BudgetExceeded, ConfigError, DataError, LedgerError, Refused
from stealing.numbers import check_budget
from stealing.queries.bank import PAGE, WORTH_A_SHARD, Bank
from stealing.queries.digests import digests
from stealing.queries.ledger import Ledger
from stealing.queries.purchase import Order, buy
from stealing.queries.schema import Purpose, Source, Terms
from stealing.queries.target import CachingTarget, RenamedTarget, StatefulTarget, Target

IN_DOUBT = ("resend", "forfeit")


@dataclass(frozen=True)
class Budget:
    """How many queries may be sent.

    Attributes:
        images: most queries of a run's attack, at least 1; a view and a repeat are queries, too.
        evaluation: most queries of the evaluation, at least 0.
        images_total: most queries that all runs on one ledger may ever send to a target to attack
            it. The lowest total that any run has set counts; None neither sets nor removes one.
            Only `python -m stealing.queries allow` raises or removes it.
        evaluation_total: the same for the evaluation.
        price: of one query, in the owner's currency, 0 to 1e9.
        in_doubt: what becomes of requests that a crash left open, counted but perhaps not served.
            `resend`: they are sent again under their idempotency key. A service that honours such
            keys bills them once; another may bill them twice, which the ledger cannot see.
            `forfeit`: they are given up, and their images are sent anew and counted twice, which is
            the most that was billed.

    Raises:
        ConfigError: a value is not a number, or is out of range.
    """

    images: int
    evaluation: int
    images_total: int | None = None
    evaluation_total: int | None = None
    price: float = 0.0
    in_doubt: str = "resend"

    def __post_init__(self) -> None:
        check_budget(self)
        if self.in_doubt not in IN_DOUBT:
            raise ConfigError(
                f"budget.in_doubt={self.in_doubt} is not one of {', '.join(IN_DOUBT)}: choose one."
            )


class MeteredTarget:
    """A target behind its meter.

    What a run has spent is the number of distinct images that it got answers to, whether it paid
    for them or an earlier run did. The figure therefore does not depend on which cell of a sweep
    came first. Budgets are enforced here and in the ledger, and nowhere else.

    Args:
        target: asked only for what the ledger has no answer to.
        ledger: of this run and those beside it.
        banks: folder of all banks.
        budget: caps by purpose.

    Attributes:
        identity: all that answers depend on, except the images and the account.
        remembers: True if answers depend on what the account asked before.
        sent: images that this process really sent to the target.

    Raises:
        LedgerError: the ledger may hold answers of this target under a name of earlier versions.
    """

    def __init__(self, target: Target, ledger: Ledger, banks: Path, budget: Budget) -> None:
        _check_name(target, ledger)
        self._target = target
        self._ledger = ledger
        self._banks = banks
        self.budget = budget
        self.fingerprint = target.fingerprint
        self.defense_fingerprint = target.defense_fingerprint
        self.size = target.size
        self.is_known = target.is_known
        codec = f"/{target.codec}" if target.codec else ""
        self.identity = f"{target.fingerprint}/{target.defense_fingerprint}{codec}"
        self.remembers = isinstance(target, StatefulTarget) and target.remembers
        self.sent = 0
        # digests by purpose, and by account and repeat
        self._got: dict[Purpose, dict[tuple[str, int], set[bytes]]] = {
            "attack": {},
            "evaluation": {},
        }
        self._sources: dict[str, tuple[Source, Bank]] = {}
        # a run can only lower these totals, so that no run spends what another one limited
        ledger.restrict(target.fingerprint, "attack", budget.images_total)
        ledger.restrict(target.fingerprint, "evaluation", budget.evaluation_total)

    def spent(self, purpose: Purpose) -> int:
        """Return how many distinct images this run got answers to; each repeat counts again."""
        return sum(len(images) for images in self._got[purpose].values())

    def in_doubt(self) -> int:
        """Return how many images of this target are counted, and neither answered nor given up."""
        return sum(self._ledger.in_doubt(self.fingerprint, purpose) for purpose in self._got)

    def ask(
        self,
        images_uint8: Tensor,
        account: str,
        purpose: Purpose,
        *,
        view: str = "raw",
        repeat: int = 0,
    ) -> Tensor:
        """Return answers (B, D), float32, from the bank, the ledger or else the target.

        Args:
            images_uint8: (B, 3, size, size).
            account: who asks.
            purpose: whose budget is charged.
            view: what the images are, for a reader of the ledger.
            repeat: which of several answers to the same image; each is charged.

        Raises:
            BudgetExceeded: the images do not fit what is left; nothing is sent.
            DataError: images of another type, shape or size than the target takes; nothing is sent.
        """
        self._check_images(images_uint8)
        terms = Terms(purpose, view, repeat, self.budget.price)
        return self._answers(images_uint8, digests(images_uint8), account, terms)

    def _answers(
        self, images_uint8: Tensor, image_digests: list[bytes], account: str, terms: Terms
    ) -> Tensor:
        """Return answers (B, D) to images whose digests are made; see `ask`."""
        repeat = terms.repeat
        self._charge(set(image_digests), account, terms.purpose, repeat)

        source, bank = self._source(account, repeat)
        banked, is_banked = bank.find(image_digests)
        if is_banked.all():
            return banked

        # by digest, so that equal images are one query
        places: dict[bytes, int] = {}
        for place, digest in enumerate(image_digests):
            if not is_banked[place]:
                places[digest] = place
        order = Order(source, account, images_uint8, places, terms, self.budget.in_doubt)
        try:
            bought, bought_MD = buy(order, self._target, self._ledger)
        finally:
            if isinstance(self._target, CachingTarget):
                self._target.flush()
        self.sent += len(bought)

        # another process may have bought some of them; those are read from the ledger
        missing = list(places)
        answers_MD = self._collect(source, missing, bought, bought_MD, repeat)
        if len(image_digests) >= WORTH_A_SHARD:
            for start in range(0, len(missing), PAGE):
                bank.add(missing[start : start + PAGE], answers_MD[start : start + PAGE])
        return _merge(image_digests, banked, is_banked, missing, answers_MD)

    def ask_what_is_answered(
        self,
        images_uint8: Tensor,
        account: str,
        purpose: Purpose,
        *,
        view: str = "raw",
        repeat: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Ask a target that may stop answering.

        Args: as of `ask`.

        Returns:
            The answers that were given, and which images have one, bool (B,).

        Raises:
            Refused: there is none.
        """
        self._check_images(images_uint8)
        image_digests = digests(images_uint8)
        terms = Terms(purpose, view, repeat, self.budget.price)
        try:
            answers = self._answers(images_uint8, image_digests, account, terms)
            return answers, torch.ones(len(images_uint8), dtype=torch.bool)
        except Refused:
            # requests before the refusal were answered, and are stored
            source, _ = self._source(account, repeat)
            states = self._ledger.states(source, image_digests, repeat)
            is_answered = torch.zeros(len(images_uint8), dtype=torch.bool)
            given = list[bytes]()
            for place, digest in enumerate(image_digests):
                if digest in states and states[digest][0] == "stored":
                    is_answered[place] = True
                    given.append(digest)
                else:  # charged by `ask`, and never answered
                    self._got[purpose][account, repeat].discard(digest)
            if not is_answered.any():
                raise
            answers = self._answers(images_uint8[is_answered], given, account, terms)
            return answers, is_answered

    def _check_images(self, images_uint8: Tensor) -> None:
        shape = (3, self.size, self.size)
        is_shape = images_uint8.ndim == 4 and tuple(images_uint8.shape[1:]) == shape
        if not is_shape or images_uint8.dtype != torch.uint8:
            raise DataError(
                f"The target takes uint8 images of shape {shape} and was given "
                f"{images_uint8.dtype} {tuple(images_uint8.shape[1:])}: set data.size={self.size}."
            )

    def _charge(
        self, image_digests: set[bytes], account: str, purpose: Purpose, repeat: int
    ) -> None:
        """Charge the run's own budget with images that it has not sent yet.

        Raises:
            BudgetExceeded: they do not fit; none is charged.
        """
        if purpose == "attack":
            setting, cap = "budget.images", self.budget.images
        else:
            setting, cap = "budget.evaluation", self.budget.evaluation
        got = self._got[purpose].setdefault((account, repeat), set())
        left = cap - self.spent(purpose)
        if len(image_digests - got) > left:
            raise BudgetExceeded(
                f"{len(image_digests - got)} more images do not fit into {setting}={cap}, of which "
                f"{left} are left: raise {setting}."
            )
        got |= image_digests

    def _source(self, account: str, repeat: int) -> tuple[Source, Bank]:
        """Return the source of an account's answers, and the bank of one of its repeats."""
        target = self._target
        parts = {
            "target": target.fingerprint,
            "defense": target.defense_fingerprint,
            "account": account,
            "codec": target.codec,
        }
        # repeats are rows of one source, and banks of their own: a bank has one answer an image
        name = key(**parts, repeat=repeat)
        if name not in self._sources:
            source = self._ledger.source(**parts, size=target.size)
            self._sources[name] = source, Bank(self._banks / name, self._ledger.identity)
        return self._sources[name]

    def _collect(
        self,
        source: Source,
        missing: list[bytes],
        bought: list[bytes],
        bought_MD: Tensor,
        repeat: int,
    ) -> Tensor:
        """Return answers (M, D), float32, just bought or, of other processes, from the ledger."""
        if bought == missing:
            return bought_MD.float()
        row_of = {digest: row for row, digest in enumerate(bought)}
        others = [digest for digest in missing if digest not in row_of]
        parts = [bought_MD.float()] if bought else []
        if others:
            row_of.update(zip(others, count(len(bought)), strict=False))
            parts.append(self._ledger.read(source, others, repeat).float())
        return torch.cat(parts)[[row_of[digest] for digest in missing]]


def _merge(
    image_digests: list[bytes],
    banked: Tensor,
    is_banked: NDArray[np.bool_],
    missing: list[bytes],
    answers_MD: Tensor,
) -> Tensor:
    """Return all answers (B, D) in the order of the images, of which some may be equal."""
    if len(missing) == len(image_digests):  # none is banked, and no two are equal
        return answers_MD
    row_of = {digest: row for row, digest in enumerate(missing)}
    rows = [row_of[digest] for digest in image_digests if digest in row_of]
    answers_BD = answers_MD.new_empty(len(image_digests), answers_MD.shape[1])
    if is_banked.any():
        answers_BD[torch.from_numpy(is_banked)] = banked
    answers_BD[torch.from_numpy(~is_banked)] = answers_MD[rows]
    return answers_BD


def _check_name(target: Target, ledger: Ledger) -> None:
    """Refuse to buy again what was bought under a former name, which other targets shared.

    Raises:
        LedgerError: the ledger knows the former name and not the present one.
    """
    if not isinstance(target, RenamedTarget) or target.former == target.fingerprint:
        return
    if ledger.was_asked(target.former) and not ledger.was_asked(target.fingerprint):
        raise LedgerError(
            f"The ledger holds answers under {target.former}, a name that this target had in "
            "earlier versions, in any image format and template: if they were bought by just "
            "these settings, keep them by python -m stealing.queries rename "
            f"{target.former} {target.fingerprint}; else set another target.remote.version."
        )
