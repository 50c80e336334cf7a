"""A card and its weights, replaced as a pair: new files in, the old pair or the new one out.

Two files cannot be renamed at once. The new card is renamed first, and the old one stays under
another name until the new weights are there. Whenever the process dies, one of the two cards has
the checksum of the weights.
"""

import json
from pathlib import Path
from typing import Any

from stealing.artefacts import check_undamaged, checksum, write_folder
from stealing.errors import CheckpointError
from stealing.reading import LARGEST_JSON, read_json

PREVIOUS = ".json.prev"
"""End of the name of the old card while new files take the place of old ones."""


def write_pair(path: Path, card: bytes, weights: bytes) -> None:
    """Write weights and their card in the place of others, or of none.

    Args:
        path: of the weights; the card has the same name with `.json`.
        card: its text, which holds the checksum of the weights.
        weights: content of their file.
    """
    previous = path.with_suffix(PREVIOUS)
    # In the order of the renames.
    contents = {path.with_suffix(".json"): card, path: weights}
    old_card = _old_card(path)
    if old_card is not None:
        contents = {previous: json.dumps(old_card).encode(), **contents}
    write_folder(contents)
    previous.unlink(missing_ok=True)


def read_card(path: Path) -> Any:
    """Return the values of the card that belongs to weights, which nothing has checked yet.

    Args:
        path: of the weights. Both files may be a stranger's.

    Raises:
        CheckpointError: the card cannot be read.
        DamageError: it is not as the `done.json` beside it says.
    """
    current = path.with_suffix(".json")
    previous = path.with_suffix(PREVIOUS)
    # `write_pair` removes the old card once it is done, so this is the rare case.
    if previous.is_file() and path.is_file():
        digest = checksum(path)
        if _weights_of(current) != digest and _weights_of(previous) == digest:
            return read_json(previous, CheckpointError)
    check_undamaged(current, LARGEST_JSON)
    return read_json(current, CheckpointError)


def _old_card(path: Path) -> dict[str, Any] | None:
    """Return the card that belongs to the weights, with their checksum; None without a pair."""
    if not path.is_file():
        return None
    digest = checksum(path)
    # Cards of earlier versions hold no checksum.
    card = _values(path.with_suffix(".json"))
    if card.get("arch") and card.get("weights", digest) == digest:
        return {**card, "weights": digest}
    # An earlier save was cut short, and the old weights are still those of the card before.
    previous = path.with_suffix(PREVIOUS)
    return _values(previous) if _weights_of(previous) == digest else None


def _weights_of(card_path: Path) -> Any:
    """Return the checksum of the weights that a card names; None if it names none."""
    return _values(card_path).get("weights")


def _values(card_path: Path) -> dict[str, Any]:
    """Return the values of a card; none if it is no card."""
    try:
        values = read_json(card_path, CheckpointError)
    except CheckpointError:
        return {}
    return values if isinstance(values, dict) else {}
