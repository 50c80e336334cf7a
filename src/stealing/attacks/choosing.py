"""Choose the images that the budget is spent on: what the attacker holds in, a list of images out.

All choices are greedy, and none looks at the budget. So the images of a smaller budget are the
first ones of a larger budget, and a sweep over budgets only pays for the largest.

Shape letters: N images that may be chosen, D feature width of an untrained encoder.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stealing.data.images import Images
from stealing.encoders import build_encoder
from stealing.evaluation.features import encode_all
from stealing.queries.digests import digests_of
from stealing.queries.selection import select
from stealing.seeds import derive_seed


def choose(
    candidates: Images,
    count: int,
    seed: int,
    excluded: set[bytes],
    *,
    selection: str,
    arch: Mapping[str, Any],
) -> Images:
    """Choose `count` distinct images, a function of these arguments.

    Args:
        candidates: what the attacker holds; labels are not looked at.
        count: the budget.
        seed: of the random order, and of the untrained encoder's weights.
        excluded: digests that may not be chosen, those of the downstream tasks.
        selection: `random`, `k_centre` or `herding`. The last two start from the random order.
        arch: of the untrained encoder. It always computes on the CPU, so that one seed buys the
            same answers with a GPU and without.

    Raises:
        DataError: fewer than `count` distinct images remain.
    """
    if selection == "random":
        return select(candidates, count, seed, excluded)
    distinct = set(digests_of(candidates)) - excluded
    # all that may be chosen: the greedy orders need to know every image
    allowed = select(candidates, max(count, len(distinct)), seed, excluded)
    encoder = build_encoder(arch, derive_seed(seed, "selection"))
    order = {"k_centre": k_centre, "herding": herding}[selection]
    return allowed.part(order(encode_all(encoder, allowed), count).numpy())


def k_centre(features_ND: Tensor, count: int) -> Tensor:
    """Return places of rows, int64 (count,), each the farthest from all rows before it.

    The first is row 0. Distances are Euclidean.

    Args:
        features_ND: float32 (N, D), N at least `count`.
        count: number of rows.

    Source: Sener and Savarese 2018 (arXiv:1708.00489), algorithm 1.
    """
    # distances stay, and smaller numbers cancel less below
    rows_ND = features_ND - features_ND.mean(0)
    lengths_N = rows_ND.square().sum(1)
    nearest_N = torch.full_like(lengths_N, torch.inf)
    places = []
    place = 0
    for _ in range(count):
        places.append(place)
        distances_N = lengths_N + lengths_N[place] - 2 * rows_ND @ rows_ND[place]
        nearest_N = torch.minimum(nearest_N, distances_N)
        nearest_N[place] = -torch.inf  # not again, even if all others have the same features
        place = int(nearest_N.argmax())
    return torch.tensor(places)


def herding(features_ND: Tensor, count: int) -> Tensor:
    """Return row numbers, int64 (count,), chosen one after the other.

    Each choice brings the mean of the chosen rows as near as possible to the mean of all rows.

    Args:
        features_ND: float32 (N, D), N at least `count`.
        count: number of rows.

    Source: Welling 2009, as algorithm 4 of iCaRL (arXiv:1611.07725) has it. Departure: there each
    class is herded by itself and features are normalised; here there are no labels, and features
    are as the encoder gives them.
    """
    # around the mean of all rows, the sum of the chosen ones has to be near 0
    rows_ND = features_ND - features_ND.mean(0)
    lengths_N = rows_ND.square().sum(1)
    total_D = torch.zeros_like(rows_ND[0])
    places: list[int] = []
    for _ in range(count):
        # the squared length of the new sum, without what is the same for all rows
        sums_N = lengths_N + 2 * rows_ND @ total_D
        sums_N[places] = torch.inf  # not again
        place = int(sums_N.argmin())
        places.append(place)
        total_D += rows_ND[place]
    return torch.tensor(places)
