"""Recorded answers as a target: images in, the stored features out; an attack runs offline."""

from pathlib import Path

from torch import Tensor

from stealing.artefacts import key
from stealing.errors import ConfigError, TargetError
from stealing.queries.digests import digests
from stealing.queries.import_answers import ACCOUNT, source_name
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.waiting import NotServed


class Recording:
    """A target that answers from what `python -m stealing.queries import` put into a ledger.

    All accounts get the same answers. Queries are counted as those to a service.

    Args:
        ledger: file or URL of the ledger.
        name: of the recording.
        size: height and width of its images.

    Raises:
        ConfigError: there is no such recording.
    """

    codec = ""
    pace = Pace()
    defense_fingerprint = "recorded"
    is_known = True
    version: str | None = None
    images_a_request = 500
    in_flight = 1
    deadline = 60.0

    def __init__(self, ledger: str, name: str, size: int) -> None:
        absent = ConfigError(
            f"{ledger} holds no recording {name}: make it by python -m stealing.queries import."
        )
        if "://" not in ledger and not Path(ledger).exists():
            raise absent  # opening it would make an empty ledger
        self._ledger = Ledger(ledger)
        self.size = size
        self.fingerprint = key(recording=name)
        source = source_name(name)
        if not self._ledger.was_asked(source):
            raise absent
        self._source = self._ledger.source(source, "recorded", ACCOUNT, "", size)

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        """Return features (B, D) of uint8 images (B, 3, size, size); see `answer_digested`."""
        return self.answer_digested(images_uint8, digests(images_uint8), account)

    def answer_digested(self, images_uint8: Tensor, digests: list[bytes], account: str) -> Tensor:
        """Return the features (B, D) that are recorded under these digests.

        Raises:
            NotServed: with a TargetError as its cause, if some image is not in the recording.
        """
        absent = len(digests) - len(self._ledger.states(self._source, digests, 0))
        if absent:
            raise NotServed from TargetError(
                f"{absent} of {len(digests)} images are not in the recording: choose data= with "
                "recorded images only, and until=steal, which measures no task."
            )
        return self._ledger.read(self._source, digests, 0)
