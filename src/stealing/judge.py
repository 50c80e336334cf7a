"""Judge any encoder: a target in, the accuracy of each head on each task out; nothing is stolen."""

import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from stealing.artefacts import key, write_whole
from stealing.config import opened
from stealing.errors import ConfigError
from stealing.evaluation.protocol import Job, Judge, Protocol
from stealing.evaluation.statistics import accuracy
from stealing.pipeline import Run
from stealing.plan import check_tasks
from stealing.queries.door import MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.verdict import answers_through


def choose(config: DictConfig) -> None:
    """Leave only the tasks and heads that are named.

    Raises:
        ConfigError: the data set has no such task, or the protocol no such head.
    """
    heads = ["linear", "knn", *(["mlp"] if config.probe.mlp else [])]
    config.heads = [config.heads] if isinstance(config.heads, str) else config.heads or heads
    for name in config.heads:
        if name not in heads:
            raise ConfigError(f"heads={name} is none of this protocol's, {', '.join(heads)}: choose some of them.")
    known = list(config.data.tasks)
    config.tasks = [config.tasks] if isinstance(config.tasks, str) else config.tasks
    for name in config.tasks or ():
        if name not in known:
            raise ConfigError(f"tasks={name} is none of this data set's, {', '.join(known)}: choose some of them.")
    config.data.tasks = {name: config.data.tasks[name] for name in config.tasks or known}


def judge(config: DictConfig, choices: dict[str, str]) -> Path:
    """Ask about the images of each task as an honest customer, fit each head, and write what it got right.

    Args:
        config: as of a run; only `target`, `defense`, `data`, `probe`, `budget` and `tasks` matter.
        choices: the option chosen from each group.

    Returns:
        The file: JSON with `tasks` (by task and head, `accuracy` and its 95 % `interval`), `protocol_hash`, queries and
        costs, checksums, versions. Its table goes to the standard error, its text to the standard output.

    Raises:
        StealingError: whatever a user can mend.
    """
    choose(config)
    this, began = Run(config, choices), time.monotonic()
    check_tasks(config, this.scene)
    protocol: Protocol = opened(config.probe)
    device = "cuda" if config.trainer.accelerator == "gpu" else "cpu"
    referee = Judge(protocol, Path(config.paths.cache), device)
    tasks: dict[str, Any] = {}
    with closing(Ledger(config.paths.ledger)) as ledger:
        target, _ = this.pretrain()
        door = MeteredTarget(target, ledger, this.work / "banks", opened(config.budget))
        for task in this.scene.tasks:
            train, test = answers_through(door, task)
            job = Job(door.identity, train, test)
            predicted = referee.predictions(task, {"TA": job}, config.heads)["TA"]
            tasks[task.name] = {"role": task.role}
            for head, labels in predicted.items():
                right = np.asarray(labels.test == task.test.targets())
                share, span = accuracy(right, resamples=protocol.resamples)
                tasks[task.name][head] = {"accuracy": share, "interval": span}
        asked = door.spent("evaluation")
        told = {
            "schema": 1, "choices": this.choices, "fingerprint": door.fingerprint, "defense": this.defense,
            "protocol_hash": protocol.hash, **this.origin, "data": this.scene.checksums(), "tasks": tasks,
            "seconds": time.monotonic() - began,
            "queries": {"evaluation": asked, "evaluation_cost": asked * config.budget.price},
        }  # fmt: skip
    judged = {"target": told["fingerprint"], "defense": this.defense, "data": this.scene.checksums()}
    name = key(**judged, protocol=protocol.hash, heads=list(config.heads))
    path = this.work / "judged" / f"{name}.json"
    write_whole(path, json.dumps(told, indent=1).encode())
    table = Table("task (role)", "head", "accuracy [95 %]", title=f"{asked} images asked")
    for task_name, heads in tasks.items():
        for head, row in heads.items():
            if head != "role":
                low, high = row["interval"]
                table.add_row(f"{task_name} ({heads['role']})", head, f"{row['accuracy']:.3f} [{low:.3f}, {high:.3f}]")
    Console(stderr=True, width=max(100, Console().width)).print(table)
    print(f"Written: {path}", file=sys.stderr)
    print(path.read_text())
    return path
