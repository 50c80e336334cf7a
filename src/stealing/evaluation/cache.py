"""The cache of features and predictions: arrays in, one file with their checksum out.

A damaged file counts as absent. Processes that share the cache do not compute one file twice.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from stealing.artefacts import wait_for, write_atomically
from stealing.text import printable

Arrays = dict[str, NDArray[Any]]


def compute_once(
    paths: Sequence[Path],
    compute: Callable[[list[Path]], Iterable[tuple[Path, Arrays]]],
    at_once: int = 1,
) -> dict[Path, Arrays]:
    """Return the arrays of files; compute and store those that are absent.

    A process claims what it computes. Meanwhile others compute what is not claimed, and wait only
    if nothing else is left. A claim ends with its process: what one that was killed left is
    computed by the next.

    Args:
        paths: of the files.
        compute: for some of these files, gives each with its arrays; each is stored as it comes.
        at_once: number of files that `compute` is asked for at most.
    """
    loaded: dict[Path, Arrays] = {}
    missing = _load(paths, loaded)
    while missing:
        with claim_some(missing, at_once) as claimed:
            # Another process may have stored some of them before its claim ended.
            absent = _load(claimed, loaded)
            for path, arrays in compute(absent) if absent else ():
                store_arrays(path, arrays)
                loaded[path] = arrays
        missing = [path for path in missing if path not in loaded]
    return loaded


def _load(paths: Sequence[Path], loaded: dict[Path, Arrays]) -> list[Path]:
    """Add the arrays of the files that are there, and return the other paths."""
    absent = []
    for path in paths:
        arrays = load_arrays(path)
        if arrays is None:
            absent.append(path)
        else:
            loaded[path] = arrays
    return absent


def store_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, with a checksum of their names, types, shapes and numbers."""
    write_atomically(path, save(dict(arrays), {"checksum": _checksum(arrays)}))


def load_arrays(path: Path) -> Arrays | None:
    """Return the arrays of a file by name, or None if the file is absent or damaged.

    A damaged file is removed, with one line on the standard error. A file of an earlier version has
    no checksum and is read as it is.
    """
    if not path.exists():
        return None
    arrays: Arrays = {}
    try:
        with safe_open(path, "np") as file:
            checksum = (file.metadata() or {}).get("checksum")
            for name in file.keys():  # noqa: SIM118 (the file object is not a mapping)
                arrays[name] = file.get_tensor(name)
        is_whole = checksum is None or checksum == _checksum(arrays)
    except SafetensorError:
        is_whole = False
    if is_whole:
        return arrays
    sentence = printable(f"{path} is not as it was written (checksum): it is computed again.")
    print(sentence, file=sys.stderr, flush=True)
    path.unlink(missing_ok=True)  # another process may have removed it
    return None


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@contextmanager
def claim_some(paths: Sequence[Path], most: int) -> Iterator[list[Path]]:
    """Lock files while they are made: those that no other live process is making.

    If others are making all of them, wait for the first. This process holds no claim while it
    waits, so two processes never wait for each other.

    Args:
        paths: of the files, one or more. Each lock is a file beside it, which stays.
        most: number of files to lock at most.

    Yields:
        The files that are locked now, in their order: at least one. Another process may have made
        them before.
    """
    with ExitStack() as claims:
        claimed: list[Path] = []
        for path in paths:
            if len(claimed) == most:
                break
            with suppress(Timeout):
                claims.enter_context(_lock_of(path).acquire(blocking=False))
                claimed.append(path)
        if not claimed:
            claims.enter_context(wait_for(_lock_of(paths[0]), paths[0]))
            claimed.append(paths[0])
        yield claimed


def _lock_of(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))
