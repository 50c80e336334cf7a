"""The classes of a downstream task: two splits in, an error out if accuracy cannot be measured."""

import numpy as np

from stealing.data.images import LEFT_OUT, Images
from stealing.errors import DataError
from stealing.evaluation.protocol import Task


def check_classes(task: Task) -> None:
    """Refuse a task whose splits do not hold the same two or more classes.

    A class may be absent from a part that is drawn from a split (`take`, `balanced`), but not from
    the split that the part is drawn from.

    Raises:
        DataError: A split has no labels, only one class, or lacks a class that the other one has;
            or labels are not class numbers.
    """
    _check_labels(f"The train split of task {task.name}", task.train)
    _check_labels(f"The test split of task {task.name}", task.test)
    train_names = task.train.class_names
    test_names = task.test.class_names
    if train_names == test_names:
        train = _present(task.train)
        test = _present(task.test)
        _check_absent(task.name, "train", "test", test - train, train_names)
        _check_absent(task.name, "test", "train", train - test, train_names)
    if task.train.classes != task.test.classes or train_names != test_names:
        raise DataError(
            f"The splits of task {task.name} have different classes{_difference(task)}: "
            "open both from the same source."
        )


def _check_labels(split: str, images: Images) -> None:
    """Raise unless the split has images of two classes or more, numbered from 0."""
    present = np.unique(images.targets())
    if len(present) == 0:
        raise DataError(
            f"{split} has no images: a task needs images of two classes or more, in each split."
        )
    if len(present) == 1:
        only = _name(images.class_names, int(present[0]))
        raise DataError(
            f"{split} has no class but {only}: "
            "a task needs images of two classes or more, in each split."
        )
    # Without class names the number of classes is the greatest label: an identifier instead of a
    # class number would ask for a head with as many outputs.
    if not images.class_names and images.classes > len(images.pixels):
        raise DataError(
            f"{split} has labels up to {images.classes - 1} and {len(images.pixels)} images: "
            "number the classes from 0, or write their names in place of the numbers."
        )


def _check_absent(
    task: str, split: str, other: str, absent: set[int], names: tuple[str, ...]
) -> None:
    """Raise if a split lacks classes that the other split has."""
    if absent:
        raise DataError(
            f"The {split} split of task {task} has no image of class {_name(names, min(absent))}, "
            f"which the {other} split has: add images of it, or take the class out of both."
        )


def _present(images: Images) -> set[int]:
    """Return the classes of the source that have images, whether or not some are drawn."""
    assert images.labels is not None
    return set(np.unique(images.labels).tolist()) - {LEFT_OUT}


def _difference(task: Task) -> str:
    """Name a class that only one split has."""
    train = set(task.train.class_names)
    test = set(task.test.class_names)
    if train - test:
        return f", as only the train split has {min(train - test)!r}"
    if test - train:
        return f", as only the test split has {min(test - train)!r}"
    return ""


def _name(names: tuple[str, ...], label: int) -> str:
    return repr(names[label]) if names else str(label)
