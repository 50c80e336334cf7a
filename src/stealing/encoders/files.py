"""Encoders as files: weights in safetensors and, beside them, a card in JSON.

The card says how to build the network. Both files may be a stranger's, and a card is data: its
architecture is built from the project's own table (`stealing.encoders.architectures`), its weights
are compared with that before memory is allocated for them, and no class that it names is imported
unless the user trusts its module.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from stealing.artefacts import check_undamaged, checksum
from stealing.encoders.architectures import (
    check_description,
    describe,
    foreign_modules,
    without_initial,
)
from stealing.encoders.building import build_seeded
from stealing.encoders.encoder import Encoder
from stealing.encoders.pairs import read_card, write_pair
from stealing.encoders.weights import flaw_of_weights
from stealing.errors import CheckpointError, ConfigError
from stealing.reading import (
    LARGEST_JSON,
    InvalidContent,
    check_safetensors,
    first_line,
    parse_json,
    quoted,
)

LARGEST_SIZE = 4096
"""Most pixels on a side of the images that an encoder takes."""

WIDEST = 2**20
"""Largest width of features."""

COMPILED = "_orig_mod."
"""Prefix that torch.compile adds to the names of weights."""

FOREIGN = (
    "or if another program saved it, choose target=timm, torchvision, open_clip, huggingface, "
    "torchscript or onnx, with target.weights="
)
"""How to load a file that is not one of this project's."""

ORIGIN_TABLES = ("made", "hardware", "versions")
"""Tables of a card's `provenance` that are read, beside its `weights_seed` and `precision`."""

Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""


def save_encoder(
    encoder: nn.Module,
    path: Path | str,
    *,
    arch: Mapping[str, Any],
    size: int,
    provenance: Mapping[str, Any],
) -> None:
    """Write weights and card, from which `load_encoder` builds the network.

    Both files are written, or neither. If the process dies in between, `load_encoder` loads the
    encoder that was there before; see `stealing.encoders.pairs`.

    Args:
        encoder: an `Encoder`, compiled or not; tied weights are written under each of their names.
        path: of the weights, ends in `.safetensors`; the card has the same name with `.json`.
        arch: the resolved node of `conf/arch` that `encoder` was built from.
        size: height and width of the images that it takes, in pixels.
        provenance: where it is from, as JSON values; `start=target` reads `weights_seed`.

    Raises:
        CheckpointError: `load_encoder` could not read these files, so nothing is written.
    """
    path = Path(path)
    _check_suffix(path)
    weights: dict[str, Tensor] = {}
    for name, tensor in encoder.state_dict().items():
        # A clone: safetensors refuses tensors that share memory, as tied weights do.
        weights[name.replace(COMPILED, "")] = tensor.detach().cpu().contiguous().clone()
    content = save(weights)
    try:
        text = _card_text(
            arch=without_initial(describe(arch)),
            size=size,
            feature_dim=getattr(encoder, "feature_dim", None),
            weights=_checksum(content),
            provenance=provenance,
        )
        card = parse_card(parse_json(text))
        modules = foreign_modules(card["arch"])  # the caller has just built one of their classes
        check_description(card["arch"], modules)
        network = _outline(card["arch"], modules)
        _check_fit(network, card, _shapes_of(weights))
        for name, tensor in network.state_dict().items():
            dtype = weights[name].dtype
            if dtype != tensor.dtype:
                raise InvalidContent(
                    f"{quoted(name)} is {dtype} and its architecture has {tensor.dtype}"
                )
    except (InvalidContent, ConfigError) as error:
        why = str(error).rstrip(".")
        raise CheckpointError(
            f"{path} is not written, because it could not be read again: {why}."
        ) from None
    write_pair(path, text.encode(), content)


def load_encoder(path: Path | str, trust: Sequence[str] = ()) -> tuple[Encoder, dict[str, Any]]:
    """Return the encoder saved at `path`, in eval mode, and its card.

    Args:
        path: a `.safetensors` file with its card beside it. Both may be a stranger's: no code of
            theirs runs, and no memory is allocated for weights that the file does not hold.
        trust: modules of the user's own whose classes the card may name.

    Raises:
        CheckpointError: A file is absent or broken; the weights do not fit the architecture name by
            name; the card names a class of a module that is not in `trust`; or weights are not
            finite or all one number.
        DamageError: A file is not as the `done.json` beside it says.
    """
    path = Path(path)
    _check_suffix(path)
    card_path = path.with_suffix(".json")
    for file in (path, card_path):
        if not os.path.exists(file):
            raise CheckpointError(
                f"{file} does not exist: "
                f"an encoder is a .safetensors file with its .json beside it, {FOREIGN}."
            )
    values = read_card(path)
    try:
        card = parse_card(values)
        check_description(card["arch"], trust)
        _check_fit(_outline(card["arch"], trust), card, shapes_in(path))
        # After its shapes: the file is no larger than its network, so that reading it ends.
        check_undamaged(path)
        _check_weights(path, card)
        encoder = build_seeded(card["arch"], 0, trust)
        _fill(encoder, load_file(path))
    except InvalidContent as why:
        raise CheckpointError(
            f"{path} cannot be read ({why}): fetch or make the file again."
        ) from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} cannot be read ({first_line(error)}): fetch or make the file again."
        ) from None
    except ConfigError as error:
        raise CheckpointError(f"{card_path}: {error}") from None
    flaw = flaw_of_weights(encoder)
    if flaw is not None:
        raise CheckpointError(f"{path} {flaw}: train it or fetch it again.")
    return encoder.eval(), card


def parse_card(values: Any) -> dict[str, Any]:
    """Return a card whose values have the types that are relied upon; other keys stay as they are.

    An old card names classes by import paths; it is returned in the form of a new one.

    Args:
        values: plain values, as `stealing.reading.read_json` gives them.

    Raises:
        InvalidContent: With the key that does not fit.
    """
    if not isinstance(values, dict):
        raise InvalidContent("the card is not a mapping")
    for name in ("arch", "size", "feature_dim"):
        if name not in values:
            raise InvalidContent(f"the card lacks {name}")
    card = {"provenance": {}, **values}  # a card made by hand may have none
    if not isinstance(card["arch"], dict):
        raise InvalidContent("the card's arch is not a mapping")
    _check_whole_number(card, "size", LARGEST_SIZE)
    _check_whole_number(card, "feature_dim", WIDEST)
    if not isinstance(card.get("weights", ""), str):
        raise InvalidContent("the card's weights are not a checksum")
    _check_provenance(card["provenance"])
    card["arch"] = describe(card["arch"])
    # A stranger's card must not have another file read, or anything fetched.
    if without_initial(card["arch"]) != card["arch"]:
        raise InvalidContent("the card's arch names initial weights, which no card has")
    return card


def _check_whole_number(
    card: Mapping[str, Any],
    name: str,
    most: int,
) -> None:
    value = card[name]
    # Not isinstance: True is an int too.
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidContent(
            f"the card's {name} is {quoted(value)}, and has to be a whole number from 1 to {most}"
        )


def _check_provenance(origin: Any) -> None:
    """Check those parts of a card's `provenance` that are read."""
    if not isinstance(origin, dict):
        raise InvalidContent("the card's provenance is not a mapping")
    start = origin.get("weights_seed")
    if start is not None and (type(start) is not int or not 0 <= start < 2**63):
        raise InvalidContent("the card's provenance.weights_seed is not a seed")
    if not _is_fact(origin.get("precision")):
        raise InvalidContent("the card's provenance.precision is not text")
    for name in ORIGIN_TABLES:
        facts = origin.get(name)
        if facts is None:
            continue
        if not isinstance(facts, dict) or not all(map(_is_fact, facts.values())):
            raise InvalidContent(
                f"the card's provenance.{name} is not a table of texts and numbers"
            )


def _card_text(**card: Any) -> str:
    try:
        text = json.dumps(card, indent=1, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidContent(f"its card would be no JSON, {first_line(error)}") from None
    if len(text) > LARGEST_JSON:
        raise InvalidContent(f"its card would have more than {LARGEST_JSON} bytes")
    return text


def _fill(encoder: Encoder, weights: Mapping[str, Tensor]) -> None:
    """Copy weights of the right names and shapes into a network."""
    for name, tensor in encoder.state_dict().items():
        dtype = weights[name].dtype
        # Other precisions are converted; a mask or a count in place of weights is an error.
        are_floats = dtype.is_floating_point and tensor.is_floating_point()
        if dtype != tensor.dtype and not are_floats:
            raise InvalidContent(
                f"{quoted(name)} is {dtype} and its architecture has {tensor.dtype}"
            )
    encoder.load_state_dict(weights)


def _is_fact(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _check_suffix(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path} is not a safetensors file: "
            f"save your encoder with stealing.encoders.save_encoder, {FOREIGN}."
        )


def _outline(description: Mapping[str, Any], trusted: Sequence[str]) -> Encoder:
    """Build a checked description without memory for its weights.

    A class of a user's own gets real weights: its constructor may compute with them.
    """
    device = "cpu" if foreign_modules(description) else "meta"
    return build_seeded(description, 0, trusted, device)


def _check_fit(
    network: Encoder,
    card: Mapping[str, Any],
    shapes: Shapes,
) -> None:
    """Refuse weights of other names or shapes than the network's, and a card with another width."""
    own = _shapes_of(network.state_dict())
    wrong = sorted(own.keys() ^ shapes.keys())
    if not wrong:
        wrong = [name for name in own if own[name] != shapes[name]]
    if wrong:
        raise InvalidContent(f"it does not fit its architecture at {quoted(wrong[0])}")
    width = card["feature_dim"]
    if network.feature_dim != width:
        raise InvalidContent(
            f"the card's feature_dim is {width}, and the network's is {network.feature_dim}"
        )


def _shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def shapes_in(path: Path) -> Shapes:
    """Return the shapes in a safetensors file, without reading its tensors.

    Raises:
        InvalidContent: It is not a file, or does not begin as a safetensors file.
        SafetensorError: Its header is broken.
    """
    check_safetensors(path)
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except OSError as error:
        raise InvalidContent(error.strerror or "the system cannot open it") from None


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _check_weights(path: Path, card: Mapping[str, Any]) -> None:
    """Refuse weights that the card was not written with; old cards have no checksum."""
    if "weights" not in card:
        return
    if checksum(path) != card["weights"]:
        raise InvalidContent("its checksum is not the one in its card")
