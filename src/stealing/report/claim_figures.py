"""Figures of a claim: numbers of each seed in; accuracies and shares by role, with intervals, out.

SA is a mean over the tasks of a role, and its errors are exact: which images were right is known.
Shares are of the informative tasks, as `stealing.report.stored_cells` computes them.

Shape letters: S seeds, M test images.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stealing.errors import DataError
from stealing.evaluation.bootstrap import margin, standard_error
from stealing.report.stored_cells import CommonGround, Result, Seeds

POOLED = "all"
"""Stands for all roles together, beside the roles."""

Answers = dict[str, NDArray[np.bool_]]
"""By `<task>/<head>`: bool (M,), True for each test image that the surrogate's head got right."""


def packed(rows_M: NDArray[np.bool_]) -> str:
    """Return bits as text: eight of them a byte, the first one the highest, in base64."""
    return base64.b64encode(np.packbits(rows_M).tobytes()).decode()


def right_answers(seed: Mapping[str, Any]) -> Answers:
    """Return which test images the surrogate of one seed of a claim got right.

    Raises:
        ValueError: a text is not base64, or holds another number of images than its task.
    """
    right = Answers()
    for place, text in seed["right"].items():
        count = seed["tasks"][place.split("/")[0]]["images"]
        octets = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
        if len(octets) != -(-count // 8):
            raise ValueError(place)
        right[place] = np.unpackbits(octets, count=count).astype(bool)
    return right


@dataclass(frozen=True)
class Mean:
    """A mean over tasks of what is known of each test image, such as whether it is right.

    Attributes:
        by_seed: the mean of each seed, (S,).
        of_images: its variance over test images, of the mean over seeds.
    """

    by_seed: NDArray[np.float64]
    of_images: float

    @classmethod
    def of(cls, tasks: Sequence[NDArray[np.float64]]) -> "Mean":
        """Return the mean over tasks, each (S, M) with images of its own."""
        by_seed = []
        variance = 0.0
        for values_SM in tasks:
            by_seed.append(values_SM.mean(1))
            # The same images for all seeds: the mean over seeds is what varies with them.
            variance += values_SM.mean(0).var() / values_SM.shape[1]
        return cls(np.mean(by_seed, axis=0), float(variance) / len(tasks) ** 2)

    @property
    def point(self) -> float:
        """The mean over seeds."""
        return float(self.by_seed.mean())

    def standard_error(self) -> tuple[float, float]:
        """Return the standard error over test images and seeds, and its degrees of freedom."""
        return standard_error(self.of_images, self.by_seed)

    def interval(self) -> list[float]:
        """Return the 95 % interval."""
        half = margin(*self.standard_error())
        return [self.point - half, self.point + half]


def cells_of(seeds: Mapping[str, Any]) -> Seeds:
    """Return the seeds of a claim as cells without a defense; see `stored_cells`."""
    cells = Seeds()
    for number, seed in seeds.items():
        cell = {"defense": "none", "strength": "", "plan": "", "seed": int(number)}
        cells[int(number)] = Result(
            cell=cell,
            tasks=seed["tasks"],
            queries=seed["queries"],
            # A board compares them once for all claims.
            target="",
            protocol_hash="",
            data={},
        )
    return cells


def heads_of(seeds: Mapping[str, Any]) -> list[str]:
    """Return the kinds of classifier of a claim."""
    places = next(iter(seeds.values()))["right"]
    return list(dict.fromkeys(place.split("/")[1] for place in places))


def roles_of(seeds: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the tasks of each role, and those of all roles together."""
    tasks = next(iter(seeds.values()))["tasks"]
    roles = dict[str, list[str]]()
    for task, heads in tasks.items():
        roles.setdefault(heads["role"], []).append(task)
    return {**roles, POOLED: list(tasks)}


def figures_of(seeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a claim, beyond its own controls.

    Args:
        seeds: of a claim.

    Returns:
        By head: `SA`, and `recovered` of the tasks that are informative by the claim's own
        controls, each by role with its `mean` and `interval`; None for a role without such a task.
    """
    answers = [right_answers(seed) for seed in seeds.values()]
    cells = cells_of(seeds)
    figures = dict[str, Any]()
    for head in heads_of(seeds):
        try:
            ground: CommonGround | None = CommonGround.of(list(cells.values()), head)
        except DataError:  # no task is informative
            ground = None
        recovered = dict[str, Any]()
        for role, tasks in roles_of(seeds).items():
            recovered[role] = None if ground is None else recovered_of(ground, cells, tasks)
        accuracies = accuracies_by_role(answers, head, roles_of(seeds))
        figures[head] = {"SA": accuracies, "recovered": recovered}
    return figures


def accuracies_by_role(
    answers: Sequence[Answers], head: str, roles: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return the mean of SA over the tasks of each role, with its interval.

    Args:
        answers: of each seed.
        head: of the accuracies.
        roles: tasks by role.
    """
    figures = dict[str, Any]()
    for role, tasks in roles.items():
        mean = Mean.of([stacked(answers, f"{task}/{head}") for task in tasks])
        figures[role] = {"mean": mean.point, "interval": mean.interval()}
    return figures


def stacked(answers: Sequence[Answers], place: str) -> NDArray[np.float64]:
    """Return whether each image of a task is right, (S, M), as 0 and 1."""
    return np.stack([of_seed[place] for of_seed in answers]).astype(np.float64)


def recovered_of(ground: CommonGround, cells: Seeds, tasks: Sequence[str]) -> dict[str, Any] | None:
    """Return what cells recovered of the informative ones among these tasks; None without one."""
    informative = [task for task in tasks if task in ground.tasks]
    share = ground.share(cells, informative)
    if share is None:
        return None
    mean, interval = share
    return {"mean": mean, "interval": list(interval)}
