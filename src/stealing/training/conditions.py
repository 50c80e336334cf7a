"""Make an artefact once: use it if the same code finished it, else make it again.

An artefact that is finished by the same code is used again. Otherwise it is made again. Threads,
device and memory layout change the last bits of a fit, and long training amplifies them. They are
no reason to make an artefact again, but a command that asks for others gets a warning.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from stealing.artefacts import claim, damaged_files, read_done, write_atomically
from stealing.errors import DamageError
from stealing.provenance import CPUINFO, has_fast_bf16, processor
from stealing.training.distributed import barrier, broadcast, process_count, rank, say
from stealing.training.fit import Settings

COMPARED = ("device", "threads", "processes", "channels_last", "compile", "graph")
"""Conditions that a command can ask for; the others are only recorded."""

NEVER_CLEARED = (".lock", "wandb")
"""Files of an artefact that outlive its code: its claim, and curves that are not uploaded yet."""


def made_with(settings: Settings) -> dict[str, Any]:
    """Return what changes the bits of a result and is not part of its key."""
    has_gpu = settings.accelerator == "gpu"
    return {
        "device": "gpu" if has_gpu else "cpu",
        "name": torch.cuda.get_device_name() if has_gpu and torch.cuda.is_available() else None,
        "processor": processor(),
        "threads": settings.threads,
        "processes": process_count(settings.devices),
        "channels_last": settings.channels_last,
        "compile": settings.compile,
        "graph": settings.graph,
        "precision": settings.precision,
        "torch": torch.__version__.split("+")[0],
    }


def of_card(card: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a saved encoder was made with, as far as its card says so, else None."""
    origin = card.get("provenance", {})
    made: dict[str, Any] | None = origin.get("made")
    if made is not None or "hardware" not in origin:
        return made
    # cards of earlier versions
    hardware = origin["hardware"]
    facts = {
        "processor": hardware.get("cpu"),
        "torch": origin.get("versions", {}).get("torch"),
        "threads": hardware.get("threads"),
        "processes": hardware.get("processes"),
        "precision": origin.get("precision"),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def advise_bf16(settings: Settings, cpuinfo: Path = CPUINFO) -> None:
    """Print one line if fits take float32 on a processor that is faster in bfloat16.

    Args:
        settings: of the fits.
        cpuinfo: where the system describes its processor.
    """
    is_float32_on_cpu = settings.accelerator == "cpu" and settings.precision == "32-true"
    if is_float32_on_cpu and has_fast_bf16(cpuinfo):
        say(
            "This processor computes bfloat16 faster than float32: trainer.precision=bf16-mixed "
            "saves time. Results differ from those of float32."
        )


@contextmanager
def making(folder: Path, code: str, settings: Settings) -> Iterator[dict[str, Any] | None]:
    """Claim an artefact while all processes make it; wait if another run is making it.

    Args:
        folder: of the artefact.
        code: hash of the code that makes it, for `done.json`.
        settings: what this command asks for.

    Yields:
        The contents of `done.json`, the same in all processes, or None if the artefact is to be
        made.
    """
    with claim(folder, patient=True) if rank() == 0 else nullcontext():
        yield broadcast(_prepared(folder, code, settings) if rank() == 0 else None)
        barrier()


def _prepared(folder: Path, code: str, settings: Settings) -> dict[str, Any] | None:
    """Return `done.json` of a finished artefact, else None; remove what other code left."""
    # of a process that was killed while it wrote: this one has the claim, so nobody writes now
    _clear(list(folder.glob(".*.tmp")))
    done = _undamaged(folder)
    if done is not None and done.get("code") == code:
        warn_of_differences(folder, {"it": done["made"]}, settings)
        return done
    begun_by = folder / "code"
    left = [path for path in folder.iterdir() if path.name not in NEVER_CLEARED]
    if left and (done is not None or not _has_code(begun_by, code)):
        _clear(left)
        state = "was begun" if done is None else "was made"
        say(f"{folder} {state} by other code than today's: it is made again.")
    write_atomically(begun_by, code.encode())
    return None


def _undamaged(folder: Path) -> dict[str, Any] | None:
    """Return `done.json`; None if it is absent, or if it or one of its files is damaged.

    Damaged files are removed. Checkpoints stay: training resumes from the last one.
    """
    broken: list[Path] = []
    try:
        done = read_done(folder)
        if done is None:
            return None
        if not isinstance(done.get("made"), dict):
            raise DamageError(
                f"{folder / 'done.json'} does not say what the artefact was made with."
            )
        broken = damaged_files(folder, done)
        if broken:
            names = " and ".join(path.name for path in broken)
            raise DamageError(f"{names} in {folder} is not as it was written (checksum).")
    except DamageError as error:
        say(f"{str(error).rstrip('.')}: the artefact is made again.")
        present = [path for path in broken if path.exists()]
        _clear([folder / "done.json", *present])
        return None
    return done


def _has_code(path: Path, code: str) -> bool:
    return path.is_file() and path.read_bytes() == code.encode()


def _clear(paths: Sequence[Path]) -> None:
    """Remove files and folders, `done.json` first: after a crash, nothing looks finished."""
    for path in sorted(paths, key=lambda path: path.name != "done.json"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def warn_of_differences(
    folder: Path, made: dict[str, dict[str, Any] | None], settings: Settings
) -> None:
    """Print one line if parts were made under other conditions than this command asks for.

    Args:
        folder: of the artefact or run.
        made: by the name of each part, what `made_with` returned then; None if it was not recorded.
        settings: what this command asks for.
    """
    asked = made_with(settings)
    parts: dict[str, list[str]] = {}
    for part, facts in made.items():
        if not isinstance(facts, dict):
            continue
        differing = [name for name in COMPARED if name in facts and facts[name] != asked[name]]
        if differing:
            was = ", ".join(f"{name}={facts[name]}" for name in differing)
            now = ", ".join(f"{name}={asked[name]}" for name in differing)
            sentence = f"was made with {was}, and this command asks for {now}"
            parts.setdefault(sentence, []).append(part)
    if not parts:
        return
    sentences = [f"{', '.join(names)} {sentence}" for sentence, names in parts.items()]
    say(
        f"{folder}: {'; '.join(sentences)}. Delete it, or set another STEALING_WORK, to make it "
        "anew."
    )
