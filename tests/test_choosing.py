"""Which images are sent: greedy orders against loops; choices nest and depend on the seed alone."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import DEBUG, Command, choose, stored
from test_simclr import ARCH
from torch import Tensor

from stealing.attacks.choosing import choose as choose_images
from stealing.attacks.choosing import herding, k_centre
from stealing.data.images import Images
from stealing.data.sampling import generator
from stealing.errors import DataError
from stealing.identity import run_key
from stealing.queries.digests import digests_of
from stealing.queries.selection import select
from stealing.saved.restore import add_later_parts
from stealing.settings.table import SELECTIONS

PIXELS = np.random.default_rng(3).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
PIXELS[30:33] = PIXELS[5]  # copies
IMAGES = Images("held", PIXELS, None, 0, np.arange(40), "held")
TASK = set(digests_of(IMAGES.part(np.array([0, 1, 2]))))
FEATURES = torch.randn(25, 6, generator=generator("choosing")).relu() + 300  # a common part cancels
GREEDY = [name for name in SELECTIONS if name != "random"]


def chosen(count: int, seed: int = 0, selection: str = "k_centre") -> Images:
    return choose_images(IMAGES, count, seed, TASK, selection=selection, arch=ARCH)


def farthest_first(rows: Tensor, count: int) -> list[int]:
    """The row with the largest distance to its nearest chosen row, from row 0 on."""
    places = [0]
    while len(places) < count:
        others = [place for place in range(len(rows)) if place not in places]
        apart = {
            place: min(float((rows[place] - rows[one]).norm()) for one in places)
            for place in others
        }
        places.append(max(others, key=lambda place: apart[place]))
    return places


def nearest_mean(rows: Tensor, count: int) -> list[int]:
    """The row with which the mean of the chosen ones is nearest to the mean of all."""
    places: list[int] = []
    while len(places) < count:
        others = [place for place in range(len(rows)) if place not in places]
        missed = {
            place: float((rows[[*places, place]].mean(0) - rows.mean(0)).norm()) for place in others
        }
        places.append(min(others, key=lambda place: missed[place]))
    return places


@pytest.mark.parametrize(("order", "loop"), [(k_centre, farthest_first), (herding, nearest_mean)])
def test_a_greedy_order_is_that_of_a_plain_loop_and_begins_alike_at_every_count(
    order: Any, loop: Any
) -> None:
    expected = loop(FEATURES.double(), 25)
    assert sorted(expected) == list(range(25)) != expected
    for count in (1, 2, 9, 25):
        places = order(FEATURES, count)
        assert places.tolist() == expected[:count] and places.dtype == torch.int64


@pytest.mark.parametrize("order", [k_centre, herding])
def test_rows_with_equal_features_are_chosen_once_each(order: Any) -> None:
    assert sorted(order(torch.ones(7, 3), 7).tolist()) == list(range(7))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_budgets_nest_and_images_are_distinct_and_of_no_task(selection: str) -> None:
    largest = chosen(34, selection=selection)
    names = digests_of(largest)
    assert len(set(names)) == 34 and not TASK & set(names), "40, without 3 of a task and 3 copies"
    for count in (1, 8, 33):
        assert np.array_equal(chosen(count, selection=selection).rows, largest.rows[:count])
    with pytest.raises(DataError, match="The budget is 35 images and held has 34 distinct ones"):
        chosen(35, selection=selection)


@pytest.mark.parametrize("selection", GREEDY)
def test_a_choice_is_a_function_of_the_seed_and_differs_from_a_random_one(selection: str) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = chosen(8, selection=selection)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(first.rows, chosen(8, selection=selection).rows)
    assert not np.array_equal(first.rows, chosen(8, 1, selection).rows)
    assert set(first.rows) != set(chosen(8, selection="random").rows)


def test_random_is_the_selection_that_it_was_and_its_runs_keep_their_keys() -> None:
    assert np.array_equal(chosen(9, 4, "random").rows, select(IMAGES, 9, 4, TASK).rows)
    keys = {}
    for selection in SELECTIONS:
        config = choose(*DEBUG, f"selection={selection}")
        keys[selection] = run_key(config, None, {"queries": "one"})
    assert len(set(keys.values())) == len(SELECTIONS)
    earlier: dict[str, Any] = {}
    add_later_parts(earlier)
    assert earlier["selection"] == "random"


@pytest.mark.slow
def test_a_sweep_over_budgets_pays_for_the_largest_alone(command: Command, tmp_path: Any) -> None:
    words = ("until=query", "selection=herding", "budget.images=64,128")
    done = command("train.py", "-m", *DEBUG, *words)
    assert done.returncode == 0, done.stderr
    assert stored(tmp_path / "work") == 128
