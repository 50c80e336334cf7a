"""Make an artefact once: its folder, the hash of its step's code and the settings in; what is done of it out.

A finished artefact is used again if its step's code is still the same. Otherwise it is made again.
Threads, device and memory layout change the last bits of a fit, and long training amplifies them.
They are no reason to make an artefact again, but a command that asks for others is told.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from stealing.artefacts import claim, read_done, write_whole
from stealing.provenance import processor
from stealing.training.fit import Settings
from stealing.training.ranks import agreed, processes, rank, wait

COMPARED = ("device", "threads", "processes", "channels_last", "compile")
"""What a command can ask for of all that is written down."""

KEPT = (".lock", "wandb")
"""What stays if an artefact is made again: its claim, and curves that are not uploaded yet."""


def made_with(settings: Settings) -> dict[str, Any]:
    """Return what changes the bits of a result and is no part of its key."""
    has_gpu = settings.accelerator == "gpu"
    return {
        "device": "gpu" if has_gpu else "cpu",
        "name": torch.cuda.get_device_name() if has_gpu and torch.cuda.is_available() else None,
        "processor": processor(),
        "threads": settings.threads,
        "processes": processes(settings.devices),
        "channels_last": settings.channels_last,
        "compile": settings.compile,
        "precision": settings.precision,
        "torch": torch.__version__.split("+")[0],
    }


def of_card(card: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a saved encoder was made with, as far as its card says so; None if it does not."""
    origin = card.get("provenance", {})
    made: dict[str, Any] | None = origin.get("made")
    if made is None and "hardware" in origin:
        hardware = origin["hardware"]
        facts = {"processor": hardware.get("cpu"), "torch": origin.get("versions", {}).get("torch")}
        facts |= {name: hardware.get(name) for name in ("threads", "processes")}
        facts["precision"] = origin.get("precision")
        made = {name: fact for name, fact in facts.items() if fact is not None}
    return made


@contextmanager
def making(folder: Path, code: str, settings: Settings) -> Iterator[dict[str, Any] | None]:
    """Hold an artefact while all processes make it; another run that is making it is waited for.

    Args:
        folder: of the artefact.
        code: hash of the code that makes it, for `done.json`.
        settings: what this command asks for.

    Yields:
        What `done.json` says, the same in all processes, or None if the artefact is to be made.
    """
    with claim(folder, patient=True) if rank() == 0 else nullcontext():
        yield agreed(_prepared(folder, code, settings) if rank() == 0 else None)
        wait()


def _prepared(folder: Path, code: str, settings: Settings) -> dict[str, Any] | None:
    """Return what is finished, after what other code left was removed."""
    done = read_done(folder)
    begun = folder / "code"
    if done is not None and done.get("code") == code:
        say_differences(folder, {"it": done["made"]}, settings)
        return done
    left = [path for path in folder.iterdir() if path.name not in KEPT]
    if left and (done or not _began_with(begun, code)):
        _clear(left)
        state = "was made" if done else "was begun"
        say(f"{folder} {state} by other code than today's: it is made again.")
    write_whole(begun, code.encode())
    return None


def _began_with(begun: Path, code: str) -> bool:
    return begun.exists() and begun.read_text() == code


def _clear(left: list[Path]) -> None:
    """Remove what is left, `done.json` first, so that a crash in between leaves nothing that looks finished."""
    for path in sorted(left, key=lambda path: path.name != "done.json"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def say_differences(folder: Path, made: dict[str, dict[str, Any] | None], settings: Settings) -> None:
    """Say in one line what was finished with other settings than this command asks for.

    Args:
        folder: of the artefact or run.
        made: by name, what `made_with` said of each part then; None if nobody wrote it down.
        settings: what this command asks for.
    """
    asked = made_with(settings)
    parts = dict[str, list[str]]()
    for name, facts in made.items():
        names = [each for each in COMPARED if facts and each in facts and facts[each] != asked[each]]
        if names and facts:
            was = ", ".join(f"{each}={facts[each]}" for each in names)
            now = ", ".join(f"{each}={asked[each]}" for each in names)
            parts.setdefault(f"was made with {was}, and this command asks for {now}", []).append(name)
    if parts:
        told = "; ".join(f"{', '.join(names)} {text}" for text, names in parts.items())
        say(f"{folder}: {told}. Delete it, or set another STEALING_WORK, to make it anew.")


def say(sentence: str) -> None:
    """Print one line on the standard error, by the first process alone."""
    if rank() == 0:
        print(sentence, file=sys.stderr, flush=True)
