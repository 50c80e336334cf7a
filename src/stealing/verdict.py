"""Judge: the target behind its door, the surrogate and the controls in; accuracies, fidelity and intervals out."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn

from stealing.attacks.steal import Answers
from stealing.config import opened, plain
from stealing.data.images import Images
from stealing.encoders import Encoder
from stealing.evaluation import controls
from stealing.evaluation.features import encode_all
from stealing.evaluation.fidelity import fidelity
from stealing.evaluation.protocol import Judge, Predictions, Protocol, Task
from stealing.evaluation.statistics import summarise
from stealing.plan import Scene
from stealing.queries.door import MeteredTarget

Right = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Stolen:
    """An encoder made from query images, with its way into the target's space and its artefact's folder."""

    encoder: Encoder
    adapter: nn.Module
    folder: Path


def evaluate(
    config: DictConfig,
    scene: Scene,
    door: MeteredTarget,
    clean: MeteredTarget,
    surrogate: Stolen,
    control: Stolen,
    answers: Answers,
) -> tuple[dict[str, Any], dict[str, float], Right, dict[str, Any]]:
    """Every task under every head.

    Returns:
        `tasks` and `fidelity` of result.json; which test images each encoder got right, under `<task>/<head>/<name>`;
        and the seconds spent, with the protocol's hash.
    """
    wall, cpu = time.monotonic(), time.process_time()
    protocol: Protocol = opened(config.probe)
    judge = Judge(protocol, Path(config.paths.cache))
    arch, seed, batch = plain(config.arch), config.seed, min(config.attack.batch_size, len(answers.images))
    encoders = {
        "SA": surrogate.encoder,
        "untrained": controls.untrained(arch, seed),
        "untrained_calibrated": controls.calibrated(controls.untrained(arch, seed), answers.images, batch),
        "ssl_on_queries": control.encoder,
    }
    rest = {name: _network(encoder) for name, encoder in encoders.items()} | {"pixels": ("pixels", controls.pixels)}
    tasks, right = dict[str, Any](), Right()
    likeness: list[tuple[Tensor, Tensor, Tensor]] = []
    for task in scene.tasks:
        found, features = {}, {}
        for name, source in (("TA", door), ("TA_clean", clean)):
            identity = f"{source.fingerprint}/{source.defense_fingerprint}"
            parts = [
                source.ask(part.batch(slice(None)), f"honest/{task.name}", "evaluation")
                for part in (task.train, task.test)
            ]
            found[name] = judge.predictions(identity, task, *parts)
            features[name] = parts[1]
            if name == "TA":
                pair = [judge.resampled(number, identity, task, *parts) for number in range(2)]
        for name, (identity, compute) in rest.items():
            parts = [judge.features(identity, part, compute) for part in (task.train, task.test)]
            found[name] = judge.predictions(identity, task, *parts)
            features[name] = parts[1]
            if name == "SA":
                copied = judge.resampled(1, identity, task, *parts)
        tasks[task.name] = _figures(task, found, protocol, right)
        for head in found["TA"]:
            tasks[task.name][head]["agreement"] = float((pair[0][head] == copied[head]).mean())
            tasks[task.name][head]["agreement_ceiling"] = float((pair[0][head] == pair[1][head]).mean())
        with torch.inference_mode():
            likeness.append((features["TA"], surrogate.adapter(features["SA"]), features["SA"]))
    spent = {
        "seconds": time.monotonic() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "protocol_hash": protocol.hash,
    }
    return tasks, fidelity(*(torch.cat(column) for column in zip(*likeness, strict=True))), right, spent


def _network(encoder: Encoder) -> tuple[str, Callable[[Images], Tensor]]:
    encoder.to(memory_format=torch.channels_last)
    return encoder.fingerprint, lambda images: encode_all(encoder, images)


def _figures(task: Task, found: dict[str, Predictions], protocol: Protocol, right: Right) -> dict[str, Any]:
    """One task's part of result.json; fills `right`."""
    labels, figures = task.test.targets(), dict[str, Any](role=task.role)
    for head in found["TA"]:
        correct = {name: predictions[head] == labels for name, predictions in found.items()}
        right.update({f"{task.name}/{head}/{name}": rows for name, rows in correct.items()})
        figures[head] = summarise([correct], resamples=protocol.resamples)
    return figures
