"""A run's key holds every setting, but for those in a list, which has the reasons."""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT, choose
from omegaconf import DictConfig, OmegaConf

from stealing.artefacts import key
from stealing.config import instantiate_node, to_dict
from stealing.errors import StealingError
from stealing.identity import name_of, run_key

NOT_IN_KEY = {
    "seed": "in the name of the run's folder, beside the key, so that seeds can be joined",
    "plan_only": "makes no result",
    "trust": "permission to import a class, which is in the key itself",
    "paths.*": "where results lie",
    "logger.*": "where curves are copied to",
    "trainer._target_": "holds the settings of a fit, and decides nothing itself",
    "trainer.accelerator": "recorded beside the result; no table mixes CPU and GPU",
    "trainer.devices": "recorded beside the result as the number of processes",
    "trainer.threads": "recorded beside the result",
    "trainer.channels_last": "recorded beside the result",
    "trainer.compile": "recorded beside the result",
    "trainer.graph": "recorded beside the result",
    "trainer.profiler": "measures a fit and changes none",
    "trainer.checkpoint_seconds": "a resumed fit ends in the bits of an uninterrupted one",
}
"""Settings of any run. Those of `data` count by the checksums of decoded images, and by roles:
`test_data_keys.py` walks them."""

NOT_IN_KEY_OF_LOADED = {
    "target.path": "known by the fingerprint of its weights",
    "target.seed": "of a target that is trained here",
}

NOT_IN_KEY_OF_FOREIGN = {
    "target.*": "known by the fingerprint of its weights, its normalisation and its resizing",
}

NOT_IN_KEY_OF_SERVICE = {
    "target.path": "a service has none",
    "target.seed": "the service's own business",
    "target.authorized": "permission to ask",
    "target.remote._target_": "a service counts by its address, its wire and its version",
    "target.remote.wire._target_": "a wire counts by what it says of itself in `identity`",
    "target.remote.size": "the size of the images, which their checksums tell",
    "target.remote.width": "checked against the answers",
    "target.remote.in_flight": "how fast it is asked",
    "target.remote.attempts": "how often a request is tried",
    "target.remote.deadline": "how long a request is tried",
    "target.remote.patience": "how long a busy service is waited for",
    "target.remote.authorized": "permission to ask",
    "target.remote.pace.*": "how fast it is asked",
    "target.remote.credential.*": "who pays",
    "target.remote.wire.version": "where an answer names its model, which the ledger compares",
    "target.remote.wire.images_a_request": "how images are cut into requests",
}

DEFENSES = "defense=[noise,cosine,rounding,topk,unit,additive,poisoning,b4b,transform,guard]"
TRAINED: tuple[tuple[str, ...], ...] = (
    ("attack=best",),
    ("attack=barlow", "pretrain=mocov2"),
    ("attack=infonce", "arch=timm"),
    ("attack=ipes", "probe=zero_shot"),
    ("attack=rda_paper", "arch=narrow64"),
    ("attack=cont_steal_paper", "controls=[independent,distilled]", "+attack.pool=3"),
    ("experiment=debug", "attack=sym_cosine", "pretrain=simclr_lars", "arch=resnet34", DEFENSES),
    (
        "data=cifar10",
        "attack=stolen_encoder_paper",
        "pretrain=simclr_adamw",
        "trainer=gpu",
        "probe=paper",
    ),
)
"""Together they have all settings of all options; see the test below."""

SECRET = "STEALING_SECRET_OF_TESTS"
INDEPENDENT = "stealing.evaluation.controls.Independent"
ZOO = str(ROOT / "assets" / "cifar10_narrow" / "encoder.safetensors")
COPIES = "own_copies"
"""A module that has a class of its own for each class of this project, of the same name."""

Valid = dict[str, list[Any]]
"""Other values by the path of a setting."""


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting, by its dotted path; a list is one."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaves(value, f"{path}.{name}".lstrip("."))
    else:
        yield path, node


def others(value: Any) -> list[Any]:
    """Other values for a setting, some of which its class may refuse."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value / 2]
    if isinstance(value, list):
        return [
            [*value[:-1], value[-1] + 1] if value and isinstance(value[-1], float) else [*value, 1],
            [],
        ]
    if isinstance(value, dict):
        return [{"x": 1}]
    return [SECRET, 1, "laplace", "jpeg", "float", "base64", "another.place"]


def copy_of(target: str) -> str:
    """The import path of a class that is another one, of the same name and arguments."""
    module, _, name = target.rpartition(".")
    thing = getattr(importlib.import_module(module), name)
    copied = type(name, (thing,), {}) if isinstance(thing, type) else thing
    setattr(sys.modules[COPIES], name, copied)
    return f"{COPIES}.{name}"


@pytest.fixture
def valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Valid:
    """Other values for settings that take few."""
    monkeypatch.setitem(sys.modules, COPIES, ModuleType(COPIES))
    reference = tmp_path / "honest.safetensors"
    shutil.copy(ROOT / "assets" / "cifar10_narrow" / "honest.safetensors", reference)
    service = to_dict(choose("target=service", "target.authorized=true"))
    return {
        "defense.guard.policy": ["slow"],
        "selection": ["k_centre"],
        "controls": [{"independent": {"_target_": INDEPENDENT, "path": ZOO}}],
        "controls.independent.path": [ZOO],
        "controls.distilled.path": [ZOO],
        "arch.weights": [str(reference)],
        "defense.guard.reference": [str(reference)],
        "defense.topk.by": ["magnitude"],
        "target.remote": [service["target"]["remote"]],
        "target.remote.url": ["http://127.0.0.1:8001"],
        "target.remote.wire.body.input": [["<images>", "more"]],
    }


def key_of(config: DictConfig) -> str:
    """The key, from what stands in for images and a saved encoder."""
    given = "f" * 32 if config.target.path or config.target.get("family") else None
    if config.target.remote:
        given = name_of(instantiate_node(config.target.remote))
    return run_key(config, given, {"queries": "one"})


def changes_key(config: DictConfig, path: str, value: Any, key: str, valid: Valid) -> bool:
    """Whether another value of this setting is another key.

    A value that is refused says nothing. If all of them are, the walk would pass without a look.
    """
    is_class = path.endswith("_target_")
    tried = [copy_of(value)] if is_class else valid.get(path, others(value))
    refusals = list[str]()
    try:
        for other in tried:
            OmegaConf.update(config, path, other, merge=False)
            try:
                return key_of(config) != key
            except (StealingError, TypeError, AttributeError) as error:
                refusals.append(str(error))
        pytest.fail(f"{path}: name a value that is taken; these are refused: {refusals}")
    finally:
        OmegaConf.update(config, path, value, merge=False)


def check(
    compositions: tuple[tuple[str, ...], ...],
    listed: dict[str, str],
    valid: Valid,
    under: str = "",
) -> None:
    """Walk all settings below a name: exactly the listed ones change no key."""
    walked, silent = set[str](), set[str]()
    for overrides in compositions:
        settled = to_dict(choose(*overrides)) | {
            "data": {"tasks": {}}
        }  # whose leaves the images stand for
        config = OmegaConf.create(settled)
        key = key_of(config)
        for path, value in leaves(settled):
            if path in walked or path == "data.tasks" or not path.startswith(under):
                continue
            walked.add(path)
            if not changes_key(config, path, value, key, valid):
                silent.add(path)
    undecided = {path for path in silent if not any(fnmatch(path, pattern) for pattern in listed)}
    assert undecided == set(), "put it into the key, or into the list with the reason"
    unmet = {pattern for pattern in listed if not any(fnmatch(path, pattern) for path in silent)}
    assert unmet == set(), "the list holds what changes no key, and nothing else"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SECRET, "STEALING_KEY"):
        monkeypatch.setenv(name, "a long enough secret of the tests")


def test_every_setting_of_a_run_is_in_its_key_or_listed_with_the_reason(valid: Valid) -> None:
    check(TRAINED, NOT_IN_KEY, valid)


def test_every_setting_of_a_saved_target_is_in_the_key_or_listed(valid: Valid) -> None:
    check(
        (("target=file", f"target.path={ROOT / 'pyproject.toml'}"),),
        NOT_IN_KEY_OF_LOADED,
        valid,
        "target.",
    )


def test_every_setting_of_a_foreign_target_is_known_by_its_fingerprint(valid: Valid) -> None:
    options = (("target=timm", "target.name=test_vit"), ("target=imagenet",))
    check(options, NOT_IN_KEY_OF_FOREIGN, valid, "target.")


def test_every_setting_of_a_service_is_in_the_key_or_listed(valid: Valid) -> None:
    options = ("service", "service_json")
    check(
        tuple((f"target={option}", "target.authorized=true") for option in options),
        NOT_IN_KEY_OF_SERVICE,
        valid,
        "target.",
    )


def test_a_walk_in_which_every_value_is_refused_does_not_pass(valid: Valid) -> None:
    del valid["defense.guard.policy"]
    config = OmegaConf.create(to_dict(choose(DEFENSES)) | {"data": {"tasks": {}}})
    with pytest.raises(pytest.fail.Exception, match="name a value that is taken"):
        changes_key(config, "defense.guard.policy", "degrade", key_of(config), valid)


PENALTIES = "1.0e-4,3.162e-4,1.0e-3,3.162e-3,1.0e-2,3.162e-2,1.0e-1"
# The experiment had the standard probe then.
DEBUG_THEN = (
    "experiment=debug",
    f"probe.linear.penalties=[{PENALTIES}]",
    "probe.linear.tolerance=1.0e-4",
)
KNOWN_KEYS = {
    (): "445d9e839e13805d",
    DEBUG_THEN: "c4671aaa7c207649",
    (*DEBUG_THEN, "pretrain=simclr_lars"): "7faac86c65eb2d9d",
    (*DEBUG_THEN, "pretrain=simclr_adamw"): "7751bb3351388050",
}
"""Keys of runs that were made while SimCLR was the only way to pre-train, and no recipe named
it."""


@pytest.mark.parametrize("words", KNOWN_KEYS)
def test_a_run_that_was_made_before_recipes_named_their_method_keeps_its_key(
    words: tuple[str, ...],
) -> None:
    assert run_key(choose(*words), None, {"queries": "one"}) == KNOWN_KEYS[words]


def test_another_image_role_target_or_precision_is_another_run() -> None:
    config = choose("experiment=debug")
    base = run_key(config, None, {"queries": "one"})
    assert run_key(config, None, {"queries": "two"}) != base
    assert run_key(config, "f" * 32, {"queries": "one"}) != base
    assert (
        run_key(
            choose("experiment=debug", "trainer.precision=bf16-mixed"), None, {"queries": "one"}
        )
        != base
    )
    assert (
        run_key(
            choose("experiment=debug", "data.tasks.plain_kind.role=unseen"),
            None,
            {"queries": "one"},
        )
        != base
    )
    assert (
        run_key(choose("experiment=debug", "trainer.threads=7"), None, {"queries": "one"}) == base
    )


def test_no_key_of_a_run_changes_if_a_module_of_this_project_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[dict[str, Any]] = []

    def hash_inputs(**inputs: Any) -> str:
        hashed.append(inputs)
        return key(**inputs)

    monkeypatch.setattr("stealing.identity.key", hash_inputs)
    monkeypatch.setattr("stealing.targets.local.key", hash_inputs)
    for overrides in TRAINED:
        config = OmegaConf.create(to_dict(choose(*overrides)) | {"data": {"tasks": {}}})
        key_of(config)
    assert len(hashed) == 2 * len(TRAINED), "of the defense and of the run"
    for inputs in hashed:
        text = json.dumps(inputs)
        moved = re.sub(r"\bstealing(\.\w+)+\.(\w+)", r"stealing.elsewhere.\2", text)
        assert (moved != text) == ("stealing." in text)
        assert key(**json.loads(moved)) == key(**inputs), "no import path but under _target_"


def test_the_walk_meets_every_setting_of_every_option() -> None:
    met = set[str]()
    for overrides in TRAINED:
        met |= {path for path, _ in leaves(to_dict(choose(*overrides)))}
    for group in (
        "arch",
        "attack",
        "budget",
        "control",
        "defense",
        "plan",
        "pretrain",
        "probe",
        "trainer",
    ):
        for file in (ROOT / "conf" / group).glob("*.yaml"):
            text = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
            assert isinstance(text, dict)
            text.pop("defaults", None)
            named = {f"{group}.{path}" for path, _ in leaves(text)}
            missed = {
                path for path in named - met if not path.startswith(("arch.mean", "arch.std"))
            }
            assert missed == set() or text == {}, file
