"""Tune the SimCLR control as the attack was tuned: 16 trials, on the same slices of train.

    python benchmarks/control_tuning.py                 on a CPU
    python benchmarks/control_tuning.py trainer=gpu     on a GPU: about 5 minutes on an H100

The control of `attack=stolen_encoder` is SimCLR on its 2,500 query images with as many images
pushed through the network. A trial is judged as the attack's were, on slices of CIFAR-10's training
split (`data=cifar10_tune`), by the mean accuracy of the linear probe and kNN. No target is asked,
and no test split is read. Settings are searched one after the other, each from the best so far:
optimizer and rate (6 trials), temperature (3), views (4), batch size at equal compute (3).

Needs `STEALING_DATA`. Writes results/control_tuning/{table.txt,result.json};
conf/control/simclr.yaml holds the winner.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from stealing.artefacts import WORK, write_atomically
from stealing.config import instantiate_node, to_dict
from stealing.data.images import Images
from stealing.encoders import Encoder
from stealing.evaluation.features import encode_all
from stealing.evaluation.protocol import Evaluator, HeadInput
from stealing.preflight import RunData, control_steps, open_run_data
from stealing.pretraining.pretrain import pretrain_encoder
from stealing.provenance import provenance
from stealing.queries.selection import select
from stealing.training.fit import Recorder, Settings, device_of

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "control_tuning"
BASE = [
    "experiment=cifar10_tune",
    "target=zoo",
    "logger=csv",
    "control.temperature=0.2",
    "control.batch_size=256",
]
"""The attack's own tuning, from the recipe of `pretrain=simclr`.

A run needs a target, which is never asked here.
"""

SGD = (
    "control.optimizer._target_=torch.optim.SGD",
    "+control.optimizer.momentum=0.9",
    "+control.optimizer.nesterov=true",
)
ADAMW = ("control.optimizer._target_=torch.optim.AdamW",)


def optimizer(name: Sequence[str], rate: float, decay: float) -> list[str]:
    """Return the overrides of an optimizer."""
    return [*name, f"control.optimizer.lr={rate}", f"control.optimizer.weight_decay={decay}"]


def views(least: float, strength: float) -> list[str]:
    """Return the overrides of views: least share of the area, and SimCLR's strength of colours."""
    colours = [0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength]
    return [f"control.views.crop=[{least},1.0]", f"control.views.jitter={colours}".replace(" ", "")]


STAGES = [
    [
        optimizer(SGD, 0.1, 1e-4),
        optimizer(SGD, 0.4, 1e-4),
        optimizer(SGD, 0.8, 1e-4),
        optimizer(ADAMW, 1e-3, 0.01),
        optimizer(ADAMW, 4e-3, 0.01),
        optimizer(ADAMW, 8e-3, 0.01),
    ],
    [[f"control.temperature={value}"] for value in (0.1, 0.3, 0.5)],
    [views(0.08, 0.5), views(0.4, 0.5), views(0.2, 0.25), views(0.2, 1.0)],
    [[f"control.batch_size={size}"] for size in (64, 128, 512)],
]
"""What is tried at each stage beside what the stages before have chosen: 16 trials in all."""


def composed(overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of one trial."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[*BASE, *overrides])


def score(config: DictConfig, scene: RunData, queries: Images) -> dict[str, float]:
    """Train the control of this configuration and return its accuracies on the slice, by head."""
    settings: Settings = instantiate_node(config.trainer)
    encoder, _, _ = pretrain_encoder(
        queries,
        to_dict(config.arch),
        to_dict(config.control),
        owner="control",
        name="control",
        steps=control_steps(config),
        seed=config.seed,
        root=WORK / "surrogates",
        settings=settings,
        recorder=Recorder(),
        monitored=False,
    )
    return accuracies(encoder, config, scene, device_of(settings.accelerator))


def accuracies(
    encoder: Encoder, config: DictConfig, scene: RunData, device: str
) -> dict[str, float]:
    """Return the accuracies of an encoder on the slice, by head: means over the tasks."""
    encoder.to(device)
    judge = Evaluator(instantiate_node(config.probe), Path(config.paths.cache), device)

    def features(images: Images) -> Tensor:
        return encode_all(encoder, images)

    by_head: dict[str, list[float]] = {}
    for task in scene.tasks:
        train = judge.features(encoder.fingerprint, task.train, features)
        test = judge.features(encoder.fingerprint, task.test, features)
        given = HeadInput(encoder.fingerprint, train, test)
        predicted = judge.predictions(task, {"it": given})["it"]
        for head, predictions in predicted.items():
            is_right = predictions.test == task.test.targets()
            by_head.setdefault(head, []).append(float(is_right.mean()))
    return {head: fmean(values) for head, values in by_head.items()}


def table(trials: Sequence[dict[str, Any]]) -> str:
    """Return the trials as text, in the order in which they were made."""
    lines = ["stage  linear  knn    mean   settings"]
    for trial in trials:
        mark = "*" if trial["chosen"] else " "
        heads = trial["accuracy"]
        settings = [part for part in trial["overrides"] if not part.startswith("~")]
        figures = f"{heads['linear']:.4f}  {heads['knn']:.4f} {trial['mean']:.4f}"
        lines.append(f"{trial['stage']}{mark}     {figures}  {' '.join(settings) or 'as before'}")
    lines.append("* the best so far when its stage ended; later stages build on it")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Search stage by stage; write all trials."""
    typed = sys.argv[1:]
    first = composed(typed)
    settings: Settings = instantiate_node(first.trainer)
    torch.set_num_threads(settings.threads)
    scene = open_run_data(first)
    excluded = set[bytes]()
    for digests in scene.digests.values():
        excluded.update(digests)
    queries = select(scene.queries, int(first.budget.images), int(first.seed), excluded)
    best: list[str] = []
    highest = -1.0
    trials: list[dict[str, Any]] = []
    for number, stage in enumerate(STAGES, 1):
        stage_best = None
        for overrides in stage:
            accuracy = score(composed([*typed, *best, *overrides]), scene, queries)
            mean = fmean(accuracy.values())
            trial = {
                "stage": number,
                "overrides": overrides,
                "accuracy": accuracy,
                "mean": mean,
                "chosen": False,
            }
            trials.append(trial)
            print(f"stage {number}: {mean:.4f} {' '.join(overrides)}", flush=True)
            # against the best of all stages: a stage may make nothing better
            if mean > highest:
                highest = mean
                stage_best = trial
        if stage_best is not None:
            stage_best["chosen"] = True
            best += stage_best["overrides"]
    result = {
        "chosen": best,
        "mean": highest,
        "trials": trials,
        "data": scene.checksums(),
        "seed": int(first.seed),
        "precision": settings.precision,
        **provenance(settings.threads, 1),
    }
    write_atomically(OUT / "result.json", json.dumps(result, indent=1).encode())
    write_atomically(OUT / "table.txt", table(trials).encode())
    print(table(trials))


if __name__ == "__main__":
    main()
