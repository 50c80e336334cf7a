"""Images of 64 to 512 pixels: decoded by all cores, bounded in memory, judged, sent and kept."""

import base64
import io
import json
import os
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from conftest import choose
from PIL import Image

from stealing import evaluate
from stealing.config import instantiate_node
from stealing.data import decoding, sources
from stealing.data.cache import is_decoded, without_writing
from stealing.data.decoding import BLOCK_BYTES, decode_each, fit, fitting
from stealing.data.images import Images
from stealing.data.sampling import generator
from stealing.data.views import Views
from stealing.encoders import Encoder
from stealing.errors import DataError
from stealing.evaluation import controls
from stealing.evaluation.features import BLOCK, BLOCK_PIXELS, block_size, encode
from stealing.preflight import open_run_data
from stealing.service import parsing, pictures
from stealing.targets.raw import Raw

RNG = np.random.default_rng(0)
SHAPES = [(64, 64), (90, 64), (64, 130), (160, 213), (512, 300), (320, 512)]
"""Heights and widths of photographs."""

needs_photographs = pytest.mark.skipif(
    not (Path(os.environ.get("STEALING_DATA", "")) / "imagenet-sample-160").exists(),
    reason="needs the photographs of STEALING_DATA",
)


def photograph(height: int, width: int) -> Image.Image:
    """A smooth image: noise would not survive JPEG."""
    small = RNG.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def noise(count: int, size: int) -> Images:
    pixels = RNG.integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    return Images("noise", pixels, None, 0, np.arange(count), f"noise {size}")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """A folder and a Parquet file of the same photographs, in one order."""
    top = tmp_path_factory.mktemp("photographs")
    rows = [encoded(photograph(*shape)) for shape in SHAPES]
    (top / "folder").mkdir()
    for number, content in enumerate(rows):
        (top / "folder" / f"{number}.jpg").write_bytes(content)
    pq.write_table(pa.table({"image": pa.array(rows, pa.binary())}), top / "train.parquet")
    return top, rows


@pytest.mark.parametrize("size", [64, 160, 224, 512])
@pytest.mark.parametrize("workers", [1, 3])
def test_photographs_of_any_shape_are_the_same_from_each_source_with_any_number_of_workers(
    size: int,
    workers: int,
    files: tuple[Path, list[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "usable_cores", lambda: workers)
    monkeypatch.setattr(decoding, "PORTION", 2)
    top, rows = files
    opening: dict[str, Any] = {"size": size, "cache": str(tmp_path), "resize": "crop"}
    expected = []
    for row in rows:
        image = Image.open(io.BytesIO(row))
        expected.append(fit(image, "here", size, "crop", "refuse"))
    for images in (
        sources.parquet(str(top), "train", **opening),
        sources.folder(str(top / "folder"), **opening),
    ):
        assert images.size == size and isinstance(images.pixels, np.memmap)
        assert (images.batch(slice(None)).numpy() == np.stack(expected)).all()


def test_all_cores_decode_at_once_and_each_image_keeps_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "usable_cores", lambda: 2)
    monkeypatch.setattr(decoding, "PORTION", 1)
    together = Barrier(2)

    def decode_one(place: int) -> np.ndarray:
        together.wait(timeout=30)  # one worker alone would wait in vain
        return np.full((3, 1, 1), place, np.uint8)

    assert decode_each(decode_one, 8)[:, 0, 0, 0].tolist() == list(range(8))


def test_the_first_image_that_is_refused_is_named_whichever_worker_is_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "usable_cores", lambda: 2)
    monkeypatch.setattr(decoding, "PORTION", 2)
    second_failed = Barrier(2)

    def decode_one(place: int) -> np.ndarray:
        if place in (1, 2):
            second_failed.wait(timeout=30)
            raise DataError(f"row {place}")
        return np.zeros((3, 1, 1), np.uint8)

    with pytest.raises(DataError, match="row 1"):
        decode_each(decode_one, 6)


def test_a_block_of_decoded_images_is_bounded_in_bytes(
    files: tuple[Path, list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (32, 160, 224, 512, 4096):
        count = min(decoding.BLOCK, fitting(size))
        assert count == 1 or count * 3 * size**2 <= BLOCK_BYTES
    assert fitting(32) >= decoding.BLOCK, "small images come in blocks of the same size as ever"
    monkeypatch.setattr(decoding, "BLOCK_BYTES", 2 * 3 * 64**2)
    counts = []

    def counted(decode_one: Any, count: int) -> np.ndarray:
        counts.append(count)
        return decode_each(decode_one, count)

    monkeypatch.setattr(sources, "decode_each", counted)
    top, _ = files
    sources.parquet(str(top), "train", size=64, cache=str(tmp_path), resize="crop")
    sources.folder(str(top / "folder"), size=64, cache=str(tmp_path), resize="crop")
    assert counts == [2, 2, 2] * 2


def test_lists_of_one_size_become_one_memory_map_without_labels(tmp_path: Path) -> None:
    first = noise(5, 8)
    second = noise(4, 8).part(np.array([3, 1]))
    both = sources.concatenated([first, second], cache=str(tmp_path))
    expected = torch.cat([first.batch(slice(None)), second.batch(slice(None))])
    assert (both.batch(slice(None)) == expected).all()
    assert isinstance(both.pixels, np.memmap) and len(both) == 7 and both.classes == 0
    with pytest.raises(DataError, match="made of several sources.*use it as data.queries"):
        both.targets()
    turned = sources.concatenated([second, first], cache=str(tmp_path))
    assert turned.checksum != both.checksum
    for wrong in ([first, noise(2, 9)], []):
        with pytest.raises(DataError, match="cannot be one list: name one or more"):
            sources.concatenated(wrong, cache=str(tmp_path))
    with without_writing():
        planned = sources.concatenated([first, noise(1, 8)], cache=str(tmp_path))
    assert len(planned) == 6 and not is_decoded(planned.pixels)


def test_small_images_are_their_pixels_and_large_ones_are_averaged_over_areas() -> None:
    small = noise(3, 32)
    whole = small.batch(slice(None)).flatten(1).float() / 255
    assert torch.equal(controls.pixels(small), whole)
    for size, side in ((160, 5), (224, 7), (96, 3)):
        images = noise(2, size)
        blocks = (images.pixels / 255).reshape(2, 3, 32, side, 32, side).mean((3, 5))
        reduced = controls.pixels(images)
        np.testing.assert_allclose(reduced.numpy(), blocks.reshape(2, -1), atol=1e-6)
    # Stripes of one pixel are grey: no pixel is skipped, which would leave black or white.
    stripes = np.zeros((1, 3, 160, 160), np.uint8)
    stripes[..., ::2] = 255
    striped = Images("stripes", stripes, None, 0, np.arange(1), "stripes")
    assert controls.pixels(striped).sub(0.5).abs().max() < 0.11


def test_reduced_pixels_do_not_depend_on_the_list_that_an_image_is_in() -> None:
    images = noise(controls.PIXEL_BLOCK + 3, 40)
    alone = controls.pixels(images.part(np.array([controls.PIXEL_BLOCK + 1])))
    assert torch.equal(controls.pixels(images)[-2:-1], alone)
    assert alone.shape == (1, 3 * 32 * 32)


def test_what_a_report_shows_of_large_images_is_small() -> None:
    images = torch.from_numpy(noise(2, 160).pixels)
    reduced = evaluate._thumbnails(images)
    expected = F.adaptive_avg_pool2d(images.double(), 64).round()
    assert reduced.dtype == torch.uint8 and (reduced - expected).abs().max() <= 1
    assert evaluate._thumbnails(images[..., :64, :64]) is not None
    small = torch.from_numpy(noise(2, 64).pixels)
    assert torch.equal(evaluate._thumbnails(small), small)


class Means(torch.nn.Module):
    """Mean of each channel; it notes how many images came at once."""

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        self.counts.append(len(images_BCHW))
        return images_BCHW.mean((2, 3))


def test_a_forward_pass_has_one_number_of_images_for_each_size_and_bounded_pixels() -> None:
    assert [block_size(side, side) for side in (16, 32, 64, 96)] == [BLOCK] * 4
    for side in (128, 160, 224, 512):
        assert block_size(side, side) * side**2 <= BLOCK_PIXELS
    assert block_size(4096, 4096) == 1
    backbone = Means()
    encoder = Encoder(backbone, [0.0] * 3, [1.0] * 3)
    images = torch.from_numpy(noise(60, 224).pixels)
    features = encode(encoder, images)
    assert backbone.counts == [block_size(224, 224)] * 2
    np.testing.assert_allclose(features, images.float().mean((2, 3)) / 255, atol=1e-4)
    assert torch.equal(encode(encoder, images[:3]), features[:3])


@pytest.mark.parametrize("size", [160, 224])
def test_a_view_of_a_photograph_is_that_of_the_same_draw_at_a_small_size(size: int) -> None:
    """Crops and flips are shares of an image, so that a smooth image gives nearly one view."""
    small = F.interpolate(torch.rand(2, 3, 4, 4), (32, 32), mode="bicubic").clamp(0, 1)
    large = F.interpolate(small, (size, size), mode="bilinear", align_corners=False)
    views = Views(crop=(0.5, 1.0), jitter_probability=1.0)

    class Same:
        def __init__(self) -> None:
            self.source = generator("view", 5)

        def uniform(self, columns: int) -> torch.Tensor:
            return torch.rand(2, columns, generator=self.source)

    of_small = views(small, Same())
    of_large = views(large, Same())
    reduced = F.adaptive_avg_pool2d(of_large, 32)
    assert (reduced - of_small).abs().mean() < 0.05


def test_requests_of_224_pixels_fit_the_limits_of_the_service() -> None:
    limits = instantiate_node(choose(name="service").limits)
    size = 224
    count = choose("target=service").target.remote.wire.images_a_request
    assert choose("target=service_json").target.remote.wire.images_a_request == count
    images = torch.from_numpy(noise(count, size).pixels)
    body = Raw(count).request(images, "").content
    assert len(body) < limits.bytes
    shape = ",".join(map(str, images.shape))
    assert torch.equal(parsing.pixels(bytearray(body), shape, size, limits), images)
    # One noisy PNG file is as large as they come; the other images are the same.
    file = io.BytesIO()
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(file, "PNG", compress_level=1)
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    request = json.dumps({"model": "encoder", "input": [uri] * count}).encode()
    assert len(request) < limits.bytes
    _, uris = parsing.embeddings(bytearray(request), limits)
    assert torch.equal(pictures.pictures(uris[:1], size)[0], images[0])


@needs_photographs
def test_the_photographs_are_those_that_the_docs_name_and_none_is_query_and_task(
    tmp_path: Path,
) -> None:
    config = choose("data=photographs", "target=zoo", f"paths.cache={tmp_path}", "data.size=64")
    data = open_run_data(config)
    counts = {task.name: (task.role, len(task.train), len(task.test)) for task in data.tasks}
    assert len(data.queries) == 890 + 1000 and data.queries.size == 64
    assert counts == {"imagenette": ("own", 1300, 500), "rsscn7": ("unseen", 1120, 560)}
    assert data.tasks[0].test.class_names[0] == "tench"
    [entry] = tmp_path.glob("imagenet-sample-160-train+caltech101-160-train-*")
    assert (entry / "pixels.u8").stat().st_size == 1890 * 3 * 64 * 64
