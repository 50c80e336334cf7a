"""Try ideas for `attack=best` where no test split is read, and print what each of them brought.

    python benchmarks/best_tuning.py --only wide     one trial, about 3 minutes of one core
    python benchmarks/best_tuning.py --table         none: write the tables of the stored trials
    python benchmarks/best_tuning.py                 all that are not stored yet

The protocol is `experiment=cifar10_tune` with two changes. The target is not the one that results
are about, but as strong: the stored `cifar10_narrow_second`. And 20,000 images of CIFAR-10's
training split are predicted, of which no head is trained. A trial is a list of overrides. It is
judged by the mean accuracy of the linear probe and kNN. The mean distance between its features and
the target's on these images is told beside it. Only trials of equal compute say which idea is
better.

Needs `STEALING_DATA`. Writes results/best_tuning: a file a trial, and table.txt. Ideas that were
dropped have files without overrides: their code is not in the project, and they are marked. So are
trials that ran with such code at the settings of today's. results/best_tuning_short has an earlier
round, against a target of 5 epochs that surrogates surpass, so that it could not tell good attacks
from better ones.
"""

import argparse
import json
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from control_tuning import accuracies
from hydra import initialize_config_dir

from stealing.artefacts import write_atomically
from stealing.attacks.losses import l2
from stealing.config import compose_config, instantiate_node
from stealing.context import open_run
from stealing.evaluation.features import encode_all
from stealing.pipeline import pretrain, query, run_steps, steal
from stealing.preflight import attack_compute, check_inputs
from stealing.provenance import provenance
from stealing.queries.door import MeteredTarget
from stealing.queries.opening import open_ledger

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "best_tuning"
EARLIER = ROOT / "results" / "best_tuning_short"
BASE = (
    "experiment=cifar10_tune",
    "target=file",
    f"target.path={ROOT / 'assets' / 'cifar10_narrow_second' / 'encoder.safetensors'}",
    "data.tasks.cifar10_slice.test.count=20000",
    "trainer.precision=bf16-mixed",
    "trainer.threads=1",
    "until=steal",
)

WEAKER = (
    "attack.pairing.views.crop=[0.8,1.0]",
    "attack.pairing.views.jitter=[0.05,0.05,0.05,0.01]",
)
STRONGER = (
    "attack.pairing.views.crop=[0.3,1.0]",
    "attack.pairing.views.jitter=[0.3,0.3,0.3,0.08]",
)


def paced(rate: str, decay: str) -> tuple[str, str]:
    """Return the overrides of a learning rate and a weight decay."""
    return f"attack.optimizer.lr={rate}", f"attack.optimizer.weight_decay={decay}"


SLOW = paced("8e-3", "0.01")
"""Those of stolen_encoder, with which most ideas were tried."""

TRIALS = {
    "plain": ("attack=stolen_encoder",),
    "plain_decay": ("attack=stolen_encoder", "attack.optimizer.weight_decay=0.1"),
    "plain_fast_decay": ("attack=stolen_encoder", *paced("1.6e-2", "0.1")),
    "slow": ("attack=best", *SLOW),
    "weight_2": ("attack=best", *SLOW, "attack.loss.distance_weight=2"),
    "weight_10": ("attack=best", *SLOW, "attack.loss.distance_weight=10"),
    "weaker_views": ("attack=best", *SLOW, *WEAKER),
    "raw_last_quarter": ("attack=best", *SLOW, "attack.pairing.share=0.75"),
    "smaller_batch": ("attack=best", *SLOW, "attack.batch_size=64", "attack.steps=2400"),
    "herding": ("attack=best", *SLOW, "selection=herding"),
    "slow_500": ("attack=best", *SLOW, "budget=b500"),
    "herding_500": ("attack=best", *SLOW, "budget=b500", "selection=herding"),
    "raw_last_quarter_500": ("attack=best", *SLOW, "budget=b500", "attack.pairing.share=0.75"),
    "stronger_views_500": ("attack=best", *SLOW, "budget=b500", *STRONGER),
    "decay": ("attack=best", *paced("8e-3", "0.1")),
    "fast_decay": ("attack=best", *paced("1.6e-2", "0.1")),
    "faster_decay": ("attack=best", *paced("3.2e-2", "0.1")),
    "fast_strong_decay": ("attack=best", *paced("1.6e-2", "0.3")),
    "faster_strong_decay": ("attack=best", *paced("3.2e-2", "0.3")),
    "fast_decay_500": ("attack=best", "budget=b500", *paced("1.6e-2", "0.1")),
    "longer": ("attack=best", "attack.steps=2400"),
    "wide": ("attack=best", "arch=wide", "attack.optimizer.lr=6e-3"),
}
"""Overrides by the name of the trial."""

CHOSEN = "fast_strong_decay"
"""The trial whose settings attack=best has."""


def tried(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Run one trial; return its accuracies by head, and what it took."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config, choices = compose_config("train", [*BASE, *overrides])
    context = open_run(config, choices, run_steps)
    check_inputs(config, context.data)
    budget = instantiate_node(config.budget)
    with closing(open_ledger(config.paths.ledger, context.work)) as ledger:
        target, _ = pretrain(context)
        door = MeteredTarget(target.offered, ledger, context.work / "banks", budget)
        answers = query(context, door).answers
        surrogate, record = steal(context, answers)
        [task] = context.data.tasks
        answered = door.ask(task.test.batch(slice(None)), "honest/tuning", "evaluation")
    accuracy = accuracies(surrogate.encoder, config, context.data, context.device)
    with torch.inference_mode():
        features = surrogate.adapter(encode_all(surrogate.encoder, task.test))
    return {
        "overrides": list(overrides),
        "accuracy": accuracy,
        "mean": fmean(accuracy.values()),
        "distance": float(l2(features, answered, reduction="mean")),
        "images": attack_compute(config)["images"],
        "cpu_seconds": record.cpu_seconds,
        "seed": int(config.seed),
        "precision": context.settings.precision,
        **context.data.checksums(),
        **provenance(context.settings.threads, 1),
    }


def table(trials: dict[str, dict[str, Any]]) -> str:
    """Return the stored trials as text, the best one first."""
    lines = ["linear  knn    mean    distance  images pushed  trial"]
    for name, trial in sorted(trials.items(), key=lambda item: -item[1]["mean"]):
        heads = trial["accuracy"]
        what = " ".join(trial["overrides"]) or trial["idea"]
        mark = "*" if trial.get("is_by_other_code") else " "
        lines.append(
            f"{heads['linear']:.4f}  {heads['knn']:.4f} {trial['mean']:.4f}{mark} "
            f"{trial['distance']:.4f}    {trial['images']:<13,}  {name}: {what}"
        )
    lines.append("* by code that is not in the project, of the same steps")
    return "\n".join(lines) + "\n"


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the stored trials of a folder by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def main() -> None:
    """Run the trials that are not stored yet; write the table of all stored ones."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=TRIALS, help="one trial, also if it is stored")
    parser.add_argument("--table", action="store_true", help="write the table and run nothing")
    chosen = parser.parse_args()
    for name, overrides in TRIALS.items():
        path = OUT / f"{name}.json"
        is_wanted = name == chosen.only if chosen.only else not path.exists()
        if is_wanted and not chosen.table:
            write_atomically(path, json.dumps(tried(overrides), indent=1).encode())
    for folder in (EARLIER, OUT):
        text = table(stored(folder))
        write_atomically(folder / "table.txt", text.encode())
    print(text, end="")


if __name__ == "__main__":
    main()
