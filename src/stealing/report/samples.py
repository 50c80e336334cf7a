"""Pictures of one attack's images: the sample that a run kept in, pictures out.

Shape letters: S images of the sample, M test images, D feature width, C classes.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stealing.artefacts import is_plain_name
from stealing.errors import DamageError
from stealing.report.picture import COLOURS, MARKERS, WIDTH, Axes, Figure, Picture, names, svg
from stealing.report.run_files import FinishedRun, read_arrays
from stealing.report.runs import RunGroup
from stealing.report.wording import words
from stealing.text import for_figure

NEIGHBOURS = 4
"""Nearest images that are shown for an image."""

PROBED = 5
"""Images whose neighbours are shown."""

COLUMNS = 12
"""Of the picture of queries."""

MOST_NAMED = 20
"""Classes whose names still fit beside a picture."""

MOST_SHOWN = 1000
"""Images of a sample. A run keeps a few hundred; a picture of many more would take hours."""

MOST_CLASSES = 4096
"""Classes of a table of predictions, which has a row and a column for each."""

FORMS = {
    "images": ("u", 4),
    "queries": ("u", 4),
    "labels": ("iu", 1),
    "target": ("f", 2),
    "surrogate": ("f", 2),
}
"""Kinds of numbers, as NumPy abbreviates them, and dimensions of the arrays of a sample."""

EPSILON = 1e-12
"""Divides in place of zero, for features that are all alike."""

Sample = dict[str, NDArray[Any]]


def sample_of(group: RunGroup, head: str) -> Sample | None:
    """Return what the first of its runs kept: images, labels, features, predictions; or None.

    A file that a run does not write, which may be a stranger's, is left out with one line on the
    standard error.

    Args:
        group: of runs.
        head: classifier whose predictions are drawn.
    """
    first = group.runs[0]
    name = first.result["files"].get("sample")
    # The name stands in a file: it must not lead out of the folder.
    if not isinstance(name, str) or not is_plain_name(name):
        return None
    path = first.folder / name
    if not path.exists():
        return None
    try:
        sample = read_arrays(path)
        if not _is_sample(sample, first, head):
            raise DamageError(f"{path} is not what a run writes.")
    except DamageError as damage:
        line = f"{str(damage).rstrip('.')}: its pictures are left out."
        print(line, file=sys.stderr, flush=True)
        return None
    return sample


def _is_sample(sample: Sample, run: FinishedRun, head: str) -> bool:
    """Return whether all arrays are there that the pictures below draw, in forms that they can."""
    predicted = [f"predicted/{head}/TA", f"predicted/{head}/SA"]
    forms = FORMS | dict.fromkeys(predicted, ("iu", 1))
    if not all(_has_form(sample.get(name), *form) for name, form in forms.items()):
        return False
    images, queried = sample["images"], sample["queries"]
    are_pictures = images.shape[1] == 3 and queried.shape[1] == 3
    if not are_pictures or max(len(images), len(queried)) > MOST_SHOWN:
        return False
    counts = {len(sample[name]) for name in FORMS if name != "queries"}
    if len(counts) > 1 or len(images) < PROBED:
        return False
    target_M, surrogate_M = (sample[name] for name in predicted)
    least = min(target_M.min(), surrogate_M.min())
    greatest = max(target_M.max(), surrogate_M.max())
    if len(target_M) != len(surrogate_M) or not 0 <= least <= greatest < MOST_CLASSES:
        return False
    described = run.result.get("sample")
    if not isinstance(described, dict) or not isinstance(described.get("task"), str):
        return False
    known = described.get("classes") or range(MOST_CLASSES)
    return isinstance(known, list | range) and len(known) > greatest


def _has_form(array: NDArray[Any] | None, kinds: str, dimensions: int) -> bool:
    """Return whether this is an array of such numbers, all finite, that is not empty."""
    if array is None or array.ndim != dimensions or array.dtype.kind not in kinds:
        return False
    return array.size > 0 and bool(np.isfinite(array).all())


def queries(group: RunGroup, sample: Sample) -> Picture:
    """Draw some of the images that were sent."""
    images = sample["queries"]
    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(WIDTH, WIDTH / COLUMNS * rows), layout="constrained")
    for place, axes in enumerate(figure.subplots(rows, COLUMNS).flat):
        _image(axes, images[place] if place < len(images) else None)
    asked = group.joined["queries"]["images"]
    title, alternative, caption = words("figures.jinja", "queries", shown=len(images), asked=asked)
    return _picture(title, figure, "queries", alternative, caption, group)


def space(group: RunGroup, sample: Sample, task: str) -> Picture:
    """Draw both feature spaces by principal components, the surrogate's turned to the target's."""
    target_S2, target_variance = _plane(sample["target"])
    surrogate_S2, surrogate_variance = _plane(sample["surrogate"])
    # The best rotation or reflection (orthogonal Procrustes): only places relative to others count.
    left, _, right = np.linalg.svd(surrogate_S2.T @ target_S2)
    surrogate_S2 = surrogate_S2 @ (left @ right)
    figure = Figure(figsize=(WIDTH, WIDTH / 2 + 0.2), layout="constrained")
    panels = figure.subplots(1, 2)
    _scatter(panels[0], target_S2, sample["labels"], "target")
    _scatter(panels[1], surrogate_S2, sample["labels"], "surrogate")
    title, alternative, caption = words(
        "figures.jinja",
        "space",
        count=len(sample["labels"]),
        task=task,
        correlation=float(np.corrcoef(target_S2.ravel(), surrogate_S2.ravel())[0, 1]),
        target_variance=target_variance,
        surrogate_variance=surrogate_variance,
    )
    return _picture(title, figure, "space", alternative, caption, group)


def _scatter(
    axes: Axes, points_S2: NDArray[np.float64], labels_S: NDArray[Any], title: str
) -> None:
    for number, label in enumerate(np.unique(labels_S)):
        of_class = points_S2[labels_S == label]
        axes.scatter(
            of_class[:, 0],
            of_class[:, 1],
            s=14,
            marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            linewidths=0,
        )
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])


def neighbours(group: RunGroup, sample: Sample, task: str) -> Picture:
    """Draw the nearest other images of a few, by the cosine of either encoder."""
    target_near = _nearest(sample["target"])[:, :NEIGHBOURS]
    surrogate_near = _nearest(sample["surrogate"])[:, :NEIGHBOURS]
    shared = []
    for target, surrogate in zip(target_near, surrogate_near, strict=True):
        # Their order does not count: a search shows all of them.
        shared.append(len(set(target) & set(surrogate)) / NEIGHBOURS)
    images = sample["images"]
    columns = 2 * NEIGHBOURS + 3
    figure = Figure(figsize=(WIDTH, WIDTH / columns * PROBED + 0.3), layout="constrained")
    # One column for the image, and one empty before each encoder's neighbours.
    grid = figure.subplots(PROBED, columns)
    for row in range(PROBED):
        places = [row, None, *target_near[row], None, *surrogate_near[row]]
        for axes, place in zip(grid[row], places, strict=True):
            _image(axes, None if place is None else images[place])
    grid[0, 0].set_title("image", fontsize=8)
    grid[0, 2].set_title("target", fontsize=8, loc="left")
    grid[0, NEIGHBOURS + 3].set_title("surrogate", fontsize=8, loc="left")
    title, alternative, caption = words(
        "figures.jinja",
        "neighbours",
        probed=PROBED,
        nearest=NEIGHBOURS,
        count=len(images),
        task=task,
        shared=float(np.mean(shared)),
        chance=NEIGHBOURS / (len(images) - 1),
    )
    return _picture(title, figure, "neighbours", alternative, caption, group)


def agreement(group: RunGroup, sample: Sample, task: str, head: str) -> Picture:
    """Draw how often heads on target and surrogate predict the same class, class by class."""
    target_S = sample[f"predicted/{head}/TA"]
    surrogate_S = sample[f"predicted/{head}/SA"]
    classes = int(max(target_S.max(), surrogate_S.max())) + 1
    # `add.at` counts a pair as often as it occurs; plain indexing would count it once.
    counts_CC = np.zeros((classes, classes))
    np.add.at(counts_CC, (target_S, surrogate_S), 1)
    # A class that the target's head never predicts has an empty row.
    shares_CC = counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(WIDTH, 0.84 * WIDTH), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(shares_CC, cmap="cividis", vmin=0, vmax=float(shares_CC.max()))
    figure.colorbar(drawn).set_label("share of the row", fontsize=8)
    known = group.runs[0].result["sample"]["classes"] or list(range(classes))
    if classes <= MOST_NAMED:
        class_names = list(map(for_figure, map(str, known[:classes])))
        axes.set_xticks(range(classes), class_names, rotation=90, fontsize=7)
        axes.set_yticks(range(classes), class_names, fontsize=7)
    axes.set_xlabel("class by the surrogate", fontsize=8)
    axes.set_ylabel("class by the target", fontsize=8)
    title, alternative, caption = words(
        "figures.jinja",
        "agreement",
        classes=classes,
        task=task,
        head=head,
        count=len(target_S),
        same=float((target_S == surrogate_S).mean()),
    )
    return _picture(title, figure, "agreement", alternative, caption, group)


def _picture(
    title: str, figure: Figure, name: str, alternative: str, caption: str, group: RunGroup
) -> Picture:
    return Picture(title, svg(figure, name), alternative, caption, names([group], first=True))


def _plane(features_SD: NDArray[Any]) -> tuple[NDArray[np.float64], float]:
    """Return the first two principal components at unit norm, and their share of the variance."""
    centred_SD = features_SD.astype(float) - features_SD.astype(float).mean(0)
    left, values, _ = np.linalg.svd(centred_SD, full_matrices=False)
    places_S2: NDArray[np.float64] = left[:, :2] * values[:2]
    variance = (values[:2] ** 2).sum() / max((values**2).sum(), EPSILON)
    return places_S2 / max(float(np.linalg.norm(places_S2)), EPSILON), float(variance)


def _nearest(features_SD: NDArray[Any]) -> NDArray[np.int64]:
    """Return the other images by cosine, the nearest first."""
    rows_SD = features_SD.astype(float)
    rows_SD = rows_SD / np.maximum(np.linalg.norm(rows_SD, axis=1, keepdims=True), EPSILON)
    cosine_SS = rows_SD @ rows_SD.T
    # No image is its own neighbour.
    np.fill_diagonal(cosine_SS, -np.inf)
    return np.argsort(-cosine_SS, axis=1, kind="stable")


def _image(axes: Axes, image_CHW: NDArray[Any] | None) -> None:
    axes.set_axis_off()
    if image_CHW is not None:
        axes.imshow(image_CHW.transpose(1, 2, 0), interpolation="nearest")
