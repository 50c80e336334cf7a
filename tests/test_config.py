"""Choices: every file composes, the command answers at once, and a mistake gets one sentence."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import DEBUG, NEEDED_BY_TARGET, ROOT, Command, choose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file

from stealing.artefacts import claim, key
from stealing.attacks.query_plan import Plan
from stealing.config import check_choices, compose_config, instantiate_node, to_dict
from stealing.context import open_run
from stealing.encoders import build_encoder, load_encoder, save_encoder
from stealing.errors import ConfigError
from stealing.identity import IN_KEY, run_key
from stealing.pipeline import run_steps
from stealing.saved.files import read_config
from stealing.saved.restore import add_later_parts, restore_run
from stealing.service.serve import build_service
from stealing.settings.service import SERVICE_GROUPS
from stealing.settings.table import GROUPS

OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted((ROOT / "conf").glob("*/*.yaml"))
    if path.parent.name not in ("experiment", "faults") and not path.stem.startswith("_")
]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_with_the_rest(group: str, option: str) -> None:
    extra = NEEDED_BY_TARGET.get(option, ()) if group == "target" else ()
    if (group, option) == ("target", "zoo") and not (ROOT / "assets").exists():
        pytest.skip("no stored target in this clone")
    check_choices(choose(f"{group}={option}", *extra))


def test_our_defense_is_not_said_to_be_a_services() -> None:
    with pytest.raises(ConfigError, match="leave defense= out"):
        check_choices(choose("target=service", "defense=topk"))


@pytest.mark.parametrize("faults", ["none", "some"])
@pytest.mark.parametrize("target", ["zoo", "file"])
def test_the_service_composes_with_every_choice(target: str, faults: str) -> None:
    assert choose(f"target={target}", f"faults={faults}", name="service").limits.images == 250


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
)
def test_every_experiment_composes(name: str) -> None:
    check_choices(choose(f"experiment={name}"))


def test_the_debug_size_for_images_of_ones_own_has_no_network_that_crashes_on_large_ones() -> None:
    config = choose("experiment=debug_own")
    for part in (config.arch, config.target_arch):
        assert min(part.backbone.stem, *part.backbone.widths) >= 16


def test_data_sets_compose_with_architectures() -> None:
    groups = {
        group: sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
        for group in ("data", "arch")
    }
    # Each meets some of the others: a group that reads another's values fails here at any pair.
    longer, shorter = sorted(groups, key=lambda group: -len(groups[group]))
    for number, option in enumerate(groups[longer]):
        other = groups[shorter][number % len(groups[shorter])]
        pair = {longer: option, shorter: other}
        arch = pair["arch"]
        check_choices(choose(f"data={pair['data']}", f"arch={arch}", f"arch@target_arch={arch}"))


def run_fast(*arguments: str) -> tuple[float, str]:
    """Return the fewest wall seconds of three runs of train.py, and its output; refuse torch."""
    code = (
        "import runpy, sys\nsys.argv[0] = 'train.py'\n"
        "try:\n    runpy.run_path('train.py', run_name='__main__')\n"
        "finally:\n    assert 'torch' not in sys.modules"
    )
    times = []
    for _ in range(3):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        times.append(time.monotonic() - start)
    assert "AssertionError" not in done.stderr
    return min(times), done.stdout + done.stderr


def test_help_answers_at_once_without_torch_and_shows_three_examples() -> None:
    seconds, text = run_fast("--help")
    assert (
        seconds < 4
    )  # one second on most machines; torch alone takes more than this on a slow one
    assert text.count("  python train.py") >= 3


def options_in(text: str) -> dict[str, str]:
    """What --help says of each option of a group."""
    return dict(line.split(maxsplit=1) for line in text.splitlines() if line.startswith("  "))


def test_help_of_groups_says_what_each_option_is_at_once_without_torch(tmp_path: Path) -> None:
    own = tmp_path / "attack" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("# @package _global_\n# Mine: it costs $5 a query.\n")
    seconds, text = run_fast("--config-dir", str(tmp_path), "--help", "attack", "plan")
    assert seconds < 4  # as above
    expected = {"mine": "Mine: it costs $5 a query."}
    for group in ("attack", "plan"):
        for path in (ROOT / "conf" / group).glob("[!_]*.yaml"):
            expected[path.stem] = path.read_text().splitlines()[0].removeprefix("# ")
    assert options_in(text) == expected
    assert text.startswith(f"attack: {GROUPS['attack']}\n")


@pytest.mark.parametrize(
    ("line", "option"),
    [
        (("train.py", "--help=arch@target_arch"), "resnet18"),
        (("train.py", "-h", "data/task"), "mnist"),
        (("eval.py", "--config-name", "audit", "--help=budget"), "b500"),
        (("-m", "stealing.service", "--help", "faults", "port=8001"), "some"),
    ],
)
def test_every_command_says_what_the_options_of_a_group_are(
    line: tuple[str, ...], option: str, command: Command
) -> None:
    done = command(*line)
    assert done.returncode == 0, done.stderr
    assert option in options_in(done.stdout) and "Examples" not in done.stdout


@pytest.mark.parametrize(
    ("line", "groups"),
    [
        (("train.py", "--help", "atack"), GROUPS),
        (("-m", "stealing.service", "--help=attack"), SERVICE_GROUPS),
    ],
)
def test_help_of_an_unknown_group_is_one_sentence_with_the_groups(
    line: tuple[str, ...], groups: dict[str, str], command: Command
) -> None:
    done = command(*line)
    assert done.stderr.count("\n") == 1 and not done.stdout
    asked, listed = sentence(done).split(" is not a group of options: --help takes one of ")
    assert asked.split()[-1] in line[-1]
    assert groups.keys() <= set(listed.rstrip(".").split(", "))
    assert ("arch" in listed) == ("arch" in groups)


def test_a_base_that_options_inherit_is_no_choice_in_help_and_errors(command: Command) -> None:
    bases = sorted(path.stem for path in (ROOT / "conf").rglob("_*.yaml"))
    assert {"_base", "_remote", "_torchvision"} <= set(bases)
    lines = [
        ("train.py", "--help"),
        ("-m", "stealing.service", "--help"),
        ("train.py", "budget=b7"),
    ]
    finished = [command(*line) for line in lines]
    texts = [done.stdout + done.stderr for done in finished]
    for text in texts:
        assert "b1000" in text or "service_json" in text
        assert not any(base in text for base in bases)


@pytest.mark.parametrize(
    "wrong", ["sead=1", "attack.lr=0.1", "budget=b7", "until=later", "budget.images=0"]
)
def test_a_wrong_override_answers_at_once_without_torch(wrong: str) -> None:
    seconds, text = run_fast(wrong)
    assert (
        seconds < 4
    )  # one second on most machines; torch alone takes more than this on a slow one
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) == 1
    assert wrong.split("=")[0].split(".")[-1] in text


@pytest.fixture
def encoder_file(tmp_path: Path) -> Path:
    config = choose(*DEBUG)
    arch = to_dict(config.target_arch)
    path = tmp_path / "encoder.safetensors"
    save_encoder(build_encoder(arch, 0), path, arch=arch, size=16, provenance={})
    return path


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a mistake is answered with."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_an_absent_or_foreign_checkpoint_is_one_sentence(command: Command, tmp_path: Path) -> None:
    absent = command(
        "train.py", *DEBUG, "target=file", f"target.path={tmp_path / 'none.safetensors'}"
    )
    assert sentence(absent).startswith("CheckpointError: target.path=")
    foreign = tmp_path / "model.pth"
    torch.save({"model": torch.zeros(3)}, foreign)
    assert "is not a safetensors file" in sentence(
        command("train.py", *DEBUG, "target=file", f"target.path={foreign}")
    )


def test_another_encoder_at_the_same_place_is_another_run_and_the_same_one_elsewhere_is_not(
    encoder_file: Path, tmp_path: Path
) -> None:
    def group(path: Path) -> str:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config, choices = compose_config(
                "train", [*DEBUG, "target=file", f"target.path={path}"]
            )
            return open_run(config, choices, run_steps).group

    before, elsewhere = group(encoder_file), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in encoder_file.parent.glob("encoder.*"):
        shutil.copy(file, elsewhere)
    encoder, card = load_encoder(encoder_file)
    encoder.mean.fill_(0.25)
    save_encoder(encoder, encoder_file, arch=card["arch"], size=16, provenance={})
    assert group(elsewhere / encoder_file.name) == before != group(encoder_file)


def test_a_guard_of_another_encoder_is_one_sentence(command: Command, encoder_file: Path) -> None:
    choices = ("target=file", f"target.path={encoder_file}", "defense=guard")
    assert "reference is of encoder aeacbb56, and" in sentence(
        command("train.py", *DEBUG, *choices)
    )
    with pytest.raises(ConfigError, match="reference is of encoder aeacbb56, and"):
        build_service(
            choose(*choices, f"books={encoder_file.parent / 'books.sqlite'}", name="service")
        )


def test_a_renamed_key_is_one_sentence(command: Command, encoder_file: Path) -> None:
    weights = load_file(encoder_file)
    weights["renamed"] = weights.pop(
        "backbone.stem.0.weight" if "backbone.stem.0.weight" in weights else "mean"
    )
    save_file(weights, encoder_file)
    done = command("train.py", *DEBUG, "target=file", f"target.path={encoder_file}")
    assert "does not fit its architecture at" in sentence(done)


def test_a_size_that_the_target_does_not_take_is_one_sentence(
    command: Command, encoder_file: Path
) -> None:
    card = json.loads(encoder_file.with_suffix(".json").read_text())
    encoder_file.with_suffix(".json").write_text(json.dumps(card | {"size": 32}))
    done = command("train.py", *DEBUG, "target=file", f"target.path={encoder_file}")
    assert "set data.size=32" in sentence(done)


def test_a_budget_larger_than_the_images_is_one_sentence(command: Command) -> None:
    assert "set budget.images=300 or less" in sentence(
        command("train.py", *DEBUG, "budget.images=301")
    )


def test_an_absent_data_folder_is_one_sentence(command: Command, tmp_path: Path) -> None:
    done = command("train.py", "data=cifar10_tiny", f"data.root={tmp_path / 'nowhere'}")
    assert "STEALING_DATA" in sentence(done)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (["trainer.devices=3"], "set attack.batch_size=30"),
        (
            ["trainer.accumulate=5"],
            "trainer.accumulate=5 is more than the 4 batches of the attack: set it to 4",
        ),
        (["trainer.precision=64-true"], "is not one of 32-true, bf16-mixed, 16-mixed"),
    ],
)
def test_a_trainer_that_does_not_fit_the_batches_is_one_sentence(
    wrong: list[str], advice: str, command: Command
) -> None:
    assert advice in sentence(command("train.py", *DEBUG, *wrong))


def test_a_run_claimed_by_another_process_is_one_sentence(command: Command, tmp_path: Path) -> None:
    until = (*DEBUG, "until=pretrain")
    assert command("train.py", *until).returncode == 0
    [folder] = (tmp_path / "work" / "runs").iterdir()
    with claim(folder):
        assert "being made by another process" in sentence(command("train.py", *until))


def test_a_run_of_an_earlier_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "work" / "runs" / "old"
    folder.mkdir(parents=True)
    saved = choose("experiment=debug", f"paths.work={tmp_path / 'work'}")
    groups = ("data", "target", "defense", "plan", "attack")
    (folder / "choices.json").write_text(json.dumps(dict.fromkeys(groups, "x")))
    config = choose(f"run={folder}", "target.path=pyproject.toml", name="eval")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(saved, resolve=True))
    assert restore_run(config, [f"run={folder}"])[0].until == "evaluate"
    OmegaConf.set_struct(saved, False)
    del saved["control"]
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(saved, resolve=True))
    with pytest.raises(
        ConfigError, match=r"earlier version, without control: run its command again"
    ):
        restore_run(config, [f"run={folder}"])


EARLIER = Path(__file__).parent / "earlier_run"
"""Files of a run of an audit from before classes moved; WORK stands for its work folder."""

EARLIER_KEY = "d18724a13d8578a9"
EARLIER_TARGET = "aeacbb5620e4afaaa8336581600fcd33"
EARLIER_IMAGES = {
    "queries": "82c342686749a31318f30d71638409f6",
    "scene_texture/train": "72e63e410fca0113a49ff3c3c8ebc5e7",
    "scene_texture/test": "ad943a685446049c0f2477bfa4fc0237",
    "plain_texture/train": "e65b97eb2fa31f77a4d27a654afc486d",
    "plain_texture/test": "b97261a71c69fc8e2a36a40eca8be708",
    "scene_kind/train": "e32de1a30c91f86f7a6012042c5da118",
    "scene_kind/test": "66feb3396a97f3d6afb0d41af7b8ae8a",
    "plain_kind/train": "e832fee7e2cbea64d9db746d10b48778",
    "plain_kind/test": "19ebef07649f713195b98d8d7e23db07",
}
"""Key of that run, fingerprint of its target and checksums of its images, by its result."""


@pytest.fixture
def earlier_run(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "runs" / "earlier"
    shutil.copytree(EARLIER, folder)
    text = (folder / "config.yaml").read_text()
    assert "stealing.attacks.asking.Plan" in text
    (folder / "config.yaml").write_text(text.replace("WORK", str(tmp_path / "work")))
    return folder


def test_a_run_that_names_a_class_by_its_former_place_is_restored(earlier_run: Path) -> None:
    config = choose(f"run={earlier_run}", "target.path=pyproject.toml", name="eval")
    saved, choices = restore_run(config, [f"run={earlier_run}"])
    check_choices(saved)
    assert isinstance(instantiate_node(saved.plan), Plan)
    assert choices["defense"] == "rounding" and saved.budget.images == 1000


def test_a_run_of_an_earlier_version_has_the_key_that_it_had(earlier_run: Path) -> None:
    values = OmegaConf.load(earlier_run / "config.yaml")
    assert isinstance(values, DictConfig)
    parts = read_config(earlier_run, ConfigError)
    for name in IN_KEY:
        assert key(part=to_dict(values[name])) == key(part=parts[name])
    add_later_parts(parts)
    restored = OmegaConf.create(parts)
    assert run_key(restored, EARLIER_TARGET, EARLIER_IMAGES) == EARLIER_KEY


def test_a_run_that_names_a_class_that_is_gone_is_refused_in_one_sentence(
    earlier_run: Path,
) -> None:
    path = earlier_run / "config.yaml"
    path.write_text(path.read_text().replace("resnet.NarrowResNet", "resnet.CifarResNet"))
    config = choose(f"run={earlier_run}", "target.path=pyproject.toml", name="eval")
    with pytest.raises(
        ConfigError, match=r"arch\.backbone\._target_=stealing\S+CifarResNet"
    ) as refused:
        restore_run(config, [f"run={earlier_run}"])
    assert len(str(refused.value).splitlines()) == 1
