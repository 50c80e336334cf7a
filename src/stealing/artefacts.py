"""Make folders once: the inputs of a step in, a folder that is named by their hash out.

A finished folder has a `done.json`.

A key holds what a user asked for: settings, seeds, checksums of images and answers, versions of
steps, and classes by their names. It holds neither what a machine adds (threads, device, memory
layout, processor) nor the code of a step. `done.json` records these, and
`stealing.training.conditions` compares them. docs/keys.md has the whole list.

`done.json` also holds the checksums of the artefact's files, and one of itself. They are compared
when the files are read, so that no result is made from a file with a flipped bit.
"""

import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import AcquireReturnProxy, FileLock, Timeout

from stealing.errors import ClaimError, DamageError
from stealing.reading import LARGEST_JSON, InvalidContent, parse_json, read_text
from stealing.text import printable

WORK = Path(os.environ.get("STEALING_WORK", "work"))
"""Folder of all artefacts; `paths.work` has the same default."""


def key(**inputs: Any) -> str:
    """Return the hash of a step's own inputs, 16 hexadecimal digits.

    A class or function of this package counts only by its name, so that its module may be renamed.
    Any other class counts by its import path, because two users' classes may have the same name.

    Args:
        inputs: JSON values. Import paths stand under `_target_`, at any depth.
    """
    text = json.dumps(_without_modules(inputs), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _without_modules(value: Any) -> Any:
    """Return the value with classes of this package named without their modules."""
    if isinstance(value, list | tuple):
        return [_without_modules(part) for part in value]
    if not isinstance(value, dict):
        return value
    stable = {}
    for name, part in value.items():
        is_path = name == "_target_"
        stable[name] = _stable_name(part) if is_path else _without_modules(part)
    return stable


def _stable_name(target: Any) -> Any:
    is_of_project = isinstance(target, str) and target.startswith("stealing.")
    return target.rpartition(".")[2] if is_of_project else target


def unfinished(path: Path) -> Path:
    """Return a new name beside `path` for a file that is renamed to `path` when it is whole.

    The name is random: processes on two machines that share a folder may have the same id.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """Write a file that other processes see either whole or not at all.

    The steps are: temporary file, fsync, rename, fsync of the folder.

    Args:
        path: the file.
        previous: new name of the file that was there; None to drop it.

    Yields:
        The open temporary file. If the body fails, the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        with temporary.open("xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def write_folder(contents: Mapping[Path, bytes]) -> None:
    """Write several files; none is replaced before all of them are on the disk.

    A process that dies between two renames leaves some new and some old files. The reader of the
    first file has to check that the others belong to it.

    Args:
        contents: by the place of each file, in the order of the renames.
    """
    temporaries: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporaries[path] = unfinished(path)
            with temporaries[path].open("xb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
            _flush(path.parent)  # otherwise a power cut may leave the renames in another order
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Make the names in a folder durable."""
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder
        number = os.open(folder, os.O_DIRECTORY)
        os.fsync(number)
        os.close(number)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that other processes see either whole or not at all; see `replacing`."""
    with replacing(path) as handle:
        handle.write(content)


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of this project's form, which a stranger may have written.

    Any text is accepted, because such files hold names of tasks and classes; the caller escapes it
    before printing. A number has to be finite: this project writes no other.

    Raises:
        DamageError: the file is absent, cut short, no regular file or too large, or it does not
            hold an object of plain values.
    """
    try:
        value = parse_json(read_text(path, LARGEST_JSON), any_text=True)
    except InvalidContent as why:
        raise DamageError(f"{path} cannot be read ({why}).") from None
    if not isinstance(value, dict):
        raise DamageError(f"{path} cannot be read (it holds no JSON object).")
    return value


def write_sealed(path: Path, facts: dict[str, Any]) -> None:
    """Write a JSON file with a checksum of itself."""
    sealed = {**facts, "checksum": _seal(facts)}
    write_atomically(path, json.dumps(sealed, indent=1).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, without its checksum.

    Raises:
        DamageError: the file is absent or broken, or was changed after it was written.
    """
    facts = read_object(path)
    # Files of earlier versions have no checksum.
    if "checksum" in facts and facts.pop("checksum") != _seal(facts):
        raise DamageError(f"{path} is not as it was written (checksum).")
    return facts


def _seal(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_done(folder: Path) -> dict[str, Any] | None:
    """Return the facts in `done.json`, or None if the artefact is not finished.

    Raises:
        DamageError: the file is broken, was changed after it was written, or names files elsewhere.
    """
    path = folder / "done.json"
    if not path.exists():
        return None
    done = read_sealed(path)
    files = done.get("files", {})
    # Damaged files are removed, so a name must not lead out of the folder.
    if not isinstance(files, dict) or not all(map(is_plain_name, files)):
        raise DamageError(f"{path} lists files that are not in its folder.")
    return done


def is_plain_name(name: str) -> bool:
    """Return whether this is the name of a file in the folder itself, on every system."""
    return re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII) is not None


def write_done(folder: Path, *, files: Sequence[str] = (), **facts: Any) -> dict[str, Any]:
    """Finish an artefact.

    Args:
        folder: of the artefact.
        files: names of files in it, whose checksums `done.json` holds.
        facts: other JSON values to store, such as seconds.

    Returns:
        The facts, with the checksums under `files`.
    """
    facts["files"] = {name: checksum(folder / name) for name in files}
    write_sealed(folder / "done.json", facts)
    return facts


def checksum(path: Path) -> str:
    """Return the hash of a file's bytes, 32 hexadecimal digits."""
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16))
    return digest.hexdigest()


def damaged_files(folder: Path, done: dict[str, Any], most: int | None = None) -> list[Path]:
    """Return the files of a finished artefact that differ from their checksums in `done.json`.

    Args:
        folder: of the artefact.
        done: what is in `done.json`.
        most: bytes; a larger file counts as damaged and is not read. None for any number.
    """
    damaged = []
    for name, written in done.get("files", {}).items():
        path = folder / name
        if not _has_checksum(path, written, most):
            damaged.append(path)
    return damaged


def check_undamaged(path: Path, most: int | None = None) -> None:
    """Compare a file with its checksum in the `done.json` beside it, if there is one.

    Args:
        path: of the file.
        most: bytes; a larger file counts as damaged and is not read. None for any number.

    Raises:
        DamageError: the file was changed after it was written.
    """
    try:
        done = read_done(path.parent)
    except DamageError:  # the step that makes the artefact reports and repairs that file
        return
    files = (done or {}).get("files", {})
    written = files.get(path.name)
    if written is not None and not _has_checksum(path, written, most):
        raise DamageError(
            f"{path} is not as it was written (checksum): restore it from a copy, or make it again."
        )


def _has_checksum(path: Path, expected: object, most: int | None) -> bool:
    if not path.is_file():  # nor a pipe or a device, which may have no end
        return False
    if most is not None and path.stat().st_size > most:
        return False
    return checksum(path) == expected


def is_claimed(folder: Path) -> bool:
    """Return whether a live process is making this artefact."""
    lock = FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # a folder that nobody may write to, or a stranger's link in place of the lock
        return False
    lock.release()
    return False


@contextmanager
def claim(folder: Path, *, patient: bool = False) -> Iterator[None]:
    """Lock an artefact while it is made.

    The operating system releases the lock when the process dies.

    Args:
        folder: of the artefact.
        patient: wait for another process that holds the lock, such as another cell of a sweep.

    Raises:
        ClaimError: another live process holds the lock, and `patient` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        # Half a second, as `is_claimed` of another process holds the lock for a moment.
        lock.acquire(timeout=0.5)
    except Timeout:
        if not patient:
            raise ClaimError(
                f"{folder} is being made by another process: "
                "wait for it, or give this run other inputs."
            ) from None
        wait_for(lock, folder)
    try:
        yield
    finally:
        lock.release()


def wait_for(lock: FileLock, made: Path) -> AcquireReturnProxy[FileLock]:
    """Acquire the lock of what another process is making, as soon as it has ended."""
    with suppress(Timeout):
        return lock.acquire(timeout=5)  # a short wait prints nothing
    waiting = printable(f"Waiting for {made}, which another run is making.")
    print(waiting, file=sys.stderr, flush=True)
    return lock.acquire(timeout=-1)
