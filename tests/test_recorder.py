"""What a wandb run is called, tagged and configured by, before wandb is asked."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import choose, leaves

from stealing.config import to_dict
from stealing.training.wandb import WandbRecorder, is_public, without_secrets

FOLDER = Path("work/surrogates/0123456789abcdef")
CHOICES = {
    "data": "shapes",
    "arch@target_arch": "narrow",
    "pretrain": "simclr",
    "attack": "stolen_encoder",
}


def recorder(*overrides: str, cell: str = "cell", **fields: Any) -> WandbRecorder:
    settings = to_dict(choose(*overrides))
    return WandbRecorder(
        cell=cell, choices=CHOICES, settings=settings, overrides=overrides, **fields
    )


def test_config_is_every_setting_but_secrets_and_credentials() -> None:
    defense = ("defense=[noise,b4b]", "defense.noise.secret=NOISE_KEY")
    target = ("target=azure", "target.remote.url=https://a.b")
    body = ("target.remote.wire.body.model=m", "+target.remote.wire.body.api_key=sesame")
    made = recorder(*defense, *target, *body)
    kept = made.config_of(FOLDER)
    wanted = leaves(made.settings)
    hidden = {place for place in wanted if {"secret", "credential", "api_key"} & set(place)}
    assert {
        ("defense", "noise", "secret"),
        ("target", "remote", "credential", "variable"),
    } <= hidden
    for place in hidden:
        del wanted[place]
    assert leaves(kept).items() >= wanted.items()
    written = json.dumps(kept)
    for word in ("NOISE_KEY", "AZURE_API_KEY", "sesame"):
        assert word not in written


@pytest.mark.parametrize(
    "name", ["secret", "api-key", "X-Api-Key", "Authorization", "PASSWORD", "access_token"]
)
def test_a_secret_is_left_out_at_any_depth(name: str) -> None:
    assert without_secrets({"a": [{"b": {name: "sesame", "kept": 1}}]}) == {
        "a": [{"b": {"kept": 1}}]
    }
    assert not is_public(f"target.remote.{name}=sesame")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:sesame@host:5432/name", "postgresql://me@host:5432/name"),
        ("postgresql://me:ses@me@host/name", "postgresql://me@host/name"),
        (
            "postgresql://host/name?user=me&password=sesame&a=1",
            "postgresql://host/name?user=me&password=&a=1",
        ),
        ("https://host/path?subscription-key=sesame", "https://host/path?subscription-key="),
    ],
)
def test_a_password_in_a_url_is_left_out_and_the_rest_is_kept(url: str, shown: str) -> None:
    assert without_secrets({"ledger": url}) == {"ledger": shown}
    assert not is_public(f"paths.ledger={url}")


@pytest.mark.parametrize(
    "url", ["postgresql://me@host:5432/name", "https://a.b/c?api-version=2024-05-01", "a:b@c"]
)
def test_a_url_without_a_password_is_kept(url: str) -> None:
    assert without_secrets(url) == url
    assert is_public(f"paths.ledger={url}")


def test_seeds_and_budget_are_numbers_of_config_and_tags() -> None:
    made = recorder("seed=3", "target.seed=5", "budget.images=64", sweep="0a1b")
    config = made.config_of(FOLDER)
    assert (config["seed"], config["target"]["seed"], config["budget"]["images"]) == (3, 5, 64)
    assert {
        "seed=3",
        "target.seed=5",
        "budget.images=64",
        "sweep=0a1b",
        "attack=stolen_encoder",
    } <= set(made.tags())
    assert not any(tag.startswith("sweep=") for tag in recorder().tags())


def test_cells_that_differ_in_any_setting_differ_in_name_and_tags() -> None:
    cells = [
        ("seed=0",),
        ("seed=1",),
        ("budget.images=64",),
        ("attack.steps=7",),
        ("target.seed=1",),
    ]
    made = [recorder(*cell, cell=f"shapes-{number}") for number, cell in enumerate(cells)]
    assert len({one.name_of("steal", FOLDER) for one in made}) == len(cells)
    assert len({frozenset(one.tags()) for one in made}) == len(cells)


def test_phases_of_a_cell_differ_in_name() -> None:
    made = recorder(cell="shapes-b1000-s0-ab")
    assert made.name_of("steal", FOLDER) == "steal shapes-b1000-s0-ab"
    assert made.name_of("control", FOLDER) == "control shapes-b1000-s0-ab"


def test_a_target_is_named_by_what_it_depends_on_and_not_by_the_first_attack_on_it() -> None:
    made = recorder("target.seed=5", cell="shapes-b1000-s0-ab")
    assert made.name_of("pretrain", FOLDER) == "pretrain shapes-narrow-simclr-s5-0123456789abcdef"


def test_names_and_tags_keep_to_wandbs_limits_and_still_tell_runs_apart() -> None:
    long = "x" * 200
    made = [recorder(f"target.path={long}", cell=f"{long}-{end}") for end in ("s0", "s1")]
    names = [one.name_of("evaluate", FOLDER) for one in made]
    assert names[0] != names[1] and all(len(name) == 128 for name in names)
    assert all(0 < len(tag) <= 64 for one in made for tag in one.tags())


def test_a_tag_holds_no_secret_no_path_and_no_missing_choice() -> None:
    chosen = (
        "defense=[noise]",
        "defense.noise.secret=NOISE_KEY",
        "paths.work=/home/me",
        "attack.steps=9",
    )
    choices: dict[str, Any] = {"experiment": None}
    made = WandbRecorder(choices=choices, settings=to_dict(choose(*chosen)), overrides=chosen)
    assert sorted(made.tags()) == [
        "attack.steps=9",
        "budget.images=1000",
        "seed=0",
        "target.seed=0",
    ]
