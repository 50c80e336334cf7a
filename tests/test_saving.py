"""An encoder is saved as a pair: whenever the process dies, the old one or the new one loads."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_cards import ARCH, saved

from stealing.artefacts import write_done
from stealing.encoders import build_encoder, load_encoder, save_encoder
from stealing.errors import CheckpointError

FILES = ("encoder.json.prev", "encoder.json", "encoder.safetensors")
"""Files of a save, in the order of the renames."""

OTHER: dict[str, Any] = ARCH | {"backbone": ARCH["backbone"] | {"stem": 12, "widths": [12]}}


def save(path: Path, seed: int, arch: dict[str, Any] = ARCH) -> str:
    """Save an encoder; return its fingerprint."""
    encoder = build_encoder(arch, seed)
    save_encoder(encoder, path, arch=arch, size=8, provenance={"weights_seed": seed})
    return encoder.fingerprint


def killed(work: Callable[[], object], *, before: str | None) -> None:
    """Do the work in a fork that is killed instead of its rename to a file of this name, or after
    all of them, before it removes the old card."""
    process = os.fork()
    if process == 0:

        def struck(function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
            def counted(*args: Any, **options: Any) -> Any:
                if name is None or Path(args[-1]).name == name:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **options)

            return counted

        if before is None:
            os.unlink = struck(os.unlink, "encoder.json.prev")
        else:
            os.replace = struck(os.replace, before)
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("arch", [ARCH, OTHER], ids=["the same network", "another network"])
@pytest.mark.parametrize("before", [*FILES, None])
def test_a_save_that_dies_at_any_rename_leaves_the_old_encoder_or_the_new_one(
    before: str | None, arch: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "encoder.safetensors"
    old = save(path, 1)
    killed(lambda: save(path, 2, arch), before=before)
    encoder, card = load_encoder(path)
    if before is not None:
        assert (encoder.fingerprint, card["provenance"]["weights_seed"]) == (old, 1)
    else:
        assert encoder.fingerprint != old and card["provenance"]["weights_seed"] == 2
    # a save that dies again, and one that does not
    again = load_encoder(path)[0].fingerprint
    killed(lambda: save(path, 3), before="encoder.safetensors")
    assert load_encoder(path)[0].fingerprint == again
    new = save(path, 4)
    assert load_encoder(path)[0].fingerprint == new
    assert not (tmp_path / "encoder.json.prev").exists()


def test_the_first_save_that_dies_between_the_renames_leaves_no_encoder(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    killed(lambda: save(path, 1), before="encoder.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_encoder(path)
    save(path, 1)
    assert load_encoder(path)[1]["provenance"]["weights_seed"] == 1


def test_an_old_card_without_a_checksum_gets_one_while_it_is_replaced(tmp_path: Path) -> None:
    path = saved(tmp_path)
    card = json.loads((tmp_path / "encoder.json").read_text())
    before = load_encoder(path)[0].fingerprint
    del card["weights"]
    (tmp_path / "encoder.json").write_text(json.dumps(card))
    killed(lambda: save(path, 2), before="encoder.safetensors")
    assert load_encoder(path)[0].fingerprint == before
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="checksum"):
        load_encoder(path)


def test_an_old_card_of_other_weights_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save(path, 1)
    other = (tmp_path / "encoder.json").read_bytes()
    new = save(path, 2)
    (tmp_path / "encoder.json.prev").write_bytes(other)
    encoder, card = load_encoder(path)
    assert encoder.fingerprint == new and card["provenance"]["weights_seed"] == 2
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(CheckpointError, match="lacks arch"):
        load_encoder(path)


def test_a_save_over_a_finished_artefact_that_dies_leaves_it_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    old = save(path, 1)
    write_done(tmp_path, files=("encoder.json", "encoder.safetensors"))
    killed(lambda: save(path, 2), before="encoder.safetensors")
    assert load_encoder(path)[0].fingerprint == old
