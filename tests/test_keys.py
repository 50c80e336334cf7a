"""What a run's key holds: every setting is in it, or in a list of those that are not, with the reason."""

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

import pytest
from conftest import ROOT, choose
from omegaconf import DictConfig, OmegaConf

from stealing.config import opened, plain
from stealing.errors import StealingError
from stealing.identity import name_of, run_key

NOT_IN_KEY = {
    "seed": "in the name of the run's folder, beside the key, so that seeds can be joined",
    "plan_only": "makes no result",
    "paths.*": "where results lie",
    "logger.*": "where curves are copied to",
    "trainer.accelerator": "recorded beside the result; no table mixes CPU and GPU",
    "trainer.devices": "recorded beside the result as the number of processes",
    "trainer.threads": "recorded beside the result",
    "trainer.channels_last": "recorded beside the result",
    "trainer.compile": "recorded beside the result",
    "trainer.checkpoint_seconds": "a resumed fit ends in the bits of an uninterrupted one",
}
"""Settings of any run. Those of `data` are known by the checksums of its decoded images, and by roles."""

NOT_IN_KEY_OF_LOADED = {
    "target.path": "known by the fingerprint of its weights",
    "target.seed": "of a target that is trained here",
}

NOT_IN_KEY_OF_SERVICE = {
    "target.path": "a service has none",
    "target.seed": "the service's own business",
    "target.authorized": "permission to ask",
    "target.remote.size": "the size of the images, which their checksums tell",
    "target.remote.width": "checked against the answers",
    "target.remote.in_flight": "how fast it is asked",
    "target.remote.attempts": "how often a request is tried",
    "target.remote.deadline": "how long a request is tried",
    "target.remote.authorized": "permission to ask",
    "target.remote.pace.*": "how fast it is asked",
    "target.remote.credential.*": "who pays",
    "target.remote.wire.encoding": "how an answer writes its numbers",
    "target.remote.wire.image": "how an image is written into a request",
    "target.remote.wire.index": "puts answers into the order of the images, which is checked",
    "target.remote.wire.version": "where an answer names its model, which the ledger compares",
    "target.remote.wire.images_a_request": "how images are cut into requests",
}

DEFENSES = "defense=[noise,cosine,rounding,topk,unit,additive,poisoning,b4b,transform,guard]"
TRAINED: tuple[tuple[str, ...], ...] = (
    (),
    ("experiment=debug", "attack=conventional", "pretrain=simclr_lars", "arch=resnet34", DEFENSES),
    ("data=cifar10", "attack=stolen_encoder_paper", "pretrain=simclr_adamw", "trainer=gpu", "probe=paper"),
)
"""Together they have all settings of all options; see the test below."""

SECRET = "STEALING_SECRET_OF_TESTS"


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
        return [[*value[:-1], value[-1] + 1] if value and isinstance(value[-1], float) else [*value, 1], []]
    if isinstance(value, dict):
        return [{"x": 1}]
    return [SECRET, 1, "laplace", "jpeg", "base64", "another.place"]


def key_of(config: DictConfig) -> str:
    """The key, from what stands in for images and a saved encoder."""
    given = "f" * 32 if config.target.path else None
    if config.target.remote:
        given = name_of(opened(config.target.remote))
    return run_key(config, given, {"queries": "one"})


def changes_key(config: DictConfig, path: str, value: Any, key: str) -> bool:
    """Whether another value of this setting is another key, or is refused whatever it is."""
    try:
        for other in others(value):
            OmegaConf.update(config, path, other, merge=False)
            try:
                return key_of(config) != key
            except (StealingError, TypeError, AttributeError):
                continue
        return True
    finally:
        OmegaConf.update(config, path, value, merge=False)


def check(compositions: tuple[tuple[str, ...], ...], listed: dict[str, str], under: str = "") -> None:
    """Walk all settings below a name once; those that change no key are the listed ones, and all of these are met."""
    walked, silent = set[str](), set[str]()
    for overrides in compositions:
        settled = plain(choose(*overrides)) | {"data": {"tasks": {}}}  # whose leaves the images stand for
        config = OmegaConf.create(settled)
        key = key_of(config)
        for path, value in leaves(settled):
            if path in walked or path == "data.tasks" or not path.startswith(under):
                continue
            walked.add(path)
            if not changes_key(config, path, value, key):
                silent.add(path)
    undecided = {path for path in silent if not any(fnmatch(path, pattern) for pattern in listed)}
    assert undecided == set(), "put it into the key, or into the list with the reason"
    unmet = {pattern for pattern in listed if not any(fnmatch(path, pattern) for path in silent)}
    assert unmet == set(), "the list holds what changes no key, and nothing else"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SECRET, "STEALING_KEY"):
        monkeypatch.setenv(name, "a long enough secret of the tests")


def test_every_setting_of_a_run_is_in_its_key_or_listed_with_the_reason() -> None:
    check(TRAINED, NOT_IN_KEY)


def test_every_setting_of_a_saved_target_is_in_the_key_or_listed() -> None:
    check((("target=file", f"target.path={ROOT / 'pyproject.toml'}"),), NOT_IN_KEY_OF_LOADED, "target.")


def test_every_setting_of_a_service_is_in_the_key_or_listed() -> None:
    options = ("service", "service_json")
    check(tuple((f"target={option}", "target.authorized=true") for option in options), NOT_IN_KEY_OF_SERVICE, "target.")


def test_another_image_role_target_or_precision_is_another_run() -> None:
    config = choose("experiment=debug")
    base = run_key(config, None, {"queries": "one"})
    assert run_key(config, None, {"queries": "two"}) != base
    assert run_key(config, "f" * 32, {"queries": "one"}) != base
    assert run_key(choose("experiment=debug", "trainer.precision=bf16-mixed"), None, {"queries": "one"}) != base
    assert run_key(choose("experiment=debug", "data.tasks.plain_kind.role=unseen"), None, {"queries": "one"}) != base
    assert run_key(choose("experiment=debug", "trainer.threads=7"), None, {"queries": "one"}) == base


def test_the_walk_meets_every_setting_of_every_option() -> None:
    met = set[str]()
    for overrides in TRAINED:
        met |= {path for path, _ in leaves(plain(choose(*overrides)))}
    for group in ("arch", "attack", "budget", "control", "defense", "plan", "pretrain", "probe", "trainer"):
        for file in (ROOT / "conf" / group).glob("*.yaml"):
            text = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
            assert isinstance(text, dict)
            text.pop("defaults", None)
            named = {f"{group}.{path}" for path, _ in leaves(text)}
            missed = {path for path in named - met if not path.startswith(("arch.mean", "arch.std"))}
            assert missed == set() or text == {}, file
