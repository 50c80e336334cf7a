"""Judge any encoder: a target in, the accuracy of each head on each task out; nothing is stolen."""

import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.table import Table

from stealing.artefacts import key, write_atomically
from stealing.config import instantiate_node, to_dict
from stealing.console import TextConsole
from stealing.context import open_recorder
from stealing.errors import ConfigError
from stealing.evaluate import ask_about_task
from stealing.evaluation.protocol import Evaluator, HeadInput
from stealing.evaluation.statistics import accuracy
from stealing.evaluation.texts import ZeroShotHead
from stealing.evaluation.zero_shot import ZERO_SHOT
from stealing.identity import run_choices, run_key, run_name
from stealing.preflight import RunData, check_tasks, open_run_data
from stealing.pretraining.target import pretrain_target
from stealing.processor import set_up_processor
from stealing.provenance import provenance
from stealing.queries.door import MeteredTarget
from stealing.queries.opening import open_ledger
from stealing.targets.local import fingerprint
from stealing.targets.open import LocalEncoder, load_target, open_target
from stealing.text import printable
from stealing.training.distributed import process_count
from stealing.training.fit import Settings, device_of, settings_of


def choose(config: DictConfig) -> None:
    """Leave only the tasks and heads that are named.

    Raises:
        ConfigError: the data set has no such task, or the protocol no such head.
    """
    heads = ["linear", "knn"]
    if config.probe.mlp:
        heads.append("mlp")
    if config.probe.get(ZERO_SHOT):
        heads.append(ZERO_SHOT)
    config.heads = _as_list(config.heads) or heads
    for name in config.heads:
        if name not in heads:
            raise ConfigError(
                f"heads={name} is not a head of this protocol: choose some of {', '.join(heads)}."
            )
    known = list(config.data.tasks)
    config.tasks = _as_list(config.tasks)
    for name in config.tasks or ():
        if name not in known:
            raise ConfigError(
                f"tasks={name} is not a task of this data set: choose some of {', '.join(known)}."
            )
    config.data.tasks = {name: config.data.tasks[name] for name in config.tasks or known}


def _as_list(names: Any) -> Any:
    return [names] if isinstance(names, str) else names


def judge(config: DictConfig, choices: dict[str, str]) -> Path:
    """Ask about the images of each task as an honest user, fit each head, and write its accuracy.

    Args:
        config: as of a run; only `target`, `defense`, `data`, `probe`, `budget` and `tasks` matter.
        choices: the option chosen from each group.

    Returns:
        The file: JSON with `tasks` (by task and head, `accuracy` and its 95 % `interval`),
        `protocol_hash`, queries and costs, checksums, versions. A table is printed on the standard
        error, the file's text on the standard output.

    Raises:
        StealingError: the message says what to type.
    """
    if config.plan_only:
        raise ConfigError("plan_only= belongs to train.py, which plans a run: leave it out here.")
    choose(config)
    choices = run_choices(config, choices)
    settings = settings_of(config)
    set_up_processor(settings.threads)
    origin = provenance(settings.threads, process_count(settings.devices))
    data = open_run_data(config)
    source = load_target(config)
    began = time.monotonic()
    check_tasks(config, data)
    device = device_of(settings.accelerator)
    evaluator = Evaluator(instantiate_node(config.probe), Path(config.paths.cache), device)
    work = Path(config.paths.work)
    with closing(open_ledger(config.paths.ledger, work)) as ledger:
        source = source or _train(config, choices, data, settings)
        target = open_target(config, source, device=device, keep_features=True)
        budget = instantiate_node(config.budget)
        door = MeteredTarget(target.offered, ledger, work / "banks", budget)
        tasks = _judge_tasks(data, door, evaluator, config.heads)
    asked = door.spent("evaluation")
    facts = {
        "schema": 1,
        "choices": choices,
        "fingerprint": door.fingerprint,
        "defense": fingerprint(target.defense, to_dict(config.defense)),
        "protocol_hash": evaluator.protocol.hash,
        **origin,
        "data": data.checksums(),
        "ledger": ledger.identity,
        "tasks": tasks,
        "seconds": time.monotonic() - began,
        "queries": {
            "evaluation": asked,
            "evaluation_cost": asked * config.budget.price,
        },
    }
    path = work / "judged" / _file_name(facts, list(config.heads))
    write_atomically(path, json.dumps(facts, indent=1).encode())
    # The standard output is for programs, and gets only JSON.
    TextConsole(100, stderr=True).print(_table(tasks, asked))
    print(printable(f"Written: {path}"), file=sys.stderr)
    print(path.read_text())
    return path


def _file_name(facts: dict[str, Any], heads: list[str]) -> str:
    # The heads are part of the name: a file with fewer heads must not replace one with more.
    name = key(
        target=facts["fingerprint"],
        defense=facts["defense"],
        data=facts["data"],
        protocol=facts["protocol_hash"],
        heads=heads,
    )
    return f"{name}.json"


def _train(
    config: DictConfig,
    choices: dict[str, str],
    data: RunData,
    settings: Settings,
) -> LocalEncoder:
    """Train the target, as a run of this configuration would."""
    assert data.pretrain is not None
    # The curves stand under the name of the run that would train the same target.
    cell = run_name(config, choices, run_key(config, None, data.checksums()))
    recorder = open_recorder(config, choices, cell)
    encoder, folder, _ = pretrain_target(
        config, data.pretrain, settings=settings, recorder=recorder
    )
    return LocalEncoder(encoder, data.queries.size, folder)


def _judge_tasks(
    data: RunData,
    door: MeteredTarget,
    evaluator: Evaluator,
    heads: list[str],
) -> dict[str, Any]:
    """Return by task its `role`, and by head `accuracy` and `interval`."""
    tasks = dict[str, Any]()
    for task in data.tasks:
        train, test = ask_about_task(door, task)
        features = HeadInput(door.identity, train, test)
        inputs = {"TA": features}
        predicted = evaluator.predictions(task, inputs, heads)["TA"]
        if data.texts is not None and ZERO_SHOT in heads:
            texts = ZeroShotHead(data.texts, torch.nn.Identity())
            predicted[ZERO_SHOT] = texts.predictions(task, evaluator, inputs)["TA"]
        tasks[task.name] = {"role": task.role}
        for head, labels in predicted.items():
            right = np.asarray(labels.test == task.test.targets())
            share, interval = accuracy(right, resamples=evaluator.protocol.resamples)
            tasks[task.name][head] = {"accuracy": share, "interval": interval}
    return tasks


def _table(tasks: dict[str, Any], asked: int) -> Table:
    table = Table("task (role)", "head", "accuracy [95 %]", title=f"{asked} images asked")
    for name, heads in tasks.items():
        for head, row in heads.items():
            if head == "role":
                continue
            low, high = row["interval"]
            accuracy_text = f"{row['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
            table.add_row(f"{name} ({heads['role']})", head, accuracy_text)
    return table
