"""Types and ranges of settings stand in one place; a bug is never called a wrong setting."""

import errno
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import DEBUG, ROOT, Command, choose, run_script
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from stealing.artefacts import write_atomically
from stealing.audit import Audit
from stealing.commands import one_line_errors
from stealing.config import (
    check_choices,
    check_values,
    compose_config,
    instantiate_node,
    preset,
    to_dict,
)
from stealing.context import open_run
from stealing.errors import ConfigError, DataError, StealingError, StorageError, UnexpectedError
from stealing.pipeline import run_steps
from stealing.saved.restore import restore_run
from stealing.settings.__main__ import document
from stealing.settings.checks import check_settings, tree_of
from stealing.settings.commands import COMMANDS
from stealing.settings.constructors import check_constructors
from stealing.settings.kinds import Setting
from stealing.settings.overrides import check_overrides, explain_hydra_error
from stealing.settings.reference import import_target
from stealing.settings.service import SERVICE_GROUPS
from stealing.settings.table import BASE, GROUPS
from stealing.trust import OWN

MODEL = "target.remote.wire.body.model=m"
EVERYTHING: dict[str, tuple[tuple[str, ...], ...]] = {
    "train": (
        (),
        (
            "experiment=debug",
            "attack=conventional",
            "pretrain=simclr_lars",
            "callbacks=[learning_rate]",
            "controls=[independent,distilled]",
            "+attack.pool=10",
            "defense=[topk,b4b,guard]",
        ),
        (
            "data=cifar10",
            "arch=resnet34",
            "attack=stolen_encoder_paper",
            "trainer=gpu",
            "probe=paper",
        ),
        ("data=cifar10_unseen", "target=service", "logger=csv", "plan=views"),
        ("data=folders", "target=openai", MODEL, "plan=sybil"),
        ("target=timm", "target.name=test_vit"),
        ("target=torchvision", "target.name=resnet18"),
        ("data=stl10_all", "probe=zero_shot"),
    ),
    "eval": (("target=zoo",),),
    "audit": (("target=zoo",),),
    "service": (
        (),
        ("faults=some", "defense=[unit,poisoning]"),
        ("target=timm", "target.name=test_vit"),
        ("target=torchvision", "target.name=resnet18"),
    ),
}
"""Choices that together have all settings of the table; `eval.py` has those of a run besides."""


class Fragile:
    """Opens something, which may fail in any way."""

    def __init__(self, error: str, count: int = 1, near: float | None = None) -> None:
        failures = {
            "KeyError": KeyError("label"),
            "TypeError": TypeError("'NoneType' object is not subscriptable"),
            "ValueError": ValueError("Parquet magic bytes not found"),
            "OSError": OSError(errno.ENOSPC, "No space left on device", "/full/disk"),
            "DataError": DataError("images.parquet, row 3: correct it."),
        }
        if error in failures:
            raise failures[error]


def fragile(**arguments: Any) -> DictConfig:
    """A configuration with a node `data.queries` that a `Fragile` is built from."""
    node = {"_target_": f"{__name__}.Fragile", **arguments}
    return OmegaConf.create({"data": {"queries": node}}).data.queries


# What is refused.


@pytest.fixture(scope="module")
def whole() -> DictConfig:
    return choose("experiment=debug", "defense=topk")


def with_override(config: DictConfig, override: str) -> DictConfig:
    """The configuration with another value, as Hydra reads it."""
    parsed = OverridesParser.create().parse_override(override)
    changed = config.copy()
    OmegaConf.update(changed, parsed.key_or_group, parsed.value(), merge=False)
    return changed


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        ("seed=-1", "a whole number from 0 to 9223372036854775807"),
        ("seed=18446744073709551616", "a whole number from 0"),
        ("seed=a", "a whole number from 0"),
        ("seed=", "a whole number from 0"),
        ("seed=true", "a whole number from 0"),
        ("attack.optimizer.lr=abc", "a number above 0"),
        ("attack.optimizer.lr=nan", "a number above 0"),
        ("attack.optimizer.lr=inf", "a number above 0"),
        ("pretrain.optimizer.momentum=1", "below 1"),
        ("control.temperature=0", "a number above 0"),
        ("attack.steps=-3", "a whole number from 1 to 2147483647, or null"),
        ("attack.steps=1e3", "a whole number from 1 to 2147483647, or null"),
        ("attack.batch_size=0", "a whole number from 1 to 2147483647"),
        ("trainer.threads=0", "a whole number from 1 to 4096"),
        ("trainer.threads=99999999999999999999", "a whole number from 1 to 4096"),
        ("trainer.accumulate=0", "a whole number from 1 to 2147483647"),
        ("trainer.devices=0", "a whole number from 1 to 4096"),
        ("trainer.devices=a", "a whole number from 1 to 4096"),
        ("trainer.devices=5000", "a whole number from 1 to 4096"),
        ("probe.resamples=0", "a whole number from 1 to 1000000"),
        ("data.queries.count=-5", "a whole number from 0 to 2147483647"),
        ("data.queries.count=100000000000000000", "a whole number from 0 to 2147483647"),
        ("probe.linear.penalties=[]", "a list of 1 or more"),
        ("budget.images=null", "a whole number from 1 to 2147483647"),
        ("budget.images=nan", "a whole number from 1 to 2147483647"),
        ("budget.images=128.5", "a whole number from 1 to 2147483647"),
        ("budget.price=nan", "a number from 0 to 1e+09"),
        ("budget.price=abc", "a number from 0 to 1e+09"),
        ("plan_only=yes", "true or false"),
        ("until=later", "one of pretrain, query, steal, evaluate"),
        ("data.tasks=5", "it is a group of settings"),
        ("data.tasks.scene_kind.role=mine", "one of own, query_domain, unseen"),
        ("attack.optimizer=adam", "a mapping with a _target_"),
    ],
)
def test_a_value_of_a_wrong_type_or_out_of_range_is_refused_with_its_range(
    wrong: str, advice: str, whole: DictConfig
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_choices(with_override(whole, wrong))
    name, _, value = wrong.partition("=")
    assert str(refused.value).startswith(f"{name}={value}"[:12]) and advice in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_service_is_checked_as_a_run_is() -> None:
    service = choose(name="service")
    check_values(service)
    with pytest.raises(
        ConfigError, match="port=65536 does not fit: set it to a whole number from 0 to 65535"
    ):
        check_values(with_override(service, "port=65536"))


def test_a_wrong_value_is_refused_before_torch_is_imported_in_one_sentence() -> None:
    code = (
        "import runpy, sys\nsys.argv[0] = 'train.py'\n"
        "try:\n    runpy.run_path('train.py', run_name='__main__')\n"
        "finally:\n    assert 'torch' not in sys.modules"
    )
    line = [sys.executable, "-c", code, "attack.optimizer.lr=nan"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "ConfigError: attack.optimizer.lr=nan does not fit: set it to a number above 0 and at "
        "most 1e+09.\n"
    )


def test_each_cell_of_a_sweep_has_its_turn_and_its_sentence(command: Command) -> None:
    done = command("train.py", "-m", "seed=-2,-1")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert all(f"seed={seed} does not fit" in done.stderr for seed in (-2, -1))
    assert "2 of 2 cells failed" in done.stderr


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("budget=2500", "write budget=b2500, or budget.images=2500"),
        ("budget=128", "or budget.images=128"),
        ("budget=null", "write budget=b2500"),
        ("budget=nan", "write budget=b2500"),
        ("budget=128.5", "write budget=b2500"),
        ("budget=500,1000", "write budget=b500"),
        ("trainer={devices:2}", "names no option of trainer"),
        ("arch=[1,2]", "names no option of arch"),
        ("defense=[topk,null]", "names no option of defense"),
        ("~budget", "leave it out"),
        ("~attack.steps", "leave it out"),
        ("target_arch=resnet18", "use arch@target_arch=resnet18"),
        ("+foo=1", "no setting foo"),
        ("++foo=1", "no setting foo"),
        ("+data.foo=1", "no setting data.foo"),
        ("+attack.stepz=1", "did you mean attack.steps?"),
        ("sead=1", "did you mean seed?"),
        ("+data/task@data.svhn=svhn", "no setting data.svhn"),
        ("trainer.max_epochs=10", "use attack.steps, attack.epochs or pretrain.epochs"),
        ("+trainer.max_epochs=10", "use attack.steps, attack.epochs or pretrain.epochs"),
        ("trainer.limit_train_batches=10", "use attack.steps or pretrain.epochs for a shorter"),
        ("+trainer.limit_val_batches=0.1", "use attack.steps or pretrain.epochs for a shorter"),
        ("trainer.overfit_batches=1", "and budget.images or counts of data= for fewer images"),
        ("+trainer.fast_dev_run=true", "use experiment=debug."),
        ("trainer.strategy=ddp", "leave it out, as trainer.devices starts the processes"),
        ("trainer.ckpt_path=last.ckpt", "the same command resumes from its checkpoint"),
        ("trainer.callbacks=[]", "did you mean callbacks?"),
        ("trainer.gpus=8", "use trainer=gpu trainer.devices="),
        ("lr=0.1", "use attack.optimizer.lr"),
        ("batch_size=64", "use attack.batch_size"),
        ("model=resnet18", "use arch="),
        ("dataset=cifar10", "use data="),
        ("foo", "write setting=value"),
        (f"seed={'9' * 5000}", "seed has a number of thousands of digits"),
        (
            "target.path=work/epoch=9-step=100.safetensors",
            "'target.path=\"work/epoch=9-step=100.safetensors\"'",
        ),
    ],
)
def test_an_override_that_means_nothing_here_is_answered_with_the_one_that_was_meant(
    word: str, advice: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_overrides([word], "train")
    assert advice in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_the_quoted_override_that_a_refusal_shows_is_read_as_the_path_that_was_meant() -> None:
    with pytest.raises(ConfigError) as refused:
        check_overrides(["target.path=it's/epoch=9.safetensors"], "train")
    shell = str(refused.value).partition("for the shell: ")[2]
    line = subprocess.run(["sh", "-c", f"printf %s {shell}"], capture_output=True, text=True).stdout
    assert OverridesParser.create().parse_override(line).value() == "it's/epoch=9.safetensors"


@pytest.mark.parametrize(
    "word",
    [
        "+data/task@data.tasks.svhn=svhn",
        "+data.tasks.mine={role:unseen,train:{},test:{}}",
        "+data.root=my/images",
        "+control.optimizer.nesterov=true",
        "+target.remote.wire.body.api_key=k",
        "+experiment=debug",
        "~data.tasks.mnist",
        "data=mine/pets",
        "budget=b500,b1000",
        "defense=[unit,topk]",
        "seed=range(0,3)",
        "hydra/launcher=joblib",
        "paths.ledger=postgresql://user@host/name",
    ],
)
def test_what_the_documentation_offers_is_let_through(word: str) -> None:
    check_overrides([word], "train")


@pytest.mark.parametrize(
    ("word", "advice"), [("faults=some", "no setting faults"), ("books=b", "no setting books")]
)
def test_a_setting_of_another_command_is_unknown(word: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        check_overrides([word], "train")
    check_overrides([word], "service")


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("batch=0", "docs/settings.md has them all"),
        ("size=0", "docs/settings.md has them all"),
        ("lr=0.1", "docs/settings.md has them all"),
        ("ckpt_path=x", "docs/settings.md has them all"),
        ("thread=1", "did you mean threads?"),
        ("fault=some", "did you mean faults?"),
        ("limits.byte=1", "did you mean limits.bytes?"),
    ],
)
def test_the_service_suggests_its_own_settings_alone(word: str, advice: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_overrides([word], "service")
    assert advice in str(refused.value)


def test_a_run_does_not_suggest_a_setting_of_the_service_or_of_the_audit() -> None:
    for word in ("boks=b", "audit.monei=1", "limits.bytes=1"):
        with pytest.raises(ConfigError) as refused:
            check_overrides([word], "train")
        suggested = str(refused.value).partition("did you mean ")[2].rstrip("?")
        assert suggested in {"", *GROUPS, *(one.name for one in BASE)}


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("attack.optimizer._partial_=3", "set it to true or false"),
        ("attack.optimizer._partial_=false", "does not fit torch.optim.AdamW: set it to true"),
        ("attack.optimizer._recursive_=foo", "set it to true or false"),
        ("attack.optimizer._recursive_=false", "is not for a class of this project: leave it out"),
        ("attack.optimizer._convert_=foo", "set it to one of none, partial, object, all"),
        ("attack.optimizer._convert_=all", "is not for a class of this project: leave it out"),
        ("attack.pairing._partial_=true", "does not fit stealing.attacks.pairing.RawOrView: leave"),
        ("attack.pairing.views._partial_=true", "does not fit stealing.data.views.Views: leave"),
        ("data.queries._args_=[1]", "write data.queries.NAME=... for each argument"),
        ("plan._args_=[1]", "write plan.NAME=... for each argument"),
        ("probe.linear._convert_=foo", "set it to one of none, partial, object, all"),
        ("logger._partial_=false", "set it to true"),
        ("attack._convert_=all", "There is no setting attack._convert_"),
    ],
)
def test_a_key_of_hydra_is_typed_and_fits_the_way_in_which_the_node_is_built(
    override: str, advice: str, whole: DictConfig
) -> None:
    changed = whole.copy()
    OmegaConf.set_struct(changed, False)
    with pytest.raises(ConfigError) as refused:
        check_choices(with_override(changed, override))
    assert advice in str(refused.value)
    assert override.partition("=")[0] in str(refused.value)


def test_a_class_of_a_users_own_may_have_any_key_of_hydra_that_is_one(whole: DictConfig) -> None:
    node = {"_target_": "my.losses.Huber", "_convert_": "all", "_recursive_": False, "size": "any"}
    settings = to_dict(whole)
    settings["attack"]["loss"] = node
    check_settings(settings)
    for key, value in (("_convert_", "foo"), ("_recursive_", 1), ("_args_", [1]), ("lr", -1)):
        settings["attack"]["loss"] = {**node, key: value}
        with pytest.raises(ConfigError, match=rf"^attack\.loss\.{key}"):
            check_settings(settings)


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("attack=b7", "There is no option attack/b7: choose one of barlow, best, "),
        ("seed=0,1", "seed=0,1 names several values: add -m for a sweep"),
        ("+seed=1", "seed is there already: leave the + out."),
        ("arch.pretrained=true", "There is no setting arch.pretrained in this option"),
        ("defense.topk.k=3", "choose defense=topk with it"),
    ],
)
def test_what_hydra_refuses_is_one_sentence(word: str, advice: str) -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.types import RunMode

    loader = ConfigLoaderImpl(create_config_search_path(str(ROOT / "conf")))
    with pytest.raises(HydraException) as refused:
        loader.load_configuration("train", [word], RunMode.RUN)
    assert advice in explain_hydra_error(refused.value, "train")


def test_a_configuration_with_a_setting_that_nobody_reads_is_refused(whole: DictConfig) -> None:
    changed = whole.copy()
    OmegaConf.update(changed, "attack.augment", True, force_add=True)
    with pytest.raises(ConfigError, match=r"There is no setting attack\.augment"):
        check_choices(changed)


# The table and its reference.


def leaf_settings(tree: Any) -> Iterator[Setting]:
    for part in tree.values():
        if isinstance(part, Setting):
            yield part
        else:
            yield from leaf_settings(part)


def found_in(values: Any, tree: Any) -> Iterator[str]:
    """Names of the settings of the table that a configuration has."""
    for name, value in values.items() if isinstance(values, dict) else ():
        part = tree.get(name, tree.get("*"))
        if isinstance(part, Setting):
            yield part.name
        elif part is not None:
            yield from found_in(value, part)


@pytest.mark.parametrize("command_name", sorted(COMMANDS))
def test_the_table_has_every_setting_of_a_command_and_no_other(command_name: str) -> None:
    """`check_values` refuses unknown names, so only the other direction is checked here."""
    tree, seen = tree_of(COMMANDS[command_name]), set[str]()
    for choices in EVERYTHING[command_name]:
        config = choose(*choices, name=command_name)
        check_values(config)
        check_constructors(config)
        seen |= set(found_in(OmegaConf.to_container(config, resolve=True), tree))
    shared = (
        {one.name for one in BASE} if command_name in ("eval", "audit") else {"data.*"}
    )  # of a user's own file
    assert {one.name for one in leaf_settings(tree)} - seen <= shared


def test_the_reference_is_what_the_table_says() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == document() + "\n", "python -m stealing.settings > docs/settings.md"
    assert all(f"| `{one.name}` |" in page for settings in COMMANDS.values() for one in settings)


def rows_below(page: str, target: str) -> dict[str, list[str]]:
    """The table below the title of a class: a row's cells by the name of the argument."""
    [title] = [
        line for line in page.splitlines() if line.startswith("**") and f"`{target}`" in line
    ]
    table, _, _ = page.partition(f"{title}\n\n")[2].partition("\n\n")
    rows = {}
    for line in table.splitlines()[2:]:
        name, *cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        rows[name.strip("` ").rpartition(".")[2]] = cells
    return rows


OWN_CLASSES = sorted({target for targets in OWN.values() for target in targets})


@pytest.mark.parametrize("target", OWN_CLASSES)
def test_the_reference_has_every_argument_of_every_class_that_a_configuration_may_name(
    target: str,
) -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    names = list(inspect.signature(import_target(target)).parameters)
    if not target.startswith("stealing."):
        [line] = [line for line in page.splitlines() if line.startswith(f"| `{target}` |")]
        assert re.findall(r"`(\w+)` [`(e]", line) == names
        return
    rows = rows_below(page, target) if names else {}
    assert list(rows) == names
    for name, (kind, default, meaning) in rows.items():
        assert kind and default and meaning, f"{target}: no meaning of {name} in its docstring"


def test_a_default_is_what_the_options_of_conf_say() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    config = choose("defense=[topk,b4b]", "plan=averaging")
    rows = rows_below(page, "stealing.defenses.truncation.TopK")
    assert rows["k"][1] == f"`{config.defense.topk.k}`"
    near = rows_below(page, "stealing.attacks.query_plan.Plan")["near"][1]
    assert near == f"`0` or `{config.plan.near}`", "an option that inherits another changes it"
    assert "| `trainer.threads` | a whole number from 1 to 4096 | `${cores_each:" in page


def test_the_groups_are_those_of_the_folder_of_choices() -> None:
    folders = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert {*GROUPS, *SERVICE_GROUPS} == folders


# Constructors.


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (
            {"error": "none", "colour": 1},
            r"data\.queries\.colour is not an argument of .*: it takes error, count, near",
        ),
        (
            {"error": "none", "sound": 2, "colour": 1},
            r"add '~data\.queries\.sound' '~data\.queries\.colour' to the command",
        ),
        ({}, r"needs error: add \+data\.queries\.error="),
        ({"error": 3}, r"data\.queries\.error=3 does not fit: set it to text"),
        (
            {"error": "none", "count": 2.0},
            r"data\.queries\.count=2\.0 does not fit: set it to a whole number",
        ),
        (
            {"error": "none", "near": "x"},
            r"data\.queries\.near=x does not fit: set it to a number or null",
        ),
        (
            {"_target_": "torch.optim.Foo"},
            r"data\.queries\._target_=torch\.optim\.Foo cannot be imported",
        ),
    ],
)
def test_only_a_mismatch_with_the_signature_is_a_wrong_setting(
    arguments: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ConfigError, match=advice):
        instantiate_node(fragile(**arguments))


@pytest.mark.parametrize("kind", [KeyError, TypeError, ValueError])
def test_what_a_constructor_raises_is_raised_as_it_is(kind: type[Exception]) -> None:
    with pytest.raises(kind):
        instantiate_node(fragile(error=kind.__name__))


def test_an_error_of_the_disk_in_a_constructor_says_what_to_do() -> None:
    with pytest.raises(StorageError, match="/full/disk: No space left on device: make room"):
        instantiate_node(fragile(error="OSError"))


def test_our_own_errors_in_a_constructor_stay_what_they_are() -> None:
    with pytest.raises(DataError, match=r"images\.parquet, row 3"):
        instantiate_node(fragile(error="DataError"))


def test_a_null_and_a_whole_number_fit_the_annotation_of_a_number() -> None:
    assert isinstance(instantiate_node(fragile(error="none", near=None)), Fragile)
    assert isinstance(instantiate_node(fragile(error="none", near=2)), Fragile)


# How a command ends.


def ended(capsys: pytest.CaptureFixture[str], work: Path, error: Exception) -> str:
    config = OmegaConf.create({"paths": {"work": str(work)}})
    with pytest.raises(SystemExit) as end, one_line_errors(config):
        raise error
    assert isinstance(end.value.code, str)  # Python prints it and exits with 1
    assert len(end.value.code.splitlines()) == 1
    return end.value.code


def test_an_error_of_nobodys_setting_is_said_to_be_a_bug_and_its_traceback_is_in_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ended(capsys, tmp_path, KeyError("label"))
    [log] = (tmp_path / "logs").iterdir()
    assert told.startswith("UnexpectedError: KeyError in ") and str(log) in told
    assert "bug of your own code" in told and Path(__file__).name in told
    assert "Traceback" in log.read_text() and "KeyError: 'label'" in log.read_text()
    assert capsys.readouterr().err == ""


def test_a_bug_of_this_project_is_said_to_be_one(tmp_path: Path) -> None:
    config = OmegaConf.create({"paths": {"work": str(tmp_path)}})
    nothing: Any = None
    with (
        pytest.raises(SystemExit, match=r"artefacts\.py, line \d+: this is a bug of stealing"),
        one_line_errors(config),
    ):
        write_atomically(nothing, b"")


def test_the_traceback_is_printed_if_no_log_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    told = ended(capsys, tmp_path / "file", KeyError("label"))
    assert "stands above" in told and "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EACCES, "change its permissions"),
        (errno.EROFS, "paths.work="),
        (errno.ENOLCK, "file system with locks"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_an_error_of_the_disk_or_of_a_lock_names_the_path_and_what_to_do(
    number: int, advice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ended(capsys, tmp_path, OSError(number, "Refused", "/data/work/x"))
    assert told.startswith("StorageError: /data/work/x: Refused: ") and advice in told
    assert not (tmp_path / "logs").exists()


def test_in_a_cell_of_a_sweep_a_bug_leaves_the_other_cells_their_turn(tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "train", ["hydra.mode=MULTIRUN", f"paths.work={tmp_path}"], return_hydra_config=True
        )
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        with pytest.raises(UnexpectedError, match="bug of your own code"), one_line_errors(config):
            raise KeyError("label")
    finally:
        HydraConfig.instance().cfg = before
    assert issubclass(
        UnexpectedError, StealingError
    )  # so the sweep sums it up as it does other failures


def test_other_commands_end_as_training_does(tmp_path: Path) -> None:
    sweep = tmp_path / "work" / "sweeps" / "s"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text("[]")  # which no version wrote
    done = run_script(
        tmp_path / "work", "-m", "stealing.report", "--status", str(tmp_path / "work")
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("DataError: ")


def test_a_node_that_is_removed_and_added_again_is_replaced() -> None:
    check_overrides(
        ["~attack.loss", "+attack.loss={_target_: stealing.attacks.losses.mse, _partial_: true}"],
        "train",
    )
    with pytest.raises(ConfigError, match="removes what the command needs"):
        check_overrides(["~attack.loss"], "train")


# Options in subfolders.


@pytest.fixture
def own_conf(tmp_path: Path) -> Path:
    """A copy of the options, with some of a user's own in subfolders."""
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    for group, option in (("data", "shapes"), ("attack", "conventional"), ("target", "pretrained")):
        (conf / group / "mine").mkdir()
        shutil.copy(conf / group / f"{option}.yaml", conf / group / "mine" / "own.yaml")
    return conf


def test_an_option_in_a_subfolder_makes_a_run_whose_folder_every_command_finds(
    own_conf: Path, tmp_path: Path
) -> None:
    words = [
        *DEBUG,
        "data=mine/own",
        "attack=mine/own",
        "target=mine/own",
        f"paths.work={tmp_path / 'work'}",
    ]
    with initialize_config_dir(str(own_conf), version_base="1.3"):
        config, choices = compose_config("train", words)
        run = open_run(config, choices, run_steps)
        own_steps = preset("attack", "mine/own")
        judging = compose("eval", [f"run={run.folder}", "target.path=pyproject.toml"])
    assert run.choices["data"] == "mine/own"
    assert run.folder.parent == tmp_path / "work" / "runs" and run.folder.name.startswith(
        "mine.own-mine.own-none-"
    )
    assert own_steps is not None and own_steps.steps == 1200
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    (run.folder / "choices.json").write_text(json.dumps(run.choices))
    saved, _ = restore_run(judging, [f"run={run.folder}"])
    check_choices(saved)


def test_the_page_of_an_audit_of_an_option_in_a_subfolder_has_a_folder_of_its_own(
    tmp_path: Path,
) -> None:
    config = choose("target=zoo", f"paths.work={tmp_path}", name="audit")
    found: Any = [
        SimpleNamespace(
            runs=[SimpleNamespace(result={"choices": {"target": "mine/own"}, "target": "a" * 32})]
        )
    ]
    assert Audit(config, []).page_of(found) == tmp_path / "audits" / "mine.own-aaaaaaaa"
