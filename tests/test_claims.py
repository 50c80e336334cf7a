"""Claims of a leaderboard: what a file says follows from what it holds; and what is measured."""

import json
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from made_up import finished_run

from stealing.artefacts import read_sealed
from stealing.errors import DamageError, DataError
from stealing.evaluation.bootstrap import Estimate
from stealing.evaluation.statistics import overall
from stealing.report.claim_figures import Mean, packed, right_answers, stacked
from stealing.report.claims import claim_path, make_claim, write_claim
from stealing.report.run_files import FinishedRun

sys.path.insert(0, str(ROOT / "benchmarks"))
import attacks

TASKS = {"x": (0.8, 0.6, 0.4), "y": (0.9, 0.5, 0.3)}


def read(folder: Path, seed: int, group: str = "g", **settings: Any) -> FinishedRun:
    return FinishedRun.read(finished_run(folder, group, TASKS, seed=seed, **settings))


def test_a_claim_keeps_its_earlier_seeds_and_its_figures_are_those_of_all_of_them(
    tmp_path: Path,
) -> None:
    runs = [read(tmp_path, seed, test=seed) for seed in range(3)]
    grown = None
    for run in (runs[2], runs[0], runs[1]):
        grown = make_claim([run], "c", grown)
    whole = make_claim(runs, "c")
    assert grown == whole and list(whole["seeds"]) == ["0", "1", "2"]
    path = write_claim(whole, tmp_path / "board")
    assert path == claim_path(tmp_path / "board", "x", 100)
    assert read_sealed(path) == whole
    assert "checksum" in json.loads(path.read_text())


def test_the_figures_of_a_claim_are_those_of_a_report(tmp_path: Path) -> None:
    roles = {"x": "own", "y": "unseen"}
    runs = [read(tmp_path, seed, test=seed, roles=roles) for seed in range(3)]
    exact: Any = overall([run.right for run in runs], roles, 2000)["linear"]
    figures = make_claim(runs, "c")["figures"]["linear"]
    assert figures["SA"]["all"]["mean"] == pytest.approx(exact["SA"])
    assert figures["SA"]["all"]["interval"] == pytest.approx(exact["intervals"]["SA"], abs=0.005)
    for role, row in exact["roles"].items():
        assert figures["recovered"][role]["mean"] == pytest.approx(row["recovered"])
    assert figures["recovered"]["all"]["mean"] == pytest.approx(exact["recovered"])


def test_a_mean_over_tasks_has_the_errors_of_its_bootstrap() -> None:
    rng = np.random.default_rng(0)
    tasks = [(rng.random((3, count)) < 0.6).astype(float) for count in (300, 500)]
    estimates = []
    for values_SM in tasks:
        count = values_SM.shape[1]
        draws = [values_SM[:, rng.integers(count, size=count)].mean() for _ in range(4000)]
        by_seed = values_SM.mean(1)
        estimates.append(Estimate(np.array([by_seed.mean(), *by_seed, *draws]), 3))
    expected = Estimate.mean(estimates)
    mean = Mean.of(tasks)
    assert mean.point == pytest.approx(expected.point)
    assert mean.standard_error() == pytest.approx(expected.standard_error(), rel=0.05)


def test_the_answers_to_single_images_come_back_and_give_sa(tmp_path: Path) -> None:
    run = read(tmp_path, 0, test=3)
    [seed] = make_claim([run], "c")["seeds"].values()
    answers = right_answers(seed)
    for place, rows in answers.items():
        assert (rows == run.right[f"{place}/SA"]).all()
        task, head = place.split("/")
        assert stacked([answers], place).mean() == seed["tasks"][task][head]["SA"]
    # 13 bits are two bytes.
    bits = np.arange(13) % 3 == 0
    short = {"tasks": {"x": {"images": 13}}, "right": {"x/linear": packed(bits)}}
    assert (right_answers(short)["x/linear"] == bits).all()
    short["tasks"]["x"]["images"] = 17
    with pytest.raises(ValueError, match="x/linear"):
        right_answers(short)


def test_runs_of_two_groups_of_a_service_or_of_a_defense_make_no_claim(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than its seed"):
        make_claim([read(tmp_path, 0), read(tmp_path, 1, "other")], "c")
    for settings in ({"remote": True}, {"defense": "topk"}):
        with pytest.raises(DataError, match="without a defense"):
            make_claim([read(tmp_path / str(settings), 0, **settings)], "c")


def test_cells_come_in_the_order_of_their_value() -> None:
    cells = attacks.cells()
    assert len(set(cells)) == len(cells)
    places = [(cell.seed, attacks.BUDGETS.index(cell.budget)) for cell in cells]
    assert places == sorted(places)
    assert not any(cell.attack.endswith("_paper") for cell in cells)
    budgets = {cell.budget for cell in cells if cell.attack == "stolen_encoder"}
    assert budgets == {500, 1000, 2500, 5000}
    assert {cell.budget for cell in cells if cell.attack == "barlow"} == {2500}
    assert {(cell.seed, cell.attack) for cell in cells if cell.budget == 2500} == {
        (seed, attack) for seed in (0, 1, 2) for attack in attacks.attacks()
    }


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_have_every_cell_once_and_share_no_file(count: int) -> None:
    cells = attacks.cells()
    shards = [attacks.of_shard(cells, number, count) for number in range(count)]
    assert sorted(map(str, chain(*shards))) == sorted(map(str, cells))
    files = [{(cell.attack, cell.budget) for cell in shard} for shard in shards]
    assert sum(map(len, files)) == len(set.union(*files))
    # Options move no claim to another shard.
    few = [cell for cell in cells if cell.seed == 1 and cell.attack in ("rda", "barlow")]
    for number in range(count):
        assert set(attacks.of_shard(few, number, count)) == set(shards[number]) & set(few)


def test_a_cell_is_measured_until_its_claim_holds_its_seed(tmp_path: Path) -> None:
    def missing(*words: str) -> list[tuple[str, int, int]]:
        options = attacks.parsed(["--out", str(tmp_path / "board"), *words])
        return [(cell.attack, cell.budget, cell.seed) for cell in attacks.missing(options)]

    words = ("--only", "rda", "--budgets", "2500")
    assert missing(*words) == [("rda", 2500, seed) for seed in (0, 1, 2)]
    claim = make_claim([read(tmp_path, 1)], "c") | {"attack": "rda", "budget": 2500}
    path = write_claim(claim, tmp_path / "board")
    assert missing(*words) == [("rda", 2500, 0), ("rda", 2500, 2)]
    assert missing(*words, "--seeds", "1") == []
    path.write_text(path.read_text().replace('"rda"', '"best"'))
    with pytest.raises(DamageError):
        missing(*words)
