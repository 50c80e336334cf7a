"""Where images come from: Parquet files in the hub's schema, folders of image files, the package's own `shapes`.

Each function opens one split as `Images`. Nothing is resized or recoloured unless its argument says so.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from stealing.data import shapes as drawing
from stealing.data.cache import Block, decoded
from stealing.data.decoding import BLOCK, checked, decode
from stealing.data.images import Images
from stealing.errors import DataError

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}
"""Of the files that `folder` reads; others beside them are left alone."""


def parquet(path: str, split: str, *, size: int, cache: str, resize: str = "none", grey: str = "refuse") -> Images:
    """Encoded images in the schema of the Hugging Face hub: a struct `image` with `bytes`, and an integer `label`.

    Args:
        path: a `.parquet` file, or a folder that holds `<split>.parquet` or shards named `<split>-*.parquet`.
        split: ignored for a single file.
        size: height and width of the images that come out.
        cache: folder for the decoded images.
        resize: `none` (another size is an error), `pad`, `crop` or `bilinear`, as `stealing.data.decoding.fit` says.
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
                pixels = np.stack([decode(b, at, size, resize, grey) for b, at in zip(encoded, places, strict=True)])
                labels = rows.column("label").to_pylist() if labelled else [-1] * len(encoded)
                yield pixels, checked(labels, len(names), places) if labelled else np.array(labels, np.int64)
                row += len(encoded)

    source = {"files": [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]}
    name = f"{Path(path).stem}-{split}"
    whole = decoded(cache, name, {**source, "resize": resize, "grey": grey}, count, size, blocks)
    classes = (len(names) or int(whole.labels.max()) + 1) if labelled else 0
    return Images(
        name, whole.pixels, whole.labels if labelled else None, classes, np.arange(count), whole.checksum, names
    )


def folder(
    path: str, *, size: int, cache: str, resize: str = "none", grey: str = "refuse", limit: int | None = None
) -> Images:
    """A folder of image files: one folder a class, named as the class is, or all files in one without labels.

    Args:
        path: the folder of one split.
        size, cache, resize, grey: as for `parquet`.
        limit: decode only the first of a seeded permutation, at most as many; None decodes all.

    Raises:
        DataError: no folder, no images, both files and class folders, or a file that cannot be decoded.
    """
    top = Path(path)
    if not top.is_dir():
        raise DataError(f"{top} is no folder: point at the one that holds the images or the class folders.")
    names = sorted(inner.name for inner in top.iterdir() if inner.is_dir() and not inner.name.startswith("."))
    flat = _image_files(top.iterdir())
    if names and flat:
        raise DataError(f"{top} holds both images and class folders: move {flat[0].name} and its like into a class.")
    found = [(file, label) for label, name in enumerate(names) for file in _image_files((top / name).rglob("*"))]
    found = found or [(file, -1) for file in flat]
    if not found:
        raise DataError(f"There are no images in {top}: put files that end in {', '.join(sorted(SUFFIXES))} there.")
    if limit is not None:
        found = [found[place] for place in np.random.default_rng(0).permutation(len(found))[:limit]]

    def blocks() -> Iterator[Block]:
        for start in range(0, len(found), BLOCK):
            some = found[start : start + BLOCK]
            pixels = [decode(file.read_bytes(), str(file), size, resize, grey) for file, _ in some]
            yield np.stack(pixels), np.array([label for _, label in some], np.int64)

    stats = [(str(f.relative_to(top)), f.stat().st_size, f.stat().st_mtime_ns) for f, _ in found]
    source = {"folder": str(top.resolve()), "files": stats, "resize": resize, "grey": grey}
    whole = decoded(cache, top.name, source, len(found), size, blocks)
    labels = whole.labels if names else None
    return Images(top.name, whole.pixels, labels, len(names), np.arange(len(found)), whole.checksum, tuple(names))


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


def _image_files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


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


def _class_names(table: pq.ParquetFile) -> tuple[str, ...]:
    text = (table.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    label: dict[str, Any] = json.loads(text).get("info", {}).get("features", {}).get("label", {})
    return tuple(label.get("names", ()))
