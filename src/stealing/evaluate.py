"""Evaluate: doors to the target, surrogate and controls in; accuracies, fidelity, intervals out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn

from stealing.attacks.query_plan import plan_context
from stealing.attacks.steal import BoughtAnswers
from stealing.code import code_of
from stealing.config import instantiate_node, to_dict
from stealing.data.images import Images
from stealing.data.sampling import generator
from stealing.encoders import Encoder
from stealing.errors import Refused
from stealing.evaluation import controls
from stealing.evaluation.features import encode_all
from stealing.evaluation.fidelity import fidelity
from stealing.evaluation.protocol import Evaluator, HeadInput, Protocol, Task
from stealing.evaluation.statistics import HELD, Outcomes, overall, summarise
from stealing.evaluation.texts import ZeroShotHead
from stealing.evaluation.zero_shot import MAJORITY, ZERO_SHOT
from stealing.preflight import RunData, honest_user
from stealing.queries.door import MeteredTarget
from stealing.training.distributed import barrier, main_process_first, rank, world_size
from stealing.training.fit import device_of

PAIRED = (("TA", 0), ("TA", 1), ("SA", 1))
"""Heads for the agreement: an encoder, and the number of the bootstrap sample that its head sees.

Two heads on the target see different samples, so that they agree as much as two encoders can.
"""

SAMPLED = 200
"""Test images whose features and predictions a report shows."""

SHOWN = 36
"""Query images that a report shows."""

SHOWN_SIDE = 64
"""Most pixels on a side of an image that a report shows: a page holds hundreds of them."""


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder made from query images.

    Attributes:
        encoder: the surrogate, or a control.
        adapter: maps its features to the target's width.
    """

    encoder: Encoder
    adapter: nn.Module


@dataclass(frozen=True)
class Network:
    """An encoder whose features cost no query.

    Attributes:
        identity: hash of its weights and of the code that computes features.
        compute: features of a list of images.
    """

    identity: str
    compute: Callable[[Images], Tensor]


@dataclass(frozen=True)
class TaskEvaluation:
    """What one task shows.

    Attributes:
        figures: `role`, and the figures of each head, as in `result.json`.
        right: which images each encoder got right, by `<task>/<head>/<encoder>`; on the held rows
            under the same with `/held`.
        predicted: classes of the test images, by `predicted/<head>/<encoder>`.
        target_MD: the target's features of the test images, undefended if they are known.
        surrogate_MD: the surrogate's features of the test images.
    """

    figures: dict[str, Any]
    right: Outcomes
    predicted: dict[str, NDArray[Any]]
    target_MD: Tensor
    surrogate_MD: Tensor


@dataclass(frozen=True)
class Evaluation:
    """What all tasks show.

    Attributes:
        figures: `tasks`, `fidelity`, `honest_user` (the most images that the honest user of one
            task sends), `overall` and `sample` of `result.json`; and `pixels` if the control of raw
            pixels saw reduced images.
        right: of all tasks; see `TaskEvaluation`.
        sample: arrays that a report shows, of the first task.
        protocol_hash: of the settings of all heads.
    """

    figures: dict[str, Any]
    right: Outcomes
    sample: dict[str, NDArray[Any]]
    protocol_hash: str


def evaluate_tasks(
    config: DictConfig,
    data: RunData,
    doors: dict[str, MeteredTarget],
    surrogate: TrainedEncoder,
    control: TrainedEncoder,
    answers: BoughtAnswers,
    start: int,
    beside: Mapping[str, Encoder],
) -> Evaluation | None:
    """Evaluate all encoders on all tasks under all heads. All processes call it together.

    Args:
        config: of the run.
        data: has the tasks.
        doors: to the target: `TA`, as it is offered, and `TA_clean`, undefended; a remote target
            has no `TA_clean`.
        surrogate: what the attack trained.
        control: SimCLR on the query images.
        answers: what was bought.
        start: seed of the surrogate's initial weights, which are the untrained control.
        beside: encoders that are judged beside these, by name.

    Returns:
        The evaluation; None in all processes but the first.
    """
    protocol: Protocol = instantiate_node(config.probe)
    device = device_of(config.trainer.accelerator)
    evaluator = Evaluator(protocol, Path(config.paths.cache), device)
    batch_size = min(config.attack.batch_size, len(answers.images))
    encoders = {
        "SA": surrogate.encoder,
        **controls.both_untrained(to_dict(config.arch), start, answers.images, batch_size, device),
        "ssl_on_queries": control.encoder,
        **beside,
    }
    public = controls.public(to_dict(config.arch), start)
    if public is not None:
        encoders["public"] = public
    networks = {name: _network(encoder, device) for name, encoder in encoders.items()}
    head = ZeroShotHead(data.texts, surrogate.adapter) if data.texts else None
    evaluate_task = partial(
        _evaluate_task, evaluator=evaluator, doors=doors, networks=networks, zero_shot=head
    )
    # Rank 0 sends the queries. The other ranks then read the answers.
    with main_process_first():
        for task in data.tasks:
            for door in doors.values():
                ask_about_task(door, task)
    if world_size() > 1:
        # The processes share the tasks. Rank 0 then reads all features and predictions from the
        # evaluator's cache.
        for task in data.tasks[rank() :: world_size()]:
            evaluate_task(task)
        barrier()
    if rank() > 0:
        return None
    evaluations = [evaluate_task(task) for task in data.tasks]
    return _combine(data, evaluations, protocol, surrogate.adapter, answers.images)


def _network(encoder: Encoder, device: str) -> Network:
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # The cache outlives the code: features that other code computed have another name.
    code = code_of(encode_all, *map(type, encoder.modules()))
    identity = f"{encoder.fingerprint}/{code}"
    return Network(identity, partial(encode_all, encoder))


def _combine(
    data: RunData,
    evaluations: list[TaskEvaluation],
    protocol: Protocol,
    adapter: nn.Module,
    queries: Images,
) -> Evaluation:
    """Return the figures over all tasks; fidelity is measured on the test images of all of them."""
    first_task = data.tasks[0]
    first = evaluations[0]
    tasks = dict[str, Any]()
    roles = dict[str, str]()
    right = Outcomes()
    for task, evaluation in zip(data.tasks, evaluations, strict=True):
        tasks[task.name] = evaluation.figures
        roles[task.name] = task.role
        right.update(evaluation.right)
    with torch.inference_mode():
        mapped = [adapter(evaluation.surrogate_MD) for evaluation in evaluations]
    likeness = fidelity(
        torch.cat([evaluation.target_MD for evaluation in evaluations]),
        torch.cat(mapped),
        torch.cat([evaluation.surrogate_MD for evaluation in evaluations]),
    )
    figures = {
        "tasks": tasks,
        "fidelity": likeness,
        "honest_user": honest_user(data),
        "overall": overall([right], roles, protocol.resamples),
        "sample": {"task": first_task.name, "classes": first_task.test.class_names},
    }
    size = queries.size
    if controls.pixel_side(size) < size:
        figures["pixels"] = {"size": size, "reduced_to": controls.pixel_side(size)}
    sample = _sample(first_task.test, first, queries) | first.predicted
    return Evaluation(figures, right, sample, protocol.hash)


def _sample(
    test: Images,
    evaluation: TaskEvaluation,
    queries: Images,
) -> dict[str, NDArray[Any]]:
    """Return some test images with labels and both encoders' features, and some query images."""
    places = torch.randperm(len(test), generator=generator("sample"))[:SAMPLED].numpy()
    return {
        "images": _thumbnails(test.batch(places)).numpy(),
        "labels": test.targets()[places],
        "target": evaluation.target_MD[places].half().numpy(),
        "surrogate": evaluation.surrogate_MD[places].half().numpy(),
        "queries": _thumbnails(queries.batch(slice(SHOWN))).numpy(),
    }


def _thumbnails(images_uint8: Tensor) -> Tensor:
    """Return images reduced to `SHOWN_SIDE` by averages over areas; small ones stay as they are."""
    if images_uint8.shape[-1] <= SHOWN_SIDE:
        return images_uint8
    reduced = F.adaptive_avg_pool2d(images_uint8.float(), SHOWN_SIDE)
    return reduced.round().to(torch.uint8)


def ask_about_task(door: MeteredTarget, task: Task) -> list[Tensor]:
    """Return the features of a task's train and test images, as an honest user gets them.

    The features of an image that the defense does not answer are zeros.

    Raises:
        Refused: the target answered no image of this task.
    """
    context = plan_context(door, train=task.train.checksum, test=task.test.checksum)
    account = f"honest/{task.name}{context}"
    parts = (task.train, task.test)
    answers = list[tuple[Tensor, Tensor] | None]()
    refused: Refused | None = None
    for part in parts:
        images = part.batch(slice(None))
        try:
            answers.append(door.ask_what_is_answered(images, account, "evaluation"))
        except Refused as error:  # the target stopped before the first image of this part
            answers.append(None)
            refused = error
    widths = [answer[0].shape[1] for answer in answers if answer is not None]
    if not widths:
        assert refused is not None
        raise refused
    features = list[Tensor]()
    for part, answer in zip(parts, answers, strict=True):
        rows = torch.zeros(len(part), widths[0])
        if answer is not None:
            answered_features, is_answered = answer
            rows[is_answered] = answered_features
        features.append(rows)
    return features


def _evaluate_task(
    task: Task,
    evaluator: Evaluator,
    doors: dict[str, MeteredTarget],
    networks: dict[str, Network],
    zero_shot: ZeroShotHead | None,
) -> TaskEvaluation:
    """Evaluate all encoders on one task; the evaluator's cache keeps features and predictions."""
    inputs = dict[str, HeadInput]()
    for name, door in doors.items():
        train, test = ask_about_task(door, task)
        inputs[name] = HeadInput(door.identity, train, test)
    for name, network in networks.items():
        train = evaluator.features(network.identity, task.train, network.compute)
        test = evaluator.features(network.identity, task.test, network.compute)
        inputs[name] = HeadInput(network.identity, train, test)
    # Pixels are computed sooner than they are read from a cache.
    identity = f"pixels/{code_of(controls.pixels)}"
    inputs["pixels"] = HeadInput(identity, controls.pixels(task.train), controls.pixels(task.test))
    resampled = dict[str, HeadInput]()
    for name, number in PAIRED:
        resampled[f"{name}/{number}"] = replace(inputs[name], sample=number)
    predictions = evaluator.predictions(task, inputs | resampled)
    if zero_shot is not None:
        found = zero_shot.predictions(task, evaluator, inputs)
        # A head that is not trained is the same on each sample of the training split.
        found |= {f"{name}/{number}": found[name] for name, number in PAIRED}
        for name, one in found.items():
            predictions.setdefault(name, {})[ZERO_SHOT] = one

    held_labels = evaluator.rows(task, inputs["TA"]).held[1].numpy()
    figures = dict[str, Any](role=task.role)
    right = Outcomes()
    predicted = dict[str, NDArray[Any]]()
    for head in predictions["TA"]:
        correct = Outcomes()
        for name in (*inputs, MAJORITY):
            if head not in predictions.get(name, {}):
                continue
            correct[name] = predictions[name][head].test == task.test.targets()
            correct[name + HELD] = predictions[name][head].held == held_labels
        for name, rows in correct.items():
            right[f"{task.name}/{head}/{name}"] = rows
        for name in ("TA", "SA"):
            predicted[f"predicted/{head}/{name}"] = predictions[name][head].test
        first, second, copied = [predictions[name][head].test for name in resampled]
        figures[head] = {
            **summarise([correct], resamples=evaluator.protocol.resamples),
            "agreement": float((first == copied).mean()),
            "agreement_ceiling": float((first == second).mean()),
        }
    target = inputs.get("TA_clean", inputs["TA"])  # a remote target has no `TA_clean`
    return TaskEvaluation(
        figures,
        right,
        predicted,
        target_MD=target.test_MD,
        surrogate_MD=inputs["SA"].test_MD,
    )
