"""Tune the fair attacks alike: eight trials each, by the protocol of best_tuning.py.

    python benchmarks/attack_tuning.py rda cont_steal     these attacks
    python benchmarks/attack_tuning.py                    all of them
    python benchmarks/attack_tuning.py --table            the table of what is stored, and no trial

A trial uses another target than the one that results are about, slices of CIFAR-10's training
split, 2,500 queries, and the steps and the batch of the preset. It is judged by the mean accuracy
of the linear probe and kNN. Settings are searched one after the other, each from the best so far:
learning rate and weight decay (4 trials), what is the attack's own (2), views of the surrogate (2).
An attack with nothing of its own has four trials of views; one without views has more of the rate
and the decay. The first two, cont_steal and rda, had four rates and no decay; when the decay proved
to matter, cont_steal got two more trials. Each trial is stored at once, so that a command that was
stopped goes on. The winner belongs into conf/attack.

Needs `STEALING_DATA`. Writes results/attack_tuning: a file an attack, and table.txt.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from best_tuning import STRONGER, WEAKER, paced, tried
from control_tuning import table

from stealing.artefacts import write_atomically

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "attack_tuning"

Stage = Sequence[tuple[str, ...]]
"""Overrides that are tried beside what the stages before have chosen; none is the start."""

RATE = "attack.optimizer.lr=8e-3"
WITH_VIEWS = (
    RATE,
    "attack.pairing.views.crop=[0.6,1.0]",
    "attack.pairing.views.jitter=[0.1,0.1,0.1,0.02]",
)
"""Where a search begins: rate and views of stolen_encoder."""

OTHER_STARTS: dict[str, tuple[str, ...]] = {
    "conventional": (RATE,),
    "rda": (*WITH_VIEWS, "attack.loss.temperature=0.07"),
}
"""Where the search begins of an attack without views, and of one whose preset no longer has the
value of its source."""

RATES: Stage = (
    (),
    ("attack.optimizer.lr=2e-3",),
    ("attack.optimizer.lr=4e-3",),
    ("attack.optimizer.lr=1.6e-2",),
)
RATES_AND_DECAY: Stage = (
    (),
    ("attack.optimizer.lr=4e-3",),
    ("attack.optimizer.lr=1.6e-2",),
    paced("1.6e-2", "0.1"),
)
VIEWS: Stage = (STRONGER, WEAKER)
MORE_VIEWS: Stage = (
    *VIEWS,
    ("attack.pairing.views.crop=[0.3,1.0]",),
    ("attack.pairing.views.flip=0",),
)
MORE_RATES: Stage = (("attack.optimizer.lr=1e-3",), ("attack.optimizer.lr=3.2e-2",))
DECAYS: Stage = (
    ("attack.optimizer.weight_decay=0.1",),
    ("attack.optimizer.weight_decay=1.0",),
)
ADDED: Stage = (("attack.optimizer.weight_decay=0.1",), paced("1.6e-2", "0.1"))
TEMPERATURES: Stage = (("attack.loss.temperature=0.2",), ("attack.loss.temperature=0.5",))

STAGES: dict[str, tuple[Stage, ...]] = {
    "cont_steal": (RATES, TEMPERATURES, VIEWS, ADDED),
    "rda": (RATES, TEMPERATURES, VIEWS),
    "infonce": (RATES_AND_DECAY, TEMPERATURES, VIEWS),
    "ipes": (
        RATES_AND_DECAY,
        (("attack.pairing.radius=0.01",), ("attack.pairing.radius=0.1",)),
        VIEWS,
    ),
    "soft_nn": (
        RATES_AND_DECAY,
        (("attack.loss.temperature=10.0",), ("attack.loss.temperature=1000.0",)),
        VIEWS,
    ),
    "barlow": (
        RATES_AND_DECAY,
        (("attack.loss.off_diagonal=0.001",), ("attack.loss.off_diagonal=0.02",)),
        VIEWS,
    ),
    "sym_cosine": (
        RATES_AND_DECAY,
        (("attack.loss.hidden=128",), ("attack.loss.hidden=2048",)),
        VIEWS,
    ),
    "wasserstein": (RATES_AND_DECAY, MORE_VIEWS),
    "conventional": (RATES, MORE_RATES, DECAYS),
}
"""Stages by attack. stolen_encoder had 16 trials of rate and views before."""


def start_of(attack: str) -> tuple[str, ...]:
    """Return the overrides where the search of an attack begins."""
    return OTHER_STARTS.get(attack, WITH_VIEWS)


def path_of(attack: str) -> Path:
    """Return the file of an attack's trials."""
    return OUT / f"{attack}.json"


def stored(attack: str) -> list[dict[str, Any]]:
    """Return the trials of an attack that were made."""
    path = path_of(attack)
    return json.loads(path.read_text())["trials"] if path.exists() else []


def search(attack: str, trials: list[dict[str, Any]]) -> None:
    """Make the trials that are missing; mark what the stages choose; store after each trial."""
    start = start_of(attack)
    best: tuple[str, ...] = ()
    highest = -1.0
    made = 0
    for number, stage in enumerate(STAGES[attack], 1):
        winner = None
        for overrides in stage:
            if made == len(trials):
                result = tried((f"attack={attack}", *start, *best, *overrides))
                trials.append({**result, "stage": number, "overrides": list(overrides)})
                print(f"{attack}, stage {number}: {result['mean']:.4f} {overrides}", flush=True)
            trial = trials[made]
            made += 1
            trial["chosen"] = False
            # against the best of all stages: a stage may make nothing better
            if trial["mean"] > highest:
                highest = trial["mean"]
                winner = trial
            text = json.dumps({"attack": attack, "trials": trials}, indent=1)
            write_atomically(path_of(attack), text.encode())
        if winner is not None:
            winner["chosen"] = True
            best = (*best, *winner["overrides"])
    result = {"attack": attack, "chosen": best, "mean": highest, "trials": trials}
    write_atomically(path_of(attack), json.dumps(result, indent=1).encode())


def tables() -> str:
    """Return the trials of all attacks as text."""
    parts = [f"{name}\n{table(stored(name))}" for name in STAGES if stored(name)]
    return "\n".join(parts)


def main() -> None:
    """Tune the attacks that are named; write the table of all that is stored."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("attacks", nargs="*", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--table", action="store_true", help="write the table and run nothing")
    options = parser.parse_args()
    unknown = sorted(set(options.attacks) - set(STAGES))
    if unknown:
        parser.error(f"There are no trials for {unknown[0]}: choose from {', '.join(STAGES)}.")
    if not options.table:
        for attack in options.attacks or STAGES:
            search(attack, stored(attack))
    write_atomically(OUT / "table.txt", tables().encode())
    print(tables(), end="")


if __name__ == "__main__":
    main()
