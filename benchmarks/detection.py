"""Whether a guard tells thieves from customers, on real images with the stored target: signals, ROC, coverage.

    python benchmarks/detection.py      (two cores of an AMD EPYC: one to two minutes; needs STEALING_DATA)
    python benchmarks/detection.py --encoder my/encoder.safetensors --out my/guard      for defense.guard.reference

Honest accounts ask about one task each: all of CIFAR-10, two or five of its classes, MNIST, drawn textures, all or
fifty of the classes of Tiny ImageNet that no thief asks about; each has as many images as the longest look, so that the
same kinds of customers are looked at after each number of images. Half of the images make the reference, the other half
is told apart from thieves': StolenEncoder's queries, the same dealt to four accounts, each image with three near copies
one after the other or in the order of `plan=averaging`, and, the hard case, CIFAR-10 itself. Writes the reference that
`defense=guard` needs of its encoder, `honest.safetensors`, beside the table and `result.json`; of the stored target
these lie in `assets/cifar10_narrow` and `results/detection`.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
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
from stealing.encoders import Encoder, load_encoder
from stealing.evaluation.features import encode
from stealing.plan import open_scene
from stealing.provenance import provenance

ROOT = Path(__file__).parents[1]
SIZES = (100, 250, 500, 1000, 2500, 4000)
POOLS = {"cifar10": 50_000, "tiny_other_classes": 25_000, "mnist": 12_000, "shapes_texture": 12_000}
"""Images of each task, for both halves."""
NARROWED = {"cifar10": (2, 5), "tiny_other_classes": (50,)}
"""How many classes the narrower customers of a task ask about."""
COLUMNS = (*SIGNALS, "greatest")
COPIED = 1250
"""Images that are asked about with near copies."""
ACCOUNTS = 16
CLOSENESS = 0.95
FLOOR = 0.05
"""Least deviation of an honest signal, as a share of its mean: tasks that were not seen differ by more."""

Rows = np.ndarray[Any, Any]
BySize = dict[int, Rows]
"""Signals (accounts, 3) after each number of images."""


@dataclass(frozen=True)
class Traffic:
    """What accounts ask about: features by kind of account.

    Attributes:
        reference, honest: of customers, on two halves of the images.
        thieves: of those who steal.
        orders: in which an account of a kind asks about its rows; at random where nothing is said.
    """

    reference: dict[str, Tensor]
    honest: dict[str, Tensor]
    thieves: dict[str, Tensor]
    orders: dict[str, Callable[[], Rows]]


def traffic(config: DictConfig, encoder: Encoder, rng: np.random.Generator) -> Traffic:
    """The features, under this encoder, of all images that anyone asks about."""
    scene = open_scene(config)

    def features(images: Images) -> tuple[Tensor, Rows]:
        part = images.part(rng.permutation(len(images)))
        return encode(encoder, part.batch(slice(None))), part.targets()

    pools = {task.name: features(task.train) for task in scene.tasks}
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
            for count in NARROWED.get(name, ()):
                chosen = np.isin(labels[where], rng.permutation(np.unique(labels))[:count])
                halves[half][f"{name} {count} classes"] = rows[where][torch.from_numpy(chosen)]
    thieves = {"stolen_encoder": asked, "one of four accounts": asked, "near copies at once": near}
    thieves |= {"near copies, plan=averaging": near, "asks CIFAR-10": halves[1]["cifar10"]}
    orders = {
        "near copies at once": lambda: (4 * rng.permutation(COPIED)[:, None] + np.arange(4)).ravel(),
        "near copies, plan=averaging": lambda: (
            4 * rng.permutation(COPIED)[: COPIED // 2] + np.arange(4)[:, None]
        ).ravel(),
    }
    return Traffic(*halves, thieves, orders)


def signals(rows: Tensor, drawn: Callable[[], Rows], watching: Callable[[], Watch]) -> BySize:
    """Of accounts that ask about these rows, each in an order of its own, as it is drawn."""
    found: dict[int, list[Rows]] = {}
    for _ in range(ACCOUNTS):
        order, watch, seen = torch.from_numpy(drawn()), watching(), 0
        for size in SIZES:
            if size > len(order):
                break
            found.setdefault(size, []).append(watch.see("x", rows[order[seen:size]]))
            seen = size
    return {size: np.stack(each) for size, each in found.items()}


def told_apart(good: Rows, bad: Rows) -> dict[str, dict[str, Any]]:
    """By signal, and by the greatest of them, how well scores (accounts, 3) tell thieves from honest accounts."""
    both = np.concatenate([good, bad])
    both = np.concatenate([both, both.max(1, keepdims=True)], 1)
    labels, found = torch.tensor([0] * len(good) + [1] * len(bad)), {}
    for place, signal in enumerate(COLUMNS):
        given = torch.from_numpy(both[:, place])
        ranks = given.argsort().argsort().double() / len(given)  # a monotone map into [0, 1] changes no ROC
        ranks = torch.stack([ranks[given == value].mean() for value in given])
        false, true, _ = binary_roc(ranks, labels)
        found[signal] = {
            "auroc": float(binary_auroc(ranks, labels)),
            "at_5_percent": float(true[false <= 0.05].max()),
            "roc": [false.tolist(), true.tolist()] if signal == "greatest" else None,
        }
    return found


def show(result: dict[str, Any], console: Console) -> None:
    """Print both tables."""
    table = Table(title="AUROC, and in brackets the share of thieves found at 5 % of honest accounts suspected")
    for column in ("thief", "images an account", *COLUMNS):
        table.add_column(column, no_wrap=True)
    for row in result["roc"]:
        cells = [f"{row[signal]['auroc']:.2f} ({row[signal]['at_5_percent']:.2f})" for signal in COLUMNS]
        table.add_row(row["thief"], str(row["images_an_account"]), *cells)
    console.print(table)
    covered = Table(title="coverage: share of 4,096 buckets after so many images of one account")
    for column in ("account", *map(str, SIZES)):
        covered.add_column(column, no_wrap=True)
    for name, shares in result["coverage"].items():
        covered.add_row(name, *(f"{shares[size]:.3f}" if size in shares else "" for size in SIZES))
    console.print(covered)


def main() -> None:
    """Measure and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, default=ROOT / "assets" / "cifar10_narrow" / "encoder.safetensors")
    parser.add_argument("--out", type=Path, help="folder for the reference and the figures of another encoder")
    chosen = parser.parse_args()
    if (chosen.out is None) != (chosen.encoder == parser.get_default("encoder")):
        parser.error("another encoder's reference is to lie apart: give --encoder and --out together")
    torch.set_num_threads(2)
    origin = provenance(2, 1)  # before anything is written, which would look like a change of the code
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        most = [f"data.tasks.{name}.train.count={count}" for name, count in POOLS.items()]
        config = compose("train", overrides=["experiment=cifar10_cpu", *most])
    rng = np.random.default_rng(0)
    encoder, _ = load_encoder(chosen.encoder)
    seen = traffic(config, encoder, rng)
    everything = torch.cat([part[:1000] for part in seen.reference.values()])
    mean = everything.mean(0)
    values, vectors = torch.linalg.eigh((everything - mean).T.cov().double())
    whiten = (vectors * (values.clamp(min=1e-3 * float(values.max())) ** -0.5)).float()

    def by_size(name: str, rows: Tensor) -> BySize:
        drawn = seen.orders.get(name, lambda: rng.permutation(len(rows)))
        return signals(rows, drawn, lambda: Watch(mean, whiten, CLOSENESS, SIZES[-1], Secret(None)))

    reference, honest, stealing = (
        {name: by_size(name, rows) for name, rows in kinds.items()}
        for kinds in (seen.reference, seen.honest, seen.thieves)
    )
    pooled = [np.concatenate([found[size] for found in reference.values()]) for size in SIZES]
    centre = np.stack([rows.mean(0) for rows in pooled])
    spread = np.stack([np.maximum(rows.std(0), np.maximum(FLOOR * rows.mean(0), 1e-3)) for rows in pooled])
    tensors = {"mean": mean, "whiten": whiten.contiguous(), "sizes": torch.tensor(SIZES, dtype=torch.float64)}
    tensors |= {"centre": torch.from_numpy(centre), "spread": torch.from_numpy(spread)}
    write_whole(
        (chosen.out or chosen.encoder.parent) / "honest.safetensors", save(tensors, {"encoder": encoder.fingerprint})
    )

    score = standard(np.array(SIZES, float), centre, spread)
    named = {f"honest: {name}": found for name, found in honest.items()}
    named |= {f"thief: {name}": found for name, found in stealing.items()}
    coverage = {name: {size: float(rows[:, 0].mean()) for size, rows in found.items()} for name, found in named.items()}
    roc = []
    for name, found in stealing.items():
        for queries in (250, 1000, 2500):
            share = queries / 4 if name == "one of four accounts" else queries
            size = min(SIZES, key=lambda each: abs(each - share))
            customers = np.concatenate([rows[size] for rows in honest.values()])
            good, bad = (np.stack([score(size, row) for row in rows]) for rows in (customers, found[size]))
            said = {"thief": name, "queries": queries, "images_an_account": size, "honest_accounts": len(good)}
            roc.append(said | told_apart(good, bad))
    result = {"seed": 0, **origin, "sizes": SIZES, "roc": roc, "coverage": coverage}
    folder = chosen.out or ROOT / "results" / "detection"
    write_whole(folder / "result.json", json.dumps(result, indent=1).encode())
    with (folder / "table.txt").open("w") as file:
        show(result, Console(file=file, width=120))
    show(result, Console(width=120))


if __name__ == "__main__":
    main()
