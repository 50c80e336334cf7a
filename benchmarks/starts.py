"""How much it helps an attacker to start from the target's own initial weights.

    python benchmarks/starts.py                           stored targets, on a CPU
    python benchmarks/starts.py --strong trainer=gpu      a ResNet-18 trained for 30 epochs as well, on a GPU

Until 2026-11-26 `seed=0` of a run and of a target meant that surrogate and target began with the same
numbers. Each cell is measured twice: with a start of the surrogate's own (`start=own`, the default
now), and with the target's (`start=target`, which every seed of the old code that was equal to the
target's gave). Same queries, same views, same compute; three seeds; several targets.

Needs `STEALING_DATA`. Writes results/independent_starts: a file a cell, and table.txt.
"""

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from hydra import initialize_config_dir

from stealing.artefacts import write_whole
from stealing.config import composed
from stealing.errors import StealingError
from stealing.pipeline import run

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


def measured(overrides: list[str]) -> dict[str, Any]:
    """Return the result of one cell."""
    base = ["experiment=cifar10_frontier", "defense=[none]"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        folder = run(*composed("train", [*base, *overrides]))
    assert folder is not None
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return {name: of for name, of in found.items() if name not in ("artefacts", "files")}  # of a work folder


def table() -> str:
    """Return all cells that are there as text: SA by target, task, head and start, and the paired difference."""
    cells = {path.stem: json.loads(path.read_text()) for path in sorted(OUT.glob("*.json"))}
    lines = [
        "SA of each seed from a start of its own and from the target's own initial weights, and the paired",
        "difference in points (mean, and standard deviation over seeds).",
        "",
        f"{'target':9} {'task':20} {'head':7} {'TA':6} {'own':21} {'target':21} difference",
    ]
    for target in dict.fromkeys(name.split("_")[0] for name in cells):
        known = [seed for seed in SEEDS if all(f"{target}_{start}_s{seed}" in cells for start in STARTS)]
        if not known:
            continue
        results = {start: [cells[f"{target}_{start}_s{seed}"]["tasks"] for seed in known] for start in STARTS}
        for task, head in product(results["own"][0], HEADS):
            own = [tasks[task][head]["SA"] for tasks in results["own"]]
            same = [tasks[task][head]["SA"] for tasks in results["target"]]
            points = [100 * (other - one) for one, other in zip(own, same, strict=True)]
            spread = f" +- {stdev(points):.1f}" if len(points) > 1 else ""
            ta = results["own"][0][task][head]["TA"]
            lines.append(
                f"{target:9} {task:20} {head:7} {ta:.3f}  {_numbers(own)} {_numbers(same)} {fmean(points):+.1f}{spread}"
            )
    return "\n".join(lines) + "\n"


def _numbers(values: list[float]) -> str:
    return f"{' '.join(f'{value:.3f}' for value in values):21}"


def main() -> None:
    """Measure what is missing, then show everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strong", action="store_true", help="also a ResNet-18 that is trained here")
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
        write_whole(path, json.dumps(result, indent=1).encode())
    write_whole(OUT / "table.txt", table().encode())
    print((OUT / "table.txt").read_text())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
