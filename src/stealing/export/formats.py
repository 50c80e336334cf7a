"""The formats of an exported file: a source in; a file, and what another program reads of it, out.

Each function writes one file and returns what its format gives back for images, read from that
file, so that both can be compared. Extras are imported when a format needs them.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stealing.encoders import Encoder, load_encoder, save_encoder
from stealing.encoders.architectures import foreign_modules
from stealing.encoders.building import build_encoder
from stealing.encoders.resized import Resized
from stealing.encoders.timm_network import Timm, import_timm
from stealing.errors import CheckpointError, ConfigError
from stealing.export.sources import Source
from stealing.reading import first_line

Network = Callable[[Tensor], Tensor]
"""Images (B, 3, size, size) in [0, 1] to features (B, D)."""

EXAMPLE = 2
"""Images with which a network is traced: a batch of one may be taken for a constant."""


def write_safetensors(source: Source, path: Path) -> Network:
    """Write this project's own format: the surrogate and its adapter as one encoder.

    Raises:
        ConfigError: The encoder is of a class of the user's own.
    """
    arch = source.arch
    encoder: Encoder = source.module.encoder
    adapter = source.module.adapter
    if isinstance(adapter, nn.Linear):
        arch = _adapted(arch, encoder, source.module.feature_dim)
        joined = build_encoder(arch, 0)
        weights = {}
        for name, tensor in encoder.state_dict().items():
            # The network moves one level down; mean and std stay where they are.
            inner = name.replace("backbone.", "backbone.backbone.", 1)
            weights[inner if name.startswith("backbone.") else name] = tensor
        for name, tensor in adapter.state_dict().items():
            weights[f"backbone.adapter.{name}"] = tensor
        joined.load_state_dict(weights)
        encoder = joined.eval()
    save_encoder(encoder, path, arch=arch, size=source.size, provenance={"export": source.name})
    # The user trusted the modules of this architecture: otherwise it would not be open.
    return load_encoder(path, foreign_modules(arch))[0]


def _adapted(arch: Mapping[str, Any], encoder: Encoder, width: int) -> dict[str, Any]:
    """Return the description of an encoder whose backbone has a linear layer behind it."""
    if arch["class"] == "TimmEncoder":
        network = {"class": "Timm", "name": arch["name"], "size": arch.get("size")}
        backbone = {"class": "Resized", "size": arch.get("size"), "backbone": network}
    elif arch["class"] == "Encoder":
        backbone = arch["backbone"]
    else:
        raise ConfigError(
            f"{arch['class']} is an encoder of your own, to which no adapter can be added: "
            "export it --to torchscript or onnx."
        )
    return {
        "class": "Encoder",
        "backbone": {"class": "Adapted", "width": width, "backbone": backbone},
        "mean": encoder.mean.flatten().tolist(),
        "std": encoder.std.flatten().tolist(),
    }


def write_timm(source: Source, path: Path) -> Network:
    """Write weights for `timm.create_model`, with the adapter in the place of the classifier.

    The file takes images that are resized and normalised already, as timm's networks do.

    Raises:
        ConfigError: The network is not one of timm's, or has other layers with a classifier.
    """
    timm = import_timm()
    encoder = source.module.encoder
    backbone = encoder.backbone
    resized = backbone if isinstance(backbone, Resized) else Resized(backbone, None)
    inner = resized.backbone
    if not isinstance(inner, Timm):
        raise ConfigError(
            f"The network is {type(inner).__name__}, and not one of timm's: "
            "export it --to safetensors, torchscript or onnx."
        )
    arguments = timm_arguments(source)
    weights = dict(inner.network.state_dict())
    adapter = source.module.adapter
    try:
        network = timm.create_model(**arguments)
        if isinstance(adapter, nn.Linear):
            for name, tensor in adapter.state_dict().items():
                weights[f"{network.pretrained_cfg['classifier']}.{name}"] = tensor
        network.load_state_dict(weights)
    # What timm and torch raise for networks whose head is more than a linear layer.
    except (KeyError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"{arguments['name']} has other layers with a classifier ({first_line(error)}): "
            "export it --to safetensors, torchscript or onnx."
        ) from None
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    read = timm.create_model(**arguments, checkpoint_path=str(path)).eval()
    return lambda images: read(resized.resize((images - encoder.mean) / encoder.std))


def timm_arguments(source: Source) -> dict[str, Any]:
    """Return the arguments by which `timm.create_model` builds the exported network."""
    node = source.arch
    while "backbone" in node:
        node = node["backbone"]
    adapter = source.module.adapter
    classes = adapter.out_features if isinstance(adapter, nn.Linear) else 0
    arguments: dict[str, Any] = {"model_name": node["name"], "num_classes": classes}
    if node.get("pool") is not None:
        arguments["global_pool"] = node["pool"]
    settings = import_timm().get_pretrained_cfg(node["name"], allow_unregistered=True)
    if settings is not None and settings.fixed_input_size and node.get("size") is not None:
        arguments["img_size"] = node["size"]
    return arguments


def write_torchscript(source: Source, path: Path) -> Network:
    """Write a TorchScript archive, for images of one size in batches of any number."""
    example = torch.rand(EXAMPLE, 3, source.size, source.size)
    with warnings.catch_warnings(), torch.inference_mode():
        # The size is a constant of the archive on purpose.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            source.module, example, check_trace=False
        )
        traced.save(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read: Network = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return read


def write_onnx(source: Source, path: Path) -> Network:
    """Write an ONNX file, for images of one size in batches of any number.

    Raises:
        ConfigError: The extra is not installed, or ONNX lacks an operation of the network.
    """
    try:
        onnxruntime = import_module("onnxruntime")
        import_module("onnxscript")  # torch's exporter needs it
    except ImportError:
        raise ConfigError(
            "Export to ONNX needs packages of its own: pip install 'stealing[onnx]'."
        ) from None
    example = torch.rand(EXAMPLE, 3, source.size, source.size)
    batch = torch.export.Dim("batch", min=1)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                source.module,
                (example,),
                str(path),
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes=({0: batch},),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    # torch and onnxruntime have classes of errors of their own, without a common one.
    except Exception as error:
        raise CheckpointError(
            f"The network cannot be written as ONNX ({first_line(error)}): "
            "export it --to torchscript."
        ) from error

    def read(images: Tensor) -> Tensor:
        [features] = session.run(["features"], {"images": images.numpy()})
        return torch.from_numpy(features)

    return read


FORMATS: dict[str, tuple[str, Callable[[Source, Path], Network]]] = {
    "safetensors": (".safetensors", write_safetensors),
    "timm": (".safetensors", write_timm),
    "torchscript": (".pt", write_torchscript),
    "onnx": (".onnx", write_onnx),
}
"""By name, the end of a file's name and the function that writes it."""
