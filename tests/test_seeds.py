"""Independent starts: no attacker begins with the numbers that the target began with."""

from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from conftest import choose

from stealing.attacks.surrogate import build_adapter
from stealing.config import check_choices, to_dict
from stealing.encoders import build_encoder
from stealing.errors import ConfigError
from stealing.evaluation.controls import untrained
from stealing.preflight import surrogate_start
from stealing.seeds import Owner, Part, owner_seed, weights_seed

SEEDS = range(100)
OWNERS: tuple[Owner, ...] = get_args(Owner)
PARTS: tuple[Part, ...] = get_args(Part)
ARCH = to_dict(choose("experiment=debug").arch)


def test_no_two_owners_or_parts_of_any_two_seeds_share_a_start() -> None:
    starts = [
        weights_seed(seed, owner, part) for seed in SEEDS for owner in OWNERS for part in PARTS
    ]
    batches = [owner_seed(seed, owner) for seed in SEEDS for owner in OWNERS]
    assert len({*starts, *batches, *SEEDS}) == len(starts) + len(batches) + len(SEEDS)


@pytest.mark.parametrize("seed", [0, 1, 99])
def test_weights_of_two_owners_are_unrelated(seed: int) -> None:
    encoders = {owner: build_encoder(ARCH, weights_seed(seed, owner)) for owner in OWNERS}
    for first, second in combinations(OWNERS, 2):
        for one, other in zip(
            encoders[first].parameters(), encoders[second].parameters(), strict=True
        ):
            if one.ndim == 4 and one.numel() > 2000:
                pair = torch.stack([one.detach().flatten(), other.detach().flatten()])
                related = torch.corrcoef(pair)[0, 1]
                assert abs(float(related)) < 0.1
    adapters = [build_adapter(24, 32, weights_seed(seed, owner, "adapter")) for owner in OWNERS]
    assert not torch.equal(next(adapters[0].parameters()), next(adapters[1].parameters()))


def test_with_equal_seeds_the_surrogate_does_not_start_as_the_target_did() -> None:
    config = choose(
        "experiment=debug", "seed=0", "target.seed=0", "target_arch=narrow", "arch=narrow"
    )
    start = surrogate_start(config, None)
    target = build_encoder(to_dict(config.arch), weights_seed(config.target.seed, "target"))
    surrogate = build_encoder(to_dict(config.arch), start)
    assert target.fingerprint != surrogate.fingerprint
    assert untrained(to_dict(config.arch), start).fingerprint == surrogate.fingerprint


CARD: dict[str, Any] = {"arch": ARCH, "provenance": {"weights_seed": 5}}


def test_an_attacker_who_knows_the_targets_start_is_an_option_of_its_own() -> None:
    known = choose("experiment=debug", "start=target")
    assert surrogate_start(known, CARD) == 5
    known.target_arch = known.arch
    assert surrogate_start(known, None) == weights_seed(known.target.seed, "target")


@pytest.mark.parametrize("card", [{"arch": ARCH, "provenance": {}}, {**CARD, "arch": {}}, None])
def test_a_start_that_cannot_be_the_targets_is_refused(card: dict[str, Any] | None) -> None:
    with pytest.raises(ConfigError, match="start"):
        surrogate_start(choose("experiment=debug", "start=target"), card)


@pytest.mark.parametrize("overrides", [("start=other",), ("start=target", "target=service")])
def test_a_start_that_means_nothing_is_refused(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="start"):
        check_choices(choose(*overrides))


def test_the_stored_targets_say_what_they_began_with() -> None:
    """Their cards were written when weights were a function of the seed alone."""
    root = Path(__file__).parents[1] / "assets"
    cards = sorted(root.glob("*/encoder.json"))
    assert all('"weights_seed"' in card.read_text() for card in cards)
