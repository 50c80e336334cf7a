"""Choices: every file composes, the command answers at once, and a mistake gets one sentence that says what to do."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import DEBUG, ROOT, Command, choose
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from stealing.artefacts import claim
from stealing.config import check_choices, composed, plain, saved_choices
from stealing.encoders import build_encoder, save_encoder
from stealing.errors import ConfigError
from stealing.pipeline import Run
from stealing.service.serve import built

OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted((ROOT / "conf").glob("*/*.yaml"))
    if path.parent.name not in ("experiment", "faults")
]


MODEL = "target.remote.wire.body.model=m"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_with_the_rest(group: str, option: str) -> None:
    extra = {"file": ("target.path=pyproject.toml",), "azure": ("target.remote.url=https://x.org", MODEL)}
    extra |= {"openai": (MODEL,), "vllm": (MODEL,), "recording": ("target.remote.name=n",)}
    if (group, option) == ("target", "zoo") and not (ROOT / "assets").exists():
        pytest.skip("no stored target in this clone")
    check_choices(choose(f"{group}={option}", *(extra.get(option, ()) if group == "target" else ())))


def test_our_defense_is_not_said_to_be_a_services() -> None:
    with pytest.raises(ConfigError, match="leave defense= out"):
        check_choices(choose("target=service", "defense=topk"))


@pytest.mark.parametrize("faults", ["none", "some"])
@pytest.mark.parametrize("target", ["zoo", "file"])
def test_the_service_composes_with_every_choice(target: str, faults: str) -> None:
    assert choose(f"target={target}", f"faults={faults}", name="service").limits.images == 250


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")))
def test_every_experiment_composes(name: str) -> None:
    check_choices(choose(f"experiment={name}"))


def test_every_data_set_composes_with_every_architecture() -> None:
    groups = {group: sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml")) for group in ("data", "arch")}
    for data in groups["data"]:
        for arch in groups["arch"]:
            check_choices(choose(f"data={data}", f"arch={arch}", f"target_arch={arch}"))


def run_fast(*arguments: str) -> tuple[float, str]:
    """Wall seconds of train.py with these arguments, best of three, and what it printed; torch must not be imported."""
    code = (
        "import runpy, sys\nsys.argv[0] = 'train.py'\n"
        "try:\n    runpy.run_path('train.py', run_name='__main__')\n"
        "finally:\n    assert 'torch' not in sys.modules"
    )
    times = []
    for _ in range(3):
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
        times.append(time.monotonic() - start)
    assert "AssertionError" not in done.stderr
    return min(times), done.stdout + done.stderr


def test_help_answers_at_once_without_torch_and_shows_three_examples() -> None:
    seconds, text = run_fast("--help")
    assert seconds < 4  # one second on most machines; torch alone takes more than this on a slow one
    assert text.count("  python train.py") >= 3


@pytest.mark.parametrize("wrong", ["sead=1", "attack.lr=0.1", "budget=b7", "until=later", "budget.images=0"])
def test_a_wrong_override_answers_at_once_without_torch(wrong: str) -> None:
    seconds, text = run_fast(wrong)
    assert seconds < 4  # one second on most machines; torch alone takes more than this on a slow one
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) == 1
    assert wrong.split("=")[0].split(".")[-1] in text


@pytest.fixture
def encoder_file(tmp_path: Path) -> Path:
    config = choose(*DEBUG)
    arch = plain(config.target_arch)
    path = tmp_path / "encoder.safetensors"
    save_encoder(build_encoder(arch, 0), path, arch=arch, size=16, provenance={})
    return path


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a mistake is answered with."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_an_absent_or_foreign_checkpoint_is_one_sentence(command: Command, tmp_path: Path) -> None:
    absent = command("train.py", *DEBUG, "target=file", f"target.path={tmp_path / 'none.safetensors'}")
    assert sentence(absent).startswith("CheckpointError: target.path=")
    foreign = tmp_path / "model.pth"
    torch.save({"model": torch.zeros(3)}, foreign)
    assert "is not a safetensors file" in sentence(command("train.py", *DEBUG, "target=file", f"target.path={foreign}"))


def test_another_encoder_at_the_same_place_is_another_run_and_the_same_one_elsewhere_is_not(
    encoder_file: Path, tmp_path: Path
) -> None:
    def group(path: Path) -> str:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return Run(*composed("train", [*DEBUG, "target=file", f"target.path={path}"])).group

    before, elsewhere = group(encoder_file), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in encoder_file.parent.glob("encoder.*"):
        shutil.copy(file, elsewhere)
    save_file(load_file(encoder_file) | {"mean": torch.full((3, 1, 1), 0.25)}, encoder_file)
    assert group(elsewhere / encoder_file.name) == before != group(encoder_file)


def test_a_guard_of_another_encoder_is_one_sentence(command: Command, encoder_file: Path) -> None:
    choices = ("target=file", f"target.path={encoder_file}", "defense=guard")
    assert "reference is of encoder aeacbb56, and" in sentence(command("train.py", *DEBUG, *choices))
    with pytest.raises(ConfigError, match="reference is of encoder aeacbb56, and"):
        built(choose(*choices, f"books={encoder_file.parent / 'books.sqlite'}", name="service"))


def test_a_renamed_key_is_one_sentence(command: Command, encoder_file: Path) -> None:
    weights = load_file(encoder_file)
    weights["renamed"] = weights.pop("backbone.stem.0.weight" if "backbone.stem.0.weight" in weights else "mean")
    save_file(weights, encoder_file)
    done = command("train.py", *DEBUG, "target=file", f"target.path={encoder_file}")
    assert "does not fit its architecture at" in sentence(done)


def test_a_size_that_the_target_does_not_take_is_one_sentence(command: Command, encoder_file: Path) -> None:
    card = json.loads(encoder_file.with_suffix(".json").read_text())
    encoder_file.with_suffix(".json").write_text(json.dumps(card | {"size": 32}))
    done = command("train.py", *DEBUG, "target=file", f"target.path={encoder_file}")
    assert "set data.size=32" in sentence(done)


def test_a_budget_larger_than_the_images_is_one_sentence(command: Command) -> None:
    assert "lower budget=" in sentence(command("train.py", *DEBUG, "budget.images=301"))


def test_an_absent_data_folder_is_one_sentence(command: Command, tmp_path: Path) -> None:
    done = command("train.py", "data=cifar10_tiny", f"data.root={tmp_path / 'nowhere'}")
    assert "STEALING_DATA" in sentence(done)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (["trainer.devices=3"], "set attack.batch_size=30"),
        (["trainer.accumulate=5"], "trainer.accumulate=5 is more than the 4 batches of the attack: set it to 4"),
        (["trainer.precision=64-true"], "is none of 32-true, bf16-mixed, 16-mixed"),
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
    (folder / "choices.json").write_text("{}")
    config = choose(f"run={folder}", "target.path=pyproject.toml", name="eval")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(saved))
    assert saved_choices(config, [f"run={folder}"])[0].until == "evaluate"
    OmegaConf.set_struct(saved, False)
    del saved["control"]
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(saved))
    with pytest.raises(ConfigError, match=r"earlier version, without control: run its command again"):
        saved_choices(config, [f"run={folder}"])
