"""What the honest lose and a thief recovers, by hand; and the frontier that is drawn of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from stealing.errors import DataError
from stealing.evaluation.protocol import CONTROLS
from stealing.evaluation.statistics import HELD, overall, summarise
from stealing.report.common_controls import on_common_controls
from stealing.report.frontier import cheapest, draw, points, write
from stealing.report.picture import svg

FILES = sorted((ROOT / "results" / "frontier").glob("*.json"), key=lambda path: ("_s0." not in path.name, path.name))


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
    assert same["honest_loss"] == 0 and same["intervals"]["honest_loss"] == [0, 0], "what both share cancels"
    remote: Any = summarise([{n: r for n, r in right(SHARES).items() if "TA_clean" not in n}], resamples=50)
    assert remote["honest_loss"] is None


def test_overall_is_the_mean_loss_and_the_pooled_recovery_of_informative_tasks() -> None:
    weak = {**SHARES, "TA": 0.5, **dict.fromkeys(CONTROLS, 0.75)}  # the target hardly beats the controls
    other = {**SHARES, "SA": 0.9, **dict.fromkeys(CONTROLS, 0.6)}
    tasks = {"a": SHARES, "b": weak, "c": other}
    table = {f"{task}/linear/{n}": r for task, shares in tasks.items() for n, r in right(shares).items()}
    found: Any = overall([table], dict.fromkeys(tasks, "own"), resamples=200)["linear"]
    assert found["honest_loss"] == pytest.approx((0.1 + 0.3 + 0.1) / 3)
    assert found["worst"] == {"task": "b", "honest_loss": pytest.approx(0.3)} and found["informative"] == ["a", "c"]
    assert found["recovered"] == pytest.approx((0.2 + 0.3) / (0.4 + 0.2))
    low, high = found["intervals"]["recovered"]
    assert low < found["recovered"] < high
    level = {f"a/linear/{n}": r for n, r in right({**SHARES, "TA": 0.4, **dict.fromkeys(CONTROLS, 0.4)}).items()}
    row: Any = overall([level], {"a": "own"}, resamples=50, tasks={"linear": ["a"]})["linear"]
    assert row["recovered"] == pytest.approx(0.5) and row["offered"] is None, "no share of next to nothing"


def result(
    defense: str,
    loss: float,
    high: float,
    recovered: float,
    plan: str = "once",
    control: float = 0.4,
    images: int = 100,
) -> dict[str, Any]:
    figures = {
        "informative": ["x"],
        "honest_loss": loss, "recovered": recovered, "worst": {"task": "x", "honest_loss": loss},
        "intervals": {"honest_loss": [loss - 0.01, high], "recovered": [recovered - 0.1, recovered + 0.1]},
        "held": {"recovered": recovered},
        "roles": {"own": {"tasks": ["x"], "recovered": recovered}},
    }  # fmt: skip
    accuracies = {"pixels": control, "untrained": 0.1}
    row = {"TA_clean": 0.9, "controls": accuracies, "control": {"name": "pixels"}}
    row["held"] = {**accuracies, "TA_clean": 0.9}
    return {
        "tasks": {"x": {"linear": row}},
        "queries": {"images": images},
        "cell": {"defense": defense, "strength": "" if defense == "none" else "k=1", "plan": plan, "seed": 0},
        "protocol_hash": "p", "data": {"queries": "q"}, "target_seed": 0, "overall": {"linear": figures},
        "defense": {"milliseconds": 0.5, "bytes": 7.0},
    }  # fmt: skip


def test_a_defense_is_useful_where_the_strongest_attack_loses_much_and_the_honest_little() -> None:
    cells = [
        result("none", 0, 0, 0.9), result("good", 0.002, 0.009, 0.5), result("dear", 0.002, 0.011, 0.1),
        result("beaten", 0, 0.001, 0.3), result("beaten", 0, 0.001, 0.8, "sybil"),
    ]  # fmt: skip
    found = {point.defense: point for point in points(cells)}
    assert [name for name, point in found.items() if point.useful] == ["good"]
    assert found["beaten"].plan == "sybil" and found["beaten"].taken == 10
    assert found["beaten"].attacks == pytest.approx({"once": 0.3, "sybil": 0.8})


def test_a_plan_that_asks_about_fewer_images_is_not_flattered_by_its_weaker_control() -> None:
    bare, plain = result("none", 0, 0, 0.9), result("good", 0, 0, 0.5)
    fewer = result("good", 0, 0, 0.55, "averaging", control=0.3, images=25)  # SA 0.63, where the other has 0.65
    [_, point] = points(on_common_controls([bare, plain, fewer]))
    assert point.plan == "once" and point.attacks["averaging"] == pytest.approx((0.63 - 0.4) / 0.5)
    [_, alone] = points(on_common_controls([bare, fewer]))
    assert alone.recovered_interval == pytest.approx(((0.57 - 0.4) / 0.5, (0.69 - 0.4) / 0.5))


def test_a_page_shows_of_each_defense_the_cheapest_strength_that_takes_enough() -> None:
    cells = [result("none", 0, 0, 0.9), result("weak", 0.1, 0.2, 0.85)]
    for k, loss, recovered in ((1, 0.01, 0.8), (2, 0.05, 0.6), (3, 0.2, 0.1)):
        cells.append(result("strong", loss, loss, recovered))
        cells[-1]["cell"]["strength"] = f"k={k}"
    found = [(point.defense, point.strength) for point in cheapest(points(cells))]
    assert found == [("none", ""), ("strong", "k=2"), ("weak", "k=1")]


def test_a_frontier_mixes_no_protocols_and_needs_the_undefended_cell() -> None:
    with pytest.raises(DataError, match="defense=none"):
        points([result("good", 0, 0, 0.5)])
    blind = result("good", 0, 0, 0.5)
    blind["overall"]["linear"].update(recovered=None, informative=[], intervals={})
    with pytest.raises(DataError, match="needs a task on which"):
        on_common_controls([result("none", 0, 0, 0.9), blind])
    with pytest.raises(DataError, match="several protocols"):
        points([result("none", 0, 0, 0.9), {**result("good", 0, 0, 0.5), "protocol_hash": "other"}])


@pytest.mark.skipif(not FILES, reason="no cell is stored: python benchmarks/frontier.py measures them")
def test_the_stored_cells_make_the_stored_tables_and_picture(tmp_path: Path) -> None:
    results = [json.loads(path.read_text()) for path in FILES]
    found = write(results, tmp_path)
    stored = ROOT / "results" / "frontier"
    table = (tmp_path / "table.md").read_text()
    assert table == (stored / "table.md").read_text() and table in (ROOT / "README.md").read_text()
    lines = (tmp_path / "table.txt").read_text().splitlines()
    assert sorted(lines) == sorted((stored / "table.txt").read_text().splitlines())
    assert all(any(f"{point.recovered:.2f} [" in line for line in lines) for point in found)
    assert svg(draw(found), "frontier") == svg(draw(found), "frontier") != b""
