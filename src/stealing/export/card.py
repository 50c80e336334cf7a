"""The model card of an exported file: what it was made from and how to load it, as Markdown."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stealing.evaluation.statistics import control_accuracy
from stealing.export.formats import timm_arguments
from stealing.export.sources import Source
from stealing.report.shares import LONG
from stealing.text import for_markdown, printable

WARNING = """\
> **Before you share this file.** It was trained on the answers of another encoder. The terms of its
> owner may forbid to train on answers, to keep the copy, or to give it to others. The images
> that were sent have terms of their own. The license of the code covers neither."""

OWN_WARNING = """\
> **Before you share this file.** Its weights and the images that it was trained on have terms of
> their own, which the license of the code does not cover."""


def card_of(source: Source, kind: str, path: Path) -> str:
    """Return the model card of an exported file.

    Args:
        source: what is exported.
        kind: the format.
        path: of the file, by which the card says how to load it.
    """
    result = source.result
    lines = [f"# {for_markdown(path.name)}", ""]
    lines += [OWN_WARNING if result is None else WARNING, "", "## Load it", ""]
    lines += _loading(source, kind, path)
    lines += ["", "## What it is", "", "| | |", "|---|---|"]
    facts = {"made from": source.name, "network": _network(source.arch)}
    if result is not None:
        facts |= _facts(result)
    lines += [f"| {name} | {for_markdown(str(value))} |" for name, value in facts.items()]
    if result is not None:
        lines += ["", "## What it does", "", *_table(result)]
    return "\n".join(lines) + "\n"


def _loading(source: Source, kind: str, path: Path) -> Iterator[str]:
    name = printable(path.name)
    size = source.size
    width = source.module.feature_dim
    shape = f"float32 images (B, 3, {size}, {size}) in [0, 1]"
    match kind:
        case "safetensors":
            code = f"encoder, card = stealing.encoders.load_encoder({name!r})"
        case "torchscript":
            code = f"encoder = torch.jit.load({name!r})"
        case "onnx":
            code = f"encoder = onnxruntime.InferenceSession({name!r})"
        case _:
            given = ", ".join(f"{key}={value!r}" for key, value in timm_arguments(source).items())
            code = f"encoder = timm.create_model({given}, checkpoint_path={name!r}).eval()"
            encoder = source.module.encoder
            mean = [round(number, 4) for number in encoder.mean.flatten().tolist()]
            std = [round(number, 4) for number in encoder.std.flatten().tolist()]
            side = getattr(encoder.backbone, "size", None) or size
            shape = f"images (B, 3, {side}, {side}), normalised by mean {mean} and std {std}"
    yield from ("```python", code, "```", "")
    yield f"It takes {shape}, and gives features (B, {width})."
    if kind == "torchscript":
        yield "A TorchScript archive is code: load one only from a person whom you trust."


def _network(arch: Mapping[str, Any]) -> str:
    names = [str(arch.get("class"))]
    while "backbone" in arch:
        arch = arch["backbone"]
        names.append(str(arch.get("class")))
    if "name" in arch:
        names[-1] += f" {arch['name']}"
    return ", ".join(names)


def _facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what made the surrogate, from `result.json`."""
    choices = result["choices"]
    queries = result["queries"]
    return {
        "target": f"{choices.get('target')}, fingerprint {result['target']}",
        "defense": choices.get("defense"),
        "attack": choices.get("attack"),
        "query plan": choices.get("plan"),
        "queries": f"{queries['spent']} of {queries['budget']} allowed",
        "images": f"data={choices.get('data')}, checksum {result['data'].get('queries')}",
        "seed": result["seed"],
        "date, commit": f"{result.get('date')}, {result.get('commit')}",
    }


def _table(result: Mapping[str, Any]) -> Iterator[str]:
    yield "Accuracy of heads on features of the test images, as its run measured it: of the target"
    yield "(TA), of this surrogate without its adapter (SA), and of the strongest control (C)."
    yield ""
    yield "| task | role | head | TA | SA | C | control | recovered |"
    yield "|---|---|---|---|---|---|---|---|"
    for task, heads in result["tasks"].items():
        for head, row in heads.items():
            if head == "role":
                continue
            control = row["control"]["name"]
            recovered = row["recovered"]
            cells = [
                for_markdown(task),
                for_markdown(heads["role"]),
                for_markdown(head),
                f"{row['TA']:.3f}",
                f"{row['SA']:.3f}",
                f"{control_accuracy(row):.3f}",
                LONG.get(control, for_markdown(control)),
                "" if recovered is None else f"{recovered:.2f}",
            ]
            yield f"| {' | '.join(cells)} |"
