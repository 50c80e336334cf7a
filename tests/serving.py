"""A real service in a process of its own, on a free port, for tests and benchmarks of a client."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import torch
from conftest import ROOT
from torch import Tensor, nn

from stealing.encoders import Encoder, load_encoder, save_encoder
from stealing.queries.pace import Pace
from stealing.service.accounts import Books
from stealing.targets.http_json import HttpJson
from stealing.targets.open_inference import OpenInference
from stealing.targets.raw import Raw
from stealing.targets.remote import Credential, RemoteTarget

SIZE = 8


class Trivial(nn.Module):
    """Costs nothing: the means of patches of the image, through a fixed matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.feature_dim = width
        matrix = torch.randn(48, width, generator=torch.Generator().manual_seed(0))
        self.register_buffer("matrix", matrix)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        patches: Tensor = nn.functional.adaptive_avg_pool2d(images_BCHW, 4).flatten(1) @ self.matrix
        return patches


def save_trivial(folder: Path, width: int = 16, size: int = SIZE) -> Path:
    """An encoder file of the trivial network."""
    path = folder / "encoder.safetensors"
    backbone = {"_target_": "serving.Trivial", "width": width}
    arch: dict[str, Any] = {
        "_target_": "stealing.encoders.encoder.Encoder",
        "backbone": backbone,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    save_encoder(
        Encoder(Trivial(width), [0.5] * 3, [0.25] * 3), path, arch=arch, size=size, provenance={}
    )
    return path


def load_trivial(path: Path) -> Encoder:
    """The encoder in a file of `save_trivial`, whose card names a class of this module."""
    return load_encoder(path, ["serving"])[0]


class Served:
    """A service that runs.

    Attributes:
        url: its address.
        books: its accounts.
        key: of `attacker/0`.
        process: it.
    """

    def __init__(self, url: str, books: Books, key: str, process: "subprocess.Popen[str]") -> None:
        self.url, self.books, self.key, self.process = url, books, key, process

    def billed(self, name: str = "attacker/0") -> int:
        """Images that it billed to an account."""
        return {account.name: account.billed for account in self.books.all()}[name]


@contextmanager
def served(folder: Path, *overrides: str, encoder: Path | None = None) -> Iterator[Served]:
    """A service with one account, until the body ends; it must end by itself when told to."""
    encoder, place = encoder or save_trivial(folder), folder / "books.sqlite"
    books = Books(str(place))
    known = [account.name for account in books.all()]
    key = "" if known else books.add("attacker/0", None, None, 0.01)
    line = [
        sys.executable,
        "-m",
        "stealing.service",
        f"books={place}",
        "port=0",
        "target=file",
        "trust=[serving]",
    ]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [*line, f"target.path={encoder}", *overrides],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = ""
        for said in process.stdout:
            if found := re.search(r"http://\S+", said):
                url = found[0]
                break
        assert url, "the service did not start"
        while True:
            try:
                httpx2.get(url + "/healthz")
                break
            except httpx2.ConnectError:
                time.sleep(0.05)
        yield Served(url, books, key, process)
    finally:
        process.terminate()
        process.wait(30)
        books.close()


def wires(images_a_request: int = 16) -> dict[str, Any]:
    """Every way to speak to our own service."""
    openai = {"model": "encoder", "modality": "image", "input": "<images>"}

    def embeddings(encoding: str) -> HttpJson:
        return HttpJson(
            "/v1/embeddings",
            openai | {"encoding_format": encoding},
            "<data_uri>",
            "png",
            "data.*.embedding",
            "data.*.index",
            "model_version",
            encoding,
            images_a_request,
        )

    def tensors(binary: bool) -> OpenInference:
        return OpenInference("encoder", "images", "features", "UINT8", binary, images_a_request)

    return {
        "raw": Raw(images_a_request),
        "openai base64": embeddings("base64"),
        "openai float": embeddings("float"),
        "open inference binary": tensors(True),
        "open inference json": tensors(False),
    }


def remote(url: str, wire: Any, **changes: Any) -> RemoteTarget:
    """A client of it; the key is in STEALING_KEY."""
    settings: dict[str, Any] = {
        "size": SIZE,
        "version": None,
        "width": None,
        "in_flight": 4,
        "attempts": 8,
        "deadline": 30.0,
        "pace": Pace(),
        "credential": Credential("Authorization", "Bearer", "STEALING_KEY", "STEALING_KEY"),
        "authorized": False,
    }
    return RemoteTarget(url, wire, **(settings | changes))


def noise(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    """So many distinct images."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
