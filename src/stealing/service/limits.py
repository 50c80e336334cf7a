"""What clients may ask of the service at most, and the memory that all of them share."""

from collections import Counter
from dataclasses import dataclass, fields

from stealing.errors import ConfigError
from stealing.service.errors import ApiError
from stealing.targets.strict_json import JsonLimits

SHARE = 4
"""Accounts that fill the service's room between them, each with its full share."""


@dataclass(frozen=True)
class Limits:
    """Limits of requests and connections.

    Attributes:
        images: most images in a request.
        bytes: most bytes in the body of a request.
        bytes_in_all: most bytes in the bodies of all requests at a time; and, apart from those, in
            all answers that clients are slow to read.
        head: most bytes in the head of a request; each of its fields counts 32 more.
        connections: most connections at a time; a few more serve only health checks.
        connections_per_address: most connections of one IPv4 address or IPv6 network of 64 bits.
        patience: seconds for a head, for a body, and for the client to read an answer.
        parsers: threads that read and write bodies.

    Raises:
        ConfigError: a limit is not above 0.
    """

    images: int
    bytes: int
    bytes_in_all: int
    head: int
    connections: int
    connections_per_address: int
    patience: float
    parsers: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise ConfigError(
                    f"limits.{field.name}={value} is not above 0: set a number that is."
                )

    @property
    def bytes_per_account(self) -> int:
        """Most bytes in the bodies of one account's requests at a time: a quarter of all.

        It is at least one body: otherwise no request of the largest allowed size gets an answer.
        """
        return max(self.bytes, self.bytes_in_all // SHARE)

    def embeddings_json(self) -> JsonLimits:
        """Return what the body of `/v1/embeddings` may hold."""
        # 100 leaves room for the other fields of the request
        return JsonLimits(depth=4, containers=100, values=self.images + 100)

    def tensor_json(self, size: int) -> JsonLimits:
        """Return what a request of the Open Inference Protocol may hold.

        Args:
            size: height and width of an image, whose pixels may stand in the JSON, nested or flat.
        """
        # the lists of an image nested as (3, size, size), with a few for the tensor around it
        rows = self.images * (3 * size + 4)
        values = rows * size
        return JsonLimits(depth=16, containers=rows + 1000, values=values + 1000, text=2**16)


class Room:
    """Counts the bytes of all bodies that the service holds, by account.

    Args:
        limits: most bytes in all, and of one account.
    """

    def __init__(self, limits: Limits) -> None:
        self._most = limits.bytes_in_all
        self._most_per_account = limits.bytes_per_account
        self._taken = Counter[str]()

    def take(self, account: str, count: int) -> None:
        """Reserve a number of bytes for an account.

        Raises:
            ApiError: there is no room, or the account has its share already.
        """
        if self._taken.total() + count > self._most:
            raise ApiError(
                503, "The service holds as many bytes of requests as it can: ask again later.", 1.0
            )
        # otherwise one account could fill the room of all others with bodies that it never ends
        if self._taken[account] + count > self._most_per_account:
            raise ApiError(
                429,
                f"This account has {self._taken[account]} bytes of requests here, and its share "
                f"is {self._most_per_account}: wait for their answers first.",
                1.0,
            )
        self._taken[account] += count

    def give(self, account: str, count: int) -> None:
        """Return reserved bytes of an account."""
        self._taken[account] -= count
        if self._taken[account] == 0:  # accounts that ask no more are forgotten
            del self._taken[account]
