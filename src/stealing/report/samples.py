"""Pictures of one theft's images: what was asked, and how alike target and surrogate see the sample that a run kept.

Shape letters: S images of the sample, D feature width, C classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from stealing.report.picture import COLOURS, MARKERS, WIDTH, Axes, Figure, Picture, names, svg
from stealing.report.runs import Setting

NEIGHBOURS, PROBED = 4, 5
"""Nearest images shown for each image, and of how many."""

Sample = dict[str, NDArray[Any]]


def sample_of(setting: Setting) -> Sample | None:
    """Images, labels, features and predictions that the first of its runs kept."""
    folder, result = setting.runs[0].folder, setting.runs[0].result
    path = folder / result["files"].get("sample", "-")
    return load_file(path) if path.exists() else None


def queries(setting: Setting, sample: Sample) -> Picture:
    """Some of the images that were asked about."""
    shown = sample["queries"]
    columns = 12
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(WIDTH, WIDTH / columns * rows), layout="constrained")
    for place, axes in enumerate(figure.subplots(rows, columns).flat):
        _image(axes, shown[place] if place < len(shown) else None)
    return Picture(
        "What did the attacker ask about?",
        svg(figure, "queries"),
        f"{len(shown)} small images of the {setting.joined['queries']['images']} that were sent to the target.",
        f"The first {len(shown)} of {setting.joined['queries']['images']} images, in the order of asking.",
        names([setting], first=True),
    )


def space(setting: Setting, sample: Sample, task: str) -> Picture:
    """Both feature spaces in the plane: principal components, the surrogate's turned to match the target's."""
    (target, told), (copy, kept) = _plane(sample["target"]), _plane(sample["surrogate"])
    left, _, right = np.linalg.svd(copy.T @ target)
    copy = copy @ (left @ right)
    figure = Figure(figsize=(WIDTH, WIDTH / 2 + 0.2), layout="constrained")
    labels = sample["labels"]
    for axes, points, title in zip(figure.subplots(1, 2), (target, copy), ("target", "surrogate"), strict=True):
        for number, label in enumerate(np.unique(labels)):
            axes.scatter(
                *points[labels == label].T, s=14, marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
                color=COLOURS[number % len(COLOURS)], linewidths=0,
            )  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    alike = float(np.corrcoef(target.ravel(), copy.ravel())[0, 1])
    return Picture(
        "Does the surrogate order images as the target does?",
        svg(figure, "space"),
        f"Two scatter plots of {len(labels)} test images of {task}, target and surrogate, coloured by class. Places "
        f"correlate by {alike:.2f}. Two components hold {told:.0%} of the target's variance, {kept:.0%} "
        "of the surrogate's.",
        f"{len(labels)} test images of {task}, drawn along the two directions in which each encoder's features vary "
        "most; a colour and shape is a class. Where a point lies relative to others counts, so the right side is "
        f"turned to match the left as well as it can: places then correlate by {alike:.2f}, where 1 is the same order.",
        names([setting], first=True),
    )


def neighbours(setting: Setting, sample: Sample, task: str) -> Picture:
    """The nearest other images of a few, by the cosine of either encoder."""
    near = [_nearest(sample[name])[:, :NEIGHBOURS] for name in ("target", "surrogate")]
    shared = float(np.mean([len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(*near, strict=True)]))
    columns = 2 * NEIGHBOURS + 3
    figure = Figure(figsize=(WIDTH, WIDTH / columns * PROBED + 0.3), layout="constrained")
    grid = figure.subplots(PROBED, columns)
    for row in range(PROBED):
        places = [row, None, *near[0][row], None, *near[1][row]]
        for axes, place in zip(grid[row], places, strict=True):
            _image(axes, None if place is None else sample["images"][place])
    grid[0, 0].set_title("image", fontsize=8)
    grid[0, 2].set_title("target", fontsize=8, loc="left")
    grid[0, NEIGHBOURS + 3].set_title("surrogate", fontsize=8, loc="left")
    chance = NEIGHBOURS / (len(sample["images"]) - 1)
    return Picture(
        "Which images are alike, for either encoder?",
        svg(figure, "neighbours"),
        f"{PROBED} test images of {task}, each with its {NEIGHBOURS} nearest others under the target and under the "
        f"surrogate. On average {shared:.0%} of the neighbours are the same, where chance gives {chance:.0%}.",
        f"Of {len(sample['images'])} images of {task}; the encoders share {shared:.0%} of the {NEIGHBOURS} nearest, "
        f"where chance gives {chance:.0%}. A surrogate that serves classifiers well may serve an image search badly.",
        names([setting], first=True),
    )


def agreement(setting: Setting, sample: Sample, task: str, head: str) -> Picture:
    """How often a head on the surrogate says what one on the target says, class by class."""
    target, copy = sample[f"predicted/{head}/TA"], sample[f"predicted/{head}/SA"]
    classes = int(max(target.max(), copy.max())) + 1
    counts_CC = np.zeros((classes, classes))
    np.add.at(counts_CC, (target, copy), 1)
    shares = counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(WIDTH, 0.84 * WIDTH), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="cividis", vmin=0, vmax=float(shares.max()))
    figure.colorbar(drawn).set_label("share of the row", fontsize=8)
    known = setting.runs[0].result["sample"]["classes"] or list(range(classes))
    if classes <= 20:
        axes.set_xticks(range(classes), [str(name) for name in known[:classes]], rotation=90, fontsize=7)
        axes.set_yticks(range(classes), [str(name) for name in known[:classes]], fontsize=7)
    axes.set_xlabel("class by the surrogate", fontsize=8)
    axes.set_ylabel("class by the target", fontsize=8)
    same = float((target == copy).mean())
    return Picture(
        "Where do target and surrogate decide alike?",
        svg(figure, "agreement"),
        f"Matrix of {classes} by {classes} classes of {task}: both heads give the same class to {same:.0%} of "
        f"{len(target)} test images, the diagonal.",
        f"{head} heads on {task}, trained alike on either encoder's features, give the same class to {same:.0%} of the "
        "test images, the diagonal; a row is a class by the target's head.",
        names([setting], first=True),
    )


def _plane(features_SD: NDArray[Any]) -> tuple[NDArray[np.float64], float]:
    centred = features_SD.astype(float) - features_SD.astype(float).mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    places: NDArray[np.float64] = left[:, :2] * values[:2]
    return places / max(float(np.linalg.norm(places)), 1e-12), float(
        (values[:2] ** 2).sum() / max((values**2).sum(), 1e-12)
    )


def _nearest(features_SD: NDArray[Any]) -> NDArray[np.int64]:
    rows = features_SD.astype(float)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    alike = rows @ rows.T
    np.fill_diagonal(alike, -np.inf)
    return np.argsort(-alike, axis=1, kind="stable")


def _image(axes: Axes, image_CHW: NDArray[Any] | None) -> None:
    axes.set_axis_off()
    if image_CHW is not None:
        axes.imshow(image_CHW.transpose(1, 2, 0), interpolation="nearest")
