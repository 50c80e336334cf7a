"""A frozen encoder in this process, answering as a service would: uint8 images in, defended features out."""

import torch
from torch import Tensor

from stealing.defenses.chain import Asked, Chain
from stealing.encoders import Encoder
from stealing.evaluation.features import BLOCK, encode
from stealing.queries.digests import digests
from stealing.queries.pace import Pace


class LocalTarget:
    """Answers with the encoder's features after the defenses.

    The encoder stays outside every Lightning module, in eval mode: training beside it cannot move its BatchNorm.

    Args:
        encoder: frozen here.
        defense: applied to every answer.
        defense_fingerprint: hash of the defense's settings.
        size: height and width that the encoder was made for.
    """

    codec, pace, is_known = "", Pace(), True
    version: str | None = None
    images_a_request, in_flight = BLOCK, 1
    deadline = 3600.0  # that another process waits for this one: it may be slow, and whether it lives can be told

    def __init__(self, encoder: Encoder, defense: Chain, defense_fingerprint: str, size: int) -> None:
        self._encoder = encoder.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._defense, self.size = defense, size
        self.fingerprint, self.defense_fingerprint = encoder.fingerprint, defense_fingerprint

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        """Features (B, D), float32, of uint8 images (B, 3, H, W); asking again costs nothing, so no key is needed."""
        asked = Asked(account, digests(images_uint8), images_uint8)
        return self._defense.answer(encode(self._encoder, images_uint8), asked)
