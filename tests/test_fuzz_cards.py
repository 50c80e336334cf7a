"""Damaged cards and weights of strangers: the encoder that was saved or one sentence, no code."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from conftest import DEBUG, choose
from deeds import tried
from fuzzing import FUZZ, damaged, documents
from hypothesis import given

from stealing.config import to_dict
from stealing.encoders import Encoder, build_encoder, load_encoder, save_encoder

SIZE = 16


def save_narrow(path: Path) -> dict[str, Any]:
    """Save a small encoder, and return its card."""
    arch = to_dict(choose(*DEBUG, "arch.backbone.widths=[8,16]", "arch.backbone.blocks=[1,1]").arch)
    save_encoder(build_encoder(arch, 0), path, arch=arch, size=SIZE, provenance={"by": "us"})
    card: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return card


def check_same(loaded: tuple[Encoder, dict[str, Any]], original: Encoder) -> None:
    """What was loaded is the original, with a size that the rest of the project can use."""
    encoder, card = loaded
    assert encoder.fingerprint == original.fingerprint
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        assert torch.equal(encoder(images), original(images))
    assert type(card["size"]) is int
    assert card["size"] > 0


def test_a_damaged_card_gives_the_encoder_that_was_saved_or_one_sentence_and_runs_no_code(
    tmp_path: Path,
) -> None:
    path = tmp_path / "encoder.safetensors"
    card = save_narrow(path)
    original, _ = load_encoder(path)
    text = json.dumps(card).encode()

    @FUZZ
    @given(documents(card) | damaged(text))
    def opened(content: bytes) -> None:
        path.with_suffix(".json").write_bytes(content)
        loaded = tried(partial(load_encoder, path))
        if loaded is not None:
            check_same(loaded, original)

    opened()


def test_damaged_heads_of_weights_give_the_encoder_that_was_saved_or_one_sentence(
    tmp_path: Path,
) -> None:
    path = tmp_path / "encoder.safetensors"
    save_narrow(path)
    original, _ = load_encoder(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    head, weights = content[8 : 8 + length], content[8 + length :]

    def sized(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text

    @FUZZ
    @given(
        documents(json.loads(head)).map(sized)
        | damaged(head).map(sized)
        | damaged(content[: 8 + length])
    )
    def opened(damage: bytes) -> None:
        path.write_bytes(damage + weights)
        loaded = tried(partial(load_encoder, path))
        if loaded is not None:
            check_same(loaded, original)

    opened()
