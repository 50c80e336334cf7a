"""Errors that a user can correct, and one for bugs; each message is one sentence with advice."""

import errno
from typing import Self

from stealing.text import printable


class StealingError(Exception):
    """Base class of this project's errors; a command prints the message and exits with code 1."""

    def __str__(self) -> str:
        """Return the message with control characters escaped: it may quote a service or a file."""
        return printable(super().__str__())


class ConfigError(StealingError):
    """Settings that are wrong or contradict each other, found before anything is opened."""


class DataError(StealingError):
    """Images or labels that are absent, corrupt or of a wrong form."""


class CheckpointError(StealingError):
    """Weights or a checkpoint that are absent, of another program, or broken."""


class DamageError(StealingError):
    """A file of this project that changed after it was written."""


class ClaimError(StealingError):
    """An artefact that another live process is making now."""


class BudgetExceeded(StealingError):
    """More images than the budget allows; raised before any of them is sent."""


class LedgerError(StealingError):
    """A ledger that cannot be opened, read or written."""


class TargetError(StealingError):
    """A target that does not answer, or gives invalid answers."""


class TrainingError(StealingError):
    """Training that cannot continue, for example because the loss is not a number."""


class ProcessError(StealingError):
    """Another process of the same run that ended, or that has other settings."""


_PLACE = "name another place by paths.work= or STEALING_WORK"
_RERUN = "and run the same command again, which resumes"

REMEDIES = {
    errno.EACCES: f"change its permissions, or {_PLACE}",
    errno.EPERM: f"change its permissions, or {_PLACE}",
    errno.EROFS: f"nothing can be written there: {_PLACE}",
    errno.ENOSPC: f"make room, {_RERUN}",
    errno.EDQUOT: f"make room in your quota, {_RERUN}",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EIO: f"check the disk, {_RERUN}",
    errno.ESTALE: f"mount the file system again, {_RERUN}",
    errno.ENOLCK: f"choose a file system with locks: {_PLACE}",
    errno.ENOSYS: f"choose a file system with locks: {_PLACE}",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system has no file handles left",
    errno.ENOENT: "put it there, or name another place",
    errno.EEXIST: "move it away",
    errno.ENOTDIR: "a file is at the place of a folder: move it away, or name another place",
    errno.EISDIR: "a folder is at the place of a file: move it away, or name another place",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOMEM: f"free memory, {_RERUN}",
}
"""Advice for each error number of the operating system that a user can correct."""


class StorageError(StealingError):
    """An error of the disk, of a lock or of permissions."""

    @classmethod
    def of(cls, error: OSError) -> Self | None:
        """Return the error with advice; None if it is not of a disk, a lock or a permission."""
        if error.errno not in REMEDIES:
            return None
        # An error of a rename has two names; the second one is the place that was written to.
        place = error.filename2 or error.filename
        prefix = "" if place is None else f"{place}: "
        reason = error.strerror or type(error).__name__
        return cls(f"{prefix}{reason}: {REMEDIES[error.errno]}.")


class UnexpectedError(StealingError):
    """A bug of this project or of a user's own class; a log file holds the traceback."""


class Refused(StealingError):
    """A query that a defense does not answer.

    Args:
        message: one sentence.
        retry_after: seconds until the account may ask again, or None for never.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
