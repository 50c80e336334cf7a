"""Controls of a run: the pool goes into SimCLR, and independent encoders are never C or billed."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DEBUG, Command, choose, stored
from omegaconf import OmegaConf

from stealing.attacks.steal import BoughtAnswers
from stealing.config import instantiate_node, to_dict
from stealing.controls import held_images
from stealing.encoders import build_encoder, save_encoder
from stealing.errors import ConfigError
from stealing.evaluation.controls import check_controls, load_controls
from stealing.evaluation.protocol import BESIDE, CONTROLS
from stealing.evaluation.statistics import HELD, overall, summarise
from stealing.identity import run_key
from stealing.preflight import attack_compute, control_steps, held_count
from stealing.queries.digests import digests_of
from stealing.queries.selection import select


def encoder_file(folder: Path, seed: int = 0, size: int = 16) -> Path:
    """An encoder that nobody trained, of the size of experiment=debug."""
    arch = to_dict(choose(*DEBUG).target_arch)
    path = folder / f"{seed}-{size}" / "encoder.safetensors"
    save_encoder(build_encoder(arch, seed), path, arch=arch, size=size, provenance={})
    return path


def named(*names: str, path: Path) -> list[str]:
    options = [f"controls.{name}.path={path}" for name in names]
    return [*DEBUG, f"controls=[{','.join(names)}]", *options]


@pytest.fixture(scope="module")
def queries() -> Any:
    return instantiate_node(choose(*DEBUG).data.queries)


def context_of(queries: Any, pool: int | None, **more: Any) -> Any:
    config = choose(*DEBUG, "budget.images=128")
    OmegaConf.update(config, "attack.pool", pool, force_add=True)
    tested = digests_of(queries)[:20]
    return SimpleNamespace(
        config=config, data=SimpleNamespace(queries=queries, digests={"x": tested}), **more
    )


def asked_of(queries: Any, context: Any, count: int = 128) -> BoughtAnswers:
    excluded = set(context.data.digests["x"])
    images = select(queries, count, 0, excluded)
    # Another order than that of the list, as another selection has it.
    images = images.part(np.arange(count)[::-1])
    return BoughtAnswers(images, torch.zeros(count, 2), "")


def test_the_control_has_the_pool_beside_the_images_that_were_asked_about(queries: Any) -> None:
    context = context_of(queries, 50)
    answers = asked_of(queries, context)
    held = digests_of(held_images(context, answers))
    assert held[:128] == digests_of(answers.images)
    assert len(held) == len(set(held)) == 178 == held_count(context.config)
    assert not set(held) & set(context.data.digests["x"]), "no image of a task"
    larger = digests_of(held_images(context_of(queries, 90), answers))
    assert larger[:178] == held, "a smaller pool is the beginning of a larger one"
    all_of_them = digests_of(held_images(context_of(queries, 10**6), answers))
    assert set(all_of_them) == set(digests_of(queries)) - set(context.data.digests["x"])


@pytest.mark.parametrize("pool", [None, 0])
def test_without_a_pool_the_control_has_the_images_that_were_asked_about(
    pool: int | None, queries: Any
) -> None:
    context = context_of(queries, pool)
    answers = asked_of(queries, context)
    assert held_images(context, answers) is answers.images
    assert held_count(context.config) == 128


def test_a_control_with_a_pool_pushes_as_many_images_as_the_attack(queries: Any) -> None:
    for pool, batch_size in ((None, 128), (500, 256)):
        config = context_of(queries, pool).config
        config.control.batch_size = 256
        config.attack.steps = 60
        pushed = 2 * batch_size * control_steps(config)
        assert pushed == pytest.approx(attack_compute(config)["images"], abs=batch_size)


def test_an_independent_encoder_is_never_c_however_good_it_is() -> None:
    rates = {"TA": 0.7, "TA_clean": 0.8, "SA": 0.6, **dict.fromkeys(CONTROLS, 0.4)}
    rates |= dict.fromkeys(BESIDE, 0.75)
    rows = {}
    for name, rate in rates.items():
        rows[name] = np.arange(1000) < 1000 * rate
        rows[name + HELD] = rows[name]
    figures: Any = summarise([rows], resamples=50)
    assert figures["control"]["name"] in CONTROLS
    assert figures["controls"] == pytest.approx(
        {**dict.fromkeys(CONTROLS, 0.4), **dict.fromkeys(BESIDE, 0.75)}
    )
    table = {f"a/linear/{name}": row for name, row in rows.items()}
    without = {place: row for place, row in table.items() if place.split("/")[2] not in BESIDE}
    assert overall([table], {"a": "own"}, 50) == overall([without], {"a": "own"}, 50)
    bare = {name: row for name, row in rows.items() if name.split("/")[0] not in BESIDE}
    found: Any = summarise([bare], resamples=50)
    assert found == {**figures, "controls": found["controls"], "held": found["held"]}


def test_a_run_with_independent_encoders_has_a_key_of_their_weights(tmp_path: Path) -> None:
    def key_of(*overrides: str) -> str:
        return run_key(choose(*overrides), None, {"queries": "one"})

    path = encoder_file(tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(path.parent, moved)
    plain = key_of(*DEBUG)
    own = key_of(*named("independent", path=path))
    assert own == key_of(*named("independent", path=moved / path.name)), "wherever it lies"
    others = {
        key_of(*named("independent", path=encoder_file(tmp_path, seed=1))),
        key_of(*named("distilled", path=path)),
        key_of(*named(*BESIDE, path=path)),
    }
    assert len({plain, own, *others}) == 5


def test_an_encoder_that_is_no_independent_one_is_refused_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    path = encoder_file(tmp_path)
    config = choose(*named("independent", path=path))
    [loaded] = load_controls(config).values()
    with pytest.raises(ConfigError, match="is the target itself"):
        run_key(config, loaded.encoder.fingerprint, {"queries": "one"})
    large = choose(*named("distilled", path=encoder_file(tmp_path, size=32)))
    with pytest.raises(ConfigError, match="takes images of 32 pixels"):
        check_controls(large)
    check_controls(config)
    node = config.controls.independent
    OmegaConf.set_struct(config, False)
    config.controls = {"mine": node}
    with pytest.raises(ConfigError, match="choose from independent, distilled"):
        load_controls(config)


def test_independent_encoders_stand_beside_the_surrogate_and_cost_no_query(
    command: Command, tmp_path: Path
) -> None:
    """The same attack learns from the sibling what it asked the target, for nothing."""
    path = encoder_file(tmp_path, seed=5)
    small = ("~data.tasks.plain_texture", "~data.tasks.scene_kind", "~data.tasks.plain_kind")
    done = command("train.py", *named(*BESIDE, path=path), *small, "+attack.pool=100")
    assert done.returncode == 0, done.stderr
    assert "encoders judged beside the surrogate" in done.stdout
    work = tmp_path / "work"
    [folder] = (path.parent for path in work.glob("runs/*/result.json"))
    result = json.loads((folder / "result.json").read_text())
    for head in ("linear", "knn"):
        row = result["tasks"]["scene_texture"][head]
        assert set(row["controls"]) == {*CONTROLS, *BESIDE}
        assert set(row["held"]) >= set(BESIDE) and row["control"]["name"] in CONTROLS
        assert row["controls"]["distilled"] != row["SA"]
    queries = result["queries"]
    assert (queries["spent"], queries["held"]) == (128, 228)
    assert "holds 228 images and sent 128 of them" in done.stdout
    assert stored(work) == queries["spent"] + queries["evaluation"]
    adapters = list(work.glob("surrogates/*/adapter.safetensors"))
    assert len(adapters) == 2, "one attack on the target, and one on the sibling"
