"""Files of weights that another program wrote: a path in, tensors by name out; no code runs.

Two formats are read: safetensors, and what `torch.save` wrote if it holds only tensors and plain
values. A pickle that names any other class or function is refused before it is called.
"""

import argparse
import pickle
import stat
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stealing.errors import CheckpointError
from stealing.reading import DEEPEST, InvalidContent, check_safetensors, first_line

PLAIN_CLASSES = (argparse.Namespace,)
"""Classes that may stand in a pickle beside tensors. DINO and MAE store the arguments of their
command line; a namespace has attributes and runs nothing."""

Weights = dict[str, Tensor]
"""Tensors by name, as of a state dict."""


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Return the content of a checkpoint: names, and below them tensors, mappings and plain values.

    Args:
        path: a safetensors file, or a file of `torch.save`; it may be a stranger's.

    Raises:
        CheckpointError: it is absent or broken, holds code, or is not a mapping.
    """
    path = Path(path)
    try:
        # Reading a pipe or a device may never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidContent("it is not a file")
        content = load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    except InvalidContent as why:
        raise CheckpointError(f"{path} cannot be read ({why}).") from None
    except OSError as error:
        reason = error.strerror or "the system cannot open it"
        raise CheckpointError(f"{path} cannot be read ({reason}): name another file.") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds {type(content).__name__} in place of a state dict: "
            "save the weights by torch.save(network.state_dict(), path)."
        )
    return {str(name): value for name, value in content.items()}


def load_safetensors(path: Path) -> Weights:
    """Return the tensors of a safetensors file.

    Raises:
        InvalidContent: It is broken.
    """
    check_safetensors(path)
    try:
        tensors: Weights = load_file(path)
    except SafetensorError as error:
        raise InvalidContent(f"{first_line(error)}: fetch it again") from None
    return tensors


def _load_torch(path: Path) -> Any:
    if is_torchscript(path):
        raise InvalidContent(
            "it is a TorchScript archive, which is code: if you trust it, choose "
            "target=torchscript target.weights=..."
        )
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(PLAIN_CLASSES)):
            # torch warns of the protocols of other versions, which it reads or refuses.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidContent(_refusal(error)) from None
    # What torch raises for files that are cut short, or of another kind.
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InvalidContent(f"{first_line(error)}: fetch it again") from None


def is_torchscript(path: Path) -> bool:
    """Return True if a file is an archive of `torch.jit.save`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.split("/")[1:2] == ["constants.pkl"] for name in names)


def _refusal(error: pickle.UnpicklingError) -> str:
    """Return a phrase with the class that was refused in a pickle, from torch's message."""
    _, found, rest = str(error).partition("Unsupported global: GLOBAL ")
    if not found:
        return f"{first_line(error)}: fetch it again"
    name = rest.split()[0]
    return (
        f"it holds {name}, and a class that a file names may be code: if you trust the file, load "
        "it yourself and save only its weights by torch.save(checkpoint['state_dict'], path)"
    )


def state_dicts(content: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Weights]]:
    """Yield every mapping of tensors in a checkpoint with its dotted place, the outermost first.

    Args:
        content: of a checkpoint, such as `{"epoch": 3, "state_dict": {...}}`.
        depth: levels of mappings around it.
    """
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield "", tensors
    if depth == DEEPEST:
        return
    for name, value in content.items():
        if isinstance(value, Mapping):
            for place, inner in state_dicts(value, depth + 1):
                yield f"{name}.{place}".rstrip("."), inner
