"""How much of the feature space an account has seen: features in, the share of occupied buckets after each image out.

Shape letters: B images, D feature width, T tables, P planes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealing.defenses.keyed import Secret


class Coverage:
    """Locality-sensitive hashing by random hyperplanes through the origin: 2^P buckets, averaged over T tables.

    Args:
        planes: P; 2^8 buckets fill too soon and 2^14 never do (B4B, appendix F.6).
        tables: T, which makes the figure less a matter of luck.
        secret: of the planes: who knows them can stay in few buckets.

    Source: B4B (arXiv:2310.08571), section 3; 12 planes, and 20 tables in its code at 6e29f88.
    """

    def __init__(self, planes: int, tables: int, secret: Secret) -> None:
        self.planes, self.tables, self._secret = planes, tables, secret
        self._normals: dict[int, Tensor] = {}
        self._seen: dict[str, NDArray[np.bool_]] = {}

    def after(self, account: str, features_BD: Tensor) -> NDArray[np.float64]:
        """The account's coverage in [0, 1] after each of B images, float64 (B,); they are seen from now on."""
        seen = self._seen.setdefault(account, np.zeros((self.tables, 2**self.planes), np.bool_))
        places = self._buckets(features_BD) + np.arange(self.tables) * 2**self.planes
        _, first = np.unique(places, return_index=True)  # the first image of this request in each bucket
        new = np.zeros(places.size, np.bool_)
        new[first] = ~seen.ravel()[places.ravel()[first]]
        before = seen.sum()
        seen.ravel()[places.ravel()] = True
        counts: NDArray[np.int64] = before + new.reshape(places.shape).sum(1).cumsum()
        return counts / seen.size

    def load(self, account: str, memory: bytes | None) -> None:
        """See `stealing.defenses.chain.Remembering`."""
        self._seen.pop(account, None)
        if memory:
            bits = np.unpackbits(np.frombuffer(memory, np.uint8)).astype(np.bool_)
            self._seen[account] = bits.reshape(self.tables, 2**self.planes)

    def dump(self, account: str) -> bytes:
        """See `stealing.defenses.chain.Remembering`; a bit a bucket."""
        return np.packbits(self._seen[account]).tobytes() if account in self._seen else b""

    def _buckets(self, features_BD: Tensor) -> NDArray[np.int64]:
        """Bucket (B, T) of each image in each table: on which side of the planes it lies."""
        width = features_BD.shape[1]
        if width not in self._normals:
            drawn = self._secret.generator("planes", width).standard_normal((width, self.tables * self.planes))
            self._normals[width] = torch.from_numpy(drawn)
        sides = features_BD.double() @ self._normals[width] > 0
        powers = 2 ** torch.arange(self.planes)
        buckets: NDArray[np.int64] = (sides.view(-1, self.tables, self.planes) * powers).sum(2).numpy()
        return buckets
