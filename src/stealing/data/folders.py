"""A folder of image files in; its files, their classes, or an error that says what is wrong out.

Nothing is decoded here. Files of other kinds are left out, and so are files of operating systems.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from PIL import Image

from stealing.errors import DataError

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}
"""Suffixes of the files that are read, in lower case."""

HELPERS = {
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "#recycle",
    "#snapshot",
    "__macosx",
    "$recycle.bin",
    "desktop.ini",
    "lost+found",
    "system volume information",
    "thumbs.db",
}
"""Files and folders of operating systems and network storage, in lower case; those that begin with
a dot are left out anyway."""

SPLITS = {"dev", "eval", "test", "testing", "train", "training", "val", "valid", "validation"}
"""Names of splits, in lower case. A folder that holds nothing else holds no classes."""


@dataclass(frozen=True)
class Listing:
    """The image files of one split, in their order.

    Attributes:
        files: sorted by path, class after class.
        labels: of each file, its class's place in `names`; -1 in a folder without classes.
        names: names of the classes, sorted; empty in a folder without classes.
    """

    files: list[Path]
    labels: list[int]
    names: tuple[str, ...]


def list_images(top: Path) -> Listing:
    """Return the image files of a folder: one folder a class, or all files in one without labels.

    Files may lie deeper in the folder of their class.

    Raises:
        DataError: There is no folder or no image; a class has no images; there are both files and
            class folders; a folder stands around the class folders, has the name of an image, or
            cannot be read.
    """
    if not top.is_dir():
        raise DataError(
            f"{top} is not a folder{_folders_beside(top)}: "
            "point at the one that holds the images or the class folders."
        )
    files, names = _entries(top)
    flat = sorted(filter(_is_image, files))
    if names and flat:
        raise DataError(
            f"{top} holds both images and class folders: "
            f"move {flat[0].name} and its like into a class."
        )
    if not names:
        if not flat:
            raise DataError(
                f"There are no images in {top}{_skipped(files)}: "
                f"put files that end in {', '.join(sorted(SUFFIXES))} there."
            )
        _warn_of_others(top, files)
        return Listing(flat, [-1] * len(flat), ())
    by_class = {name: _files_below(top / name) for name in names}
    _check_classes(top, by_class)
    _warn_of_others(top, chain.from_iterable(by_class.values()))
    listing = Listing([], [], tuple(names))
    for label, paths in enumerate(by_class.values()):
        images = sorted(filter(_is_image, paths))
        listing.files.extend(images)
        listing.labels.extend([label] * len(images))
    return listing


def _folders_beside(absent: Path) -> str:
    """Name folders that are where this one is expected; empty if there are none."""
    if not absent.parent.is_dir():
        return ""
    _, names = _entries(absent.parent)
    if not names:
        return ""
    some = ", ".join(names[:3])
    more = ", ..." if len(names) > 3 else ""
    return f", and {absent.parent} holds {some}{more}"


def _entries(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files and the names of the folders in a folder, without hidden ones."""
    files = list[Path]()
    folders = list[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith(".") or entry.name.lower() in HELPERS:
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                else:
                    files.append(folder / entry.name)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}): make it readable, or leave it out."
        ) from None
    for name in folders:
        if Path(name).suffix.lower() in SUFFIXES:
            raise DataError(
                f"{folder / name} is a folder with the name of an image: "
                "rename it, or leave it out."
            )
    return files, folders


def _files_below(folder: Path) -> list[Path]:
    """Return the files at any depth."""
    files, names = _entries(folder)
    for name in names:
        # A link to a folder may lead around in a circle.
        if not (folder / name).is_symlink():
            files += _files_below(folder / name)
    return files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _check_classes(top: Path, by_class: dict[str, list[Path]]) -> None:
    """Raise if the folders in `top` are splits, stand around the classes, or hold no image."""
    names = list(by_class)
    if len(names) > 1 and SPLITS.issuperset(map(str.lower, names)):
        raise DataError(
            f"{top} holds the splits {', '.join(names)} and no classes: "
            f"name the folder of one split, such as {top / names[0]}."
        )
    if len(names) == 1:
        images = list(filter(_is_image, by_class[names[0]]))
        around = _folder_of_classes(top / names[0], images)
        if around is not None:
            raise DataError(
                f"{top} holds the one folder {names[0]}, around the class folders: name {around}."
            )
    for name, paths in by_class.items():
        if not any(map(_is_image, paths)):
            raise DataError(
                f"The class {name} in {top} has no images that are read here{_skipped(paths)}: "
                f"put files that end in {', '.join(sorted(SUFFIXES))} there, "
                "or take the folder away."
            )


def _folder_of_classes(folder: Path, images: Sequence[Path]) -> Path | None:
    """Return the folder at or below this one whose folders are classes, or None if it is one class.

    Args:
        folder: the only one in a user's folder.
        images: all images below it.
    """
    if not images:
        return None
    # The lowest folder above all images. With one image, it is the folder of that image.
    common = Path(os.path.commonpath([image.parent for image in images]))
    # Classes are folders in it: none of the images lies in the common folder itself.
    has_classes = all(image.parent != common for image in images)
    return common if has_classes else None


def _skipped(paths: Iterable[Path]) -> str:
    """Name the kinds of files that are left out; empty if there are none."""
    counts = Counter[str]()
    for path in paths:
        if not _is_image(path):
            counts[path.suffix.lower() or "no suffix"] += 1
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    return f" (skipped: {kinds})" if kinds else ""


def _warn_of_others(top: Path, paths: Iterable[Path]) -> None:
    """Warn of images of a kind that is not read: a user may think that they are in the data."""
    known = Image.registered_extensions()
    skipped = _skipped(path for path in paths if path.suffix.lower() in known)
    if skipped:
        warnings.warn(
            f"Some images in {top} are of kinds that are not read{skipped}: convert them.",
            stacklevel=4,
        )
