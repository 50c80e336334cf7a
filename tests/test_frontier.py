"""What honest users lose and an attacker recovers, by hand; and the frontier of both."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from stealing.errors import DataError
from stealing.evaluation.protocol import CONTROLS
from stealing.evaluation.statistics import HELD, overall, summarise
from stealing.report.defenses import DefensePoint, cheapest, points
from stealing.report.frontier import draw, write
from stealing.report.picture import svg
from stealing.report.stored_cells import CommonGround

FILES = sorted(
    (ROOT / "results" / "frontier").glob("*.json"),
    key=lambda path: ("_s0." not in path.name, path.name),
)


def right(shares: dict[str, float], seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Which of 1,000 test images each got right: the first so many of an order of its own."""
    rng, found = np.random.default_rng(seed), {}
    for name, share in shares.items():
        found[name] = rng.permutation(1000) < round(1000 * share)
        found[name + HELD] = np.arange(1000) < round(1000 * share)
    return found


SHARES = {"TA": 0.7, "TA_clean": 0.8, "SA": 0.6, **dict.fromkeys(CONTROLS, 0.4)}


def test_honest_loss_is_ta_clean_minus_ta_with_a_paired_interval() -> None:
    found: Any = summarise([right(SHARES)], resamples=500)
    assert found["honest_loss"] == pytest.approx(0.1)
    low, high = found["intervals"]["honest_loss"]
    assert low < 0.1 < high
    same: Any = summarise([{**right(SHARES), "TA": right(SHARES)["TA_clean"]}], resamples=500)
    assert same["honest_loss"] == 0 and same["intervals"]["honest_loss"] == [0, 0], (
        "what both share cancels"
    )
    remote: Any = summarise(
        [{n: r for n, r in right(SHARES).items() if "TA_clean" not in n}], resamples=50
    )
    assert remote["honest_loss"] is None


def test_overall_is_the_mean_loss_and_the_pooled_recovery_of_informative_tasks() -> None:
    weak = {
        **SHARES,
        "TA": 0.5,
        **dict.fromkeys(CONTROLS, 0.75),
    }  # the target hardly beats the controls
    other = {**SHARES, "SA": 0.9, **dict.fromkeys(CONTROLS, 0.6)}
    tasks = {"a": SHARES, "b": weak, "c": other}
    table = {
        f"{task}/linear/{n}": r for task, shares in tasks.items() for n, r in right(shares).items()
    }
    found: Any = overall([table], dict.fromkeys(tasks, "own"), resamples=200)["linear"]
    assert found["honest_loss"] == pytest.approx((0.1 + 0.3 + 0.1) / 3)
    assert found["worst"] == {"task": "b", "honest_loss": pytest.approx(0.3)} and found[
        "informative"
    ] == ["a", "c"]
    assert found["recovered"] == pytest.approx((0.2 + 0.3) / (0.4 + 0.2))
    low, high = found["intervals"]["recovered"]
    assert low < found["recovered"] < high
    level = {
        f"a/linear/{n}": r
        for n, r in right({**SHARES, "TA": 0.4, **dict.fromkeys(CONTROLS, 0.4)}).items()
    }
    row: Any = overall([level], {"a": "own"}, resamples=50, tasks={"linear": ["a"]})["linear"]
    assert row["recovered"] == pytest.approx(0.5) and row["offered"] is None, (
        "no share of next to nothing"
    )


CPU = {"device": "cpu", "name": None, "processor": "p", "threads": 1, "precision": "32-true"}
CLEAN = 0.9
"""TA_clean of each made-up task."""


def task(
    recovered: float, control: float = 0.4, loss: float = 0.0, held: float | None = None
) -> dict[str, Any]:
    """A task on which so much was recovered; on the held rows `held`, or as much."""
    on_held = recovered if held is None else held
    gap = CLEAN - control
    controls = {**dict.fromkeys(CONTROLS, 0.1), "pixels": control}
    accuracies = {"TA": CLEAN - loss, "TA_clean": CLEAN}
    stolen = control + recovered * gap
    row: dict[str, Any] = {
        **accuracies,
        "SA": stolen,
        "recovered": recovered,
        "controls": controls,
        "control": {"name": "pixels"},
        "held": {**controls, **accuracies, "SA": control + on_held * gap},
        "intervals": {
            "SA": [stolen - 0.1 * gap, stolen + 0.1 * gap],
            "recovered": [recovered - 0.1, recovered + 0.1],
        },
    }
    return {"role": "own", "linear": row}


def result(
    defense: str,
    loss: float,
    high: float,
    recovered: float,
    plan: str = "once",
    control: float = 0.4,
    images: int = 100,
    seed: int = 0,
    tasks: dict[str, dict[str, Any]] | None = None,
    strength: str = "k=1",
) -> dict[str, Any]:
    """A stored cell, whose own shares are of the tasks on which its own control is weak."""
    tasks = tasks or {"x": task(recovered, control, loss)}
    figures = {
        "informative": ["x"],
        "honest_loss": loss,
        "recovered": recovered,
        "worst": {"task": "x", "honest_loss": loss},
        "intervals": {
            "honest_loss": [loss - 0.01, high],
            "recovered": [recovered - 0.1, recovered + 0.1],
        },
        "held": {"recovered": recovered},
        "roles": {"own": {"tasks": ["x"], "recovered": recovered}},
    }
    return {
        "tasks": tasks,
        "queries": {"images": images, "budget": 100},
        "cell": {
            "defense": defense,
            "strength": "" if defense == "none" else strength,
            "plan": plan,
            "seed": seed,
        },
        "seeds": [seed],
        "target": "t",
        "protocol_hash": "p",
        "data": {"queries": "q"},
        "overall": {"linear": figures},
        "defense": {"milliseconds": 0.5, "bytes": 7.0},
        "made": {"surrogate": CPU},
        "code": "c",
        "commit": "1",
    }


def frontier(cells: list[dict[str, Any]]) -> list[DefensePoint]:
    """The points of stored cells on their common ground."""
    return points(CommonGround.of(cells).attacks(cells))


def test_a_defense_is_useful_where_the_strongest_attack_loses_much_and_the_honest_little() -> None:
    cells = [
        result("none", 0, 0, 0.9),
        result("good", 0.002, 0.009, 0.5),
        result("dear", 0.002, 0.011, 0.1),
        result("beaten", 0, 0.001, 0.3),
        result("beaten", 0, 0.001, 0.8, "sybil"),
    ]
    found = {point.defense: point for point in frontier(cells)}
    assert [name for name, point in found.items() if point.useful] == ["good"]
    assert found["beaten"].plan == "sybil" and found["beaten"].taken == 10
    assert found["beaten"].attacks == pytest.approx({"once": 0.3, "sybil": 0.8})


def test_a_plan_that_asks_about_fewer_images_is_not_flattered_by_its_weaker_control() -> None:
    bare, plain = result("none", 0, 0, 0.9), result("good", 0, 0, 0.5)
    # SA 0.63, where the other has 0.65.
    fewer = result("good", 0, 0, 0.55, "averaging", control=0.3, images=25)
    [_, point] = frontier([bare, plain, fewer])
    assert point.plan == "once" and point.attacks["averaging"] == pytest.approx((0.63 - 0.4) / 0.5)
    [_, alone] = frontier([bare, fewer])
    low, high = (0.57 - 0.4) / 0.5, (0.69 - 0.4) / 0.5
    assert (alone.share.low, alone.share.high) == pytest.approx((low, high))


def test_all_cells_are_compared_on_the_tasks_of_the_undefended_one() -> None:
    """The `own` share of a cell is of fewer tasks if its own control is strong on one of them."""
    bare = result("none", 0, 0, 0.9, tasks={"x": task(0.9), "y": task(0.9)})
    lacking = result("good", 0, 0, 0.8, "sybil", images=50, tasks={"x": task(0.8), "y": task(0.4)})
    whole = result("good", 0, 0, 0.7, tasks={"x": task(0.7), "y": task(0.7)})
    lacking["tasks"]["y"]["linear"]["recovered"] = None
    ground = CommonGround.of([bare, whole, lacking])
    assert ground.tasks == ["x", "y"]
    attacks = ground.attacks([bare, whole, lacking])
    assert [one["overall"]["linear"]["informative"] for one in attacks] == [["x", "y"]] * 3
    [_, point] = points(attacks)
    # Of x alone the sybil recovers 0.8; of both tasks it is the weaker plan.
    assert point.attacks == pytest.approx({"once": 0.7, "sybil": 0.6})
    assert (point.plan, point.taken) == ("once", 20)


def test_a_task_counts_if_it_is_informative_on_the_mean_over_the_seeds_of_what_lends() -> None:
    """y leads by 30, 0 and 6 points, z by 10: less as floats, but a tenth of the rows."""
    assert CLEAN - 0.8 < 0.1
    cells = []
    for seed, y in enumerate((0.6, 0.9, 0.84)):
        tasks = {"x": task(0.9), "y": task(0.5, y), "z": task(0.5, 0.8)}
        cells.append(result("none", 0, 0, 0.9, seed=seed, tasks=tasks))
    assert CommonGround.of(cells[1:]).tasks == ["x", "z"]
    ground = CommonGround.of(cells)
    assert ground.tasks == ["x", "y", "z"], "12 and 10 points"
    assert {tuple(one["overall"]["linear"]["informative"]) for one in ground.attacks(cells)} == {
        ("x", "y", "z")
    }
    cells[0]["tasks"]["y"] = task(0.5, 0.8)
    assert CommonGround.of(cells).tasks == ["x", "z"]


def test_several_seeds_are_one_row_and_are_compared_with_none_of_the_same_seeds() -> None:
    cells = [result("single", 0, 0, 0.5)]
    for seed, (bare, left) in enumerate(((0.9, 0.5), (0.8, 0.6), (0.7, 0.4))):
        cells.append(result("none", 0, 0, bare, seed=seed))
        cells.append(result("three", 0.02, 0.03, left, seed=seed))
    found = {(point.defense, point.seeds): point for point in frontier(cells)}
    seeds = (0, 1, 2)
    places = [("none", seeds), ("none", (0,)), ("single", (0,)), ("three", seeds)]
    assert list(found) == places
    three = found["three", seeds]
    assert three.share.value == pytest.approx(0.5)
    assert (three.undefended.value, three.taken) == (pytest.approx(0.8), 30)
    assert found["single", (0,)].taken == 40, "of the undefended 0.9 of its own seed"
    # Student's interval of three seeds is wider than that of the test images alone.
    assert three.share.low < 0.4 < 0.6 < three.share.high
    assert three.loss == pytest.approx(0.02)


def test_plans_are_compared_on_the_seeds_that_they_have_in_common() -> None:
    cells = [result("none", 0, 0, 0.9, seed=seed) for seed in (0, 1)]
    cells += [result("good", 0, 0, share, seed=seed) for seed, share in ((0, 0.5), (1, 0.9))]
    assert frontier([*cells, result("good", 0, 0, 0.4, "sybil")])[-1].seeds == (0, 1)
    stronger = frontier([*cells, result("good", 0, 0, 0.6, "sybil")])[-1]
    assert (stronger.plan, stronger.seeds, stronger.taken) == ("sybil", (0,), 30)


def outcomes(seed: int, rates: dict[str, dict[str, float]]) -> dict[str, np.ndarray[Any, Any]]:
    """Right answers of encoders that find the same images hard; the same images for all seeds."""
    table = {}
    for number, (name, of_task) in enumerate(rates.items()):
        hardness = np.random.default_rng(number).random(1500)
        rng = np.random.default_rng((seed, number))
        for encoder, rate in of_task.items():
            is_own = encoder.startswith("TA")
            noise = np.random.default_rng((9, number)) if is_own else rng
            table[f"{name}/linear/{encoder}"] = hardness + 0.3 * noise.random(1500) < 1.3 * rate
            table[f"{name}/linear/{encoder}{HELD}"] = np.arange(1000) < 1000 * rate
    return table


@pytest.mark.parametrize("count", [1, 3])
def test_an_interval_of_accuracies_is_that_of_the_answers_to_each_image(count: int) -> None:
    rates = {}
    for name, stolen in (("x", 0.62), ("y", 0.7), ("z", 0.5)):
        controls = {control: 0.3 + 0.02 * number for number, control in enumerate(CONTROLS)}
        rates[name] = {"TA": 0.75, "TA_clean": 0.8, "SA": stolen, **controls}
    roles = dict.fromkeys(rates, "own")
    cells = []
    tables = []
    for seed in range(count):
        table = outcomes(seed, rates)
        tables.append(table)
        cell = result("none", 0, 0, 0.9, seed=seed)
        cell["overall"] = overall([table], roles, 1000)
        cell["tasks"] = {}
        for name in rates:
            start = f"{name}/linear/"
            rows = {place.removeprefix(start): table[place] for place in table if start in place}
            cell["tasks"][name] = {"role": "own", "linear": summarise([rows], resamples=1000)}
        cells.append(cell)
    exact: Any = overall(tables, roles, 1000)["linear"]
    [point] = frontier(cells)
    assert point.share.value == pytest.approx(exact["recovered"])
    assert point.loss == pytest.approx(exact["honest_loss"])
    low, high = exact["intervals"]["recovered"]
    # Errors over images are the same for all seeds here, and at most that in truth.
    width = point.share.high - point.share.low
    assert 0.93 * (high - low) < width < 1.25 * (high - low)
    least, most = point.loss_interval
    assert [least, most] == pytest.approx(exact["intervals"]["honest_loss"], abs=0.001)


def test_a_page_shows_of_each_defense_the_cheapest_strength_that_takes_enough() -> None:
    cells = [result("none", 0, 0, 0.9), result("weak", 0.1, 0.2, 0.85)]
    for k, loss, recovered in ((1, 0.01, 0.8), (2, 0.05, 0.6), (3, 0.2, 0.1)):
        cells.append(result("strong", loss, loss, recovered, strength=f"k={k}"))
    found = [(point.defense, point.strength) for point in cheapest(frontier(cells))]
    assert found == [("none", ""), ("strong", "k=2"), ("weak", "k=1")]


def test_a_strength_is_chosen_on_the_held_rows_and_shown_by_its_test_figures() -> None:
    cells = [result("none", 0, 0, 0.9)]
    for k, loss, test, held in ((1, 0.01, 0.2, 0.8), (2, 0.05, 0.85, 0.6), (3, 0.02, 0.5, 0.3)):
        tasks = {"x": task(test, loss=loss, held=held)}
        # The test split calls k=2 free and k=3 dear, against the held rows.
        shown = {2: 0.0, 3: 0.3}.get(k, loss)
        cells.append(result("strong", shown, shown, test, strength=f"k={k}", tasks=tasks))
    [_, chosen] = cheapest(frontier(cells))
    assert (chosen.strength, chosen.taken, chosen.loss) == ("k=3", 40, 0.3)


def test_a_frontier_mixes_no_protocols_and_needs_the_undefended_cell() -> None:
    bare = result("none", 0, 0, 0.9)
    with pytest.raises(DataError, match="defense=none"):
        frontier([result("good", 0, 0, 0.5)])
    with pytest.raises(DataError, match="needs a task on which"):
        frontier([result("none", 0, 0, 0.9, control=0.85)])
    blind = result("good", 0, 0, 0.5)
    blind["overall"]["linear"].update(recovered=None, informative=[], intervals={})
    with pytest.raises(DataError, match="needs a task on which"):
        points([bare, blind])
    for other in ({"protocol_hash": "other"}, {"target": "other"}, {"data": {"queries": "r"}}):
        with pytest.raises(DataError, match="several protocols, targets or data sets"):
            frontier([bare, {**result("good", 0, 0, 0.5), **other}])


def test_a_table_names_its_tasks_and_why_each_other_one_is_left_out(tmp_path: Path) -> None:
    tasks = {"x": task(0.9), "near": task(0.5, 0.83), "blind": task(0.5, 0.88)}
    cells = [result("none", 0, 0, 0.9, tasks=tasks), result("good", 0, 0, 0.5, tasks=tasks)]
    cells.append(result("good", 0, 0, 0.5, tasks=tasks, seed=4))
    write(cells, tmp_path)
    for name in ("table.txt", "table.md"):
        text = (tmp_path / name).read_text()
        assert "Shares are of 1 of 3 tasks: x (own)." in text
        assert "near (own) is left out: the target is 7.0 points ahead of raw pixels" in text
        assert "blind (own) is left out: the target is 2.0 points ahead of raw pixels" in text
        assert "Not shown: seed 4, not measured without a defense." in text
        assert "Made on" not in text and "Different code" not in text


def test_a_table_of_cpu_and_gpu_is_refused_and_leaves_the_earlier_one_whole(tmp_path: Path) -> None:
    cells = [result("none", 0, 0, 0.9), result("good", 0, 0, 0.5)]
    write(cells, tmp_path)
    earlier = (tmp_path / "table.txt").read_text()
    cells[1]["made"] = {"surrogate": CPU | {"device": "gpu", "name": "g"}}
    with pytest.raises(DataError, match="cpu in none once seed 0, gpu in good k=1 once seed 0"):
        write(cells, tmp_path)
    assert (tmp_path / "table.txt").read_text() == earlier


def test_two_processors_and_other_code_are_named_under_the_table(tmp_path: Path) -> None:
    cells = [result("none", 0, 0, 0.9), result("good", 0, 0, 0.5)]
    cells.append(result("good", 0, 0, 0.4, "sybil"))
    cells[2].update(code="d", commit="2", made={"surrogate": CPU | {"processor": "q"}})
    write(cells, tmp_path)
    text = (tmp_path / "table.txt").read_text()
    assert "Made on several processors (p, q)" in text
    assert "Different code made the results of good (commits 1, 2)." in text


@pytest.mark.skipif(
    not FILES, reason="no cell is stored: python benchmarks/frontier.py measures them"
)
def test_the_stored_cells_make_the_stored_tables_and_picture(tmp_path: Path) -> None:
    results = [json.loads(path.read_text()) for path in FILES]
    found = write(results, tmp_path)
    stored = ROOT / "results" / "frontier"
    table = (tmp_path / "table.md").read_text()
    assert (
        table == (stored / "table.md").read_text()
        and table in (ROOT / "docs" / "results.md").read_text()
    )
    lines = (tmp_path / "table.txt").read_text().splitlines()
    assert sorted(lines) == sorted((stored / "table.txt").read_text().splitlines())
    assert all(any(f"{point.recovered:.2f} [" in line for line in lines) for point in found)
    assert svg(draw(found), "frontier") == svg(draw(found), "frontier") != b""
