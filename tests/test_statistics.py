"""Figures and intervals against closed forms: shares, gaps, errors over images and few seeds."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from stealing.evaluation.bootstrap import Estimate
from stealing.evaluation.protocol import CONTROLS
from stealing.evaluation.statistics import (
    HELD,
    Outcomes,
    accuracy,
    control_accuracy,
    group_by_head,
    held_accuracies,
    overall,
    paired_difference,
    summarise,
)

RATES = {"TA": 0.6, "TA_clean": 0.8, "SA": 0.7, **dict.fromkeys(CONTROLS, 0.3), "pixels": 0.5}
MANY = 4000
"""Resamples: they estimate a deviation to one part in ninety."""


def exactly(rate: float, images: int, first: int = 0) -> np.ndarray:
    """Right on this share of the images, from the first on, around the end."""
    right = np.zeros(images, bool)
    right[(first + np.arange(round(rate * images))) % images] = True
    return right


def table(images: int = 200, held: dict[str, float] | None = None, **rates: float) -> Outcomes:
    """Outcomes at exact rates: of the test images, and of the held rows."""
    test = {name: exactly(rate, images) for name, rate in (RATES | rates).items()}
    slices = RATES | rates | (held or {})
    return test | {f"{name}{HELD}": exactly(rate, 1000) for name, rate in slices.items()}


def of(task: str, right: Outcomes) -> Outcomes:
    return {f"{task}/linear/{name}": rows for name, rows in right.items()}


def welch(accuracies: list[float], by_images: float) -> tuple[float, float]:
    """Standard error and degrees of freedom of a mean over seeds, by Welch and Satterthwaite."""
    seeds = len(accuracies)
    mean = sum(accuracies) / seeds
    between = sum((each - mean) ** 2 for each in accuracies) / (seeds - 1) / seeds
    return (by_images + between) ** 0.5, (seeds - 1) * (by_images + between) ** 2 / between**2


def test_figures_of_a_task_are_the_shares_that_they_are_named_after() -> None:
    figures = summarise([table(), table(SA=0.74)], resamples=20)
    assert (figures["TA"], figures["TA_clean"]) == (pytest.approx(0.6), pytest.approx(0.8))
    assert figures["SA"] == pytest.approx(0.72) and figures["ratio"] == pytest.approx(0.72 / 0.6)
    assert figures["recovered"] == pytest.approx((0.72 - 0.5) / (0.8 - 0.5)), (
        "of the undefended target"
    )
    assert figures["offered"] == pytest.approx((0.72 - 0.5) / (0.6 - 0.5)), (
        "of the target as it is offered"
    )
    assert figures["honest_loss"] == pytest.approx(0.8 - 0.6)
    assert figures["controls"] == pytest.approx({name: RATES[name] for name in CONTROLS})
    assert figures["control"]["name"] == "pixels" and figures["control"]["lead"] == pytest.approx(
        0.2
    )
    assert control_accuracy(figures) == pytest.approx(0.5)
    assert (
        held_accuracies([table(), table(SA=0.74)])["SA"]
        == pytest.approx(0.72)
        == figures["held"]["SA"]
    )
    assert held_accuracies([{"SA": exactly(0.5, 10), f"TA{HELD}": exactly(0.3, 10)}]) == {"TA": 0.3}
    low, high = figures["intervals"]["honest_loss"]
    assert low < 0.2 < high


def test_of_a_remote_target_only_what_was_offered_is_known() -> None:
    told = table(held={"TA": 0.7})
    known = {name: rows for name, rows in told.items() if not name.startswith("TA_clean")}
    figures = summarise([known], resamples=20)
    assert figures["TA_clean"] is figures["recovered"] is figures["honest_loss"] is None
    assert figures["offered"] == pytest.approx(2) and set(figures["intervals"]) == {
        "TA",
        "SA",
        "offered",
    }
    whole = overall([of("a", known)], {"a": "own"}, 20)["linear"]
    assert whole["honest_loss"] is whole["worst"] is whole["recovered"] is None and whole[
        "offered"
    ] == pytest.approx(2)


def test_over_tasks_of_which_one_has_no_undefended_target_nothing_is_known_of_it() -> None:
    known = {
        name: rows
        for name, rows in table(held={"TA": 0.7}).items()
        if not name.startswith("TA_clean")
    }
    both = of("a", table(held={"TA": 0.7})) | of("b", known)
    found = overall([both], {"a": "own", "b": "own"}, 20)["linear"]
    assert found["recovered"] is found["honest_loss"] is found["held"]["recovered"] is None
    assert found["offered"] == pytest.approx(2)


@pytest.mark.parametrize(("rate", "images"), [(0.5, 100), (0.9, 400)])
def test_an_interval_of_one_seed_is_the_binomials(rate: float, images: int) -> None:
    half = 1.96 * (rate * (1 - rate) / images) ** 0.5
    share, (low, high) = accuracy(exactly(rate, images), resamples=MANY)
    assert share == rate, "to the last bit"
    assert (low, high) == pytest.approx((rate - half, rate + half), abs=0.12 * half)
    assert accuracy(exactly(rate, images), resamples=50) == accuracy(
        exactly(rate, images), resamples=50
    )
    again = accuracy(exactly(rate, images), resamples=50, seed=1)
    assert again != accuracy(exactly(rate, images), resamples=50)


@pytest.mark.parametrize("rates", [[0.5, 0.6], [0.5, 0.58, 0.66], [0.45, 0.5, 0.52, 0.61]])
def test_an_interval_over_seeds_is_students_of_both_variances_with_welchs_freedom(
    rates: list[float],
) -> None:
    images = 100
    seeds = [table(images, SA=rate) for rate in rates]
    mean = np.mean([right["SA"] for right in seeds], axis=0)
    error, freedom = welch(rates, float(mean.var()) / images)
    half = float(student.ppf(0.975, freedom)) * error
    low, high = summarise(seeds, resamples=MANY)["intervals"]["SA"]
    assert (low + high) / 2 == pytest.approx(sum(rates) / len(rates))
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)


def test_an_error_is_the_root_of_both_unbiased_variances() -> None:
    of_seeds = [0.4, 0.55, 0.6]
    of_resamples = [0.5, 0.53, 0.49, 0.56]
    estimate = Estimate(np.array([0.5, *of_seeds, *of_resamples]), 3)
    error, freedom = estimate.standard_error()
    assert (error, freedom) == pytest.approx(welch(of_seeds, float(np.var(of_resamples, ddof=1))))
    unknown = Estimate(np.array([0.5, *of_seeds, *of_resamples, np.nan]), 3)
    assert unknown.standard_error() == pytest.approx((error, freedom)), (
        "a resample without a gap says nothing"
    )
    few = Estimate(np.array([0.5, 0.5, *of_resamples]), 1)
    assert few.interval() == pytest.approx(np.quantile(of_resamples, (0.025, 0.975)).tolist())
    alone, infinite = few.standard_error()
    assert alone == pytest.approx(np.std(of_resamples, ddof=1)) and infinite == np.inf


def test_seeds_that_agree_leave_the_variance_of_the_images_alone() -> None:
    low, high = summarise([table(100)] * 3, resamples=MANY)["intervals"]["SA"]
    assert (high - low) / 2 == pytest.approx(1.96 * (0.7 * 0.3 / 100) ** 0.5, rel=0.04)


def test_a_share_has_the_interval_of_a_ratio_resampled_as_a_whole() -> None:
    rng = np.random.default_rng(1)
    hardness = rng.random(300)
    test = {name: hardness + 0.2 * rng.random(300) < 1.1 * rate for name, rate in RATES.items()}
    right = table(300) | test
    ratios = []
    for _ in range(MANY):
        rows = rng.integers(300, size=300)
        mean = {name: test[name][rows].mean() for name in ("SA", "TA_clean", "pixels")}
        ratios.append((mean["SA"] - mean["pixels"]) / (mean["TA_clean"] - mean["pixels"]))
    expected = np.quantile(ratios, (0.025, 0.975))
    found = summarise([right], resamples=MANY)["intervals"]["recovered"]
    assert found == pytest.approx(expected.tolist(), abs=0.06 * float(expected[1] - expected[0]))


@pytest.mark.parametrize("seeds", [2, 3])
def test_paired_attacks_differ_by_the_mean_over_tasks_and_seeds_with_welchs_p(seeds: int) -> None:
    images = 200
    moved = [0.03, 0.12, 0.06][:seeds]
    tasks = ("a", "b")
    first: list[Outcomes] = []
    second: list[Outcomes] = []
    for more in moved:
        one: Outcomes = {}
        other: Outcomes = {}
        for place, task in enumerate(tasks):
            one[f"{task}/linear/SA"] = exactly(0.6 + more + 0.05 * place, images, 80)
            other[f"{task}/linear/SA"] = exactly(0.6, images)
        first.append(one)
        second.append(other)
    by_task = []
    for task in tasks:
        pairs = zip(first, second, strict=True)
        by_task.append(
            [one[f"{task}/linear/SA"] * 1.0 - other[f"{task}/linear/SA"] for one, other in pairs]
        )
    of_seeds = np.mean(by_task, axis=(0, 2))
    of_images = sum(np.mean(each, axis=0).var() / images for each in by_task) / 4
    error, freedom = welch(of_seeds.tolist(), float(of_images))
    difference, (low, high), p = paired_difference(first, second, "linear", resamples=MANY)
    assert difference == pytest.approx(of_seeds.mean()) == (low + high) / 2
    assert (high - low) / 2 == pytest.approx(student.ppf(0.975, freedom) * error, rel=0.06)
    assert p == pytest.approx(2 * student.sf(of_seeds.mean() / error, freedom), rel=0.15)
    back, _, same = paired_difference(second, first, "linear", resamples=MANY)
    assert back == pytest.approx(-difference) and same == pytest.approx(p)


def test_tables_are_told_apart_by_task_head_seed_and_name() -> None:
    tables = [
        {f"{task}/{head}/{name}": np.array([number])}
        for number, (task, head, name) in enumerate(
            product("ab", ("linear", "knn"), ("SA", f"SA{HELD}"))
        )
    ]
    merged = [tables[0] | tables[1] | tables[2], tables[0] | tables[7]]
    found = group_by_head(merged)
    assert set(found) == {"a", "b"} and set(found["a"]) == {"linear", "knn"}
    assert [set(seed) for seed in found["a"]["linear"]] == [{"SA", f"SA{HELD}"}, {"SA"}]
    assert found["b"]["knn"][1][f"SA{HELD}"] == 7 and found["b"]["knn"][0] == {}


def gaps(first: float, second: float) -> dict[str, Any]:
    """`overall` of two counted tasks whose target leads C by so much on the held rows."""
    tables = of("a", table(held={"TA_clean": 0.5 + first})) | of(
        "b", table(held={"TA_clean": 0.5 + second})
    )
    found = overall([tables], {"a": "own", "b": "unseen"}, 20, tasks={"linear": ["a", "b"]})
    return dict(found["linear"])


def test_tasks_share_one_gap_that_is_as_wide_as_their_number_asks_for() -> None:
    assert gaps(0.05, 0.04)["recovered"] is None, "0.05 for each of two"
    assert gaps(0.09, 0.02)["recovered"] == pytest.approx(2 / 3)
    alone = gaps(0.09, 0.02)["roles"]
    assert (
        alone["own"]["recovered"] == pytest.approx(2 / 3) and alone["unseen"]["recovered"] is None
    )


def test_over_tasks_gaps_are_summed_and_losses_are_means() -> None:
    rates: dict[str, dict[str, float]] = {
        "a": {},
        "b": {"SA": 0.6, "TA_clean": 0.9, "TA": 0.85},
        "c": {"TA_clean": 0.55, "TA": 0.5, "SA": 0.45},
    }
    tables: Outcomes = {}
    for task, changes in rates.items():
        tables |= of(task, table(**changes))
    roles = {"a": "own", "b": "unseen", "c": "unseen"}
    found = overall([tables], roles, 50)["linear"]
    assert found["informative"] == ["a", "b"], "the target leads by ten points in these"
    assert found["recovered"] == pytest.approx((0.2 + 0.1) / (0.3 + 0.4))
    assert found["offered"] == pytest.approx((0.2 + 0.1) / (0.1 + 0.35))
    assert found["SA"] == pytest.approx((0.7 + 0.6 + 0.45) / 3)
    assert found["honest_loss"] == pytest.approx((0.2 + 0.05 + 0.05) / 3)
    assert found["worst"] == {"task": "a", "honest_loss": pytest.approx(0.2)}
    assert found["roles"]["own"] == {
        "tasks": ["a"],
        "recovered": pytest.approx(2 / 3),
        "offered": pytest.approx(2),
        "intervals": found["roles"]["own"]["intervals"],
    }
    assert found["roles"]["unseen"]["tasks"] == ["b"]
    assert found["roles"]["unseen"]["recovered"] == pytest.approx(1 / 4)
    assert found["held"] == pytest.approx(
        {"SA": 1.75 / 3, "recovered": 0.3 / 0.7, "offered": 0.3 / 0.45}
    )
    for name in ("SA", "recovered", "offered", "honest_loss"):
        low, high = found["intervals"][name]
        assert low < found[name] < high
    only = overall([tables], roles, 50, tasks={"linear": ["b"]})["linear"]
    assert only["informative"] == ["b"] and only["recovered"] == pytest.approx(1 / 4)
    assert only["SA"] == found["SA"], "of all tasks"


@pytest.mark.parametrize(("lead", "informative"), [(0.11, ["a"]), (0.09, [])])
def test_a_task_tells_something_where_the_target_leads_by_ten_points_on_the_slice_of_train(
    lead: float, informative: list[str]
) -> None:
    right = table(held={"TA_clean": 0.5 + lead, "TA": 0.5})
    found = overall([of("a", right)], {"a": "own"}, 20)["linear"]
    assert found["informative"] == informative
    assert (found["held"]["recovered"] is None) == (not informative) and found["held"][
        "SA"
    ] == pytest.approx(0.7)


def test_resamples_are_those_of_seed_0_where_none_is_given() -> None:
    tables = [of("a", table())]
    roles = {"a": "own"}
    assert (
        overall(tables, roles, 20)
        == overall(tables, roles, 20, seed=0)
        != overall(tables, roles, 20, seed=1)
    )
    assert summarise([table()], resamples=20) == summarise([table()], resamples=20, seed=0)
    others = [of("a", table(SA=0.6))]
    assert paired_difference(tables, others, "linear", resamples=20) == paired_difference(
        tables, others, "linear", resamples=20, seed=0
    )


def test_a_target_that_is_not_ahead_on_the_test_split_has_no_share() -> None:
    behind = table(TA_clean=0.5, held={"TA_clean": 0.8})
    assert summarise([behind], resamples=20)["recovered"] is None
    assert summarise([table(TA=0.0)], resamples=20)["ratio"] is None
