"""Attacks compared at equal queries: every attack, budget and seed in; claims out.

    python benchmarks/attacks.py                              measures every cell that is missing
    python benchmarks/attacks.py --shard 0/2                  the first of two processes
    python benchmarks/attacks.py --only rda,best --seeds 0 --budgets 2500
    python benchmarks/attacks.py --list                       shows what is missing

The cells that say most come first: seed 0 at 2,500 queries, seed 0 at other budgets, other seeds.
After each cell its claim is written to `results/leaderboard`, one file for an attack and a budget.
A cell is done if its claim holds its seed. So the command can be stopped at any time: the same
command goes on, and the run that was stopped resumes in its work folder. Two shards never write the
same file.

Any override of train.py may follow; it holds for every cell. Needs `STEALING_DATA`. The first cell
took 15 minutes of one core, and the second, which found stored features, 7. `python -m
stealing.report leaderboard results/leaderboard` makes the tables.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import initialize_config_dir

from stealing.artefacts import read_sealed
from stealing.config import compose_config
from stealing.errors import StealingError
from stealing.pipeline import run
from stealing.report.claims import Claim, claim_path, make_claim, write_claim
from stealing.report.run_files import FinishedRun

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results" / "leaderboard"

CURVES = ("best", "stolen_encoder", "conventional", "rda", "cont_steal")
"""Attacks that are measured at every budget, if this version has them."""

BUDGETS = (2500, 1000, 5000, 500)
"""Queries, in the order of their value; the others are measured at the first alone."""

SEEDS = (0, 1, 2)

PUBLISHED = "_paper"
"""End of the names of published recipes: other networks, hours on a CPU, and far more queries."""


@dataclass(frozen=True)
class AttackCell:
    """One run of the comparison.

    Attributes:
        attack: name of its preset.
        budget: queries that it may send.
        seed: of the run.
    """

    attack: str
    budget: int
    seed: int

    @property
    def overrides(self) -> list[str]:
        """Return those of train.py."""
        choices = [f"attack={self.attack}", f"budget=b{self.budget}", f"seed={self.seed}"]
        return ["experiment=cifar10_frontier", *choices]


def attacks() -> list[str]:
    """Return the attacks that can be compared at equal queries, those with curves first."""
    others = []
    for path in sorted((ROOT / "conf" / "attack").glob("*.yaml")):
        if not path.stem.endswith(PUBLISHED):
            others.append(path.stem)
    curves = [attack for attack in CURVES if attack in others]
    return [*curves, *(attack for attack in others if attack not in curves)]


def cells() -> list[AttackCell]:
    """Return all cells in the order in which they are measured."""
    ordered = []
    for seed in SEEDS:
        for budget in BUDGETS:
            for attack in attacks():
                if attack in CURVES or budget == BUDGETS[0]:
                    ordered.append(AttackCell(attack, budget, seed))
    return ordered


def of_shard(some: Sequence[AttackCell], number: int, count: int) -> list[AttackCell]:
    """Return the cells of one of several processes: all seeds of a claim are of the same one."""
    # Counted over all cells, so that the options of a command move no claim to another shard.
    claims = list(dict.fromkeys((cell.attack, cell.budget) for cell in cells()))
    mine = claims[number::count]
    return [cell for cell in some if (cell.attack, cell.budget) in mine]


def earlier_claim(cell: AttackCell, folder: Path) -> Claim | None:
    """Return the claim that holds other seeds of a cell, or None."""
    path = claim_path(folder, cell.attack, cell.budget)
    return read_sealed(path) if path.exists() else None


def is_done(cell: AttackCell, folder: Path) -> bool:
    """Return whether a claim holds this cell."""
    claim = earlier_claim(cell, folder)
    return claim is not None and str(cell.seed) in claim["seeds"]


def measure(cell: AttackCell, overrides: Sequence[str], folder: Path) -> Path:
    """Run one cell, resume it, or read it if it is finished; write its claim."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        run_folder = run(*compose_config("train", [*cell.overrides, *overrides]))
    # None is the result of a plan alone, which these overrides do not ask for.
    assert run_folder is not None
    earlier = earlier_claim(cell, folder)
    seeds = {str(cell.seed), *(earlier["seeds"] if earlier else ())}
    words = [*cell.overrides[:-1], f"seed={','.join(sorted(seeds))}", *overrides]
    command = f"python train.py -m {' '.join(words)}"
    claim = make_claim([FinishedRun.read(run_folder)], command, earlier)
    return write_claim(claim, folder)


def names(text: str) -> list[str]:
    """Read `rda,best`."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """Read `500,1000`."""
    return list(map(int, text.split(",")))


def shard(text: str) -> tuple[int, int]:
    """Read `0/4`: the first of four."""
    number, count = map(int, text.split("/"))
    if not 0 <= number < count:
        raise ValueError
    return number, count


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shard", type=shard, default=(0, 1), help="which process, such as 0/4")
    parser.add_argument("--only", type=names, help="attacks; without it, all")
    parser.add_argument("--budgets", type=numbers, default=list(BUDGETS), help="such as 500,2500")
    parser.add_argument("--seeds", type=numbers, default=list(SEEDS), help="such as 0,1")
    parser.add_argument("--most", type=int, help="cells to measure now; without it, all")
    parser.add_argument("--list", action="store_true", help="show what is missing, and stop")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the claims")
    parser.add_argument("overrides", nargs="*", help="of train.py, for every cell")
    return parser.parse_args(words)


def missing(options: argparse.Namespace) -> list[AttackCell]:
    """Return the cells that a command asks for and that no claim holds."""
    asked = []
    for cell in of_shard(cells(), *options.shard):
        is_named = options.only is None or cell.attack in options.only
        is_chosen = cell.budget in options.budgets and cell.seed in options.seeds
        if is_named and is_chosen and not is_done(cell, options.out):
            asked.append(cell)
    return asked


def main() -> None:
    """Measure what is missing."""
    options = parsed()
    unknown = sorted(set(options.only or ()) - set(attacks()))
    if unknown:
        sys.exit(f"There is no attack {unknown[0]} to compare: choose from {', '.join(attacks())}.")
    failed = 0
    todo = missing(options)
    for place, cell in enumerate(todo[: options.most], 1):
        print(f"{place} of {len(todo)}: {' '.join(cell.overrides)}", flush=True)
        if options.list:
            continue
        try:
            print(f"Written: {measure(cell, options.overrides, options.out)}", flush=True)
        # The other cells have their turn; the exit code says that one failed.
        except StealingError as error:
            print(f"{cell}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed += 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
