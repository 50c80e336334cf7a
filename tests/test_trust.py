"""Configurations and run folders of strangers: no code in them runs; they decide little."""

import copy
import json
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import DEBUG, NEEDED_BY_TARGET, ROOT, Command, choose
from made_up import finished_run
from omegaconf import DictConfig, OmegaConf

from stealing.config import check_choices, instantiate_node, to_dict
from stealing.errors import ConfigError, DataError, ProcessError, StealingError
from stealing.moved import MOVED
from stealing.report.runs import group_runs
from stealing.saved.files import read_own_choices, write_choices
from stealing.saved.restore import choose_surrogate, restore_run
from stealing.saved.schema import SETTINGS, checked_part
from stealing.service.serve import build_service
from stealing.trust import KEY_VARIABLES, OWN, TORCH_OPTIMIZERS, import_trusted

Change = Callable[[dict[str, Any]], object]


@cache
def composed_once(name: str, *overrides: str) -> DictConfig:
    return choose(*overrides, name=name)


def own(*overrides: str) -> DictConfig:
    """A configuration of `eval.py` that a test may change."""
    return copy.deepcopy(composed_once("eval", "target.path=pyproject.toml", *overrides))


def run_folder(tmp_path: Path, change: Change = lambda _: None, *overrides: str) -> Path:
    """The folder of a run, in which a stranger changed the configuration."""
    work = tmp_path / "work"
    config = copy.deepcopy(composed_once("train", *DEBUG, *overrides))
    config.paths.work = str(work)
    values = to_dict(config)
    change(values)
    folder = work / "runs" / "one"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    (folder / "choices.json").write_text(json.dumps(CHOICES))
    return folder


def judged_again(folder: Path, *words: str) -> DictConfig:
    """What `eval.py run=` would run, as far as torch is not needed."""
    config = own(*words)
    config.run = str(folder)
    saved, _ = restore_run(config, [f"run={folder}", *words])
    check_choices(saved)
    return saved


CHOICES = {
    "data": "shapes",
    "target": "zoo",
    "defense": "topk+noise",
    "plan": "once",
    "attack": "conventional",
    "experiment": None,
}


def refusal(folder: Path, *words: str) -> str:
    """The sentence that a folder is refused with."""
    with pytest.raises(StealingError) as refused:
        judged_again(folder, *words)
    text = str(refused.value)
    assert "\n" not in text and text.isprintable() and text.endswith("."), text
    return text


def update(place: str, value: Any) -> Change:
    """Set a nested setting."""
    *names, last = place.split(".")

    def change(values: dict[str, Any]) -> None:
        for name in names:
            values = values[name]
        values[last] = value

    return change


def remove(place: str) -> Change:
    *names, last = place.split(".")

    def change(values: dict[str, Any]) -> None:
        for name in names:
            values = values[name]
        del values[last]

    return change


def test_the_list_of_what_a_configuration_may_name_is_that_of_conf() -> None:
    found = set[str]()
    for path in (ROOT / "conf").rglob("*.yaml"):
        found |= set(re.findall(r"_target_: *([\w.]+)", path.read_text()))
    listed = {target for targets in OWN.values() for target in targets}
    optimizers = {f"torch.optim.{name}" for name in TORCH_OPTIMIZERS}
    assert found - listed == {"stealing.sweeps.record.Record"}, "which Hydra itself is told to call"
    assert listed - found == optimizers - found


def test_a_class_that_moved_still_works_with_one_line_of_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = {target for targets in OWN.values() for target in targets}
    assert not MOVED.keys() & listed
    config = choose(*DEBUG, "plan._target_=stealing.attacks.asking.Plan")
    check_choices(config)
    assert config.plan._target_ == "stealing.attacks.query_plan.Plan"
    assert capsys.readouterr().err.splitlines() == [
        "stealing.attacks.asking.Plan is now stealing.attacks.query_plan.Plan: change the file."
    ]
    folder = run_folder(tmp_path, update("plan._target_", "stealing.attacks.asking.Plan"))
    assert judged_again(folder).plan._target_ == "stealing.attacks.query_plan.Plan"


def test_the_list_of_environment_variables_is_that_of_conf() -> None:
    texts = [path.read_text() for path in (ROOT / "conf" / "target").glob("*.yaml")]
    named = {
        name for text in texts for name in re.findall(r"(?:variable|honest): *([A-Z_]+)", text)
    }
    assert named == set(KEY_VARIABLES)


def test_every_option_of_this_project_is_of_the_schema_by_which_folders_are_read() -> None:
    groups = (
        "data",
        "arch",
        "pretrain",
        "target",
        "defense",
        "budget",
        "plan",
        "attack",
        "control",
        "probe",
    )
    options = {
        group: sorted(path.stem for path in (ROOT / "conf" / group).glob("[!_]*.yaml"))
        for group in groups
    }
    for number in range(max(map(len, options.values()))):
        chosen = {group: names[number % len(names)] for group, names in options.items()}
        words = [f"{group}={choice}" for group, choice in chosen.items()]
        config = to_dict(choose(*words, *NEEDED_BY_TARGET.get(chosen["target"], ())))
        for part in SETTINGS:
            checked_part(Path("folder"), part, config[part], [])


@pytest.mark.parametrize(
    ("override", "place", "module"),
    [
        ("attack.loss._target_=os.system", "attack.loss", "os"),
        ("attack.loss._target_=torch.hub.load", "attack.loss", "torch.hub"),
        ("attack.loss._target_=pathlib.Path.write_text", "attack.loss", "pathlib.Path"),
        (
            "attack.loss._target_=stealing.artefacts.write_atomically",
            "attack.loss",
            "stealing.artefacts",
        ),
        (
            "attack.loss._target_=stealing.training.wandb.WandbRecorder",
            "attack.loss",
            "stealing.training.wandb",
        ),
        (
            "attack.loss._target_=stealing.artefacts.os.system",
            "attack.loss",
            "stealing.artefacts.os",
        ),
        ("attack.loss._target_=${oc.env:NAMED}", "attack.loss", "os"),
        ("+attack.loss.reduction={_target_:os.getcwd}", "attack.loss.reduction", "os"),
        ("+data.groups={a:[{b:{_target_:os.getcwd}}]}", "data.groups.a.0.b", "os"),
        ("+defense.mine={_target_:my.module.Defense}", "defense.mine", "my.module"),
        ("arch.backbone._target_=timm.create_model", "arch.backbone", "timm"),
    ],
)
def test_a_configuration_names_no_class_of_a_module_that_is_not_trusted(
    override: str, place: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMED", "os.system")
    config = choose(*DEBUG, override)
    with pytest.raises(ConfigError) as refused:
        check_choices(config)
    assert str(refused.value).startswith(f"{place}._target_=") and f"add 'trust=[{module}]'" in str(
        refused.value
    )
    config.trust = ["other", module]
    check_choices(config)


@pytest.mark.parametrize("trust", ["os", "3", "[3]", "[[os]]", "[{os: 1}]"])
def test_trust_is_a_list_of_modules(trust: str) -> None:
    with pytest.raises(ConfigError, match=r"write 'trust=\[my\.module\]'"):
        check_choices(choose(*DEBUG, f"trust={trust}"))


def test_a_service_names_no_class_of_a_module_that_is_not_trusted() -> None:
    with pytest.raises(
        ConfigError, match=r"defense\.mine\._target_=os\.system is not one of .* add 'trust=\[os\]"
    ):
        build_service(choose("+defense.mine={_target_: os.system, command: x}", name="service"))


def test_what_a_trusted_module_only_imports_cannot_be_reached_through_it() -> None:
    assert (
        import_trusted("stealing.attacks.losses.l2", ["stealing.attacks.losses"]).__name__ == "l2"
    )
    for name in (
        "serving.subprocess.run",
        "serving.save_encoder",
        "serving.Path",
        "serving.SIZE",
        "serving",
    ):
        with pytest.raises(ConfigError):
            import_trusted(name, ["serving"])


def test_a_folder_of_ones_own_is_read_and_only_the_protocol_changes(tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    saved = judged_again(folder, "probe.neighbours=3")
    assert (
        saved.probe.neighbours == 3 and saved.attack.batch_size == 32 and saved.until == "evaluate"
    )
    assert (
        saved.paths.work == str(tmp_path / "work")
        and saved.paths.ledger == f"{tmp_path}/work/ledger.sqlite"
    )
    assert saved.logger._target_.endswith("Recorder") and saved.trust == []
    assert instantiate_node(saved.data.queries).checksum, "its nodes can be built"


RUN = {"_target_": "os.system", "command": "touch canary"}

HOSTILE: dict[str, tuple[Change, str]] = {
    "a loss": (update("attack.loss", RUN), "attack.loss._target_=os.system"),
    "a hub": (
        update("attack.loss._target_", "torch.hub.load"),
        "attack.loss._target_=torch.hub.load",
    ),
    "a function of ours": (
        update("attack.loss._target_", "stealing.artefacts.write_atomically"),
        "is not one of",
    ),
    "our class elsewhere": (
        update("attack.loss._target_", "stealing.targets.raw.Raw"),
        "is not one of",
    ),
    "an argument": (
        update("attack.loss.reduction", RUN),
        "attack.loss.reduction is {'_target_': 'os.system'",
    ),
    "a nested argument": (update("pretrain.views.crop", [RUN, 1]), "pretrain.views.crop is"),
    "data": (update("data.queries", RUN), "data.queries._target_=os.system"),
    "nested data": (
        update("data.tasks.plain_kind.test", {"_target_": "os.path.join", "images": RUN}),
        "os.path.join",
    ),
    "an architecture": (update("arch.backbone", RUN), "arch.backbone._target_=os.system"),
    "the plan": (update("plan.views", RUN), "plan.views._target_=os.system"),
    "the trainer": (update("trainer", RUN), "trainer._target_=os.system"),
    "a defense": (update("defense", {"topk": RUN}), "defense.topk._target_=os.system"),
    "a path as a defense": (
        update("defense", {"../../x": {"_target_": "x"}}),
        "'../../x' in defense is not a name",
    ),
    "a path as a task": (update("data.tasks", {"../x": {}}), "'../x' in data.tasks is not a name"),
    "a target": (update("target.remote", RUN), "target.remote._target_=os.system"),
    "positions": (update("attack.loss._args_", [1]), "has no setting '_args_'"),
    "conversion": (update("attack.loss._convert_", "all"), "has no setting '_convert_'"),
    "a partial that is none": (update("attack.loss._partial_", "x"), "has to be true or false"),
    "a part that no run has": (update("hydra", {"run": {"dir": "/"}}), "'hydra', which no run has"),
    "a setting that no attack has": (update("attack.lr", 1), "attack has no setting 'lr'"),
    "a setting that is gone": (remove("attack.steps"), "attack lacks steps"),
    "a part that is gone": (remove("attack"), "made by an earlier version, without attack"),
    "a text for a number": (update("attack.batch_size", "32; rm"), "attack.batch_size is '32; rm'"),
    "true for a number": (update("seed", True), "seed is True"),
    "infinity": (update("attack.ema", float("inf")), "not a finite number"),
    "a list for a mapping": (update("attack", []), "attack is []"),
    "a text for a mapping": (update("data.tasks", "x"), "data.tasks is 'x'"),
    "a number for a node": (update("attack.loss", 3), "attack.loss is 3"),
    "a node without a class": (update("attack.loss", {"reduction": "sum"}), "attack.loss is"),
    "a class that is a list": (
        update("attack.loss._target_", ["os", "system"]),
        "is not an import path",
    ),
    "the environment": (
        update("data.queries.split", "${oc.env:HOME}"),
        "is an interpolation",
    ),
    "another interpolation": (update("start", "${seed}"), "is an interpolation"),
    "another ledger": (
        update("paths.ledger", "/tmp/l.sqlite"),
        "if it is yours, add paths.ledger=/tmp/l.sqlite;",
    ),
    "a ledger elsewhere": (
        update("paths.ledger", "postgresql://x/y"),
        "add paths.ledger=postgresql://x/y; without it",
    ),
    "another place": (update("paths.work", "/elsewhere"), "run eval.py in the folder"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_foreign_folder_is_refused_in_one_sentence_and_nothing_is_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, sentence = HOSTILE[name]
    (tmp_path / "pyproject.toml").touch()
    assert sentence in refusal(run_folder(tmp_path, change))
    assert not (tmp_path / "canary").exists()


YAML: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not a mapping"),
    "a list": (b"[]", "is not a mapping"),
    "a text": (b"seed", "is not a mapping"),
    "no YAML": (b"a: [", "cannot be read"),
    "a name twice": (b"seed: 0\nseed: 1\n", "a name stands twice"),
    "a name that is a number": (b"1: 2\n", "the name 1 is not text"),
    "an object of Python": (b"a: !!python/object/apply:os.system [x]\n", "it has tags"),
    "anchors that grow": (b"a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n", "it has anchors"),
    "a date": (b"a: 2001-01-01\n", "neither text nor a number"),
    "UTF-16": ("seed: 0\n".encode("utf-16"), "not in UTF-8"),
    "latin-1": (b"a: \xe9\n", "not in UTF-8"),
    "zeros": (b"a: \x00\n", "cannot be read"),
    "100,000 lists in each other": (b"a: " + b"[" * 100_000, "nests deeper"),
    "a number of 10,000 digits": (b"a: " + b"9" * 10_000 + b"\n", "cannot be read"),
    "infinity": (b"a: .inf\n", "not a finite number"),
    "200 KiB": (b"#" * 200_000, "has more than 131072 bytes"),
}


@pytest.mark.parametrize("name", YAML)
def test_a_configuration_that_is_none_is_one_sentence(name: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    content, sentence = YAML[name]
    (folder / "config.yaml").write_bytes(content)
    assert sentence in refusal(folder)


@pytest.mark.parametrize("file", ["config.yaml", "choices.json"])
@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a loop", "nothing"])
def test_what_is_no_file_in_a_folder_is_one_sentence(kind: str, file: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    (folder / file).unlink()
    if kind == "a folder":
        (folder / file).mkdir()
    elif kind == "a pipe":
        os.mkfifo(folder / file)
    elif kind == "a loop":
        (folder / file).symlink_to(folder / file)
    refusal(folder)


@pytest.mark.parametrize(
    "choice", ["../../x", "/etc/x", "a/../b", "", " ", "a\nb", 3, ["a"], {"a": "b"}]
)
def test_a_choice_never_becomes_a_path(choice: Any, tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    (folder / "choices.json").write_text(json.dumps({**CHOICES, "data": choice}))
    assert "which is not an option" in refusal(folder)
    (folder / "choices.json").write_text(json.dumps({**CHOICES, "data": "mine/pets-2.0"}))
    judged_again(folder)


def test_a_folder_decides_neither_where_things_are_written_nor_who_is_trusted(
    tmp_path: Path,
) -> None:
    def change(values: dict[str, Any]) -> None:
        values["paths"]["cache"] = values["data"]["queries"]["cache"] = "/elsewhere"
        values["trust"] = ["os"]
        values["plan_only"] = True
        values["logger"] = {
            "_target_": "stealing.training.wandb.WandbRecorder",
            "_partial_": True,
            "project": "theirs",
        }

    saved = judged_again(run_folder(tmp_path, change))
    assert "/elsewhere" not in OmegaConf.to_yaml(saved)
    assert saved.data.queries.cache == saved.paths.cache == f"{tmp_path}/work/cache"
    assert (saved.trust, saved.plan_only, saved.logger.project) == ([], False, "stealing")


def test_a_folder_starts_no_more_processes_and_threads_than_this_machine_has_cores(
    tmp_path: Path,
) -> None:
    folder = run_folder(
        tmp_path, lambda values: values["trainer"].update(devices=10**6, threads=10**6)
    )
    saved = judged_again(folder)
    assert saved.trainer.devices == 1 and 1 <= saved.trainer.threads <= (os.cpu_count() or 1)


def test_a_class_of_ones_own_in_a_folder_needs_the_word_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_loss_of_tests.py").write_text("import os\n\n\ndef f(a, b):\n    return a\n")
    node = {"_target_": "my_loss_of_tests.f", "_partial_": True}
    folder = run_folder(
        tmp_path,
        lambda values: values.update(
            trust=["my_loss_of_tests"], attack={**values["attack"], "loss": node}
        ),
    )
    assert "add 'trust=[my_loss_of_tests]'" in refusal(folder)
    assert (
        judged_again(folder, "trust=[my_loss_of_tests]").attack.loss._target_
        == "my_loss_of_tests.f"
    )
    node["_target_"] = "my_loss_of_tests.os.system"
    folder = run_folder(tmp_path, update("attack.loss", node))
    assert "attack.loss._target_" in refusal(folder, "trust=[my_loss_of_tests]")


SERVICE = ("target=service", "target.authorized=true", "target.remote.url=https://example.org")


def test_a_service_elsewhere_is_asked_only_if_the_permission_is_typed_again(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, lambda _: None, *SERVICE)
    with pytest.raises(
        ConfigError, match=r"asks the service at .*example\.org.*add target\.authorized=true"
    ):
        instantiate_node(judged_again(folder).target.remote)
    assert (
        instantiate_node(judged_again(folder, "target.authorized=true").target.remote).url
        == "https://example.org"
    )


@pytest.mark.parametrize("setting", ["variable", "honest"])
def test_a_folder_names_no_other_environment_variable_with_a_key(
    setting: str, tmp_path: Path
) -> None:
    place = f"target.remote.credential.{setting}"
    folder = run_folder(tmp_path, update(place, "AWS_SECRET_ACCESS_KEY"), *SERVICE)
    typed = f"+{place}=AWS_SECRET_ACCESS_KEY"
    may = "target.authorized=true"
    assert f"add {typed} if that key is meant" in refusal(folder, may)
    assert (
        judged_again(folder, typed, may).target.remote.credential[setting]
        == "AWS_SECRET_ACCESS_KEY"
    )


def test_a_folder_names_no_secret_of_a_defense(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, update("defense.noise.secret", "HOME"), "defense=[topk,noise]")
    assert "add +defense.noise.secret=HOME if that key is meant" in refusal(folder)
    assert judged_again(folder, "+defense.noise.secret=HOME").defense.noise.secret == "HOME"


def test_a_folder_opens_no_ledger_but_the_commands_own(tmp_path: Path) -> None:
    words = ("target=recording", "target.remote.name=n")
    folder = run_folder(
        tmp_path, update("target.remote.ledger", "/elsewhere/ledger.sqlite"), *words
    )
    assert judged_again(folder).target.remote.ledger == f"{tmp_path}/work/ledger.sqlite"


def test_a_folder_downloads_nothing_outside_the_folder_of_data(tmp_path: Path) -> None:
    def node(**changes: Any) -> Change:
        known = {
            "_target_": "stealing.data.downloads.from_torchvision",
            "dataset": "MNIST",
            "split": "train",
        }
        known |= {"root": str(tmp_path / "data" / "torchvision"), "size": 16, "cache": "/elsewhere"}
        return update("data.queries", known | changes)

    assert "outside" in refusal(run_folder(tmp_path, node()))
    typed = f"+data.root={tmp_path / 'data'}"
    assert (
        judged_again(run_folder(tmp_path, node()), typed).data.queries.cache
        == f"{tmp_path}/work/cache"
    )
    for dataset in ("DatasetFolder", "folder", "__init__"):
        assert "uses the data set" in refusal(run_folder(tmp_path, node(dataset=dataset)), typed)


@pytest.mark.parametrize(
    "word", ["attack.steps=3", "paths.work=/tmp", "seed=1", "defense=topk", "+attack.x=1"]
)
def test_a_run_keeps_its_own_choices(word: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    with pytest.raises(ConfigError, match="A run keeps its own choices"):
        restore_run(own(), [f"run={folder}", word])


def surrogate_of(tmp_path: Path, artefacts: Any, change: Change = lambda _: None) -> DictConfig:
    folder = run_folder(tmp_path, change)
    (folder / "result.json").write_text(json.dumps({"artefacts": artefacts}))
    config = own()
    config.surrogate = str(folder)
    choose_surrogate(config, [f"surrogate={folder}"])
    return config


def test_what_a_run_stole_is_judged_on_its_data_in_the_commands_own_places(tmp_path: Path) -> None:
    config = surrogate_of(
        tmp_path, {"surrogate": "surrogates/x"}, update("data.queries.cache", "/elsewhere")
    )
    assert config.target.path == str(tmp_path / "work" / "surrogates" / "x" / "encoder.safetensors")
    assert (
        config.data.queries.count == 300
        and config.data.queries.cache == config.paths.cache != "/elsewhere"
    )


@pytest.mark.parametrize("place", ["../../x", "/etc", "surrogates/../../..", 3, None, ["x"]])
def test_a_result_names_no_surrogate_outside_its_work_folder(place: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no surrogate in its own work folder"):
        surrogate_of(tmp_path, {"surrogate": place})


@pytest.mark.parametrize("artefacts", [None, [], "x"])
def test_a_result_without_artefacts_is_one_sentence(artefacts: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no surrogate"):
        surrogate_of(tmp_path, artefacts)


def test_the_data_of_a_foreign_surrogate_name_nothing_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.queries\._target_=os\.system"):
        surrogate_of(tmp_path, {"surrogate": "surrogates/x"}, update("data.queries", RUN))


def test_the_other_processes_of_a_run_take_only_what_the_first_wrote(tmp_path: Path) -> None:
    config = composed_once("train", *DEBUG)
    checksum = write_choices(tmp_path, config, CHOICES)
    read, choices = read_own_choices(tmp_path, checksum)
    assert to_dict(read) == to_dict(config) and choices == CHOICES
    for name in ("config.yaml", "choices.json"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(f"{text} ")
        with pytest.raises(ProcessError, match="was changed while its processes started"):
            read_own_choices(tmp_path, checksum)
        (tmp_path / name).write_text(text)


@pytest.mark.parametrize(
    "content", [b"a: ${oc.env:HOME}\n", b"a: !!python/name:os.system\n", b"\xff", b"[" * 9999, b""]
)
def test_a_report_reads_a_foreign_configuration_as_data(content: bytes, tmp_path: Path) -> None:
    folder = finished_run(tmp_path, "g", {"a": (0.8, 0.6, 0.4)})
    assert len(group_runs([folder])) == 1
    (folder / "config.yaml").write_bytes(content)
    with pytest.raises(DataError, match=r"config\.yaml"):
        group_runs([folder])


@pytest.mark.slow
def test_the_commands_run_no_code_of_a_foreign_folder(command: Command, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text(f"open({str(canary)!r}, 'w')\ndef run(): pass\n")
    hub = {
        "_target_": "torch.hub.load",
        "repo_or_dir": str(tmp_path / "hub"),
        "model": "run",
        "source": "local",
    }
    written = {"_target_": "pathlib.Path.write_text", "self": str(canary), "data": "ran"}
    folder = run_folder(tmp_path, update("trainer", hub))
    again = command("eval.py", f"run={folder}")
    assert again.returncode == 1 and again.stderr.count("\n") == 1, again.stderr
    assert (
        again.stderr.startswith("ConfigError: ")
        and "trainer._target_=torch.hub.load" in again.stderr
    )

    folder = run_folder(tmp_path, update("data.queries", written))
    (folder / "result.json").write_text(json.dumps({"artefacts": {"surrogate": "surrogates/x"}}))
    stolen = command("eval.py", f"surrogate={folder}")
    assert stolen.returncode == 1 and stolen.stderr.count("\n") == 1, stolen.stderr
    assert "data.queries._target_=pathlib.Path.write_text" in stolen.stderr
    assert not canary.exists()
