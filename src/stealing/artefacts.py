"""Folders that are made once: keys from inputs, a claim while one process makes them, `done.json` when they are whole.

Comes between config and the steps: a step names its inputs, gets a folder, and finds out whether it is finished.

A key holds what was asked for: settings, seeds, checksums of images and answers, versions of steps,
and classes by their names. It does not hold what a machine adds (threads, device, memory layout,
processor) or the code of the step: `done.json` names these, and `stealing.training.making` compares
them. docs/keys.md has the whole list.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stealing.errors import ClaimError

WORK = Path(os.environ.get("STEALING_WORK", "work"))
"""Where everything that is made lies, as `paths.work` says too."""


def key(**inputs: Any) -> str:
    """Hash of a step's own inputs (JSON values), 16 hexadecimal digits.

    A class or function of this package counts by its name, so that its file may be renamed; anything
    else that a `_target_` names counts by its import path.
    """
    text = json.dumps(_stable(inputs), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _stable(value: Any) -> Any:
    """Return the same value with own classes named without their modules."""
    if isinstance(value, dict):
        return {name: _named(part) if name == "_target_" else _stable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_stable(part) for part in value]
    return value


def _named(target: Any) -> Any:
    is_own = isinstance(target, str) and target.startswith("stealing.")
    return target.rpartition(".")[2] if is_own else target


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary file, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    if hasattr(os, "O_DIRECTORY"):  # a folder can be flushed on POSIX only
        folder = os.open(path.parent, os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)


def read_done(folder: Path) -> dict[str, Any] | None:
    """What the step left in `done.json`, or None while the artefact is not finished."""
    path = folder / "done.json"
    done: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return done


def write_done(folder: Path, **facts: Any) -> dict[str, Any]:
    """Finish an artefact; `facts` (seconds, fingerprints) are kept with it."""
    write_whole(folder / "done.json", json.dumps(facts, indent=1).encode())
    return facts


def held(folder: Path) -> bool:
    """Whether a live process is making this artefact."""
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


@contextmanager
def claim(folder: Path, *, patient: bool = False) -> Iterator[None]:
    """Hold an artefact while making it; the operating system lets go when the process dies.

    Args:
        folder: of the artefact.
        patient: wait for another live process that holds it, such as a run beside this one in a sweep.

    Raises:
        ClaimError: another live process holds it, and we do not wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0.5)  # whoever only looks whether it is held holds it for a moment
    except Timeout:
        if not patient:
            message = f"{folder} is being made by another process: wait for it, or give this run other inputs."
            raise ClaimError(message) from None
        print(f"Waiting for {folder}, which another run is making.", file=sys.stderr, flush=True)
        lock.acquire(timeout=-1)
    try:
        yield
    finally:
        lock.release()
