"""Which images to spend the budget on: candidates in, a list of distinct images out."""

import numpy as np

from stealing.data.images import Images
from stealing.errors import DataError
from stealing.queries.digests import iterate_digests


def select(candidates: Images, count: int, seed: int, excluded: set[bytes]) -> Images:
    """Choose `count` distinct images at random.

    With the same seed, a smaller count gives a prefix of a larger one: a sweep over budgets only
    pays for the largest.

    Args:
        candidates: what the attacker holds; labels are not looked at.
        count: the budget.
        seed: of the order.
        excluded: digests that may not be chosen, those of the downstream tasks.

    Raises:
        DataError: fewer than `count` distinct images remain.
    """
    order = np.random.default_rng(seed).permutation(len(candidates))
    shuffled = candidates.part(order)
    seen = set(excluded)
    places: list[int] = []
    for place, digest in enumerate(iterate_digests(shuffled)):
        if len(places) == count:
            break
        if digest not in seen:
            seen.add(digest)
            places.append(place)
    if len(places) < count:
        raise DataError(
            f"The budget is {count} images and {candidates.name} has {len(places)} distinct ones "
            "that are in no task: choose a smaller budget= or more query images."
        )
    return shuffled.part(np.array(places, np.int64))
