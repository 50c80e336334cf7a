"""The bank: answers that were paid for, kept under the digest of the image; nothing is asked twice.

A bank is a folder of shards. A shard appears by one rename and holds both the answers and, by its length, the charge
for them, so that answers are never kept uncounted nor counted unkept.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from stealing.artefacts import write_whole
from stealing.errors import CheckpointError


class Bank:
    """Answers of one target, under one defense, to one account.

    Args:
        folder: its shards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._rows, self._shards = folder, dict[bytes, tuple[int, int]](), list[Tensor]()
        for path in sorted(folder.glob("*.safetensors")):
            try:
                shard = load_file(path)
                digests = [bytes(row) for row in shard["digests"].numpy()]
                self._index(digests, shard["features"])
            except Exception:  # safetensors has no common error for what a damaged file can hold
                raise CheckpointError(
                    f"{path} is damaged: restore it, or delete it to pay for its answers again."
                ) from None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._rows

    def read(self, digests: Sequence[bytes]) -> Tensor:
        """Answers (B, D), float32, in the order asked for; every digest must be in the bank."""
        return torch.stack([self._shards[shard][row] for shard, row in (self._rows[digest] for digest in digests)])

    def store(self, digests: Sequence[bytes], features_BD: Tensor) -> None:
        """Keep these answers: all of them or, after a kill, none."""
        content = {
            "digests": torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(len(digests), -1),
            "features": features_BD.float().contiguous(),
        }
        write_whole(self.folder / f"{len(self._shards):06d}.safetensors", save(content))
        self._index(digests, features_BD.float())

    def _index(self, digests: Sequence[bytes], features_BD: Tensor) -> None:
        self._shards.append(features_BD)
        self._rows.update({digest: (len(self._shards) - 1, row) for row, digest in enumerate(digests)})
