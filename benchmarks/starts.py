"""Measure how much an attacker gains by the target's initial weights.

    python benchmarks/starts.py                        stored targets, on a CPU
    python benchmarks/starts.py --strong trainer=gpu   also a ResNet-18 of 30 epochs, on a GPU

Until 2026-11-26, surrogate and target began with the same numbers if the seeds of run and target
were equal. Each cell is measured twice: with the surrogate's own start (`start=own`, the default
now), and with the target's (`start=target`, as with equal seeds then). Queries, views and compute
are the same. There are three seeds and several targets.

Needs `STEALING_DATA`. Writes results/independent_starts: a file a cell, and table.txt.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from hydra import initialize_config_dir

from stealing.artefacts import write_atomically
from stealing.config import compose_config
from stealing.errors import StealingError
from stealing.pipeline import run
from stealing.report.mixing import check_unmixed, code_note, mixture

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "independent_starts"
SEEDS = (0, 1, 2)
STARTS = ("own", "target")
TARGETS = {
    "short": ["target=file", "target.path=assets/cifar10_narrow_short/encoder.safetensors"],
    "zoo": ["target=zoo"],
}
"""The stored targets: SimCLR for 5 and for 30 epochs."""

STRONG = {
    "resnet18": [
        "target=pretrained",
        "arch@target_arch=resnet18",
        "arch=resnet18",
        "pretrain.batch_size=512",
        "pretrain.epochs=30",
    ]
}
"""A target that takes a GPU."""

HEADS = ("linear", "knn")

OF_WORK_FOLDER = ("artefacts", "files")
"""Parts of a result that name files of the work folder."""


def measured(overrides: list[str]) -> dict[str, Any]:
    """Return the result of one cell."""
    base = ["experiment=cifar10_frontier", "defense=[none]"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        folder = run(*compose_config("train", [*base, *overrides]))
    assert folder is not None
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    for name in OF_WORK_FOLDER:
        del result[name]
    return result


def table() -> str:
    """Return the measured cells as text: SA by target, task, head and start, and the difference.

    Each target has a table of its own, as another target may be measured on another device.

    Raises:
        DataError: the cells of a target were made on several devices or in several precisions.
    """
    cells = {path.stem: json.loads(path.read_text()) for path in sorted(OUT.glob("*.json"))}
    lines = [
        "SA of each seed from a start of its own and from the target's own initial weights, and the"
        " paired",
        "difference in points (mean, and standard deviation over seeds).",
    ]
    for target in dict.fromkeys(name.split("_")[0] for name in cells):
        pairs = dict[str, Any]()
        for seed in SEEDS:
            own = f"{target}_own_s{seed}"
            same = f"{target}_target_s{seed}"
            if own in cells and same in cells:  # the difference is paired by seed
                pairs |= {own: cells[own], same: cells[same]}
        if pairs:
            lines += _table_of(target, pairs)
    return "\n".join(lines) + "\n"


def _table_of(target: str, pairs: dict[str, Any]) -> list[str]:
    """Return the lines of one target.

    Args:
        target: its name.
        pairs: its cells by name, of each seed that has both starts: first one, then the other.
    """
    check_unmixed(pairs)
    tasks = [cell["tasks"] for cell in pairs.values()]
    results = list(pairs.values())
    lines = [
        "",
        f"{'target':9} {'task':20} {'head':7} {'TA':6} {'own':21} {'target':21} difference",
        *_rows(target, tasks[::2], tasks[1::2]),
    ]
    return [*lines, *filter(None, (mixture(results), code_note({target: results})))]


def _rows(target: str, own_cells: list[Any], same_cells: list[Any]) -> Iterator[str]:
    """Give the rows of one target from the tasks of each seed."""
    for task, head in product(own_cells[0], HEADS):
        own = [tasks[task][head]["SA"] for tasks in own_cells]
        same = [tasks[task][head]["SA"] for tasks in same_cells]
        points = [100 * (other - one) for one, other in zip(own, same, strict=True)]
        spread = f" +- {stdev(points):.1f}" if len(points) > 1 else ""
        ta = own_cells[0][task][head]["TA"]
        place = f"{target:9} {task:20} {head:7} {ta:.3f}"
        yield f"{place}  {_numbers(own)} {_numbers(same)} {fmean(points):+.1f}{spread}"


def _numbers(values: list[float]) -> str:
    text = " ".join(f"{value:.3f}" for value in values)
    return f"{text:21}"


def main() -> None:
    """Measure what is missing, then show everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--strong", action="store_true", help="also a ResNet-18 that is trained here"
    )
    parser.add_argument("--only", choices=[*TARGETS, *STRONG], help="one target")
    parser.add_argument("--seed", type=int, choices=SEEDS, help="one seed")
    parser.add_argument("overrides", nargs="*", help="of train.py, for every cell")
    typed = parser.parse_args()
    targets = TARGETS | (STRONG if typed.strong or typed.only in STRONG else {})
    failed = 0
    for seed, (name, overrides), start in product(SEEDS, targets.items(), STARTS):
        path = OUT / f"{name}_{start}_s{seed}.json"
        if path.exists() or typed.only not in (None, name) or typed.seed not in (None, seed):
            continue
        print(f"{name}, start={start}, seed={seed}", flush=True)
        try:
            result = measured([*overrides, f"start={start}", f"seed={seed}", *typed.overrides])
        except StealingError as error:
            print(f"{path.stem}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        write_atomically(path, json.dumps(result, indent=1).encode())
    try:
        text = table()
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    write_atomically(OUT / "table.txt", text.encode())
    print((OUT / "table.txt").read_text())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
