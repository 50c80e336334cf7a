"""Finished runs that are made up, so that each way in which two can differ is there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from stealing.evaluation.protocol import CONTROLS
from stealing.evaluation.statistics import HELD, Outcomes, overall, summarise

M = 1000

TRAINED = {
    "steps": 6,
    "batch_size": 8,
    "images": 48,
    "preset_steps": 6,
    "levelled": True,
    "last_change": 0.0,
}


def finished_run(
    work: Path,
    group: str,
    accuracies: dict[str, tuple[float, float, float]],
    *,
    attack: str = "x",
    defense: str = "none",
    plan: str = "once",
    images: str = "one",
    protocol: str = "p",
    neighbours: int = 20,
    seed: int = 0,
    asked: int = 100,
    target: str = "t",
    roles: dict[str, str] | None = None,
    remote: bool = False,
    test: int | None = None,
    price: float = 0.0,
    strength: int | None = None,
    loss: float = 0.0,
) -> Path:
    """A finished run.

    Args:
        work: folder for it.
        group: of its seeds.
        accuracies: TA, SA and C of each task.
        attack, defense, plan, images, protocol, neighbours, seed, asked, target: in which it may
        differ from others.
        roles: of the tasks; own without it.
        remote: whether the undefended target is unknown.
        price: of a query.
        test: seed of a drawing of lots that takes the place of the test split's answers. The
        target stays ahead of the controls there, without which there is no share.
        strength: setting of the defense.
        loss: TA_clean - TA.
    """
    right, rows = Outcomes(), dict[str, Any]()
    costs = {"cost": 100 * price, "evaluation_cost": 453 * price}
    place = roles or dict.fromkeys(accuracies, "own")
    for task, (ta, sa, c) in accuracies.items():
        mine = {
            name: np.arange(M) < M * value
            for name, value in (("TA", ta - loss), ("TA_clean", ta), ("SA", sa))
        }
        mine |= {name: np.arange(M) < M * c for name in CONTROLS}
        if remote:
            del mine["TA_clean"]
        mine |= {name + HELD: column for name, column in mine.items()}
        if test is not None:
            rng = np.random.default_rng((test, len(right), *group.encode()))
            for name in mine:
                if not name.endswith(HELD):
                    least = 0.5 if name.startswith("TA") else 0.0
                    mine[name] = rng.random(M) < least + rng.random() / 2
        right |= {f"{task}/linear/{name}": column for name, column in mine.items()}
        alike = {"agreement": 0.5, "agreement_ceiling": 0.6}
        rows[task] = {"role": place[task], "linear": {**summarise([mine], resamples=50), **alike}}
    told = {
        "schema": 1,
        "choices": {},
        "target": target,
        "seed": seed,
        "group": group,
        "protocol_hash": protocol,
        "hardware": {"gpu": None, "cores": 2, "cpu": "x"},
        "artefacts": {},
        "files": {},
        "date": "today",
        "commit": "c",
        "versions": {"stealing": "0"},
        "data": {"a/train": images, "queries": images, "asked": group},
        "tasks": rows,
        "fidelity": {},
        "seconds": {"steal": 3.0},
        "cpu_seconds": {"steal": 2.0},
        "honest_user": 10,
        "queries": {
            "budget": 100,
            "spent": 100,
            "images": asked,
            "evaluation": 453,
            "in_doubt": 0,
            **costs,
        },
        "training": TRAINED,
        "overall": overall([right], place, 50),
        "defense": None if remote else {"name": defense, "milliseconds": 0.0, "bytes": 0},
    }
    folder = work / (f"{group}-s{seed}" if seed else group)
    folder.mkdir(parents=True)
    for name, content in (
        ("result.json", told),
        (
            "choices.json",
            {"data": "d", "target": "t", "attack": attack, "defense": defense, "plan": plan},
        ),
        ("done.json", {}),
    ):
        (folder / name).write_text(json.dumps(content))
    config = f"probe: {{neighbours: {neighbours}}}\ntarget: {{path: my.safetensors}}\n"
    config += "attack: {steps: 6}\n"
    if strength is not None:
        config += f"defense: {{{defense}: {{k: {strength}}}}}\n"
    (folder / "config.yaml").write_text(config)
    save_file(right, folder / "right.safetensors")
    return folder


def sample() -> dict[str, Any]:
    """What a run keeps for pictures."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (8, 3, 8, 8), np.uint8),
        "queries": rng.integers(0, 256, (12, 3, 8, 8), np.uint8),
        "labels": np.arange(8) % 3,
        "target": rng.random((8, 6), np.float32).astype(np.float16),
        "surrogate": rng.random((8, 5), np.float32).astype(np.float16),
        "predicted/linear/TA": np.arange(20) % 3,
        "predicted/linear/SA": np.arange(20) % 2,
    }
