"""Whether a guard tells thieves from customers, on real images with the stored target: signals, ROC, coverage.

    python benchmarks/detection.py      (two cores of an AMD EPYC: about 2 minutes; needs STEALING_DATA)

Honest accounts ask about one task each: all of CIFAR-10, two or five of its classes, MNIST, drawn textures, all or
fifty of the classes of Tiny ImageNet that no thief asks about; each has as many images as the longest look, so that the
same kinds of customers are looked at after each number of images. Half of the images make the reference, the other half
is told apart from thieves': StolenEncoder's queries, the same dealt to four accounts, each image with three near copies
one after the other or in the order of `plan=averaging`, and, the hard case, CIFAR-10 itself. Writes `results/detection`
and `assets/cifar10_narrow/honest.safetensors`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from safetensors.torch import save
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_roc

from stealing.artefacts import write_whole
from stealing.config import opened
from stealing.data.draws import Dice, generator
from stealing.data.images import Images
from stealing.defenses.guard import SIGNALS, Watch, standard
from stealing.defenses.keyed import Secret
from stealing.encoders import load_encoder
from stealing.evaluation.features import encode
from stealing.plan import open_scene
from stealing.provenance import provenance

ROOT = Path(__file__).parents[1]
SIZES = (100, 250, 500, 1000, 2500, 4000)
POOLS = {"cifar10": 50_000, "tiny_other_classes": 25_000, "mnist": 12_000, "shapes_texture": 12_000}
"""Images of each task, for both halves."""
COPIED = 1250
"""Images that are asked about with near copies."""
ACCOUNTS = 16
CLOSENESS = 0.95
FLOOR = 0.05
"""Least deviation of an honest signal, as a share of its mean: tasks that were not seen differ by more."""


def main() -> None:
    """Measure and write everything."""
    torch.set_num_threads(2)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        most = [f"data.tasks.{name}.train.count={count}" for name, count in POOLS.items()]
        config = compose("train", overrides=["experiment=cifar10_cpu", *most])
    scene = open_scene(config)
    encoder, _ = load_encoder(ROOT / config.target.path)
    rng = np.random.default_rng(0)
    tasks = {task.name: task for task in scene.tasks}

    def features(images: Images) -> tuple[Tensor, np.ndarray[Any, Any]]:
        part = images.part(rng.permutation(len(images)))
        return encode(encoder, part.batch(slice(None))), part.targets()

    pools = {name: features(task.train) for name, task in tasks.items()}
    stolen = scene.queries.part(rng.permutation(len(scene.queries))[:10_000])
    asked = encode(encoder, stolen.batch(slice(None)))
    views = opened(config.plan).views
    pictures = stolen.batch(slice(0, COPIED)).float() / 255
    copies = [(views(pictures, Dice(generator("copy", i), COPIED, slice(None))) * 255).round().byte() for i in range(3)]
    near = torch.stack([asked[:COPIED], *(encode(encoder, copy) for copy in copies)], 1).flatten(0, 1)

    halves = [dict[str, Tensor](), dict[str, Tensor]()]
    for name, (rows, labels) in pools.items():
        for half, where in enumerate((slice(0, None, 2), slice(1, None, 2))):
            halves[half][name] = rows[where]
            if name == "shapes_texture" or name == "mnist":
                continue
            classes = np.unique(labels)
            for count in (2, 5) if name == "cifar10" else (50,):
                chosen = np.isin(labels[where], rng.permutation(classes)[:count])
                halves[half][f"{name} {count} classes"] = rows[where][torch.from_numpy(chosen)]
    thieves = {"stolen_encoder": asked, "one of four accounts": asked, "near copies at once": near}
    thieves |= {"near copies, plan=averaging": near, "asks CIFAR-10": halves[1]["cifar10"]}

    def copies_at_once() -> np.ndarray[Any, Any]:
        return (4 * rng.permutation(COPIED)[:, None] + np.arange(4)).ravel()

    def copies_later() -> np.ndarray[Any, Any]:
        return (4 * rng.permutation(COPIED)[: COPIED // 2] + np.arange(4)[:, None]).ravel()

    orders = {"near copies at once": copies_at_once, "near copies, plan=averaging": copies_later}

    everything = torch.cat([part[:1000] for part in halves[0].values()])
    mean = everything.mean(0)
    values, vectors = torch.linalg.eigh((everything - mean).T.cov().double())
    whiten = (vectors * (values.clamp(min=1e-3 * float(values.max())) ** -0.5)).float()

    def watched(rows: Tensor, drawn: Callable[[], np.ndarray[Any, Any]]) -> Iterator[dict[int, np.ndarray[Any, Any]]]:
        """Signals by size, of accounts that ask about these rows in an order of their own."""
        for _ in range(ACCOUNTS):
            order = torch.from_numpy(drawn())
            watch, seen = Watch(mean, whiten, CLOSENESS, SIZES[-1], Secret(None)), 0
            found = {}
            for size in SIZES:
                if size > len(order):
                    break
                found[size] = watch.see("x", rows[order[seen:size]])
                seen = size
            yield found

    def by_size(rows: Tensor, name: str = "") -> dict[int, np.ndarray[Any, Any]]:
        table = list(watched(rows, orders.get(name, lambda: rng.permutation(len(rows)))))
        return {size: np.stack([found[size] for found in table]) for size in SIZES if size in table[0]}

    reference = [by_size(rows) for rows in halves[0].values()]
    honest = {name: by_size(rows) for name, rows in halves[1].items()}
    stealing = {name: by_size(rows, name) for name, rows in thieves.items()}
    pooled = [np.concatenate([found[size] for found in reference]) for size in SIZES]
    centre = np.stack([rows.mean(0) for rows in pooled])
    spread = np.stack([np.maximum(rows.std(0), np.maximum(FLOOR * rows.mean(0), 1e-3)) for rows in pooled])
    tensors = {"mean": mean, "whiten": whiten.contiguous(), "sizes": torch.tensor(SIZES, dtype=torch.float64)}
    tensors |= {"centre": torch.from_numpy(centre), "spread": torch.from_numpy(spread)}
    write_whole(ROOT / "assets" / "cifar10_narrow" / "honest.safetensors", save(tensors))

    score = standard(np.array(SIZES, float), centre, spread)
    result: dict[str, Any] = {"seed": 0, **provenance(2, 1), "sizes": SIZES, "roc": [], "coverage": {}}
    named = {f"honest: {name}": found for name, found in honest.items()}
    named |= {f"thief: {name}": found for name, found in stealing.items()}
    for name, found in named.items():
        result["coverage"][name] = {size: float(rows[:, 0].mean()) for size, rows in found.items()}
    table = Table(title="AUROC, and in brackets the share of thieves found at 5 % of honest accounts suspected")
    for column in ("thief", "images an account", *SIGNALS, "greatest"):
        table.add_column(column, no_wrap=True)
    for name, found in stealing.items():
        for size in (250, 1000, 2500):
            share = size / 4 if name == "one of four accounts" else size
            asked_each = min(SIZES, key=lambda each: abs(each - share))
            good = np.concatenate([rows[asked_each] for rows in honest.values()])
            bad = found[asked_each]
            both = np.stack([score(asked_each, row) for row in np.concatenate([good, bad])])
            both = np.concatenate([both, both.max(1, keepdims=True)], 1)
            labels = torch.tensor([0] * len(good) + [1] * len(bad))
            row = {"thief": name, "queries": size, "images_an_account": asked_each, "honest_accounts": len(good)}
            for place, signal in enumerate((*SIGNALS, "greatest")):
                given = torch.from_numpy(both[:, place])
                ranks = given.argsort().argsort().double() / len(given)  # a monotone map into [0, 1] changes no ROC
                ranks = torch.stack([ranks[given == value].mean() for value in given])
                false, true, _ = binary_roc(ranks, labels)
                row[signal] = {
                    "auroc": float(binary_auroc(ranks, labels)),
                    "at_5_percent": float(true[false <= 0.05].max()),
                }
                row[signal]["roc"] = [false.tolist(), true.tolist()] if signal == "greatest" else None
            result["roc"].append(row)
            cells = [f"{row[s]['auroc']:.2f} ({row[s]['at_5_percent']:.2f})" for s in (*SIGNALS, "greatest")]
            table.add_row(name, str(asked_each), *cells)
    covered = Table(title="coverage: share of 4,096 buckets after so many images of one account")
    for column in ("account", *map(str, SIZES)):
        covered.add_column(column, no_wrap=True)
    for name, shares in result["coverage"].items():
        covered.add_row(name, *(f"{shares[size]:.3f}" if size in shares else "" for size in SIZES))
    folder = ROOT / "results" / "detection"
    write_whole(folder / "result.json", json.dumps(result, indent=1).encode())
    with (folder / "table.txt").open("w") as file:
        for console in (Console(file=file, width=120), Console(width=120)):
            console.print(table)
            console.print(covered)


if __name__ == "__main__":
    main()
