"""Measure how well a guard separates attackers from honest users: images in, ROC and coverage out.

    python benchmarks/detection.py
    python benchmarks/detection.py --encoder my/encoder.safetensors --out my/guard
    python benchmarks/detection.py --table

It needs STEALING_DATA, and one to two minutes on two cores of an AMD EPYC. The second command makes
the reference of another encoder, for defense.guard.reference. The third writes
`table.txt` again from `result.json`, without data.

Honest accounts ask about one task each: all of CIFAR-10, two or five of its classes, MNIST, drawn
textures, all or fifty of the classes of Tiny ImageNet that no attacker asks about. Each has as many
images as the longest look, so that the same kinds of users are compared after each number of
images. Half of the images make the reference. The other half is compared with attackers:
StolenEncoder's queries; the same from four accounts; each image with three near copies, one after
the other or in the order of `plan=averaging`; and, the hard case, CIFAR-10 itself.

It writes `honest.safetensors`, the reference that `defense=guard` needs for its encoder, beside
`table.txt` and `result.json`. For the stored target these are in `assets/cifar10_narrow` and
`results/detection`.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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

from stealing.artefacts import write_atomically
from stealing.config import instantiate_node
from stealing.data.images import Images
from stealing.data.sampling import BatchRandom, generator
from stealing.data.views import Views
from stealing.defenses.guard import SIGNALS, HonestTraffic, Watch
from stealing.defenses.keyed import Secret
from stealing.encoders import Encoder, load_encoder
from stealing.evaluation.features import encode
from stealing.preflight import open_run_data
from stealing.provenance import provenance

ROOT = Path(__file__).parents[1]

SIZES = (100, 250, 500, 1000, 2500, 4000)
"""Images of one account after which it is judged."""

BUDGETS = (250, 1000, 2500)
"""Queries of an attack, over all its accounts."""

POOLS = {"cifar10": 50_000, "tiny_other_classes": 25_000, "mnist": 12_000, "shapes_texture": 12_000}
"""Images of each task, for both halves."""

NARROWED = {"cifar10": (2, 5), "tiny_other_classes": (50,)}
"""Classes that the narrower users of a task ask about."""

COLUMNS = (*SIGNALS, "greatest")
COPIED = 1250
"""Images that are asked about with near copies."""

COPIES = 3
STOLEN = 10_000
"""Images that an attacker may ask about."""

ACCOUNTS = 16
"""Accounts of each kind."""

CLOSENESS = 0.95
FLOOR = 0.05
"""Least deviation of an honest signal, as a share of its mean: unseen tasks differ by more."""

FOUR = "one of four accounts"

Rows = np.ndarray[Any, Any]
BySize = dict[int, Rows]
"""Signals (accounts, 3) after each number of images."""

Order = Callable[[], Rows]
"""Draws the order in which one account asks about its rows."""


@dataclass(frozen=True)
class Traffic:
    """What accounts ask about: features by kind of account.

    Attributes:
        reference: of honest users, on one half of the images.
        honest: of honest users, on the other half.
        attackers: of attackers.
        orders: by kind of account; a kind without an order asks at random.
    """

    reference: dict[str, Tensor]
    honest: dict[str, Tensor]
    attackers: dict[str, Tensor]
    orders: dict[str, Order]


def traffic(config: DictConfig, encoder: Encoder, rng: np.random.Generator) -> Traffic:
    """Return the features, under this encoder, of all images that anyone asks about."""
    data = open_run_data(config)
    pools = dict[str, tuple[Tensor, Rows]]()
    for task in data.tasks:
        part = task.train.part(rng.permutation(len(task.train)))
        pools[task.name] = (encode(encoder, part.batch(slice(None))), part.targets())
    queries = data.queries.part(rng.permutation(len(data.queries))[:STOLEN])
    asked = encode(encoder, queries.batch(slice(None)))
    near = with_copies(asked, queries, encoder, instantiate_node(config.plan).views)

    halves = [dict[str, Tensor](), dict[str, Tensor]()]
    for name, (rows, labels) in pools.items():
        for half, users in enumerate(halves):
            own_rows = rows[half::2]
            own_labels = labels[half::2]
            users[name] = own_rows
            for count in NARROWED.get(name, ()):
                classes = rng.permutation(np.unique(labels))[:count]
                is_chosen = torch.from_numpy(np.isin(own_labels, classes))
                users[f"{name} {count} classes"] = own_rows[is_chosen]
    attackers = {
        "stolen_encoder": asked,
        FOUR: asked,
        "near copies at once": near,
        "near copies, plan=averaging": near,
        "asks CIFAR-10": halves[1]["cifar10"],
    }

    def at_once() -> Rows:
        first = (1 + COPIES) * rng.permutation(COPIED)
        return (first[:, None] + np.arange(1 + COPIES)).ravel()

    def averaging() -> Rows:
        first = (1 + COPIES) * rng.permutation(COPIED)[: COPIED // 2]
        return (first + np.arange(1 + COPIES)[:, None]).ravel()

    orders = {"near copies at once": at_once, "near copies, plan=averaging": averaging}
    return Traffic(*halves, attackers, orders)


def with_copies(asked: Tensor, queries: Images, encoder: Encoder, views: Views) -> Tensor:
    """Return the features of the first images, each followed by those of its near copies."""
    pixels = queries.batch(slice(0, COPIED)).float() / 255
    parts = [asked[:COPIED]]
    for number in range(COPIES):
        random = BatchRandom(generator("copy", number), COPIED, slice(None))
        copies = (views(pixels, random) * 255).round().byte()
        parts.append(encode(encoder, copies))
    return torch.stack(parts, 1).flatten(0, 1)


def signals(rows: Tensor, order: Order, watching: Callable[[], Watch]) -> BySize:
    """Return the signals of accounts that ask about these rows, each in an order of its own."""
    by_size: dict[int, list[Rows]] = {}
    for _ in range(ACCOUNTS):
        places = torch.from_numpy(order())
        watch = watching()
        seen = 0
        for size in SIZES:
            if size > len(places):
                break
            by_size.setdefault(size, []).append(watch.see("x", rows[places[seen:size]]))
            seen = size
    return {size: np.stack(accounts) for size, accounts in by_size.items()}


def separation(honest: Rows, attackers: Rows) -> dict[str, dict[str, Any]]:
    """Return by signal, and for the greatest, how well scores (accounts, 3) find attackers."""
    scores = np.concatenate([honest, attackers])
    scores = np.concatenate([scores, scores.max(1, keepdims=True)], 1)
    labels = torch.tensor([0] * len(honest) + [1] * len(attackers))
    figures = dict[str, dict[str, Any]]()
    for place, signal in enumerate(COLUMNS):
        own = torch.from_numpy(scores[:, place])
        # torchmetrics wants [0, 1]: ranks are a monotone map into it, which changes no ROC
        ranks = own.argsort().argsort().double() / len(own)
        ranks = torch.stack([ranks[own == value].mean() for value in own])
        false, true, _ = binary_roc(ranks, labels)
        figures[signal] = {
            "auroc": float(binary_auroc(ranks, labels)),
            "at_5_percent": float(true[false <= 0.05].max()),
            "roc": [false.tolist(), true.tolist()] if signal == "greatest" else None,
        }
    return figures


def show(result: dict[str, Any], folder: Path) -> None:
    """Print both tables, and write them to `table.txt` in the folder."""
    table = Table(title="AUROC (and share of attackers found with 5 % of honest accounts)")
    for column in ("attacker", "images an account", *COLUMNS):
        table.add_column(column, no_wrap=True)
    for row in result["roc"]:
        cells = [
            f"{row[signal]['auroc']:.2f} ({row[signal]['at_5_percent']:.2f})" for signal in COLUMNS
        ]
        table.add_row(row["attacker"], str(row["images_an_account"]), *cells)
    covered = Table(title="coverage: share of 4,096 buckets after so many images of one account")
    for column in ("account", *map(str, SIZES)):
        covered.add_column(column, no_wrap=True)
    for name, shares in result["coverage"].items():
        cells = [f"{shares[size]:.3f}" if size in shares else "" for size in map(str, SIZES)]
        covered.add_row(name, *cells)
    with (folder / "table.txt").open("w") as text:
        for console in (Console(file=text, width=120), Console(width=120)):
            console.print(table)
            console.print(covered)


def stored_figures(folder: Path) -> dict[str, Any]:
    """Return the figures of a folder; those of earlier versions call an attacker a thief."""
    text = (folder / "result.json").read_text().replace('"thief', '"attacker')
    return dict(json.loads(text))


def parsed() -> argparse.Namespace:
    """Return what was typed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stored = ROOT / "assets" / "cifar10_narrow" / "encoder.safetensors"
    parser.add_argument("--encoder", type=Path, default=stored)
    parser.add_argument(
        "--out", type=Path, help="folder for the reference and the figures of another encoder"
    )
    parser.add_argument("--table", action="store_true", help="only write table.txt again")
    typed = parser.parse_args()
    if not typed.table and (typed.out is None) != (typed.encoder == stored):
        parser.error("another encoder needs a folder of its own: give --encoder and --out together")
    return typed


def whitened(reference: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean of the reference's features, and the map that whitens them."""
    features = torch.cat([part[:1000] for part in reference.values()])
    mean = features.mean(0)
    values, vectors = torch.linalg.eigh((features - mean).T.cov().double())
    # directions without variance would be scaled up without limit
    least = 1e-3 * float(values.max())
    return mean, (vectors * (values.clamp(min=least) ** -0.5)).float()


def normal(reference: dict[str, BySize]) -> tuple[Rows, Rows]:
    """Return mean and deviation of the honest signals by number of images, (sizes, 3) each."""
    centres = list[Rows]()
    spreads = list[Rows]()
    for size in SIZES:
        rows = np.concatenate([accounts[size] for accounts in reference.values()])
        centre = rows.mean(0)
        centres.append(centre)
        spreads.append(np.maximum(rows.std(0), np.maximum(FLOOR * centre, 1e-3)))
    return np.stack(centres), np.stack(spreads)


def roc_rows(
    honest: dict[str, BySize], attackers: dict[str, BySize], score: Callable[[int, Rows], Rows]
) -> list[dict[str, Any]]:
    """Return the separation of each kind of attacker from all honest users, after each budget."""
    rows = list[dict[str, Any]]()
    for name, by_size in attackers.items():
        for queries in BUDGETS:
            of_account = queries / 4 if name == FOUR else queries
            size = min(SIZES, key=lambda known: abs(known - of_account))
            users = np.concatenate([accounts[size] for accounts in honest.values()])
            good = np.stack([score(size, row) for row in users])
            bad = np.stack([score(size, row) for row in by_size[size]])
            row = {
                "attacker": name,
                "queries": queries,
                "images_an_account": size,
                "honest_accounts": len(good),
            }
            rows.append(row | separation(good, bad))
    return rows


def coverages(kinds: dict[str, dict[str, BySize]]) -> dict[str, dict[str, float]]:
    """Return the mean coverage, the first signal, by kind of account and number of images."""
    figures = dict[str, dict[str, float]]()
    for prefix, accounts in kinds.items():
        for name, by_size in accounts.items():
            means = {str(size): float(rows[:, 0].mean()) for size, rows in by_size.items()}
            figures[f"{prefix}: {name}"] = means
    return figures


def main() -> None:
    """Measure and write everything."""
    typed = parsed()
    folder = typed.out or ROOT / "results" / "detection"
    if typed.table:
        show(stored_figures(folder), folder)
        return
    torch.set_num_threads(2)
    # before anything is written: a changed file would look like a change of the code
    origin = provenance(2, 1)
    most = [f"data.tasks.{name}.train.count={count}" for name, count in POOLS.items()]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=["experiment=cifar10_cpu", *most])
    rng = np.random.default_rng(0)
    encoder, _ = load_encoder(typed.encoder)
    seen = traffic(config, encoder, rng)
    mean, whiten = whitened(seen.reference)

    def by_kind(kinds: dict[str, Tensor]) -> dict[str, BySize]:
        measured = dict[str, BySize]()
        for name, rows in kinds.items():
            order = seen.orders.get(name, partial(rng.permutation, len(rows)))
            watching = partial(Watch, mean, whiten, CLOSENESS, SIZES[-1], Secret(None))
            measured[name] = signals(rows, order, watching)
        return measured

    reference = by_kind(seen.reference)
    honest = by_kind(seen.honest)
    attackers = by_kind(seen.attackers)
    centre, spread = normal(reference)
    tensors = {
        "mean": mean,
        "whiten": whiten.contiguous(),
        "sizes": torch.tensor(SIZES, dtype=torch.float64),
        "centre": torch.from_numpy(centre),
        "spread": torch.from_numpy(spread),
    }
    file = (typed.out or typed.encoder.parent) / "honest.safetensors"
    write_atomically(file, save(tensors, {"encoder": encoder.fingerprint}))

    result = {
        "seed": 0,
        **origin,
        "sizes": SIZES,
        "roc": roc_rows(
            honest, attackers, HonestTraffic(np.array(SIZES, float), centre, spread).deviations
        ),
        "coverage": coverages({"honest": honest, "attacker": attackers}),
    }
    write_atomically(folder / "result.json", json.dumps(result, indent=1).encode())
    show(result, folder)


if __name__ == "__main__":
    main()
