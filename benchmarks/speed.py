"""Measure how near the limit of this machine each step runs: images a second, side by side.

    python benchmarks/speed.py --out results/speed/cpu.json      within 15 minutes on two cores
    python benchmarks/speed.py --only steal views
    python benchmarks/speed.py trainer=gpu        on a GPU, in bf16 and as CUDA graphs, too

Each row has three arms. `ours` is the real module under the real Trainer. `plain` is a simple
version as one writes it first: PIL views image by image in two workers, a loss image by image,
float32. `limit` is the same network and optimizer on images that lie in memory, with no views and
no loss beyond a mean; on a GPU it is the best of eager, compiled and graph. Arms are interleaved,
so that other work on the machine slows all of them. Figures are medians of the rounds.

`time_to_quality` has no arms: it is the seconds until our recipe's surrogate is as good as that of
the paper's recipe at its end.

Writes work/speed.json: a list of rows, and versions beside it; and the same as text, for the docs.
"""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from hydra import initialize_config_dir

from stealing.artefacts import write_atomically
from stealing.config import compose_config

ROOT = Path(__file__).parents[1]
OUT = Path(os.environ.get("STEALING_WORK", "work")) / "speed.json"
RATES = ("simclr", "steal", "steal_paper", "views", "probe", "door", "evaluate")
STEPS = (*RATES, "time_to_quality")

Arm = Callable[[], float]
"""Works for a while; returns images a second."""


def interleaved(arms: dict[str, Arm], rounds: int) -> dict[str, float]:
    """Return the median rate of each arm; the arms take turns."""
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            rates[name].append(arm())
    return {name: median(values) for name, values in rates.items()}


def row_of(step: str, device: str, precision: str, rates: dict[str, float]) -> dict[str, Any]:
    """Return a row of the table from the rates of its arms.

    The limit is the best of the arms whose name begins with `limit`.
    """
    limits = {name: rate for name, rate in rates.items() if name.startswith("limit")}
    # compiled code is shown on a CPU, and is no limit of what eager code could do there
    fair = {
        name: rate for name, rate in limits.items() if device != "cpu" or "compiled" not in name
    }
    limit = max(fair.values(), default=None)
    return {
        "step": step,
        "unit": "images/s",
        "device": device,
        "precision": precision,
        "ours": rates["ours"],
        "plain": rates.get("plain"),
        "limit": limit,
        "ratio": None if limit is None else rates["ours"] / limit,
        "arms": rates,
    }


def shown(rows: Iterable[dict[str, Any]]) -> str:
    """Return the rows as text: a table of rates, then a sentence for each time."""
    import speed_quality  # after --help: torch takes seconds to import

    sentences: list[str] = []
    lines = [
        f"{'step':12} {'device':7} {'precision':11} {'ours':>9} {'plain':>9} {'limit':>9} ratio"
    ]
    for row in rows:
        if row["unit"] == "seconds":
            sentences += ["", *textwrap.wrap(speed_quality.sentence(row), 100)]
            continue
        numbers = [
            "-" if row[name] is None else f"{row[name]:,.0f}" for name in ("ours", "plain", "limit")
        ]
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        place = f"{row['step']:12} {row['device']:7} {row['precision']:11}"
        lines.append(f"{place} {numbers[0]:>9} {numbers[1]:>9} {numbers[2]:>9} {ratio}")
    return "\n".join([*lines, *sentences]) + "\n"


def origin(facts: dict[str, Any]) -> str:
    """Return where and with what the rows were measured."""
    hardware = facts["hardware"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    place = hardware["gpu"] or hardware["cpu"]
    cores = f"{hardware['cores']} cores, {hardware['threads']} threads"
    return f"{place}, {cores}; {facts['date']}, {facts['commit']}; {versions}\n"


def measured(typed: argparse.Namespace, overrides: list[str]) -> list[dict[str, Any]]:
    """Return a row for each step and precision."""
    import speed_arms  # after --help: torch takes seconds to import

    rows: list[dict[str, Any]] = []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config, _ = compose_config("train", ["logger=csv", *overrides])
        for step in typed.only:
            if step == "time_to_quality":
                rows.append(quality_row(overrides, speed_arms.device_name(config)))
                print(*shown(rows[-1:]).splitlines()[1:], sep="\n", flush=True)
                continue
            for precision in speed_arms.precisions(step, config):
                arms = speed_arms.arms_of(
                    step, config, precision, typed.seconds, is_compiled=typed.compiled
                )
                rates = interleaved(arms, typed.rounds)
                rows.append(row_of(step, speed_arms.device_name(config), precision, rates))
                print(shown(rows[-1:]).splitlines()[1], flush=True)
    return rows


def quality_row(overrides: list[str], device: str) -> dict[str, Any]:
    """Return the row `time_to_quality`."""
    import speed_quality

    config, _ = compose_config("train", ["logger=csv", "target=zoo", *overrides])
    paper, _ = compose_config("train", ["attack=stolen_encoder_paper"])
    return speed_quality.measure(config, [paper.attack, config.attack], device)


def main() -> None:
    """Measure, store, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), help="some rows")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each arm")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one turn, about")
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="compile networks on a CPU too: minutes",
    )
    parser.add_argument("--out", type=Path, default=OUT, help="where the rows go")
    typed, overrides = parser.parse_known_args()
    sys.path.insert(0, str(ROOT / "benchmarks"))
    rows = measured(typed, overrides)
    import torch

    from stealing.provenance import provenance

    facts = {"rows": rows, **provenance(torch.get_num_threads(), 1)}
    text = shown(rows) + "\n" + origin(facts)
    write_atomically(typed.out, json.dumps(facts, indent=1).encode())
    write_atomically(typed.out.with_suffix(".txt"), text.encode())
    print(text)


if __name__ == "__main__":
    main()
