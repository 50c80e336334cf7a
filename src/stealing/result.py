"""The result of a run: what its steps returned in; `result.json`, arrays and logged figures out."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from stealing.artefacts import key, read_done, write_atomically
from stealing.attacks.steal import BoughtAnswers
from stealing.compute import (
    Pushed,
    compute_of_card,
    pushed_by_attack,
    pushed_by_control,
    pushed_by_pretraining,
)
from stealing.config import to_dict
from stealing.context import QueryResult, RunContext, StepRecord
from stealing.defenses.chain import QueryBatch, cost
from stealing.evaluate import Evaluation
from stealing.evaluation.features import BLOCK
from stealing.identity import VERSIONS
from stealing.preflight import held_count, training_record
from stealing.queries.digests import digests
from stealing.queries.door import MeteredTarget
from stealing.targets.open import OpenTarget
from stealing.training.conditions import made_with, of_card
from stealing.training.fit import Recorder

Records = dict[str, StepRecord]
"""The record of each step by its name, in the order of the steps."""

LOGGED = ("TA", "SA", "recovered", "honest_loss")
"""Figures of each task and head that a logger gets. Dashboards rely on these names."""


def write_result(
    context: RunContext,
    target: OpenTarget,
    doors: Mapping[str, MeteredTarget],
    bought: QueryResult,
    records: Records,
    evaluation: Evaluation,
) -> None:
    """Write the result of a run into its folder, and log its figures.

    Args:
        context: of the run.
        target: that was attacked.
        doors: to the target, by what is measured through them: `TA` as it is offered, and
            `TA_clean` without its defense, if the run has both.
        bought: what the query step returned.
        records: of all steps.
        evaluation: what was measured.
    """
    folder = context.folder
    door = doors["TA"]
    # `result.json` is written last: a report that finds it finds the arrays too.
    write_atomically(folder / "right.safetensors", save(evaluation.right))
    write_atomically(folder / "sample.safetensors", save(evaluation.sample))
    result = {
        **_origin(context, door, bought.answers, records),
        "queries": _queries(context, doors, bought),
        "artefacts": _artefacts(context, records),
        "files": {
            "right": "right.safetensors",
            "sample": "sample.safetensors",
        },
        **evaluation.figures,
        "protocol_hash": evaluation.protocol_hash,
        "defense": describe_defense(context, target, bought.answers),
    }
    write_atomically(folder / "result.json", json.dumps(result, indent=1).encode())
    log_results(context.recorder, folder, result, evaluation.sample["queries"])


def _origin(
    context: RunContext,
    door: MeteredTarget,
    answers: BoughtAnswers,
    records: Records,
) -> dict[str, Any]:
    """Return what made the result: choices, seeds, data, code, hardware and times."""
    config = context.config
    surrogate = records["steal"].artefact
    assert surrogate is not None
    return {
        "schema": 1,
        "choices": context.choices,
        "seed": config.seed,
        "seeds": [config.seed],  # a result over several seeds has the same form
        "target": door.fingerprint,
        "target_seed": config.target.seed,
        "group": context.group,
        "config_hash": key(group=context.group, seed=config.seed),
        **context.origin,
        "data": context.data.checksums() | {"asked": answers.images.checksum},
        "steps": VERSIONS,
        "code": context.code,
        "made": conditions_of(context, records),
        "compute": _compute(context, records),
        "training": training_record(config, context.choices["attack"], surrogate),
        "seconds": {name: record.seconds for name, record in records.items()},
        "cpu_seconds": {name: record.cpu_seconds for name, record in records.items()},
    }


def _compute(context: RunContext, records: Records) -> dict[str, Any]:
    """Return what each network took to train; None for a target whose training is not known."""
    config = context.config
    target = None
    if context.data.pretrain is not None:
        pushed = pushed_by_pretraining(config, len(context.data.pretrain))
        target = _took(pushed, records["pretrain"])
    elif context.card is not None:
        target = compute_of_card(context.card)
    return {
        "target": target,
        "surrogate": _took(pushed_by_attack(config), records["steal"]),
        "control": _took(pushed_by_control(config), records["control"]),
    }


def _took(pushed: Pushed, record: StepRecord) -> dict[str, Any]:
    return {
        **asdict(pushed),
        "seconds": record.seconds,
        "cpu_seconds": record.cpu_seconds,
        "memory_gib": record.memory_gib,
    }


def _queries(
    context: RunContext,
    doors: Mapping[str, MeteredTarget],
    bought: QueryResult,
) -> dict[str, Any]:
    """Return what was asked, and what it cost."""
    budget = context.config.budget
    spent = doors["TA"].spent("attack")
    # One door may stand for both.
    evaluation = sum(door.spent("evaluation") for door in set(doors.values()))
    return {
        "budget": budget.images,
        "spent": spent,
        "images": len(bought.answers.images),
        "held": min(held_count(context.config), len(context.data.queries)),
        "evaluation": evaluation,
        "in_doubt": doors["TA"].in_doubt(),
        "cost": spent * budget.price,
        "evaluation_cost": evaluation * budget.price,
        "apart": bought.repeat_distance,  # results keep the first name of this figure
    }


def _artefacts(context: RunContext, records: Records) -> dict[str, str]:
    """Return the folders of all artefacts."""
    # They are relative to the work folder, so that it can be moved.
    folders = {"run": context.folder, **_folders(records)}
    return {name: os.path.relpath(folder, context.work) for name, folder in folders.items()}


def _folders(records: Records) -> dict[str, Path]:
    """Return the artefacts of the steps, by what each of them is."""
    names = {"pretrain": "target", "steal": "surrogate", "control": "control"}
    folders = dict[str, Path]()
    for step, name in names.items():
        record = records.get(step)
        if record is not None and record.artefact is not None:
            folders[name] = record.artefact
    return folders


def conditions_of(context: RunContext, records: Records) -> dict[str, Any]:
    """Return what each artefact, and the run itself, was made with; None if it is not recorded."""
    conditions: dict[str, Any] = {"target": None}
    for name, folder in _folders(records).items():
        done = read_done(folder) or {}
        conditions[name] = done.get("made")
    if context.card is not None:  # a saved encoder's folder may have no `done.json`
        conditions["target"] = of_card(context.card)
    conditions["run"] = made_with(context.settings)
    return conditions


def describe_defense(
    context: RunContext,
    target: OpenTarget,
    answers: BoughtAnswers,
) -> dict[str, Any] | None:
    """Return what the defense is and costs its owner, measured on one request.

    Returns:
        `name`, `settings`, `milliseconds` an answer and `bytes` of memory an account; None for a
        remote target, whose defense is not known.
    """
    if target.undefended is None:
        return None
    images = answers.images.batch(slice(0, BLOCK))
    features_BD = target.undefended.answer(images, "cost")
    asked = QueryBatch("cost", digests(images), images)
    return {
        "name": "+".join(target.defense.defenses) or "none",
        "settings": to_dict(context.config.defense),
        **cost(target.defense, features_BD, asked),
    }


def log_results(
    recorder: Recorder,
    folder: Path,
    result: dict[str, Any],
    queries: NDArray[np.uint8],
) -> None:
    """Log the figures of `result.json` under names that dashboards rely on, and some queries."""
    # The logger's config names the artefacts: their curves may be logged by another run.
    logger = recorder.open("evaluate", folder, artefacts=result["artefacts"])
    if logger is None:
        return
    rows = list[dict[str, Any]]()
    figures = dict[str, float]()
    for task, heads in result["tasks"].items():
        for head, row in heads.items():
            if head == "role":
                continue
            logged = {name: row[name] for name in LOGGED}
            rows.append({"task": task, "head": head, **logged})
            for name, figure in logged.items():
                if figure is not None:  # such as `recovered` of a task that is not informative
                    figures[f"eval/{task}/{head}/{name}"] = figure
    logger.log_metrics(figures, step=0)
    recorder.show("probes", rows)
    recorder.show("queries", queries)
    recorder.close()
