"""torchvision's data sets, each opened from a tiny copy in its own format; failing downloads."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from conftest import ROOT, choose
from hydra.utils import instantiate
from PIL import Image

from stealing.data.downloads import from_torchvision
from stealing.data.images import Images
from stealing.errors import DataError

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
GREY = COLOUR[:, :28, :28, 0]
LARGE = COLOUR.repeat(3, 1).repeat(3, 2)
LABELS = [0, 1, 2, 2, 1, 0]


def png(pixels: np.ndarray, path: Path) -> None:
    """Write without loss under the set's own name of a file: Pillow goes by the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")


def pickled(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def planes() -> np.ndarray:
    return COLOUR.transpose(0, 3, 1, 2).reshape(6, -1)


def cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    for number in range(1, 6):
        pickled(folder / f"data_batch_{number}", {"data": planes(), "labels": LABELS})
    pickled(folder / "test_batch", {"data": planes(), "labels": LABELS})
    pickled(folder / "batches.meta", {"label_names": ["a", "b", "c"]})


def cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    for split in ("train", "test"):
        pickled(folder / split, {"data": planes(), "fine_labels": LABELS})
    pickled(folder / "meta", {"fine_label_names": ["a", "b", "c"]})


def idx(values: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, values.ndim])
        + b"".join(n.to_bytes(4, "big") for n in values.shape)
        + values.tobytes()
    )


def mnist(root: Path, name: str = "MNIST") -> None:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(GREY))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.array(LABELS, np.uint8)))


def fashion_mnist(root: Path) -> None:
    mnist(root, "FashionMNIST")


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for part in ("train", "test", "unlabeled"):
        (folder / f"{part}_X.bin").write_bytes(
            LARGE.transpose(0, 3, 2, 1).tobytes()
        )  # columns first, as in Matlab
        (folder / f"{part}_y.bin").write_bytes(bytes(label + 1 for label in LABELS))


def svhn(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):  # the digit 0 is stored as 10
        content = {
            "X": COLOUR.transpose(1, 2, 3, 0),
            "y": np.array([[label or 10] for label in LABELS], np.uint8),
        }
        scipy.io.savemat(root / f"{split}_32x32.mat", content)


def gtsrb(root: Path) -> None:
    folder = root / "gtsrb"
    rows = ["Filename;Width;Height;ClassId"]
    for number, (pixels, label) in enumerate(zip(COLOUR, LABELS, strict=True)):
        path = folder / "GTSRB" / "Training" / f"{label:05d}" / f"{number:05d}.ppm"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        rows.append(f"{number:05d}.ppm;32;32;{label}")
        path = folder / "GTSRB" / "Final_Test" / "Images" / f"{number:05d}.ppm"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / "GT-final_test.csv").write_text("\n".join(rows) + "\n")


def food101(root: Path) -> None:
    folder, listed = root / "food-101", dict[str, list[str]]()
    for number, (pixels, label) in enumerate(zip(COLOUR, LABELS, strict=True)):
        listed.setdefault("abc"[label], []).append(f"{'abc'[label]}/{number}")
        png(pixels, folder / "images" / "abc"[label] / f"{number}.jpg")
    (folder / "meta").mkdir()
    for split in ("train", "test"):
        (folder / "meta" / f"{split}.json").write_text(json.dumps(listed))


def eurosat(root: Path) -> None:
    for number in range(30):
        png(
            COLOUR[number % 6],
            root / "eurosat" / "2750" / "abc"[LABELS[number % 6]] / f"{number:02d}.jpg",
        )


def dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    for number, (pixels, label) in enumerate(zip(COLOUR, LABELS, strict=True)):
        png(pixels, folder / "images" / "abc"[label] / f"{number}.jpg")
    (folder / "labels").mkdir()
    for split in ("train", "val", "test"):
        lines = [f"{'abc'[label]}/{number}.jpg\n" for number, label in enumerate(LABELS)]
        (folder / "labels" / f"{split}1.txt").write_text("".join(lines))


def flowers102(root: Path) -> None:
    folder = root / "flowers-102"
    for number, pixels in enumerate(COLOUR, 1):
        png(pixels, folder / "jpg" / f"image_{number:05d}.jpg")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([LABELS]) + 1})
    every = np.array([range(1, 7)])
    scipy.io.savemat(folder / "setid.mat", {"trnid": every, "valid": every, "tstid": every})


def imagenet(root: Path) -> None:
    for split in ("train", "val"):
        for number, (pixels, label) in enumerate(zip(COLOUR, LABELS, strict=True)):
            png(pixels, root / split / f"n0000000{label}" / f"{number}.JPEG")
    torch.save(({f"n0000000{label}": ("abc"[label],) for label in range(3)}, []), root / "meta.bin")


WRITERS: dict[str, Callable[[Path], None]] = {
    writer.__name__: writer
    for writer in (
        *(
            cifar10,
            cifar100,
            mnist,
            fashion_mnist,
            stl10,
            svhn,
            gtsrb,
            food101,
            eurosat,
            dtd,
            flowers102,
            imagenet,
        ),
    )
}


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny copies have other checksums than the real files: here torchvision only finds them."""
    for module in ("cifar", "stl10", "svhn", "flowers102"):
        monkeypatch.setattr(
            getattr(torchvision.datasets, module),
            "check_integrity",
            lambda path, md5=None: Path(path).exists(),
        )


def test_every_task_file_has_its_tiny_copy_here() -> None:
    tasks = {path.stem for path in (ROOT / "conf" / "data" / "task").glob("[!_]*.yaml")}
    assert tasks == set(WRITERS)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.usefixtures("trusting")
def test_a_task_opens_from_its_own_format_with_its_own_pixels_and_labels(
    name: str, tmp_path: Path
) -> None:
    WRITERS[name](tmp_path / ("imagenet" if name == "imagenet" else "torchvision"))
    task = choose(
        f"+data/task@data.tasks.tried={name}",
        f"+data.root={tmp_path}",
        f"paths.cache={tmp_path / 'c'}",
    )
    for split in ("train", "test"):
        images: Images = instantiate(task.data.tasks.tried[split])
        pixels = images.batch(slice(None)).numpy()
        found = {
            image.tobytes(): label for image, label in zip(pixels, images.targets(), strict=True)
        }
        written = (
            GREY[..., None].repeat(3, 3)
            if "mnist" in name
            else LARGE
            if name == "stl10"
            else COLOUR
        )
        fitted = [
            Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR) for image in written
        ]
        expected = {
            np.asarray(i).transpose(2, 0, 1).tobytes(): label
            for i, label in zip(fitted, LABELS, strict=True)
        }
        assert found.items() <= expected.items() and (len(found) == 6 or name == "eurosat")
        assert images.classes >= 3 and images.targets().max() < images.classes


@pytest.mark.usefixtures("trusting")
def test_the_unlabelled_split_of_stl10_has_no_labels(tmp_path: Path) -> None:
    stl10(tmp_path)
    options = {"size": 96, "cache": str(tmp_path / "c")}
    for split, count in (("unlabeled", 6), ("train+unlabeled", 12)):
        images = from_torchvision("STL10", str(tmp_path), split, **options)  # type: ignore[arg-type]
        assert images.labels is None and images.classes == 0 and len(images) == count


def test_the_two_splits_of_a_set_that_has_none_share_nothing_and_leave_nothing_out(
    tmp_path: Path,
) -> None:
    eurosat(tmp_path)
    for path in (tmp_path / "eurosat" / "2750").rglob("*.jpg"):
        png(np.full((32, 32, 3), int(path.stem), np.uint8), path)
    parts = [
        from_torchvision("EuroSAT", str(tmp_path), s, size=32, cache=str(tmp_path / "c"))
        for s in ("train", "test")
    ]
    seen = [set(part.batch(slice(None))[:, 0, 0, 0].tolist()) for part in parts]
    assert seen[0] | seen[1] == set(range(30)) and not seen[0] & seen[1] and len(seen[1]) == 6


def test_a_limit_decodes_the_first_of_a_seeded_permutation(tmp_path: Path) -> None:
    food101(tmp_path)
    (tmp_path / "food-101" / "images" / "a" / "5.jpg").write_bytes(b"not among the three")
    few, more = (
        from_torchvision(
            "Food101", str(tmp_path), "train", size=32, cache=str(tmp_path / "c"), limit=limit
        )
        for limit in (2, 3)
    )
    assert torch.equal(more.batch(slice(0, 2)), few.batch(slice(None))) and len(more) == 3


def test_a_damaged_image_is_named_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    food101(tmp_path)
    (tmp_path / "food-101" / "images" / "c" / "3.jpg").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"Food101 train in .*, row \d: the image cannot be decoded"
    ):
        from_torchvision("Food101", str(tmp_path), "train", size=32, cache=str(tmp_path / "c"))
    assert list((tmp_path / "c").iterdir()) == []


@pytest.mark.parametrize("name", WRITERS)
def test_absent_data_without_a_network_is_one_sentence_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")  # a port where nobody listens
    task = choose(
        f"+data/task@data.tasks.tried={name}",
        f"+data.root={tmp_path}",
        f"paths.cache={tmp_path / 'c'}",
    )
    with pytest.raises(
        Exception, match=r"DataError\('\w+ train is not complete in .*put its files there"
    ) as caught:
        instantiate(task.data.tasks.tried.train)
    assert "\n" not in str(caught.value.__cause__)
    assert [
        path
        for path in tmp_path.rglob("*")
        if path.suffix != ".lock" and path.name != "torchvision"
    ] == []


def test_a_download_is_moved_in_only_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = [0]

    def fetch(
        url: str, download_root: str, filename: str = "", md5: str | None = None, **_: object
    ) -> None:
        """Stands for the network: the third file of the first try cannot be had."""
        tries[0] += 1
        if tries[0] == 3:
            raise OSError(28, "No space left on device")
        values = GREY if "images" in filename else np.array(LABELS, np.uint8)
        Path(download_root, filename.removesuffix(".gz")).write_bytes(idx(values))

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fetch)
    options = {"size": 28, "cache": str(tmp_path / "c"), "grey": "repeat"}
    with pytest.raises(DataError, match="No space left on device"):
        from_torchvision("MNIST", str(tmp_path), "train", **options)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == [".MNIST.lock"]
    images = from_torchvision("MNIST", str(tmp_path), "train", **options)  # type: ignore[arg-type]
    assert len(images) == 6 and images.targets().tolist() == LABELS


def test_decoded_images_that_do_not_fit_the_disk_are_one_sentence_and_leave_nothing(
    tmp_path: Path,
) -> None:
    food101(tmp_path)
    code = (
        "import resource; from stealing.data.downloads import from_torchvision\n"
        "from stealing.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"try:\n    from_torchvision('Food101', {str(tmp_path)!r}, 'train', size=32, "
        f"cache={str(tmp_path / 'c')!r})\n"
        "except StorageError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "do not fit in" in done.stdout and "set paths.cache" in done.stdout, done.stderr
    assert list((tmp_path / "c").iterdir()) == []
