"""End a command that cannot continue: any exception in, one sentence and exit code 1 out.

A user can correct a `StealingError`, whose message says how. Errors of the disk and of Hydra become
one. Everything else is a bug: the sentence names its place and a log with the traceback.
"""

import errno
import os
import secrets
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import (
    GrammarParseError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from stealing.artefacts import WORK
from stealing.config import unwrap
from stealing.errors import (
    ConfigError,
    ProcessError,
    StealingError,
    StorageError,
    TrainingError,
    UnexpectedError,
)
from stealing.settings.overrides import explain_hydra_error

PACKAGE = Path(__file__).parent

UNRESOLVED = (
    GrammarParseError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    UnsupportedInterpolationType,
)
"""Errors of OmegaConf about a value that a user wrote; its other errors are bugs of code."""

LOST_CELL = ("UncompletedJobError", "WorkerCrashedError")
"""Names of submitit's and Ray's errors for a cell whose process is gone."""


@contextmanager
def one_line_errors(config: DictConfig | None = None, command: str = "train") -> Iterator[None]:
    """End a command that cannot continue with one sentence and exit code 1.

    Blocks may be nested. A cell of a sweep raises the error instead, so that the other cells run.

    Args:
        config: of the command, if it has one. The traceback of a bug goes to `logs` in its work
            folder.
        command: name of its configuration, whose settings an error may suggest.
    """
    # Without this variable, Hydra prints its own page about an error and exits.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        yield
    except Exception as error:
        reported = user_error(error, _work_folder(config), command)
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise reported from error
        sys.exit(f"{type(reported).__name__}: {reported}")


def _work_folder(config: DictConfig | None) -> Path:
    """Return the work folder of a configuration, or the default if it has none that can be read."""
    if config is None:
        return WORK
    try:
        return Path(str(config.paths.work))
    except OmegaConfBaseException:  # the service has no paths, and a user's value may not resolve
        return WORK


def user_error(error: Exception, work: Path, command: str = "train") -> StealingError:
    """Return the error to report to the user.

    Args:
        error: any exception.
        work: the work folder, whose `logs` get the traceback of a bug.
        command: as in `one_line_errors`.
    """
    error = unwrap(error)
    if isinstance(error, StealingError):
        return error
    if isinstance(error, HydraException):
        return ConfigError(explain_hydra_error(error, command))
    if isinstance(error, UNRESOLVED):
        explained = _cause(error)
        if explained is not None:
            return explained
        reason = str(error).splitlines()[0].rstrip(".")
        return ConfigError(f"The configuration does not resolve: {reason}.")
    if isinstance(error, yaml.YAMLError):
        reason = " ".join(str(error).split())
        return ConfigError(f"A file of the configuration is not valid YAML: {reason}; correct it.")
    # filelock raises this on a file system without locks.
    if isinstance(error, NotImplementedError) and "flock" in str(error):
        error = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(work))
    if isinstance(error, OSError):
        storage_error = StorageError.of(error)
        if storage_error is not None:
            return storage_error
    if type(error).__name__ in LOST_CELL:
        return ProcessError(
            "The process of a cell was killed, or ran out of time or memory: run the same command "
            "again, which resumes."
        )
    # torch's OutOfMemoryError is known by its name, so that this module does not import torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return TrainingError(
            "There is not enough memory: lower the batch_size of the step, or free some."
        )
    return _bug(error, work)


def _cause(error: BaseException) -> StealingError | None:
    """Return the error of one of our own resolvers, which says itself what to type, or None."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, StealingError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _bug(error: Exception, work: Path) -> UnexpectedError:
    """Write the traceback to a log and return the error that names it."""
    text = "".join(traceback.format_exception(error))
    now = time.strftime("%Y%m%dT%H%M%S")
    # Two processes may fail in the same second.
    path = work / "logs" / f"{now}-{secrets.token_hex(4)}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        log = f"{path} holds the traceback"
    except OSError:
        print(text, file=sys.stderr, flush=True)
        log = "the traceback stands above, as no log can be written"
    file, line = _place_of(error)
    what = f"{type(error).__name__} in {file}, line {line}"
    is_of_project = file.is_relative_to(PACKAGE) or file.name in ("train.py", "eval.py")
    if is_of_project:
        return UnexpectedError(
            f"{what}: this is a bug of stealing, not of your settings; please report it: {log}."
        )
    return UnexpectedError(
        f"{what}: this is a bug of your own code, not of your settings; correct it there: {log}."
    )


def _place_of(error: Exception) -> tuple[Path, int]:
    """Return file and line of the innermost frame outside of Python and of installed libraries."""
    if isinstance(error, SyntaxError) and error.filename:
        return Path(error.filename), error.lineno or 0
    schemes = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = [Path(sysconfig.get_path(name)) for name in schemes]
    here = Path(__file__)
    place = (here, 0)
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        # The package itself may be installed in one of these folders.
        is_installed = any(file.is_relative_to(folder) for folder in installed)
        is_code = file.is_relative_to(PACKAGE) or (file.exists() and not is_installed)
        if is_code and file != here:
            place = (file, line)
    return place
