"""A number that is none is refused before anything is bought, wherever a user may write it."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import ROOT, choose
from hydra._internal.utils import _locate
from omegaconf import OmegaConf
from test_settings import leaf_settings

from stealing.attacks.checks import check_attack
from stealing.config import instantiate_node
from stealing.data import sources
from stealing.data.downloads import from_torchvision
from stealing.data.images import Images
from stealing.encoders.building import check_arch
from stealing.errors import ConfigError, StealingError
from stealing.preflight import RunData, check_inputs
from stealing.pretraining.recipe import check_recipe
from stealing.schema import arguments_of
from stealing.settings.checks import check_settings, tree_of
from stealing.settings.commands import COMMANDS
from stealing.settings.kinds import Integer, Number, Several
from stealing.targets.open import load_target
from stealing.training.optimizers import check_optimizer
from stealing.trust import TORCH_OPTIMIZERS

VALUES: dict[str, Any] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-1": -1,
    "1e30": 1e30,
    "10^30": 10**30,
}

LEGAL = {
    "ASGD.t0=-1": "torch averages the weights from the first step on",
    "Encoder.mean=-1": "images are shifted the other way",
    "MoCoV2Module.head_seed=-1": "the run gives its own",
    "MoCoV2Module.projection=-1": "the recipe's own setting replaces it",
    "MoCoV2Module.queue=-1": "the module refuses it when it is built, before a query is sent",
    "MoCoV2Module.total_steps=-1": "the run gives its own",
    "Rounding.decimals=-1": "it rounds to tens",
    "SGD.dampening=-1": "torch weighs the newest gradient more",
    "SimCLRModule.head_seed=-1": "the run gives its own",
    "SimCLRModule.projection=-1": "the recipe's own setting replaces it",
    "SimCLRModule.total_steps=-1": "the run gives its own",
}
"""Those that an argument takes, and why."""

GROUPS = ("data", "arch", "pretrain", "plan", "attack", "probe", "trainer", "budget")

LISTED = Images(
    "listed",
    np.zeros((8, 3, 8, 8), np.uint8),
    np.arange(8) % 4,
    4,
    np.arange(8),
    "checksum",
)


def options(group: str) -> list[str]:
    """The options of a group, by name."""
    return [file.stem for file in sorted((ROOT / "conf" / group).glob("[!_]*.yaml"))]


def plain(*words: str, name: str = "train") -> dict[str, Any]:
    values = OmegaConf.to_container(choose(*words, name=name), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@cache
def configurations() -> list[dict[str, Any]]:
    """Configurations of all commands that together have every option of every group."""
    found = []
    targets = options("target")
    for number, target in enumerate(targets):
        words = [f"target={target}", f"defense=[{','.join(options('defense'))}]"]
        for group in GROUPS:
            choices = options(group)
            assert len(choices) <= len(targets), group
            words.append(f"{group}={choices[number % len(choices)]}")
        found.append(plain(*words))
    for number, optimizer in enumerate(TORCH_OPTIMIZERS):  # those that no option names
        node = {"_target_": f"torch.optim.{optimizer}", "_partial_": True, "lr": 0.1}
        found[number]["control"]["optimizer"] = node
    found.append(plain("target=zoo", name="audit"))
    found.append(plain("faults=some", name="service"))
    for values in found:
        service = values["target"]["remote"]
        if service is not None and "url" in service:
            service["url"] = "http://127.0.0.1:9"
            if "body" in service["wire"]:
                service["wire"]["body"]["model"] = "m"
    return found


def nodes(part: Any, *place: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The nodes of a configuration, with their places."""
    inner: Any = ()
    if isinstance(part, dict):
        inner = part.items()
        if "_target_" in part:
            yield place, part
    elif isinstance(part, list):
        inner = enumerate(part)
    for name, value in inner:
        yield from nodes(value, *place, name)


def holds_numbers(kind: Any) -> bool:
    """Whether a type is of numbers, or of lists of them."""
    return kind in (int, float) or any(map(holds_numbers, get_args(kind)))


Place = tuple[dict[str, Any], tuple[Any, ...]]
"""A configuration, and the place of a number in it."""


@cache
def arguments() -> dict[str, Place]:
    """Each argument of a class of ours that takes numbers: `Class.argument`."""
    found: dict[str, Place] = {}
    for values in configurations():
        for place, node in nodes(values):
            target = node["_target_"]
            if not target.startswith(("stealing.", "torch.")):
                continue
            known = arguments_of(_locate(target))
            assert known is not None
            for name, kind in known.types.items():
                # a mapping of names to classes holds no number by itself
                is_numeric = holds_numbers(kind) and name not in ("groups", "callbacks")
                if is_numeric or (name in node and type(node[name]) in (int, float)):
                    found.setdefault(
                        f"{target.rpartition('.')[2]}.{name}", (values, (*place, name))
                    )
    return found


@cache
def settings() -> dict[str, Place]:
    """Each setting of the table that takes numbers."""
    found: dict[str, Place] = {}
    for values in configurations():
        command = "service" if "books" in values else "audit" if "audit" in values else "train"
        for setting in leaf_settings(tree_of(COMMANDS[command])):
            kind = setting.kind.of if isinstance(setting.kind, Several) else setting.kind
            *groups, name = setting.name.split(".")
            if isinstance(kind, Integer | Number) and isinstance(at(values, groups), dict):
                found.setdefault(setting.name, (values, (*groups, name)))
    return found


def at(values: Any, place: Any) -> Any:
    for step in place:
        values = values[step] if isinstance(values, list) else (values or {}).get(step)
    return values


def refusals(place: Place, check: Callable[[], None]) -> Iterator[tuple[str, str]]:
    """What is said to each wrong number at a place; empty for one that is taken or is a bug."""
    values, (*groups, name) = place
    group = at(values, groups)
    is_absent = name not in group
    before = group.get(name)
    for label, value in VALUES.items():
        group[name] = [value] * len(before) if isinstance(before, list) else value
        try:
            check()
            said = ""
        except StealingError as error:
            said = str(error)
        except Exception as error:
            said = ""
            label = f"{label}: {type(error).__name__}"
        yield label, said
    group[name] = before
    if is_absent:
        del group[name]


def test_the_walk_has_every_class_and_every_setting() -> None:
    assert len(settings()) > 60 and len(arguments()) > 90
    assert {"Views.jitter", "Guard.rate", "Adam.betas", "ASGD.t0", "take.skip"} <= set(arguments())
    assert {"attack.ema", "audit.budgets", "limits.patience", "target.seed"} <= set(settings())


@pytest.mark.parametrize("label", VALUES)
def test_no_setting_takes_a_number_that_is_none(label: str) -> None:
    for name, place in settings().items():
        said = dict(refusals(place, lambda: check_settings(place[0])))  # noqa: B023
        assert name in said[label] and "\n" not in said[label], f"{name}={label}: {said[label]}"


def built(place: Place) -> None:
    """Build what a run builds of a part before it buys anything."""
    values, steps = place
    part = steps[0]
    if part == "attack":
        check_attack(values["attack"], 32)
    elif part in ("pretrain", "control"):
        check_recipe(values[part], part)
        check_optimizer(values[part]["optimizer"], f"{part}.optimizer")
    elif part in ("arch", "target_arch"):
        check_arch(values[part])
    elif part == "data":
        node = dict(at(values, steps[:-1]))
        if "images" in node:
            node["images"] = LISTED
        target = _locate(node.pop("_target_"))
        target(**node)
    else:
        # of a target and of a group the whole, of the others the one node that has the number
        whole = {"target": 2, "defense": 2}.get(part, 1)
        node = at(values, steps[:whole])
        instantiate_node(OmegaConf.create({part: node})[part])


def test_no_argument_takes_a_number_that_is_none() -> None:
    taken = set()
    for name, place in arguments().items():

        def checked(place: Place = place) -> None:
            check_settings(place[0])
            built(place)

        for label, said in refusals(place, checked):
            assert "\n" not in said
            if not said:
                taken.add(f"{name}={label}")
            else:
                assert place[1][-1] in said, f"{name}={label}: {said}"
    assert taken == set(LEGAL)


OWN_RANGE = ("data", "defense", "target", "attack")
"""Parts whose constructors know their ranges; the other parts stand in the table of settings."""


def test_a_constructor_refuses_it_without_a_configuration() -> None:
    taken = set()
    for name, place in arguments().items():
        is_own = at(place[0], place[1][:-1])["_target_"].startswith("stealing.")
        if place[1][0] not in OWN_RANGE or not is_own or place[1][-1] in ("seed", "size"):
            continue
        for label, said in refusals(place, lambda: built(place)):  # noqa: B023
            if not said:
                taken.add(f"{name}={label}")
    assert taken == {"Rounding.decimals=-1"}


SOURCES: list[Callable[..., Images]] = [
    partial(sources.parquet, "images.parquet", "train"),
    partial(sources.folder, "images"),
    partial(sources.shapes, "train", domain="plain", task="kind", count=8),
    partial(from_torchvision, "MNIST", "images", "train"),
]


@pytest.mark.parametrize("size", [*VALUES.values(), 0, 4097], ids=str)
def test_a_source_has_no_size_that_is_none(size: Any, tmp_path: Path) -> None:
    for opened in SOURCES:
        with pytest.raises(ConfigError, match=r"^size=.* is not a whole number from \d to 4096"):
            opened(size=size, cache=str(tmp_path))


@pytest.mark.parametrize("count", [0, -5, 10**17])
def test_a_count_that_is_none_is_not_told_as_a_full_disk(count: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^count=.* is not a whole number from 1 to 10000000"):
        sources.shapes(
            "train", domain="plain", task="kind", count=count, size=8, cache=str(tmp_path)
        )
    assert list(tmp_path.iterdir()) == []


def test_every_account_of_a_plan_sends_an_image() -> None:
    plan = instantiate_node(choose("plan=spreading").plan)
    assert plan.images(10) == 10
    with pytest.raises(ConfigError, match=r"budget\.images=9 .*: set budget\.images=10 or more"):
        plan.images(9)


NESTEROV = "{_target_: torch.optim.SGD, _partial_: true, lr: 0.1, momentum: 0.0, nesterov: true}"


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["arch.backbone.stem=0"], "arch= does not fit: stem of NarrowResNet is 0"),
        (["arch.backbone.blocks=[1]"], "arch= does not fit: widths and blocks"),
        (["arch.std=[1,1,0]"], "arch= does not fit: std of Encoder"),
        (
            ["~control.optimizer", f"+control.optimizer={NESTEROV}"],
            "control.optimizer=torch.optim.SGD takes no such settings (Nesterov",
        ),
        (["target=pretrained", "target_arch.backbone.stem=0"], "stem of NarrowResNet is 0"),
        (
            ["target=pretrained", "pretrain.optimizer.momentum=0"],
            "pretrain.optimizer=torch.optim.SGD takes no such settings (Nesterov",
        ),
    ],
)
def test_what_is_trained_later_is_tried_before_anything_is_bought(
    words: list[str], advice: str
) -> None:
    few = ["budget.images=8", "attack.batch_size=4", "control.batch_size=4", "target=zoo"]
    config = choose("experiment=debug", *few, *words)
    data = RunData(LISTED if "target=pretrained" in words else None, LISTED, [], {})
    with pytest.raises(ConfigError) as refused:
        check_inputs(config, data)
    assert advice in str(refused.value) and "\n" not in str(refused.value)


def test_a_recipe_that_trains_nothing_is_not_tried() -> None:
    few = ["budget.images=8", "attack.batch_size=4", "control.batch_size=4", "target=zoo"]
    config = choose("experiment=debug", *few, "pretrain.optimizer.momentum=0")
    check_inputs(config, RunData(None, LISTED, [], {}))


def test_a_defense_is_checked_before_its_target_is_trained() -> None:
    with pytest.raises(ConfigError, match=r"^defense\.topk\.k=0 is not a whole number from 1"):
        load_target(choose("target=pretrained", "defense=topk", "defense.topk.k=0"))
