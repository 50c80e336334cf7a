"""The closing tables say what a figure is of, which control won, and why a task is left out."""

from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from stealing.evaluation.protocol import CONTROLS
from stealing.evaluation.statistics import HELD, Outcomes, overall, summarise
from stealing.report.console import headline, remarks, show
from stealing.report.shares import left_out

RATES = {
    "TA": 0.7,
    "TA_clean": 0.7,
    "SA": 0.6,
    **dict.fromkeys(CONTROLS, 0.2),
    "ssl_on_queries": 0.4,
}
SEEN = {
    "a_task_with_a_very_long_name_indeed": ("own", RATES),
    "near": ("query_domain", {**RATES, "SA": 0.5}),
    "digits": ("unseen", {**RATES, "pixels": 0.785}),
}


def outcomes(rates: dict[str, float]) -> Outcomes:
    rows = {name: np.arange(1000) < round(1000 * rate) for name, rate in rates.items()}
    return rows | {name + HELD: row for name, row in rows.items()}


def result(seeds: int = 1, remote: bool = False) -> dict[str, Any]:
    rights: Outcomes = {}
    tasks: dict[str, Any] = {}
    for task, (role, rates) in SEEN.items():
        known = {name: rate for name, rate in rates.items() if not (remote and name == "TA_clean")}
        agree = {"agreement": 0.5, "agreement_ceiling": 0.6}
        tasks[task] = {
            "role": role,
            "linear": {**summarise([outcomes(known)], resamples=50), **agree},
        }
        rights |= {f"{task}/linear/{name}": rows for name, rows in outcomes(known).items()}
    return {
        "queries": {
            "spent": 64,
            "budget": 100,
            "cost": 1.28,
            "evaluation": 453,
            "evaluation_cost": 9.06,
        },
        "seeds": list(range(seeds)),
        "defense": None,
        "tasks": tasks,
        "overall": overall([rights], {task: role for task, (role, _) in SEEN.items()}, 50),
        "fidelity": {"cka": 0.9},
    }


def shown(of: dict[str, Any]) -> str:
    console = Console(width=124, file=StringIO())
    show(of, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_no_figure_is_cut_however_long_a_task_is_named() -> None:
    text = shown(result())
    assert "…" not in text
    for heads in result()["tasks"].values():
        assert all(f" {heads['linear'][name]:.3f} " in text for name in ("TA", "SA"))


def test_a_task_that_is_left_out_is_named_with_the_reason() -> None:
    [said] = [line for line in remarks(result()) if "left out" in line]
    assert said.startswith(
        "digits (linear) is left out: the target loses to raw pixels by 8.5 points"
    )
    near = summarise([outcomes({**RATES, "ssl_on_queries": 0.68})], resamples=50)
    assert left_out(near) == (
        "the target is 2.0 points ahead of SimCLR on the query images on the held rows, and 5 are "
        "needed (+2.0 on the test split)"
    )
    near["held"]["TA"] = near["held"]["TA_clean"] = near["held"]["ssl_on_queries"] + 0.0499
    assert "is 4.9 points ahead of" in str(left_out(near)), "5.0 would be enough"
    near["held"]["TA"] = near["held"]["TA_clean"] = near["held"]["ssl_on_queries"] + 0.07
    assert left_out(near | {"TA": 0.6, "TA_clean": 0.6}) == (
        "the target is not ahead of SimCLR on the query images on the test split (-8.0 points)"
    )
    assert left_out(result()["tasks"]["near"]["linear"]) is None


def test_the_target_that_loses_to_raw_pixels_is_told_also_if_another_control_won() -> None:
    row = result()["tasks"]["digits"]["linear"]
    row["control"] = {"name": "ssl_on_queries", "next": "untrained", "lead": 0.2}
    told = result() | {"tasks": {"digits": {"role": "unseen", "linear": row}}}
    assert "digits (linear): the target loses to raw pixels by 8.5 points." in remarks(told)


def test_the_winning_control_stands_with_its_lead() -> None:
    assert "0.400 SimCLR +0.200" in shown(result())


def test_shares_stand_by_role_and_the_pooled_one_says_that_it_is_pooled() -> None:
    lines = [
        line for line in shown(result()).splitlines() if line.startswith("│") and "linear" in line
    ]
    own, domain, unseen, pooled = lines[-4:]
    assert "own" in own and "0.67" in own
    assert "query_domain" in domain and "0.33" in domain
    assert "unseen" in unseen and "none is informative" in unseen
    assert "all, pooled" in pooled and "0.50" in pooled


def test_a_remote_target_is_told_by_what_it_offers() -> None:
    text = shown(result(remote=True))
    assert "offered [95 %]" in text and "offered = (SA - C) / (TA - C)" in text
    assert "recovered" not in text and "is unknown here" in text


def test_what_measuring_cost_stands_beside_what_the_attack_cost() -> None:
    assert headline(result()) == (
        "Attack: 64 queries of 100 allowed, cost 1.28; "
        "measuring it: 453 queries, cost 9.06; seeds 0"
    )


@pytest.mark.parametrize(("seeds", "warned"), [(1, False), (2, True), (3, False)])
def test_two_seeds_get_a_word_of_warning(seeds: int, warned: bool) -> None:
    assert any("run three or more" in line for line in remarks(result(seeds))) == warned
