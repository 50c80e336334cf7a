"""The frontier of defenses on real images: cells of `conf/frontier.yaml` in; tables out.

    python benchmarks/frontier.py                           measures every cell that is not in
                                                            `results/frontier`, then writes tables
    python benchmarks/frontier.py --most 5                  at most five more cells
    python benchmarks/frontier.py --shard 0/4 trainer=gpu   the first of four processes; no tables

Any override of train.py may follow; it holds for every cell. Needs `STEALING_DATA` and
`pip install -e '.[report]'`. A cell takes some ten minutes of one core of an AMD EPYC.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from stealing.artefacts import write_atomically
from stealing.config import compose_config
from stealing.errors import StealingError
from stealing.pipeline import run
from stealing.report import frontier

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results" / "frontier"

FILE_NAME = str.maketrans({"[": " ", "]": " ", ",": "+", "=": "-"})
"""Signs of an override that no file name should have."""

IMAGES = 2500
"""Budget of a cell that names none."""


@dataclass(frozen=True)
class FrontierCell:
    """One cell of the frontier.

    Attributes:
        name: of its file.
        description: what the stored result says of it, as `cell`.
        overrides: of train.py.
    """

    name: str
    description: dict[str, Any]
    overrides: list[str]

    @property
    def path(self) -> Path:
        """Where its result is stored."""
        return FOLDER / f"{self.name}.json"


def cells(config: Any) -> Iterator[FrontierCell]:
    """Yield each cell of a configuration."""
    for row in config.cells:
        for strength, accounts, seed, images in product(
            row.get("strengths", [""]),
            row.get("accounts", [0]),
            row.get("seeds", [0]),
            row.get("images", [IMAGES]),
        ):
            yield _cell(row.defense, row.get("plan", "once"), strength, accounts, seed, images)


def _cell(
    defense: str, plan: str, strength: str, accounts: int, seed: int, images: int
) -> FrontierCell:
    overrides = [f"defense={defense}"]
    settings = []
    for part in strength.split():
        path = part.removeprefix("defense.")
        overrides.append(f"defense.{path}")
        # The first part of the path is the defense's own name.
        _, _, setting = path.partition(".")
        settings.append(setting)
    overrides += [f"plan={plan}", f"seed={seed}", f"budget.images={images}"]
    plan_name = plan
    if accounts:
        overrides.append(f"plan.accounts={accounts}")
        plan_name = f"{plan}-{accounts}"
    short = " ".join(settings)
    words = f"{defense} {short} {plan_name} s{seed}"
    if images != IMAGES:
        words += f" q{images}"
    name = "_".join(words.translate(FILE_NAME).split())
    description = {
        "defense": defense,
        "strength": short,
        "plan": plan_name,
        "seed": seed,
        "images": images,
    }
    return FrontierCell(name, description, overrides)


def measured(overrides: list[str]) -> dict[str, Any]:
    """Return the result of one cell."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        folder = run(*compose_config("train", ["experiment=cifar10_frontier", *overrides]))
    # None is the result of a plan alone, which these overrides do not ask for.
    assert folder is not None
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    # Both name places in a work folder, which a stored result has not.
    result.pop("artefacts")
    result.pop("files")
    return result


def shard(text: str) -> tuple[int, int]:
    """Read `0/4`: the first of four."""
    number, count = map(int, text.split("/"))
    if not 0 <= number < count:
        raise ValueError
    return number, count


def parsed() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--most", type=int, help="cells to measure now; without it, all that are missing"
    )
    parser.add_argument(
        "--shard", type=shard, help="which of how many processes this is, such as 0/4"
    )
    parser.add_argument("overrides", nargs="*", help="of train.py, for every cell")
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, then write tables of all that is there."""
    options = parsed()
    config = OmegaConf.load(ROOT / "conf" / "frontier.yaml")
    assert isinstance(config, DictConfig)
    all_cells = list(cells(config))
    number, count = options.shard or (0, 1)
    missing = [cell for cell in all_cells[number::count] if not cell.path.exists()]
    failed = 0
    for place, cell in enumerate(islice(missing, options.most), 1):
        print(f"{place} of {len(missing)}: {' '.join(cell.overrides)}", flush=True)
        try:
            result = measured([*cell.overrides, *options.overrides])
        # The other cells have their turn; the exit code says that one failed.
        except StealingError as error:
            print(f"{cell.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        content = json.dumps({"cell": cell.description, **result}, indent=1)
        write_atomically(cell.path, content.encode())
    if options.shard is None:
        write_tables(all_cells)
    sys.exit(1 if failed else 0)


def write_tables(all_cells: list[FrontierCell]) -> None:
    """Write tables and figure of the cells that are stored, in their order."""
    results = []
    for cell in all_cells:
        if cell.path.exists():
            results.append(json.loads(cell.path.read_text()))
    try:
        frontier.write(results, FOLDER)
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print((FOLDER / "table.txt").read_text())


if __name__ == "__main__":
    main()
