"""Read and write `config.yaml` and `choices.json`, which hold what a run was asked for."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stealing.artefacts import write_atomically
from stealing.errors import ProcessError, StealingError
from stealing.moved import MOVED
from stealing.reading import quoted, read_json, read_yaml

NAMING_GROUPS = ("data", "target", "defense", "plan", "attack")
"""Groups whose options are part of the name of a run's folder."""

OPTION = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")
"""An option of a group. It is part of a folder's name, so it must not lead elsewhere."""

ARTEFACT = re.compile(r"(\w[\w.-]*/)*\w[\w.-]*", re.ASCII)
"""Place of an artefact in its work folder. Such a path has no `..`, so it cannot lead elsewhere."""


def read_config(folder: Path, refuse: type[StealingError]) -> dict[str, Any]:
    """Return the configuration in a folder as plain values, which nothing has checked yet.

    Args:
        folder: of a run.
        refuse: class of the error.

    Raises:
        StealingError: of the class `refuse`, if it cannot be read.
    """
    path = folder / "config.yaml"
    values = read_yaml(path, refuse)
    if not isinstance(values, dict):
        raise refuse(f"{path} is not a mapping: name the folder of a run.")
    moved = _with_new_paths(values)
    assert isinstance(moved, dict)
    return moved


def _with_new_paths(value: Any) -> Any:
    """Return nested settings in which classes that moved have their import paths of today."""
    if isinstance(value, list):
        return [_with_new_paths(part) for part in value]
    if not isinstance(value, dict):
        return value
    renamed = {}
    for name, part in value.items():
        is_path = name == "_target_" and isinstance(part, str)
        renamed[name] = MOVED.get(part, part) if is_path else _with_new_paths(part)
    return renamed


def read_choices(folder: Path, refuse: type[StealingError]) -> dict[str, str]:
    """Return the option that a run chose from each group.

    Args:
        folder: of a run.
        refuse: class of the error.

    Raises:
        StealingError: of the class `refuse`, if `choices.json` holds anything but options.
    """
    path = folder / "choices.json"
    choices = read_json(path, refuse)
    if not isinstance(choices, dict):
        raise refuse(f"{path} is not a mapping: fetch or make the file again.")
    for group, choice in choices.items():
        is_option = isinstance(choice, str) and OPTION.fullmatch(choice) is not None
        if not is_option and choice is not None:
            raise refuse(
                f"{path} has {quoted(choice)} for {quoted(group)}, which is not an option: "
                "make the file again."
            )
    choices.setdefault("selection", "random")  # runs of versions without another selection
    for group in NAMING_GROUPS:
        if not choices.get(group):
            raise refuse(f"{path} has no option for {group}: make the file again.")
    return choices


def surrogate_folder(run: Path, refuse: type[StealingError]) -> Path:
    """Return the folder of the surrogate that the `result.json` of a run names.

    Raises:
        StealingError: of the type `refuse`, if it names none in the run's own work folder.
    """
    path = run / "result.json"
    result = read_json(path, refuse)
    artefacts = result.get("artefacts") if isinstance(result, dict) else None
    place = artefacts.get("surrogate") if isinstance(artefacts, dict) else None
    if not isinstance(place, str) or not ARTEFACT.fullmatch(place):
        raise refuse(
            f"{path} names no surrogate in its own work folder: "
            "name the folder of a run that stole."
        )
    return run.resolve().parent.parent / place


def write_choices(folder: Path, config: DictConfig, choices: dict[str, str]) -> str:
    """Write the configuration and the choices of a run.

    Returns:
        A checksum, by which the other processes of the run recognize the files.
    """
    settings = OmegaConf.to_yaml(config, resolve=True).encode()
    options = json.dumps(choices).encode()
    write_atomically(folder / "config.yaml", settings)
    write_atomically(folder / "choices.json", options)
    return _checksum([settings, options])


def read_own_choices(folder: Path, checksum: str) -> tuple[DictConfig, dict[str, str]]:
    """Return the configuration and the choices that the first process of this run wrote.

    The checksum comes from that process, so the files need no further checks.

    Raises:
        ProcessError: another process has changed them.
    """
    settings = (folder / "config.yaml").read_bytes()
    options = (folder / "choices.json").read_bytes()
    if _checksum([settings, options]) != checksum:
        raise ProcessError(
            f"{folder} was changed while its processes started: run the same command again."
        )
    config = OmegaConf.create(settings.decode())
    assert isinstance(config, DictConfig)
    return config, json.loads(options)


def _checksum(contents: Sequence[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for content in contents:
        # The length keeps a byte from moving from one file to the other unnoticed.
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
