"""Where images come from: Parquet files in the hub's schema, torchvision's data sets, the package's own `shapes`.

Each function opens one split as `Images`. Nothing is resized or recoloured unless its argument says so.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torchvision
from numpy.typing import NDArray
from PIL import Image

from stealing.data import shapes as drawing
from stealing.data.cache import Block, decoded
from stealing.data.images import Images
from stealing.errors import DataError

BLOCK = 1000
"""Images decoded between two steps of the progress bar."""


def parquet(path: str, split: str, *, size: int, cache: str, resize: str = "none", grey: str = "refuse") -> Images:
    """Encoded images in the schema of the Hugging Face hub: a struct `image` with `bytes`, and an integer `label`.

    Args:
        path: a `.parquet` file, or a folder that holds `<split>.parquet` or shards named `<split>-*.parquet`.
        split: ignored for a single file.
        size: height and width of the images that come out.
        cache: folder for the decoded images.
        resize: `none` (another size is an error), `pad` (centre on black) or `bilinear`.
        grey: `refuse` or `repeat` (a grey image becomes three equal channels).

    Raises:
        DataError: absent files, another schema, an undecodable image, a label out of range; with file and row.
    """
    files = _shards(Path(path), split)
    opened = [pq.ParquetFile(file) for file in files]
    for file, table in zip(files, opened, strict=True):
        kind = table.schema_arrow.field("image").type if "image" in table.schema_arrow.names else None
        if kind is None or not hasattr(kind, "get_field_index") or kind.get_field_index("bytes") < 0:
            raise DataError(f"{file} has no column 'image' with a field 'bytes': save it in the hub's image schema.")
    names = _class_names(opened[0])
    labelled = all("label" in table.schema_arrow.names for table in opened)
    count = sum(table.metadata.num_rows for table in opened)

    def blocks() -> Iterator[Block]:
        for file, table in zip(files, opened, strict=True):
            row = 0
            for rows in table.iter_batches(BLOCK, columns=["image", "label"] if labelled else ["image"]):
                encoded = [image and image["bytes"] for image in rows.column("image").to_pylist()]
                places = [f"{file}, row {row + i}" for i in range(len(encoded))]
                pixels = np.stack([_decode(b, at, size, resize, grey) for b, at in zip(encoded, places, strict=True)])
                labels = rows.column("label").to_pylist() if labelled else [-1] * len(encoded)
                yield pixels, _checked(labels, len(names), places) if labelled else np.array(labels, np.int64)
                row += len(encoded)

    source = {"files": [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]}
    name = f"{Path(path).stem}-{split}"
    whole = decoded(cache, name, {**source, "resize": resize, "grey": grey}, count, size, blocks)
    classes = (len(names) or int(whole.labels.max()) + 1) if labelled else 0
    return Images(name, whole.pixels, whole.labels if labelled else None, classes, np.arange(count), whole.checksum)


def from_torchvision(
    dataset: str, root: str, split: str, *, size: int, cache: str, resize: str = "none", grey: str = "refuse"
) -> Images:
    """One of torchvision's own data sets, downloaded when absent.

    Args:
        dataset: `CIFAR10` or `MNIST`.
        root: folder of torchvision's files.
        split: `train` or `test`.
        size, cache, resize, grey: as for `parquet`.

    Raises:
        DataError: the files are absent and cannot be fetched, or an image is of another size.
    """
    try:
        opened = getattr(torchvision.datasets, dataset)(root, train=split == "train", download=True)
    except Exception as error:  # torchvision raises what urllib, tarfile and hashlib raise
        raise DataError(
            f"{dataset} is not in {root} and could not be downloaded ({error}): put its files there."
        ) from None

    def blocks() -> Iterator[Block]:
        for start in range(0, len(opened), BLOCK):
            places = [f"{dataset}, row {row}" for row in range(start, min(start + BLOCK, len(opened)))]
            pairs = [opened[start + offset] for offset in range(len(places))]
            pixels = [_fit(image, at, size, resize, grey) for (image, _), at in zip(pairs, places, strict=True)]
            yield np.stack(pixels), _checked([label for _, label in pairs], len(opened.classes), places)

    name = f"{dataset.lower()}-{split}"
    source = {"root": str(Path(root).resolve()), "resize": resize, "grey": grey}
    whole = decoded(cache, name, source, len(opened), size, blocks)
    return Images(name, whole.pixels, whole.labels, len(opened.classes), np.arange(len(opened)), whole.checksum)


def shapes(split: str, *, domain: str, task: str, count: int, size: int, cache: str, seed: int = 0) -> Images:
    """Images that the package draws itself, so that everything can be tried without any data.

    Args:
        split: `train` or `test`.
        domain: which of the two visual domains of `stealing.data.shapes`.
        task: what the labels are, `kind` or `texture`.
        count: number of images; a smaller count is a prefix of a larger one.
        size: height and width.
        cache: folder for the drawn images.
        seed: another seed, other images.
    """
    names = {"kind": drawing.KINDS, "texture": drawing.TEXTURES}
    if task not in names:
        raise DataError(f"shapes has the tasks kind and texture, not {task!r}: choose one of them.")

    def blocks() -> Iterator[Block]:
        for start in range(0, count, BLOCK):
            indices = np.arange(start, min(start + BLOCK, count))
            drawn = drawing.draw(indices, seed=seed, split=split, domain=domain, size=size)
            yield drawn.pixels, drawn.kind if task == "kind" else drawn.texture

    source = {"split": split, "domain": domain, "task": task, "seed": seed, "version": drawing.VERSION}
    name = f"shapes-{domain}-{task}-{split}"
    whole = decoded(cache, name, source, count, size, blocks)
    return Images(name, whole.pixels, whole.labels, len(names[task]), np.arange(count), whole.checksum)


def _shards(path: Path, split: str) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted([*path.glob(f"{split}.parquet"), *path.glob(f"{split}-*.parquet")])
    if not found:
        raise DataError(
            f"There is no {split}.parquet (or {split}-*.parquet) in {path}: put the data there, or point "
            "STEALING_DATA or data.root at the folder that holds it (sources are named in README.md, 'Images')."
        )
    return found


def _class_names(table: pq.ParquetFile) -> list[str]:
    text = (table.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    label: dict[str, Any] = json.loads(text).get("info", {}).get("features", {}).get("label", {})
    return list(label.get("names", []))


def _decode(encoded: bytes | None, at: str, size: int, resize: str, grey: str) -> NDArray[np.uint8]:
    try:
        image = Image.open(io.BytesIO(encoded or b""))
        image.load()
    except Exception:  # Pillow raises as many kinds as there are formats
        raise DataError(f"{at}: the image cannot be decoded; fetch the file again or drop the row.") from None
    return _fit(image, at, size, resize, grey)


def _fit(image: Image.Image, at: str, size: int, resize: str, grey: str) -> NDArray[np.uint8]:
    """One decoded image as uint8 (3, size, size), changed only in the ways that are allowed."""
    if image.mode != "RGB":
        if not (image.mode in ("L", "1") and grey == "repeat"):
            raise DataError(f"{at}: the image is {image.mode}, not RGB; convert it (grey images: set grey=repeat).")
        image = image.convert("RGB")
    if image.size != (size, size):
        image = _resized(image, at, size, resize)
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def _pad(image: Image.Image, size: int) -> Image.Image:
    canvas = Image.new("RGB", (size, size))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


_RESIZE: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "pad": _pad,
    "bilinear": lambda image, size: image.resize((size, size), Image.Resampling.BILINEAR),
}


def _resized(image: Image.Image, at: str, size: int, resize: str) -> Image.Image:
    fits = resize != "pad" or max(image.size) <= size
    if resize not in _RESIZE or not fits:
        shape = f"{image.width}x{image.height}"
        raise DataError(f"{at}: the image is {shape}, not {size}x{size}; set resize to pad (if smaller) or bilinear.")
    return _RESIZE[resize](image, size)


def _checked(labels: Sequence[int | None], classes: int, places: list[str]) -> NDArray[np.int64]:
    for label, at in zip(labels, places, strict=True):
        if label is None or label < 0 or (classes and label >= classes):
            raise DataError(f"{at}: the label {label} is not in 0 to {classes - 1}; mend the label or the class names.")
    return np.array(labels, np.int64)
