"""Requests and the images in them: single statements about the tables `requests` and `queries`.

Each is a part of a transaction that `stealing.queries.ledger` makes. A request is *open* while its
row holds images: it is neither answered, nor taken back, nor given up.
"""

import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stealing.errors import LedgerError
from stealing.queries.database import Execute
from stealing.queries.digests import digests
from stealing.queries.schema import Purpose, Source, Terms, marks

OPEN = "images IS NOT NULL"
"""SQL condition of an open request."""


def find_unreserved(
    execute: Execute, source: Source, digests: Sequence[bytes], repeat: int
) -> list[int]:
    """Return the places of images that are neither answered nor reserved."""
    # 'failed' was given up, and its images may be sent anew
    rows = execute(
        "SELECT digest FROM queries WHERE source = ? AND repeat = ? AND state <> 'failed' "
        f"AND digest IN ({marks(digests)})",
        (source.id, repeat, *digests),
    )
    counted = {digest for (digest,) in rows}
    return [place for place, digest in enumerate(digests) if digest not in counted]


def write_request(
    execute: Execute, source: Source, images: Tensor, owner: str, until: float
) -> tuple[int, str]:
    """Write an open request with a lease; return its number and its new idempotency key."""
    idempotency = uuid.uuid4().hex
    # with the pixels, any process can send the request again after a crash; there may be none
    pixels = images.numpy().tobytes()
    [(request,)] = execute(
        "INSERT INTO requests (source, idempotency, owner, lease, images) "
        "VALUES (?, ?, ?, ?, ?) RETURNING id",
        (source.id, idempotency, owner, until, pixels),
    )
    return int(request), idempotency


def write_reserved(
    execute: Execute, source: Source, digests: Sequence[bytes], request: int, terms: Terms
) -> Counter[Purpose]:
    """Write a row for each image; return how many images are charged, by purpose.

    An image that was given up before is charged once more, for the purpose that its row names: the
    counts of the rows add up to the totals.
    """
    rest = (terms.repeat, terms.view, terms.purpose, "reserved", request, 1, terms.price)
    row = f"({marks((source.id, digests[0], *rest))})"
    values = list[object]()
    for digest in digests:
        values += [source.id, digest, *rest]
    rows = execute(
        "INSERT INTO queries "
        "(source, digest, repeat, view, purpose, state, request, charged, cost) "
        f"VALUES {', '.join([row] * len(digests))} "
        "ON CONFLICT (source, digest, repeat) DO UPDATE SET state = 'reserved', "
        "request = excluded.request, charged = queries.charged + 1, "
        "cost = queries.cost + excluded.cost RETURNING purpose",
        values,
    )
    return Counter(purpose for (purpose,) in rows)


def read_lease(execute: Execute, request: int) -> tuple[str, float] | None:
    """Return owner and end of the lease of an open request; None if it is closed."""
    rows = execute(f"SELECT owner, lease FROM requests WHERE id = ? AND {OPEN}", (request,))
    return rows[0] if rows else None


def take_over(
    execute: Execute,
    source: Source,
    request: int,
    former: tuple[str, float],
    owner: str,
    until: float,
) -> tuple[str, list[bytes], Tensor] | None:
    """Give an open request another owner.

    Args:
        execute: of a transaction.
        source: of its answers.
        request: its number.
        former: owner and end of the lease as they were read. They are part of the condition, so
            that only one of two processes that want the request gets it.
        owner: the new owner.
        until: end of the new lease.

    Returns:
        Idempotency key, digests and images; no images of a request that cannot be sent again. None
        if another process was faster.

    Raises:
        LedgerError: the images are not those of the digests; nothing is taken over.
    """
    rows = execute(
        "UPDATE requests SET owner = ?, lease = ? WHERE id = ? AND owner = ? AND lease = ? "
        f"AND {OPEN} RETURNING idempotency, images",
        (owner, until, request, *former),
    )
    if not rows:
        return None
    [(idempotency, pixels)] = rows
    known = execute("SELECT digest FROM queries WHERE request = ?", (request,))
    names = [digest for (digest,) in known]
    if not pixels:
        return idempotency, names, torch.empty(0, 3, source.size, source.size, dtype=torch.uint8)
    # The digests are computed from the pixels, because the rows are not in the order of the images:
    # an image that was given up before has an older row than its neighbours.
    images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
    images = images.view(-1, 3, source.size, source.size)
    in_order = digests(images)
    if set(in_order) != set(names):
        raise LedgerError(
            f"The images of request {request} are damaged: restore the ledger from a copy."
        )
    return idempotency, in_order, images


def extend_leases(execute: Execute, requests: Sequence[int], owner: str, until: float) -> None:
    """Move the ends of leases to `until`, of those requests that still belong to the owner."""
    # `lease < ?`: a lease of a request that waits for its turn may end later already
    execute(
        "UPDATE requests SET lease = ? "
        f"WHERE id IN ({marks(requests)}) AND owner = ? AND lease < ?",
        (until, *requests, owner, until),
    )


def end_lease(execute: Execute, request: int, owner: str) -> None:
    """End the lease of a request now, if it still belongs to the owner."""
    # the owner is part of the condition: a request that was adopted keeps its new lease
    execute("UPDATE requests SET lease = 0 WHERE id = ? AND owner = ?", (request, owner))


def close_request(execute: Execute, request: int, owner: str) -> bool:
    """Close a request; return False if another process adopted it meanwhile, or if it is closed."""
    # the row stays, because the rows of its images name it
    rows = execute(
        f"UPDATE requests SET images = NULL WHERE id = ? AND owner = ? AND {OPEN} RETURNING id",
        (request, owner),
    )
    return bool(rows)


def take_back(execute: Execute, request: int) -> Counter[Purpose]:
    """Undo what `write_reserved` charged for a request; return how many images, by purpose.

    An image that was given up before stays charged for that time, with its share of the cost.
    """
    rows = execute(
        "UPDATE queries SET state = 'failed', cost = cost - cost / charged, charged = charged - 1 "
        "WHERE request = ? RETURNING purpose",
        (request,),
    )
    execute("DELETE FROM queries WHERE request = ? AND charged = 0", (request,))
    return Counter(purpose for (purpose,) in rows)


def give_up(execute: Execute, request: int) -> None:
    """Leave the images of a request charged, and free to be sent anew."""
    execute("UPDATE queries SET state = 'failed' WHERE request = ?", (request,))


def count_settled(read: Execute) -> int:
    """Return how many images are answered or given up; this number never falls."""
    # only the row of an image that is reserved for the first time may be deleted again
    [(count,)] = read(
        "SELECT (SELECT count(*) FROM queries) - (SELECT count(*) FROM requests "
        "JOIN queries ON queries.request = requests.id "
        f"WHERE requests.{OPEN} AND queries.charged = 1)"
    )
    return int(count)


def count_reserved(execute: Execute, target: str, purpose: Purpose) -> list[tuple[Any, ...]]:
    """Return owner, end of the lease and number of images of open requests, by owner and lease."""
    return execute(
        "SELECT requests.owner, requests.lease, count(*) FROM queries "
        "JOIN requests ON requests.id = queries.request "
        "JOIN sources ON sources.id = queries.source "
        "WHERE sources.target = ? AND queries.purpose = ? AND queries.state = 'reserved' "
        "GROUP BY requests.owner, requests.lease",
        (target, purpose),
    )
