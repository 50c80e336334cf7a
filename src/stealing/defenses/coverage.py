"""Coverage of the feature space: features in, the share that an account has seen out.

Shape letters: B images, D feature width, T tables, P planes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stealing.defenses.keyed import Secret


class Coverage:
    """Buckets of locality-sensitive hashing that each account has seen.

    Random hyperplanes through the origin cut the space into 2^P buckets, in each of T tables.

    Args:
        planes: P; 2^8 buckets fill too soon and 2^14 never do (B4B, appendix F.6).
        tables: T; an average over several tables depends less on chance.
        secret: of the planes. An attacker who knows the planes can stay in few buckets.

    Source: B4B (arXiv:2310.08571), section 3; 12 planes, and 20 tables in its code at 6e29f88.
    """

    def __init__(self, planes: int, tables: int, secret: Secret) -> None:
        self.planes = planes
        self.tables = tables
        self._secret = secret
        self._normals: dict[int, Tensor] = {}  # of the planes, by feature width
        self._seen: dict[str, NDArray[np.bool_]] = {}  # (T, 2^P) by account

    def after(self, account: str, features_BD: Tensor) -> NDArray[np.float64]:
        """Add images to what the account has seen.

        Returns:
            Its coverage after each image, the share of occupied buckets, float64 (B,) in [0, 1].
        """
        if account not in self._seen:
            self._seen[account] = np.zeros((self.tables, 2**self.planes), np.bool_)
        seen = self._seen[account].ravel()
        # places in the flattened tables, so that one index covers all of them
        starts_T = np.arange(self.tables) * 2**self.planes
        places_BT = self._buckets(features_BD) + starts_T
        # only the first image of this request in a bucket can be the one that discovers it
        _, first = np.unique(places_BT, return_index=True)
        is_new = np.zeros(places_BT.size, np.bool_)
        is_new[first] = ~seen[places_BT.ravel()[first]]
        before = seen.sum()
        seen[places_BT.ravel()] = True  # a view: the account's tables change with it
        new_B = is_new.reshape(places_BT.shape).sum(1)
        counts_B: NDArray[np.int64] = before + new_B.cumsum()
        return counts_B / seen.size

    def load(self, account: str, memory: bytes | None) -> None:
        """Replace what one account has seen; see `stealing.defenses.chain.StatefulDefense`."""
        self._seen.pop(account, None)
        if memory:
            bits = np.unpackbits(np.frombuffer(memory, np.uint8))
            shape = (self.tables, 2**self.planes)
            self._seen[account] = bits.astype(np.bool_).reshape(shape)

    def dump(self, account: str) -> bytes:
        """Return what one account has seen, one bit a bucket; empty if it never asked."""
        if account not in self._seen:
            return b""
        return np.packbits(self._seen[account]).tobytes()

    def _buckets(self, features_BD: Tensor) -> NDArray[np.int64]:
        """Return each image's bucket in each table, (B, T): its side of each plane as a bit."""
        width = features_BD.shape[1]
        if width not in self._normals:
            draws = self._secret.generator("planes", width)
            normals = draws.standard_normal((width, self.tables * self.planes))
            self._normals[width] = torch.from_numpy(normals)
        sides = features_BD.double() @ self._normals[width] > 0
        sides_BTP = sides.view(-1, self.tables, self.planes)
        powers_P = 2 ** torch.arange(self.planes)
        buckets_BT = (sides_BTP * powers_P).sum(2)
        numbers: NDArray[np.int64] = buckets_BT.numpy()
        return numbers
