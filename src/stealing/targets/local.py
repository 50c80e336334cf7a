"""A frozen encoder in this process, answering as a service would: uint8 images in, defended features out.

Shape letters: B images, D feature width.
"""

import torch
from torch import Tensor

from stealing.artefacts import key
from stealing.defenses.chain import VERSION, Asked, Chain
from stealing.encoders import Encoder
from stealing.errors import Refused
from stealing.evaluation.features import BLOCK, encode
from stealing.queries.bank import Bank
from stealing.queries.digests import digests
from stealing.queries.pace import Pace


def fingerprint(defense: Chain, settings: dict[str, object]) -> str:
    """Of a chain with these settings, in their order: answers under two of them are never mixed."""
    if not settings:
        return key(defense=[])
    private = {"private": defense.private} if defense.private else {}
    return key(defense=list(settings.items()), version=VERSION, **private)


class LocalTarget:
    """Answers with the encoder's features after the defenses.

    The encoder stays outside every Lightning module, in eval mode: training beside it cannot move its BatchNorm. An
    account that is told to wait does so on a clock of the target's own, which costs nobody time.

    Args:
        encoder: frozen here.
        defense: applied to every answer.
        defense_fingerprint: hash of the defense's settings.
        size: height and width that the encoder was made for.
        features: where undefended features are kept, so that another defense need not compute them again; or None.
    """

    codec, pace, is_known = "", Pace(), True
    version: str | None = None
    images_a_request, in_flight = BLOCK, 1
    deadline = 3600.0  # that another process waits for this one: it may be slow, and whether it lives can be told

    def __init__(
        self, encoder: Encoder, defense: Chain, defense_fingerprint: str, size: int, features: Bank | None = None
    ) -> None:
        self._encoder = encoder.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._defense, self._features, self.size, self._now = defense, features, size, 0.0
        self.fingerprint, self.defense_fingerprint = encoder.fingerprint, defense_fingerprint
        self.remembers = defense.remembers

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        """Features (B, D), float32, of uint8 images (B, 3, H, W); asking again costs nothing, so no key is needed.

        They are undefended where the defense remembers: `settle` has the last word then.
        """
        names = digests(images_uint8)
        if self._features is None:
            features_BD = encode(self._encoder, images_uint8)
        else:
            if not self._features.has(names).all():
                self._features.add(names, encode(self._encoder, images_uint8))
            features_BD = self._features.read(names)
        return features_BD if self.remembers else self._defense.answer(features_BD, Asked(account, names, images_uint8))

    def settle(
        self, features_BD: Tensor, images_uint8: Tensor, account: str, memory: bytes | None
    ) -> tuple[Tensor, bytes]:
        """See `stealing.queries.buying.Settling`."""
        while True:
            try:
                asked = Asked(account, digests(images_uint8), images_uint8, self._now)
                return self._defense.settle(features_BD, asked, memory)
            except Refused as refused:
                if refused.retry_after is None:
                    raise
                self._now += refused.retry_after
