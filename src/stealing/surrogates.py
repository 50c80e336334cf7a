"""The surrogate of a finished run as a PyTorch module: a run's folder in, images to features out.

A run's folder may be a stranger's. Its files are data: nothing that they hold is executed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stealing.artefacts import check_undamaged, read_done
from stealing.encoders import Encoder, load_encoder
from stealing.encoders.files import shapes_in
from stealing.encoders.weights import flaw_of_weights
from stealing.errors import CheckpointError
from stealing.reading import LARGEST_JSON, InvalidContent, first_line
from stealing.saved.files import surrogate_folder


class Surrogate(nn.Module):
    """A stolen encoder and its adapter: float images (B, 3, H, W) in [0, 1] to features (B, D).

    D is the width of the target's answers.

    Args:
        encoder: the surrogate itself. Accuracies of a run are measured on its features.
        adapter: maps its features to the target's space.
        feature_dim: D.
    """

    def __init__(self, encoder: Encoder, adapter: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.adapter = adapter
        self.feature_dim = feature_dim

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return features (B, D) in the target's space."""
        features_BD: Tensor = self.adapter(self.encoder(images_BCHW))
        return features_BD


def load_surrogate(run: str | Path, trust: Sequence[str] = ()) -> Surrogate:
    """Return the surrogate of a finished run, in eval mode, on the CPU.

    Args:
        run: folder of the run, one of those in `work/runs`.
        trust: modules of the user's own whose classes the surrogate's architecture may name.

    Returns:
        A module from float images (B, 3, H, W) in [0, 1] to features in the target's space; its
        `encoder` is the surrogate without the adapter.

    Raises:
        CheckpointError: The folder is not a run's, the run is not finished, or its surrogate is
            absent, broken or does not fit its adapter.
        DamageError: A file was changed after it was written.
    """
    surrogate, _ = load_surrogate_and_card(run, trust)
    return surrogate


def load_surrogate_and_card(
    run: str | Path, trust: Sequence[str] = ()
) -> tuple[Surrogate, dict[str, Any]]:
    """Return what `load_surrogate` returns, and the card of the encoder in it."""
    folder = _surrogate_folder(Path(run))
    encoder, card = load_encoder(folder / "encoder.safetensors", trust)
    adapter, feature_dim = _load_adapter(folder / "adapter.safetensors", encoder.feature_dim)
    return Surrogate(encoder, adapter, feature_dim).eval(), card


def _surrogate_folder(run: Path) -> Path:
    """Return where the surrogate of a run lies, as its `result.json` says."""
    if not (run / "config.yaml").is_file():
        raise CheckpointError(f"{run} is not a run's folder: name one of the folders in work/runs.")
    if read_done(run) is None:
        raise CheckpointError(f"The run in {run} is not finished: run its command again.")
    path = run / "result.json"
    if not path.exists():
        raise CheckpointError(
            f"The run in {run} ended before its evaluation: run its command with until=evaluate."
        )
    check_undamaged(path, LARGEST_JSON)
    return surrogate_folder(run, CheckpointError)


def _load_adapter(path: Path, width: int) -> tuple[nn.Module, int]:
    """Return the adapter of a surrogate of this width, and the width of its output."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: copy it from where the run was made.")
    try:
        shapes = shapes_in(path)
        # After its header, which says how large the file is at most.
        check_undamaged(path)
        if not shapes:  # the widths agree, so that the attack needed no adapter
            return nn.Identity(), width
        if shapes.keys() != {"weight", "bias"} or len(shapes["weight"]) != 2:
            raise InvalidContent("it holds no linear layer")
        outputs, inputs = shapes["weight"]
        if inputs != width:
            raise InvalidContent(
                f"it takes features of width {inputs}, and the encoder's width is {width}"
            )
        if shapes["bias"] != (outputs,):
            raise InvalidContent("its bias is of another width than its weight")
        weights = load_file(path)
        if not all(tensor.is_floating_point() for tensor in weights.values()):
            raise InvalidContent("its weights are not floats")
        with torch.random.fork_rng(devices=[]):  # initial weights take none of the caller's numbers
            adapter = nn.Linear(inputs, outputs)
        adapter.load_state_dict(weights)
    except (InvalidContent, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({first_line(error)}): fetch or make the file again."
        ) from None
    flaw = flaw_of_weights(adapter)
    if flaw is not None:
        raise CheckpointError(f"{path} {flaw}: run the command of the run again.")
    return adapter, outputs
