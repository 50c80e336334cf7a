"""Sources of images: Parquet files in the hub's schema, folders of image files, drawn `shapes`.

Each function opens one split as `Images`. Nothing is resized or recoloured unless an argument says
so.
"""

import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stealing.data import shapes as drawing
from stealing.data.cache import Block, load_or_decode
from stealing.data.decoding import BLOCK, decode, decode_each, fitting
from stealing.data.folders import list_images
from stealing.data.images import Images
from stealing.data.shards import open_shards
from stealing.errors import DataError
from stealing.numbers import SIDE, check_integer

MOST_DRAWN = 10**7
"""Most images that `shapes` draws: 30 GB of them at 32 pixels."""


def parquet(
    path: str,
    split: str,
    *,
    size: int,
    cache: str,
    resize: str = "none",
    grey: str = "refuse",
) -> Images:
    """Open Parquet files of encoded images, in the schema of the Hugging Face hub.

    The columns are `image`, a struct with `bytes` or plain bytes, and `label`. Labels are numbers
    from 0, or text, which becomes classes in sorted order. A source without labels, or with a label
    of -1 or null, can be used for queries and not as a downstream task.

    Args:
        path: a `.parquet` file, or a folder that holds `<split>.parquet` or shards named
            `<split>-*.parquet`.
        split: ignored for a single file.
        size: height and width of the opened images in pixels.
        cache: folder for the decoded images.
        resize: `none` (another size is an error), `pad`, `crop` or `bilinear`; see
            `stealing.data.decoding.fit`.
        grey: `refuse`, or `repeat` (a grey image becomes three equal channels).

    Raises:
        DataError: Files are absent or damaged; shards are missing, doubled or contradict each
            other; the schema is another; there are no rows; an image cannot be decoded; or a label
            is not a class. The message has file and row.
    """
    check_integer("size", size, 1, SIDE)
    shards = open_shards(Path(path), split)
    count = len(shards.labels)

    def blocks() -> Iterator[Block]:
        row = 0
        for encoded, places in shards.images(min(BLOCK, fitting(size))):
            decode_one = partial(_decode_row, encoded, places, size, resize, grey)
            pixels = decode_each(decode_one, len(encoded))
            yield pixels, shards.labels[row : row + len(encoded)]
            row += len(encoded)

    # Size and time of change stand for a file's content, which would take long to read.
    states = [(str(file.resolve()), *_state(file)) for file in shards.files]
    source = {"files": states, "resize": resize, "grey": grey}
    name = f"{Path(path).stem}-{split}"
    decoded = load_or_decode(cache, name, source, count, size, blocks, lambda: shards.labels)
    return Images(
        name,
        decoded.pixels,
        None if shards.unlabelled else decoded.labels,
        shards.classes,
        np.arange(count),
        decoded.checksum,
        shards.class_names,
        shards.unlabelled,
    )


def folder(
    path: str,
    *,
    size: int,
    cache: str,
    resize: str = "none",
    grey: str = "refuse",
    limit: int | None = None,
) -> Images:
    """Open a folder of image files: one folder a class, or all files in one folder without labels.

    Args:
        path: the folder of one split. The names of the folders in it are the class names.
        size: height and width of the opened images in pixels.
        cache: folder for the decoded images.
        resize: `none` (another size is an error), `pad`, `crop` or `bilinear`.
        grey: `refuse`, or `repeat` (a grey image becomes three equal channels).
        limit: decode only the first of a seeded permutation, at most this many; None decodes all.

    Raises:
        DataError: There is no folder or no image; a class has no images; there are both files and
            class folders; a folder stands around the class folders; or a file cannot be read.
    """
    check_integer("size", size, 1, SIDE)
    if limit is not None:
        check_integer("limit", limit, 1)
    top = Path(path)
    listing = list_images(top)
    files = listing.files
    labels = np.array(listing.labels, np.int64)
    if limit is not None:
        order = np.random.default_rng(0).permutation(len(files))[:limit]
        files = [files[place] for place in order]
        labels = labels[order]

    def blocks() -> Iterator[Block]:
        step = min(BLOCK, fitting(size))
        for start in range(0, len(files), step):
            block = files[start : start + step]
            decode_one = partial(_decode_file, block, size, resize, grey)
            yield decode_each(decode_one, len(block)), labels[start : start + step]

    states = [(str(file.relative_to(top)), *_state(file)) for file in files]
    names = listing.names
    # The class names too: a renamed folder gives the same files other labels.
    source = {"folder": str(top.resolve()), "files": states, "classes": list(names)}
    source |= {"resize": resize, "grey": grey}
    decoded = load_or_decode(cache, top.name, source, len(files), size, blocks, lambda: labels)
    return Images(
        top.name,
        decoded.pixels,
        decoded.labels if names else None,
        len(names),
        np.arange(len(files)),
        decoded.checksum,
        names,
        "" if names else f"the files in {top} are in no class folders",
    )


def shapes(
    split: str,
    *,
    domain: str,
    task: str,
    count: int,
    size: int,
    cache: str,
    seed: int = 0,
) -> Images:
    """Draw images, so that everything can be tried without any data.

    Args:
        split: `train` or `test`.
        domain: one of the two visual domains of `stealing.data.shapes`.
        task: what the labels are, `kind` or `texture`.
        count: number of images, 1 to 10 million; a smaller count is a prefix of a larger one.
        size: height and width in pixels.
        cache: folder for the drawn images.
        seed: another seed gives other images.

    Raises:
        DataError: There is no such task, split or domain.
        ConfigError: A number is out of range.
    """
    check_integer("count", count, 1, MOST_DRAWN)
    check_integer("size", size, drawing.LEAST_SIDE, SIDE)
    check_integer("seed", seed, high=2**63 - 1)
    names = {"kind": drawing.KINDS, "texture": drawing.TEXTURES}
    if task not in names:
        raise DataError(f"shapes has the tasks kind and texture, not {task!r}: choose one of them.")

    def blocks() -> Iterator[Block]:
        step = min(BLOCK, fitting(size))
        for start in range(0, count, step):
            indices = np.arange(start, min(start + step, count))
            drawn = drawing.draw(indices, seed=seed, split=split, domain=domain, size=size)
            yield drawn.pixels, drawn.kind if task == "kind" else drawn.texture

    def labels() -> NDArray[np.int64]:
        return np.concatenate([labels for _, labels in blocks()])

    source = {
        "split": split,
        "domain": domain,
        "task": task,
        "seed": seed,
        "version": drawing.VERSION,
    }
    name = f"shapes-{domain}-{task}-{split}"
    decoded = load_or_decode(cache, name, source, count, size, blocks, labels)
    order = np.arange(count)
    return Images(name, decoded.pixels, decoded.labels, len(names[task]), order, decoded.checksum)


def concatenated(images: Sequence[Images], *, cache: str) -> Images:
    """Return several lists as one, without labels, for queries.

    Labels of two sources have nothing in common, so that the list has none. Its pixels are copied
    into an entry of the cache of their own: all lists are then one memory map.

    Args:
        images: lists of images of one size, in order.
        cache: folder for the copy.

    Raises:
        DataError: There is no list, or they have images of several sizes.
    """
    sizes = sorted({part.size for part in images})
    if len(sizes) != 1:
        raise DataError(
            f"Lists of images of {sizes or 'no'} pixels cannot be one list: "
            "name one or more, all opened with one size."
        )

    def blocks() -> Iterator[Block]:
        step = min(BLOCK, fitting(sizes[0]))
        for part in images:
            for start in range(0, len(part), step):
                pixels = part.batch(slice(start, start + step)).numpy()
                yield pixels, np.full(len(pixels), -1)

    name = "+".join(part.name for part in images)
    count = sum(map(len, images))
    source = {"concatenated": [part.checksum for part in images]}
    decoded = load_or_decode(cache, name, source, count, sizes[0], blocks)
    reason = "it is made of several sources"
    order = np.arange(count)
    return Images(name, decoded.pixels, None, 0, order, decoded.checksum, (), reason)


def _decode_row(
    encoded: Sequence[bytes],
    places: Sequence[str],
    size: int,
    resize: str,
    grey: str,
    row: int,
) -> NDArray[np.uint8]:
    return decode(encoded[row], places[row], size, resize, grey)


def _decode_file(
    files: Sequence[Path],
    size: int,
    resize: str,
    grey: str,
    place: int,
) -> NDArray[np.uint8]:
    return decode(_read(files[place]), str(files[place]), size, resize, grey)


def _state(file: Path) -> tuple[int, int]:
    """Return the size of a file in bytes and its time of change in nanoseconds.

    Raises:
        DataError: It is not a file, such as a link to one that is gone.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise _unreadable(file, error) from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{file} is not a file: rename it, or leave it out.")
    return status.st_size, status.st_mtime_ns


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> DataError:
    return DataError(
        f"{file} cannot be read ({error.strerror}): make it readable, or leave it out."
    )
