"""Code of the user's own: misfits are refused before a query, the rest works from her folder."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import own_code
import pytest
import torch
from conftest import DEBUG, FORKS, ROOT, choose, stored
from omegaconf import OmegaConf
from test_simclr import ARCH as NORMED
from test_simclr import CALL, IMAGES, PLAIN, RECIPE
from test_surrogate import ATTACK, PIXELS, stolen
from test_trust import judged_again, run_folder

from stealing.attacks.checks import check_attack, check_plan
from stealing.config import check_choices, to_dict
from stealing.encoders import build_encoder
from stealing.errors import ConfigError
from stealing.identity import run_key
from stealing.pretraining.pretrain import pretrain_encoder
from stealing.pretraining.recipe import check_recipe
from stealing.settings.constructors import check_constructors
from stealing.training.fit import Recorder, Settings, build_callbacks, settings_of
from stealing.training.tensorboard import TensorBoardRecorder

LOSS = {"_target_": "own_code.cosine", "_partial_": True, "power": 1.5}
SUPERVISED = {
    "method": {"_target_": "own_code.Supervised", "_partial_": True, "classes": 3},
    "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1},
    "batch_size": 8,
}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rows", r"it returns the shape \(8,\), which is not a scalar"),
        ("detached", "its value has no gradient"),
        ("of_target", "the surrogate's features get no gradient"),
        ("infinite", "its value is inf"),
        ("number", "it returns float, which is not a tensor"),
        ("of_one", "TypeError: .*of_one"),
        ("of_width_three", "RuntimeError: "),
    ],
)
def test_a_loss_that_cannot_train_is_refused_in_one_sentence(name: str, reason: str) -> None:
    loss = {"_target_": f"own_code.{name}", "_partial_": True}
    with pytest.raises(ConfigError, match=rf"attack\.loss=own_code\.{name} .*{reason}") as refused:
        check_attack(ATTACK | {"loss": loss}, 8)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith("a finite scalar with gradient.")


def test_a_module_that_imports_something_absent_is_refused_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_import.py").write_text("import not_installed_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    loss = {"_target_": "broken_import.loss", "_partial_": True}
    with pytest.raises(ConfigError, match="No module named 'not_installed_here'"):
        check_attack(ATTACK | {"loss": loss}, 8)


def test_a_pairing_whose_passes_are_not_its_pairs_is_refused() -> None:
    pairing = {"_target_": "own_code.Darker", "passes": 2}
    with pytest.raises(ConfigError, match=r"attack\.pairing=.* yields 1 views .* its passes is 2"):
        check_attack(ATTACK | {"pairing": pairing}, 8)


def test_a_plan_that_lacks_something_is_refused() -> None:
    check_plan(own_code.Twice())
    with pytest.raises(ConfigError, match=r"plan=Darker has no grows"):
        check_plan(own_code.Darker())


def test_a_run_of_before_methods_and_callbacks_is_read_as_simclr_without_callbacks(
    tmp_path: Path,
) -> None:
    def change(values: dict[str, Any]) -> None:
        del values["callbacks"], values["pretrain"]["method"], values["control"]["method"]

    saved = judged_again(run_folder(tmp_path, change))
    now = choose(*DEBUG)
    assert saved.callbacks == {}
    assert saved.pretrain == now.pretrain and saved.control == now.control


def test_a_check_of_an_attack_draws_no_random_number_of_others() -> None:
    before = torch.random.get_rng_state()
    check_attack(ATTACK, 8)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_loss_in_an_inherited_file_that_merges_foreign_settings_is_refused_with_the_remedy() -> (
    None
):
    """`defaults: [stolen_encoder, _self_]` leaves `reduction` of the inherited loss in the node."""
    config = choose(*DEBUG, "trust=[own_code]")
    OmegaConf.set_struct(config, False)
    config.attack.loss = OmegaConf.merge(config.attack.loss, LOSS)
    check_choices(config)
    with pytest.raises(
        ConfigError, match=r"attack\.loss\.reduction is not an argument of own_code"
    ) as refused:
        check_constructors(config)
    assert "add '~attack.loss.reduction' to the command" in str(refused.value)
    del config.attack.loss["reduction"]
    check_constructors(config)
    check_attack(to_dict(config.attack), 16)


def test_a_loss_of_ones_own_trains_a_surrogate(tmp_path: Path) -> None:
    own_code.USED.clear()
    *_, folder, _ = stolen(tmp_path, attack=ATTACK | {"loss": LOSS})
    assert own_code.USED == ["cosine"] * 6
    assert json.loads((folder / "encoder.json").read_text())["provenance"]["attack"]["loss"] == LOSS


def test_a_pairing_of_ones_own_trains_a_surrogate(tmp_path: Path) -> None:
    own_code.USED.clear()
    stolen(tmp_path, attack=ATTACK | {"pairing": {"_target_": "own_code.Darker"}})
    assert own_code.USED == ["Darker"] * 6


def test_a_second_method_of_pretraining_is_a_class_and_its_settings(tmp_path: Path) -> None:
    """Supervised, with labels, which SimCLR never reads."""
    check_recipe(SUPERVISED | {"epochs": 3}, "pretrain")
    call: dict[str, Any] = CALL | {"steps": 12, "root": tmp_path, "monitored": True}
    encoder, folder, _ = pretrain_encoder(
        IMAGES, NORMED, SUPERVISED, settings=PLAIN, recorder=Recorder(), **call
    )
    rows = (folder / "curves.csv").read_text().splitlines()
    assert "pretrain/knn" in rows[0]
    start = build_encoder(NORMED, 0)
    assert encoder.state_dict().keys() == start.state_dict().keys(), "the head is dropped"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"temprature": 0.1}, r"pretrain\.temprature is not an argument of .*SimCLRModule"),
        ({"temperature": None}, r"pretrain\.method=.*missing a required argument: 'temperature'"),
        ({"method": {"_target_": "own_code.Supervised"}}, r"pretrain\.views is not an argument of"),
    ],
)
def test_a_recipe_that_its_method_does_not_take_is_refused(
    change: dict[str, Any], sentence: str
) -> None:
    recipe = {name: value for name, value in (RECIPE | change).items() if value is not None}
    with pytest.raises(ConfigError, match=sentence):
        check_recipe(recipe, "pretrain")


def with_callbacks(**nodes: Any) -> Settings:
    named = {name: {"_target_": target} for name, target in nodes.items()}
    return replace(PLAIN, callbacks=named)


def test_callbacks_of_ones_own_are_added_to_each_fit_and_are_part_of_the_key(
    tmp_path: Path,
) -> None:
    own_code.USED.clear()
    plain, *_, folder, _ = stolen(tmp_path)
    counted, *_, other, _ = stolen(tmp_path, settings=with_callbacks(mine="own_code.Counting"))
    assert own_code.USED == ["Counting"] * 6
    assert other != folder and counted.fingerprint == plain.fingerprint
    weak, *_ = stolen(tmp_path, settings=with_callbacks(mine="own_code.Weakening"))
    assert weak.fingerprint != plain.fingerprint
    rate = "lightning.pytorch.callbacks.LearningRateMonitor"
    longer = ATTACK | {"steps": 20}  # a step in ten is logged
    *_, watched, _ = stolen(tmp_path, attack=longer, settings=with_callbacks(rate=rate))
    assert "lr-SGD" in (watched / "curves.csv").read_text().splitlines()[0]


def test_what_is_no_callback_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.mine=own_code\.Darker is not a callback"):
        build_callbacks(with_callbacks(mine="own_code.Darker"))


def test_callbacks_are_chosen_by_name_and_no_callback_is_the_key_of_before() -> None:
    config = choose(*DEBUG, "callbacks=[learning_rate]")
    check_choices(config)
    key = run_key(config, None, {"queries": "one"})
    assert settings_of(config).callbacks.keys() == {"learning_rate"}
    assert key != run_key(choose(*DEBUG), None, {"queries": "one"})
    with pytest.raises(ConfigError, match=r"add 'trust=\[my\.module\]"):
        check_choices(choose(*DEBUG, "+callbacks.mine={_target_: my.module.Callback}"))


def test_a_profiler_writes_the_times_of_a_fit_beside_the_artefact_and_changes_no_key(
    tmp_path: Path,
) -> None:
    *_, folder, _ = stolen(tmp_path / "plain")
    *_, profiled, _ = stolen(tmp_path / "profiled", settings=replace(PLAIN, profiler="simple"))
    assert profiled.name == folder.name
    assert "run_training_batch" in (profiled / "fit-profile.txt").read_text()


def test_tensorboard_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stealing.training.tensorboard.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[tensorboard\]'"):
        TensorBoardRecorder()


def test_tensorboard_gets_the_curve_of_a_fit_a_table_and_images(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recorder = TensorBoardRecorder(cell="cell")
    *_, folder, _ = stolen(tmp_path, recorder=recorder, attack=ATTACK | {"steps": 20})
    recorder.open("evaluate", folder)
    recorder.show("probes", [{"task": "a", "SA": 0.5}])
    recorder.show("queries", PIXELS)
    recorder.close()
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [scalar.step for scalar in events.Scalars("steal/loss")] == [9, 19]
    tags = events.Tags()
    assert "probes/text_summary" in tags["tensors"] and "queries" in tags["images"]


OWN_FILES = {
    "attack/mine": """
defaults: [conventional, _self_]
loss: {_target_: my_code.cosine, _partial_: true, power: 1.5}
""",
    "attack/paired": """
defaults: [conventional, _self_]
pairing: {_target_: my_code.Darker}
""",
    "plan/mine": "_target_: my_code.Twice\n",
    "pretrain/mine": """
method: {_target_: my_code.Supervised, _partial_: true, classes: 16}
optimizer: {_target_: torch.optim.SGD, _partial_: true, lr: 0.1}
batch_size: 64
epochs: 2
""",
}


def own_folder(folder: Path) -> Path:
    """A working folder of the user's own, outside the clone, with a module and options."""
    folder.mkdir()
    shutil.copy(own_code.__file__, folder / "my_code.py")
    for name, text in OWN_FILES.items():
        path = folder / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def from_own_folder(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run train.py of the clone from the user's own folder."""
    line = [str(ROOT / "train.py"), "--config-dir", "conf", *DEBUG, "trust=[my_code]", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STEALING_WORK": "work"}
    return FORKS.run(line, folder, environment)


def test_a_loss_that_merges_is_refused_before_the_target_is_trained_or_asked(
    tmp_path: Path,
) -> None:
    folder = own_folder(tmp_path / "mine")
    (folder / "conf" / "attack" / "merged.yaml").write_text(
        "defaults: [stolen_encoder, _self_]\nloss: {_target_: my_code.of_one, _partial_: true}\n"
    )
    done = from_own_folder(folder, "attack=merged")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "ConfigError: attack.loss.reduction is not an argument of my_code.of_one"
    )
    fixed = from_own_folder(folder, "attack=merged", "~attack.loss.reduction")
    assert fixed.returncode == 1
    assert "ConfigError: attack.loss=my_code.of_one does not work" in fixed.stderr
    assert not (folder / "work" / "targets").exists()
    assert not (folder / "work" / "ledger.sqlite").exists()


@pytest.mark.slow
def test_loss_plan_and_pretraining_of_ones_own_work_from_her_folder(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "mine")
    done = from_own_folder(folder, "attack=mine", "plan=mine", "pretrain=mine", "until=steal")
    assert done.returncode == 0, done.stderr
    assert stored(folder / "work") == 128, "64 images, twice"
    [card] = (folder / "work").glob("targets/*/encoder.json")
    recipe = json.loads(card.read_text())["provenance"]["recipe"]
    assert recipe["method"]["_target_"] == "my_code.Supervised"


@pytest.mark.slow
def test_a_pairing_of_ones_own_works_from_her_folder_on_two_processes(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "mine")
    words = ("attack=paired", "~attack.pairing.views", "~attack.pairing.view_weight")
    done = from_own_folder(
        folder, *words, "~attack.pairing.count", "trainer=ddp_cpu", "until=steal"
    )
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "work").glob("surrogates/*/done.json"))) == 1
