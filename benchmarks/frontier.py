"""The frontier of defenses on real images: every cell of `conf/frontier.yaml` that is not in `results/frontier` yet.

    python benchmarks/frontier.py                           goes on where it was stopped; writes tables and a picture
    python benchmarks/frontier.py --most 5                  at most five more cells
    python benchmarks/frontier.py --shard 0/4 trainer=gpu   the first of four processes side by side; no tables

Any override of train.py may follow; it is of every cell. Needs `STEALING_DATA` and `pip install -e '.[report]'`. A cell
takes some ten minutes of one core of an AMD EPYC.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from stealing.artefacts import write_whole
from stealing.config import composed
from stealing.errors import StealingError
from stealing.pipeline import run
from stealing.report import frontier

ROOT = Path(__file__).parents[1]


def cells(chosen: Any) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Name, description and overrides of each."""
    for row in chosen.cells:
        plan = row.get("plan", "once")
        for strength, accounts, seed, images in product(
            row.get("strengths", [""]), row.get("accounts", [0]), row.get("seeds", [0]), row.get("images", [2500])
        ):
            settings = [f"defense.{part.removeprefix('defense.')}" for part in strength.split()]
            overrides = [f"defense={row.defense}", *settings, f"plan={plan}", f"seed={seed}", f"budget.images={images}"]
            overrides += [f"plan.accounts={accounts}"] if accounts else []
            named = plan + (f"-{accounts}" if accounts else "")
            short = " ".join(part.removeprefix("defense.").split(".", 1)[1] for part in settings)
            asked = f" q{images}" if images != 2500 else ""
            name = "_".join(f"{row.defense} {short} {named} s{seed}{asked}".translate(PLAIN).split())
            cell = {"defense": row.defense, "strength": short, "plan": named, "seed": seed, "images": images}
            yield name, cell, overrides


PLAIN = str.maketrans({"[": " ", "]": " ", ",": "+", "=": "-"})


def measured(overrides: list[str]) -> dict[str, Any]:
    """Return the result of one cell."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        folder = run(*composed("train", ["experiment=cifar10_frontier", *overrides]))
    assert folder is not None
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return {name: told for name, told in found.items() if name not in ("artefacts", "files")}  # of a work folder


def shard(text: str) -> tuple[int, int]:
    """Read `0/4`: the first of four."""
    number, count = map(int, text.split("/"))
    if not 0 <= number < count:
        raise ValueError
    return number, count


def parsed() -> argparse.Namespace:
    """Return what was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, help="cells to measure now; without it, all that are missing")
    parser.add_argument("--shard", type=shard, help="which of how many processes this is, such as 0/4")
    parser.add_argument("overrides", nargs="*", help="of train.py, for every cell")
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, then show everything."""
    typed = parsed()
    failed = 0
    folder = ROOT / "results" / "frontier"
    chosen = OmegaConf.load(ROOT / "conf" / "frontier.yaml")
    assert isinstance(chosen, DictConfig)
    all_cells = list(cells(chosen))
    number, count = typed.shard or (0, 1)
    missing = [cell for cell in all_cells[number::count] if not (folder / f"{cell[0]}.json").exists()]
    for place, (name, cell, overrides) in enumerate(islice(missing, typed.most), 1):
        print(f"{place} of {len(missing)}: {' '.join(overrides)}", flush=True)
        try:
            result = measured([*overrides, *typed.overrides])
        except StealingError as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        write_whole(folder / f"{name}.json", json.dumps({"cell": cell, **result}, indent=1).encode())
    if typed.shard is None:
        write_tables(folder, [name for name, _, _ in all_cells])
    sys.exit(1 if failed else 0)


def write_tables(folder: Path, names: list[str]) -> None:
    """Write tables and picture of all cells that are there, in their order."""
    files = [folder / f"{name}.json" for name in names if (folder / f"{name}.json").exists()]
    try:
        frontier.write([json.loads(path.read_text()) for path in files], folder)
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print((folder / "table.txt").read_text())


if __name__ == "__main__":
    main()
