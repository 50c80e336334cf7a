"""A frozen encoder in this process: uint8 images in, defended features out, as from a service.

Shape letters: B images, D feature width.
"""

import torch
from torch import Tensor

from stealing.artefacts import key
from stealing.defenses.chain import VERSION, Chain, QueryBatch
from stealing.encoders import Encoder
from stealing.errors import Refused, TargetError
from stealing.evaluation.features import block_size, encode
from stealing.queries.bank import PAGE, WORTH_A_SHARD, Bank
from stealing.queries.digests import digests
from stealing.queries.pace import Pace
from stealing.queries.waiting import NotServed

REQUEST_BYTES = 2**22
"""Most bytes of pixels in a request, if that is more than a block."""

MOST_BLOCKS = 4
"""Most blocks of the encoder in a request: a statement of the ledger has only so many parameters,
and a process that dies loses the work of one request."""


def fingerprint(defense: Chain, settings: dict[str, object]) -> str:
    """Return the hash of a chain of defenses; answers under two fingerprints are never mixed.

    Args:
        defense: the chain.
        settings: of its defenses by their names, in their order.
    """
    if not settings:
        return key(defense=[])
    private = {"private": defense.private} if defense.private else {}
    return key(defense=list(settings.items()), version=VERSION, **private)


class LocalTarget:
    """A target whose answers are the encoder's features after the defenses.

    The encoder stays outside every Lightning module, in eval mode: training beside it cannot move
    its BatchNorm statistics. A defense that makes an account wait moves a clock of the target's
    own, so that no time passes.

    Args:
        encoder: frozen here.
        defense: applied to every answer.
        defense_fingerprint: hash of the defense's settings.
        size: height and width that the encoder was made for.
        features: stores undefended features, so that another defense need not compute them again;
            None to compute all. A target without a defense only reads it: its features are stored
            as answers.
    """

    codec = ""
    pace = Pace()
    is_known = True
    version: str | None = None
    in_flight = 1
    # seconds that another process waits for this one: a slow one is not given up, and a dead one is
    # noticed by other means
    deadline = 3600.0

    def __init__(
        self,
        encoder: Encoder,
        defense: Chain,
        defense_fingerprint: str,
        size: int,
        features: Bank | None = None,
    ) -> None:
        encoder.eval().requires_grad_(False)
        self._encoder = encoder.to(memory_format=torch.channels_last)
        self._defense = defense
        self._features = features
        # computed and not yet in the bank: features (D,) by digest
        self._unwritten = dict[bytes, Tensor]()
        self._now = 0.0
        self.size = size
        self.fingerprint = encoder.fingerprint
        self.defense_fingerprint = defense_fingerprint
        self.remembers = defense.remembers
        self.images_a_request = _images_a_request(size, defense)

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        """Return features (B, D), float32, of uint8 images (B, 3, H, W).

        They are undefended if the defense is stateful; `settle` applies it then.

        Args:
            images_uint8: what is sent.
            account: who asks.
            idempotency: ignored; a second answer costs nothing here.

        Raises:
            NotServed: with a TargetError as its cause, if a feature is not finite.
        """
        return self.answer_digested(images_uint8, digests(images_uint8), account)

    def answer_digested(self, images_uint8: Tensor, digests: list[bytes], account: str) -> Tensor:
        """Return what `answer` returns, of images whose digests are made."""
        features_BD = self._undefended(images_uint8, digests)
        if not self.remembers:
            batch = QueryBatch(account, digests, images_uint8)
            features_BD = self._defense.answer(features_BD, batch)
        _check_finite(features_BD)
        return features_BD

    def _undefended(self, images_uint8: Tensor, names: list[bytes]) -> Tensor:
        """Return the encoder's features (B, D), from the bank if it has them."""
        if self._features is None:
            return self._encoded(images_uint8)
        stored, is_stored = self._features.find(names)
        if is_stored.all():
            return stored
        # a copy: what `encode` returns cannot be written to
        features_BD = self._encoded(images_uint8).clone()
        if self._defense.defenses:
            # another one, because a defense may change its input
            self._unwritten.update(zip(names, features_BD.clone(), strict=True))
            if len(self._unwritten) >= PAGE:
                self.flush()
        if is_stored.any():
            # an image keeps its stored features, even if the last bits differ on this processor
            features_BD[torch.from_numpy(is_stored)] = stored
        return features_BD

    def _encoded(self, images_uint8: Tensor) -> Tensor:
        features_BD = encode(self._encoder, images_uint8)
        # before the bank stores them, and before a defense hides what they are
        _check_finite(features_BD)
        return features_BD

    def flush(self) -> None:
        """See `stealing.queries.target.CachingTarget`.

        One shard is written, not one a request. Fewer features than are worth a shard wait for the
        next ones; if the process ends before, they are computed again.
        """
        if self._features is None or len(self._unwritten) < WORTH_A_SHARD:
            return
        computed = self._unwritten
        # A second Ctrl-C leaves a request that is still being computed: it gets a new dictionary.
        self._unwritten = {}
        names, features = zip(*computed.items(), strict=True)
        self._features.add(names, torch.stack(features))

    def settle(
        self,
        features_BD: Tensor,
        images_uint8: Tensor,
        digests: list[bytes],
        account: str,
        memory: bytes | None,
    ) -> tuple[Tensor, bytes]:
        """See `stealing.queries.target.StatefulTarget`."""
        while True:
            try:
                batch = QueryBatch(account, digests, images_uint8, self._now)
                answer_BD, memory_after = self._defense.settle(features_BD, batch, memory)
                _check_finite(answer_BD)
                return answer_BD, memory_after
            except Refused as refused:
                if refused.retry_after is None:
                    raise
                self._now += refused.retry_after


def _images_a_request(size: int, defense: Chain) -> int:
    """Return how many images a request has: some blocks of the encoder.

    Each request is two transactions.
    """
    block = block_size(size, size)
    if defense.remembers:  # a guard judges an account between requests
        return block
    blocks = REQUEST_BYTES // (block * 3 * size * size)
    return block * min(max(blocks, 1), MOST_BLOCKS)


def _check_finite(features_BD: Tensor) -> None:
    """Refuse features that are not finite, as a service's are refused.

    Raises:
        NotServed: some feature is not finite; a TargetError is its cause.
    """
    finite_B = features_BD.isfinite().all(1)
    if not finite_B.all():
        raise NotServed from TargetError(
            f"The target gives numbers that are not finite for {int((~finite_B).sum())} of "
            f"{len(features_BD)} images: name another encoder, or another defense."
        )
