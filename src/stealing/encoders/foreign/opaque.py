"""Opaque functions: TorchScript archives and ONNX files in, encoders out.

The file decides what is computed. So it counts by its bytes, and what its images undergo is given
by the user. A TorchScript archive is code, and `docs/security.md` says what that means.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stealing.artefacts import checksum
from stealing.encoders.checkpoints import is_torchscript
from stealing.encoders.foreign.loaded import ForeignTarget, Loaded
from stealing.encoders.foreign.tower import (
    Tower,
    checked,
    file_of,
    given_preprocessing,
    import_extra,
)
from stealing.errors import CheckpointError
from stealing.reading import first_line


def load_torchscript(target: ForeignTarget) -> Loaded:
    """Load an archive of `torch.jit.save`, which runs its graph."""
    path = Path(file_of(target))
    preprocessing = given_preprocessing(target)
    if not path.is_file() or not is_torchscript(path):
        raise CheckpointError(f"{path} is not a TorchScript archive: name one, or another target=.")
    try:
        graph: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({first_line(error)}): export it again."
        ) from None
    tower = Tower(graph, f"torchscript {checksum(path)}", is_graph=True)
    encoder = checked(tower, preprocessing)
    return Loaded(encoder, preprocessing, "TorchScript", path.name)


class OnnxNetwork(nn.Module):
    """An ONNX file as a module without weights of its own; it computes on the CPU.

    Args:
        session: of onnxruntime.
    """

    def __init__(self, session: Any) -> None:
        super().__init__()
        self._session = session
        [first, *_] = session.get_inputs()
        self._input = first.name
        # A name or None stands for a batch of any length.
        length = first.shape[0] if first.shape else None
        self._batch = length if isinstance(length, int) else None

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the first output for normalised images."""
        images = images_BCHW.detach().cpu().float().contiguous()
        parts = []
        length = self._batch or len(images)
        for part in torch.split(images, length):
            # A fixed batch is filled up, and the answers to the filling are dropped.
            filling = part.new_zeros(length - len(part), *part.shape[1:])
            batch = torch.cat([part, filling]).numpy()
            try:
                [answer, *_] = self._session.run(None, {self._input: batch})
            # onnxruntime has a class of its own for each error, all without a common base.
            except Exception as error:
                raise ValueError(first_line(error)) from None
            parts.append(torch.from_numpy(answer)[: len(part)])
        return torch.cat(parts).to(images_BCHW.device)


def load_onnx(target: ForeignTarget) -> Loaded:
    """Load an ONNX file by onnxruntime."""
    path = Path(file_of(target))
    preprocessing = given_preprocessing(target)
    runtime = import_extra("onnxruntime", "onnxruntime", "onnx")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: name an ONNX file.")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # onnxruntime's own log is silent: the exception below has the error.
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # onnxruntime has a class of its own for each error, all without a common base.
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read by onnxruntime ({first_line(error)}): export it again."
        ) from None
    variant = f"onnx {checksum(path)}"
    # Exporters put large weights beside the graph.
    beside = path.with_name(f"{path.name}.data")
    if beside.is_file():
        variant += f" {checksum(beside)}"
    encoder = checked(Tower(OnnxNetwork(session), variant), preprocessing)
    return Loaded(encoder, preprocessing, "ONNX", path.name)
