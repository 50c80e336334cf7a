"""The ledger of a work folder: open it if it is the one that paid for the folder's answers.

If a ledger was deleted, emptied, replaced or set back to an older copy, answers that it lacks would
be paid again. The work folder therefore stores the identity of its ledger, and how many images were
settled in it: answered, or given up. That number never falls. If this record is gone too, runs,
banks and judged encoders still know the identity.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stealing.artefacts import read_object, read_sealed, write_sealed
from stealing.errors import DamageError, LedgerError
from stealing.queries.ledger import Ledger
from stealing.queries.requests import count_settled
from stealing.queries.schema import Reservation, Settle, Source

RECORD = "ledger.json"
"""File of a work folder that holds the identity of its ledger, and how much was settled in it."""

NOTED_EVERY = 5.0
"""Seconds between two updates of the record while answers arrive."""

PAID = ("banks/*/index.json", "runs/*/done.json", "judged/*.json", "surrogates/*/done.json")
"""Files of a work folder that show that answers were bought for it."""


@dataclass(frozen=True)
class Known:
    """What a work folder knows of its ledger.

    Attributes:
        identities: those that it may have; any if there is none. There is at most one, except in a
            folder of an earlier version.
        settled: fewest images that are settled in it.
        is_paid: True if there is no record, and artefacts for which answers were bought.
        damaged: a file that should know the identity and cannot be read, or None.
    """

    identities: set[str]
    settled: int = 0
    is_paid: bool = False
    damaged: Path | None = None


class KnownLedger(Ledger):
    """A ledger whose record in the work folder follows what is settled in it.

    Args:
        place: a file, or the URL of a PostgreSQL server.
        work: folder of the record.
    """

    def __init__(self, place: str, work: Path) -> None:
        super().__init__(place)
        self._record = work / RECORD
        self._noted = time.monotonic()
        self._settled = 0

    def store(
        self,
        source: Source,
        answered: Sequence[tuple[Reservation, Tensor]],
        version: str | None,
        settle: Settle | None = None,
    ) -> dict[int, Tensor]:
        """Write answers; see `Ledger`."""
        stored = super().store(source, answered, version, settle)
        # not after each request: a write to the disk takes as long as storing it
        if time.monotonic() - self._noted > NOTED_EVERY:
            self.note()
        return stored

    def close(self) -> None:
        """Update the record, then close; see `Ledger`."""
        self.note()
        super().close()

    def note(self) -> None:
        """Write identity, place and number of settled images into the record.

        Other processes write it too, perhaps a smaller number. It is a lower limit in any case. So
        a record that cannot be written is no reason to lose an answer.
        """
        self._noted = time.monotonic()
        with suppress(LedgerError, OSError):
            # a ledger that loses rows while it is in use is refused the next time
            self._settled = max(self._settled, count_settled(self.database.read))
            facts = {"identity": self.identity, "place": self.place, "settled": self._settled}
            write_sealed(self._record, facts)


def open_ledger(place: str, work: Path) -> Ledger:
    """Open a ledger, or make the first one of a work folder, and store which one it is.

    Args:
        place: a file, or the URL of a PostgreSQL server.
        work: folder with the runs and banks that it pays for.

    Raises:
        LedgerError: another ledger paid for what is in the folder, this one lacks what was settled
            in it, or it cannot be opened.
    """
    known = check_known(place, work)
    ledger = KnownLedger(place, work)
    try:
        _check(ledger, known, work)
    except LedgerError:
        Ledger.close(ledger)  # it must not become the folder's ledger
        raise
    ledger.note()
    return ledger


def open_known(place: str, work: Path) -> Ledger:
    """Open a ledger to look after it, as `open_ledger` does, and write nothing into the folder."""
    known = _known(work)
    _check_place(place, known, work)
    ledger = Ledger(place)
    try:
        _check(ledger, known, work)
    except LedgerError:
        ledger.close()
        raise
    return ledger


def check_known(place: str, work: Path) -> Known:
    """Return what the folder knows of its ledger; open and make nothing.

    Raises:
        LedgerError: there is no ledger at this place any more, or the only file that says which one
            it was is damaged.
    """
    known = _known(work)
    _check_place(place, known, work)
    if known.damaged is not None and not known.identities:
        raise LedgerError(
            f"{known.damaged} names the ledger that paid for the answers in {work} and is damaged: "
            f"if that ledger is {place}, delete this file."
        )
    return known


def _known(work: Path) -> Known:
    """Read the record or, if there is none, what the artefacts know."""
    path = work / RECORD
    if path.exists():
        try:
            record = read_sealed(path)
            # a record of an earlier version has no number
            return Known({str(record["identity"])}, int(record.get("settled", 0)))
        except (DamageError, KeyError, TypeError, ValueError):
            raise LedgerError(
                f"{path} names the ledger that paid for the answers in {work}, and is damaged: "
                "delete this file if paths.ledger is that ledger."
            ) from None
    identities = set[str]()
    is_paid = False
    damaged: Path | None = None
    for path in _paid_files(work):
        try:
            facts = read_object(path)
        except DamageError:
            damaged = path
            continue
        is_paid |= _is_paid(facts)
        # artefacts of earlier versions know none
        if isinstance(facts.get("ledger"), str):
            identities.add(facts["ledger"])
    return Known(identities, 0, is_paid, damaged)


def _paid_files(work: Path) -> Iterator[Path]:
    for pattern in PAID:
        yield from sorted(work.glob(pattern))


def _is_paid(facts: dict[str, Any]) -> bool:
    """Return True unless this is the `done.json` of a run that only trained its target."""
    return facts.get("until") != "pretrain"


def _check_place(place: str, known: Known, work: Path) -> None:
    if (known.identities or known.is_paid or known.damaged) and _is_empty(place):
        raise _foreign(f"The ledger {place} is absent or empty", work)


def _check(ledger: Ledger, known: Known, work: Path) -> None:
    """Refuse an open ledger that is not the one that the folder knows.

    Raises:
        LedgerError: it is another one, or an older copy, or lost rows.
    """
    if known.identities and ledger.identity not in known.identities:
        raise _foreign(f"The ledger {ledger.place} is another one", work)
    settled = count_settled(ledger.database.read)
    if settled < known.settled:
        raise LedgerError(
            f"The ledger {ledger.place} has {settled} answers and had {known.settled} before: "
            f"restore a newer copy, or delete {work / RECORD} to pay again for what it lacks."
        )
    # without the record nobody knows a number, but none at all is too few
    if known.is_paid and settled == 0:
        raise _foreign(f"The ledger {ledger.place} has no answers", work)


def _is_empty(place: str) -> bool:
    """Return True if a ledger in a file has nothing in it; a server's is seen once it is open."""
    if "://" in place:
        return False
    path = Path(place)
    return not path.exists() or (path.is_file() and path.stat().st_size == 0)


def _foreign(problem: str, work: Path) -> LedgerError:
    return LedgerError(
        f"{problem}, and the answers in {work} were paid through the ledger that was there: "
        "restore it from a copy, or set another STEALING_WORK to pay for all of them anew."
    )
