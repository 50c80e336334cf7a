"""A text tower of a CLIP: prompts in, embeddings in the space of its image features out.

Shape letters: P prompts, L tokens of a prompt, D feature width.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stealing.artefacts import key
from stealing.encoders.foreign.tower import Tower
from stealing.errors import CheckpointError, ConfigError
from stealing.reading import first_line

BLOCK = 256
"""Most prompts of a forward pass."""


@dataclass(frozen=True)
class TextTower:
    """A text tower with its tokenizer.

    Attributes:
        tower: maps tokens (P, L) to embeddings (P, D); in eval mode.
        tokenize: returns the tokens of prompts, int64 (P, L).
        vocabulary: number of tokens that the tower knows.
    """

    tower: Tower
    tokenize: Callable[[list[str]], Tensor]
    vocabulary: int

    @property
    def identity(self) -> str:
        """Hash of its weights and of its configuration."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.tower.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        return key(variant=self.tower.variant, weights=digest.hexdigest())

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Return the tokens of prompts, int64 (P, L).

        Raises:
            ConfigError: the tokenizer is of another text tower.
        """
        try:
            tokens = self.tokenize(list(prompts))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The tokenizer does not work ({first_line(error)}).") from None
        if int(tokens.max()) >= self.vocabulary:
            raise ConfigError(
                f"The text tower has {self.vocabulary} tokens and its tokenizer more: it is of "
                "another model, so leave probe=zero_shot out."
            )
        return tokens

    @torch.inference_mode()
    def embed(self, tokens_PL: Tensor) -> Tensor:
        """Return the embeddings (P, D) of tokens.

        Raises:
            CheckpointError: they are not finite.
        """
        embeddings = [self.tower(block) for block in torch.split(tokens_PL, BLOCK)]
        embeddings_PD = torch.cat(embeddings).float()
        if not embeddings_PD.isfinite().all():
            raise CheckpointError(
                "The text tower gives embeddings that are not finite: fetch its weights again."
            )
        return embeddings_PD
