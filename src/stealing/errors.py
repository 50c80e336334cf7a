"""One family of errors, raised by every folder: each message is one sentence that says what to do."""


class StealingError(Exception):
    """Base of every error that a user can mend; the commands print its message alone and exit with 1."""


class ConfigError(StealingError):
    """Choices that contradict each other, found before anything is opened."""


class DataError(StealingError):
    """Images or labels that are absent, corrupt or of the wrong form."""


class CheckpointError(StealingError):
    """Weights or a checkpoint that are absent, foreign or broken."""


class ClaimError(StealingError):
    """An artefact that another live process is making at this moment."""


class BudgetExceeded(StealingError):
    """More images than the budget allows; raised before any of them is sent."""


class LedgerError(StealingError):
    """A ledger that cannot be opened, read or written."""


class TargetError(StealingError):
    """A target that does not answer, or whose answers cannot be trusted."""


class TrainingError(StealingError):
    """A fit that cannot go on, such as a loss that is no longer a number."""


class ProcessError(StealingError):
    """Another process of the same run that is gone, or was given other choices."""


class Refused(StealingError):
    """A defense that declines to answer.

    Args:
        message: one sentence.
        retry_after: seconds until the account may ask again, or None for never.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
