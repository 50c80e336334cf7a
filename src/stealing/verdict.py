"""Judge: the target behind its door, the surrogate and the controls in; accuracies, fidelity and intervals out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn

from stealing.attacks.asking import scene_of
from stealing.attacks.steal import Answers
from stealing.code import code_of
from stealing.config import opened, plain
from stealing.data.draws import generator
from stealing.data.images import Images
from stealing.defenses.chain import Asked, Chain, cost
from stealing.encoders import Encoder
from stealing.errors import Refused
from stealing.evaluation import controls
from stealing.evaluation.features import encode_all
from stealing.evaluation.fidelity import fidelity
from stealing.evaluation.protocol import Job, Judge, Protocol, Task
from stealing.evaluation.statistics import HELD, overall, summarise
from stealing.plan import Scene, honest_user
from stealing.queries.buying import Target
from stealing.queries.digests import digests
from stealing.queries.door import MeteredTarget
from stealing.training.fit import Recorder
from stealing.training.ranks import first_goes_ahead, rank, summed, wait, world

Right = dict[str, NDArray[np.bool_]]

Network = tuple[str, Callable[[Images], Tensor]]
"""What gives features without being asked: its identity, and how."""

PAIRED = (("TA", 0), ("TA", 1), ("SA", 1))
"""Bootstrap samples of train for the agreement: two heads on the target, one on the surrogate, each on its own."""


SAMPLED, SHOWN = 200, 36
"""Test images and query images that a report has pictures of."""


@dataclass(frozen=True)
class Stolen:
    """An encoder made from query images, with its way into the target's space."""

    encoder: Encoder
    adapter: nn.Module


def evaluate(
    config: DictConfig,
    scene: Scene,
    sources: dict[str, MeteredTarget],
    surrogate: Stolen,
    control: Stolen,
    answers: Answers,
    start: int,
) -> tuple[dict[str, Any], Right, dict[str, NDArray[Any]], dict[str, Any]]:
    """Every task under every head. Several processes share the tasks; then the first reads what all have found.

    Args:
        config: of the run.
        scene: its tasks.
        sources: the doors to the target: `TA`, as it is offered, and `TA_clean`, undefended, absent for a remote one.
        surrogate: the stolen encoder.
        control: SimCLR on the query images.
        answers: what was bought.
        start: seed of the surrogate's initial weights, which are the untrained control.

    Returns:
        `tasks`, `overall`, `fidelity`, `honest_user` (images that the honest user with most asked about) and `sample`
        of result.json; which test images each encoder got right, under `<task>/<head>/<name>`, and which of the slice
        of train, under the same with `/held`; the sample; and the seconds spent, with the protocol's hash.
    """
    wall, cpu = time.monotonic(), time.process_time()
    protocol: Protocol = opened(config.probe)
    arch = plain(config.arch)
    batch = min(config.attack.batch_size, len(answers.images))
    encoders = {
        "SA": surrogate.encoder,
        "untrained": controls.untrained(arch, start),
        "untrained_calibrated": controls.calibrated(controls.untrained(arch, start), answers.images, batch),
        "ssl_on_queries": control.encoder,
    }
    device = "cuda" if config.trainer.accelerator == "gpu" else "cpu"
    networks = {name: _network(encoder, device) for name, encoder in encoders.items()}
    networks["pixels"] = (f"pixels/{code_of(controls.pixels)}", controls.pixels)
    judge = Judge(protocol, Path(config.paths.cache), device)
    with first_goes_ahead():  # one process asks, all read
        for task in scene.tasks:
            for source in sources.values():
                answers_through(source, task)
    if world() > 1:
        for task in scene.tasks[rank() :: world()]:
            _judged(task, judge, sources, networks)  # remembered by the judge
        wait()
    tasks, right, sample = dict[str, Any](), Right(), dict[str, NDArray[Any]]()
    likeness: list[tuple[Tensor, Tensor, Tensor]] = []
    for task in scene.tasks if rank() == 0 else []:
        tasks[task.name], correct, (target, copy), predicted = _judged(task, judge, sources, networks)
        right |= correct
        if task is scene.tasks[0]:
            sample = _sample(task.test, target, copy, answers.images) | predicted
        with torch.inference_mode():
            likeness.append((target, surrogate.adapter(copy), copy))
    alike = fidelity(*(torch.cat(column) for column in zip(*likeness, strict=True))) if likeness else {}
    spent = {
        "seconds": time.monotonic() - wall,
        "cpu_seconds": summed(time.process_time() - cpu),
        "protocol_hash": protocol.hash,
    }
    figures: dict[str, Any] = {"tasks": tasks, "fidelity": alike, "honest_user": honest_user(scene)}
    if right:
        first = scene.tasks[0]
        roles = {task.name: task.role for task in scene.tasks}
        figures["overall"] = overall([right], roles, protocol.resamples)
        figures["sample"] = {"task": first.name, "classes": first.test.class_names}
    return figures, right, sample, spent


def _sample(test: Images, target_MD: Tensor, copy_MD: Tensor, queries: Images) -> dict[str, NDArray[Any]]:
    """Some test images with their labels and features under both encoders, and some of the query images."""
    places = torch.randperm(len(test), generator=generator("sample"))[:SAMPLED].numpy()
    return {
        "images": test.batch(places).numpy(),
        "labels": test.targets()[places],
        "target": target_MD[places].half().numpy(),
        "surrogate": copy_MD[places].half().numpy(),
        "queries": queries.batch(slice(SHOWN)).numpy(),
    }


def record(recorder: Recorder, folder: Path, result: dict[str, Any], queries: NDArray[np.uint8]) -> None:
    """Log the figures of `result.json` under names that dashboards rely on, and some query images.

    The artefacts that the run used stand in the logger's config: their curves may be another run's.
    """
    logger = recorder.open("evaluate", folder, artefacts=result["artefacts"])
    if logger is not None:
        named = ("TA", "SA", "recovered", "honest_loss")
        rows = [
            {"task": task, "head": head, **{name: row[name] for name in named}}
            for task, heads in result["tasks"].items()
            for head, row in heads.items()
            if head != "role"
        ]
        figures = {
            f"eval/{row['task']}/{row['head']}/{name}": row[name]
            for row in rows
            for name in named
            if row[name] is not None
        }
        logger.log_metrics(figures, step=0)
        recorder.show("probes", rows)
        recorder.show("queries", queries)
        recorder.close()


def protection(chain: Chain, settings: dict[str, Any], undefended: Target, answers: Answers) -> dict[str, Any]:
    """What the defense is and costs its owner, measured on the answers to one request."""
    images = answers.images.batch(slice(0, undefended.images_a_request))
    taken = cost(chain, undefended.answer(images, "cost"), Asked("cost", digests(images), images))
    return {"name": "+".join(chain.defenses) or "none", "settings": settings, **taken}


def answers_through(source: MeteredTarget, task: Task) -> list[Tensor]:
    """Train and test features; of what a defense refuses to answer, zeros: an honest customer has no more either.

    Raises:
        Refused: nothing of this task was answered.
    """
    account = f"honest/{task.name}{scene_of(source, train=task.train.checksum, test=task.test.checksum)}"
    told = list[tuple[Tensor, Tensor] | None]()
    refused: Refused | None = None
    for part in (task.train, task.test):
        try:
            told.append(source.ask_what_is_answered(part.batch(slice(None)), account, "evaluation"))
        except Refused as error:  # stopped before the first image of this part
            told.append(None)
            refused = error
    widths = [answer[0].shape[1] for answer in told if answer is not None]
    if not widths:
        assert refused is not None
        raise refused
    features = []
    for part, answer in zip((task.train, task.test), told, strict=True):
        features.append(torch.zeros(len(part), widths[0]))
        if answer is not None:
            features[-1][answer[1]] = answer[0]
    return features


def _judged(
    task: Task, judge: Judge, sources: dict[str, MeteredTarget], networks: dict[str, Network]
) -> tuple[dict[str, Any], Right, tuple[Tensor, Tensor], dict[str, NDArray[Any]]]:
    """One task's part of result.json and of `right`; test features of target and surrogate, and what heads predict."""
    jobs = dict[str, Job]()
    for name in (*sources, *networks):
        if name in sources:
            identity = sources[name].identity
            train, test = answers_through(sources[name], task)
        else:
            identity, compute = networks[name]
            train, test = (judge.features(identity, part, compute) for part in (task.train, task.test))
        jobs[name] = Job(identity, train, test)
    pairs = {f"{name}/{number}": replace(jobs[name], sample=number) for name, number in PAIRED}
    found = judge.predictions(task, jobs | pairs)
    figures, right = dict[str, Any](role=task.role), Right()
    held = judge.rows(task, jobs["TA"]).held[1].numpy()
    for head in found["TA"]:
        correct = {name: found[name][head].test == task.test.targets() for name in jobs}
        correct |= {name + HELD: found[name][head].held == held for name in jobs}
        right |= {f"{task.name}/{head}/{name}": rows for name, rows in correct.items()}
        first, second, copied = (found[name][head].test for name in pairs)
        figures[head] = {
            **summarise([correct], resamples=judge.protocol.resamples),
            "agreement": float((first == copied).mean()),
            "agreement_ceiling": float((first == second).mean()),
        }
    predicted = {f"predicted/{head}/{name}": found[name][head].test for head in found["TA"] for name in ("TA", "SA")}
    return figures, right, (jobs.get("TA_clean", jobs["TA"]).test_MD, jobs["SA"].test_MD), predicted


def _network(encoder: Encoder, device: str) -> Network:
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    code = code_of(encode_all, *map(type, encoder.modules()))
    return f"{encoder.fingerprint}/{code}", lambda images: encode_all(encoder, images)
