"""A target that is no more than its recorded answers: an attack runs offline, and is counted as if it were there."""

from torch import Tensor

from stealing.artefacts import key
from stealing.errors import ConfigError, TargetError
from stealing.queries.buying import NotServed
from stealing.queries.digests import digests
from stealing.queries.ledger import Ledger
from stealing.queries.pace import Pace
from stealing.queries.recording import ACCOUNT, source_name


class Recording:
    """Answers from what `python -m stealing.queries import` put into a ledger; whoever asks gets the same.

    Args:
        ledger: where it lies.
        name: of the recording.
        size: height and width of its images.

    Raises:
        ConfigError: there is no such recording.
    """

    codec, pace, defense_fingerprint, is_known = "", Pace(), "recorded", True
    version: str | None = None
    images_a_request, in_flight, deadline = 500, 1, 60.0

    def __init__(self, ledger: str, name: str, size: int) -> None:
        self._ledger, self.size, self.fingerprint = Ledger(ledger), size, key(recording=name)
        if not self._ledger.database.read("SELECT 1 FROM sources WHERE target = ?", (source_name(name),)):
            raise ConfigError(f"{ledger} holds no recording {name}: make it by python -m stealing.queries import.")
        self._source = self._ledger.source(source_name(name), "recorded", ACCOUNT, "", size)

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        """Features (B, D) of uint8 images (B, 3, size, size).

        Raises:
            NotServed: around the reason, if some image was not recorded.
        """
        names = digests(images_uint8)
        absent = len(names) - len(self._ledger.states(self._source, names, 0))
        if absent:
            raise NotServed from TargetError(
                f"{absent} of {len(names)} images are not in the recording: ask about recorded images alone (data=), "
                "and end where no task is measured (until=steal)."
            )
        return self._ledger.read(self._source, names, 0)
