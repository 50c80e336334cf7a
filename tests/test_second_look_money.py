"""Small files, short hints and great numbers by which a stranger could still stall us, or be
believed."""

import base64
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from embeddings import Embeddings, offered, wire
from PIL import Image, PngImagePlugin
from serving import noise, remote

from stealing.errors import ConfigError, TargetError
from stealing.numbers import check_integer, check_number
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.inspection import spendings
from stealing.queries.ledger import Ledger
from stealing.queries.waiting import Busy, Waits
from stealing.service.errors import ApiError
from stealing.service.pictures import pictures
from stealing.targets.open_inference import OpenInference
from stealing.targets.sanity_check import check_first_answers
from stealing.targets.wire import Unfit

SIDE = 16
IMAGE = Image.fromarray(np.full((SIDE, SIDE, 3), 100, np.uint8))


def uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_read() -> None:
    file = io.BytesIO()
    IMAGE.save(file, "JPEG", progressive=True)
    plain = file.getvalue()
    last_scan = plain[plain.rindex(b"\xff\xda") : -2]
    assert pictures([uri(plain, "jpeg")], SIDE).shape == (1, 3, SIDE, SIDE)
    with pytest.raises(ApiError, match="scans"):
        pictures([uri(plain[:-2] + last_scan * 2000 + plain[-2:], "jpeg")], SIDE)


def test_a_png_of_many_packed_texts_is_refused_before_they_are_unpacked() -> None:
    texts = PngImagePlugin.PngInfo()
    for number in range(40):
        texts.add_text(f"text {number}", "a" * 2**20, zip=True)
    file = io.BytesIO()
    IMAGE.save(file, "PNG", pnginfo=texts)
    with pytest.raises(ApiError, match="texts"):
        pictures([uri(file.getvalue(), "png")], SIDE)


def test_numbers_that_float32_cannot_hold_are_refused_before_they_are_stored() -> None:
    features = {
        "name": "features",
        "shape": [2, 2],
        "datatype": "FP64",
        "data": [1e300, 1.0, 2.0, 3.0],
    }
    asked = OpenInference("m", "images", "features", "UINT8", False, 4)
    with pytest.raises(Unfit, match="not finite"):
        asked.answers(noise(2), {}, json.dumps({"outputs": [features]}).encode())
    features["data"] = [0.5, 1.0, 2.0, 3.0]
    assert (
        asked.answers(noise(2), {}, json.dumps({"outputs": [features]}).encode()).features.dtype
        == torch.float32
    )


def test_a_service_that_is_busy_for_ever_and_asks_for_short_waits_ends_the_run_in_time() -> None:
    asked = list[float]()

    def refuse() -> torch.Tensor:
        asked.append(time.monotonic())
        time.sleep(0.2)  # as slow as the service likes
        raise Busy(
            "status 429", after=1e-6, patience=1.0, served=False, error=TargetError("It is busy.")
        )

    with pytest.raises(Busy):
        Waits().answered(refuse)
    assert asked[-1] - asked[0] < 2
    assert len(asked) < 10


@pytest.mark.parametrize("status", [201, 202, 206])
def test_another_status_of_success_may_have_been_billed_and_stays_counted(
    status: int, tmp_path: Path
) -> None:
    with offered(Embeddings(lambda number: (status, {}))) as service:
        asked = remote(service.url, wire(8, "base64"), credential=None, attempts=1)
        door = MeteredTarget(
            asked, Ledger(str(tmp_path / "ledger.sqlite")), tmp_path / "banks", Budget(10, 10)
        )
        with pytest.raises(TargetError, match=f"status {status}"):
            door.ask(noise(3), "attacker/0", "attack")
        [row] = [row for row in spendings(door._ledger) if row.purpose == "attack"]
        assert (row.spent, row.in_doubt) == (3, 3)


class Short:
    """Vectors that are nearly equal, and shorter than 1e-8."""

    size = 8

    def ask(self, images: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return 1e-10 * (
            torch.ones(1, 4) + 1e-5 * torch.tensor([[1.0, 0, 0, 0]]) * (images.float().mean() / 255)
        )


def test_first_contact_refuses_nearly_equal_vectors_however_short_they_are() -> None:
    with pytest.raises(TargetError, match="nearly equal"):
        check_first_answers(Short(), "attacker/0")  # type: ignore[arg-type]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_of_thousands_of_digits_is_refused_in_one_sentence(sign: int) -> None:
    number = sign * 10**5000
    with pytest.raises(ConfigError, match=r"budget.images=a number of thousands of digits is no"):
        check_integer("budget.images", number)
    with pytest.raises(ConfigError, match=r"budget.price=a number of thousands of digits is no"):
        check_number("budget.price", number)
