"""Controls of a run: query images or files of encoders in; encoders that asked no target out.

The control of every run is SimCLR on all images that the attacker holds. An attack with a pool,
images that it does not send, is compared with a control that has the pool, too.

An independent encoder is of the target's kind and was trained without it. It is never C, because an
attacker without the target's images does not have it. It shows how much of what a surrogate has in
common with its target any good encoder has.
"""

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stealing.artefacts import key
from stealing.attacks.query_plan import Plan
from stealing.attacks.steal import BoughtAnswers
from stealing.config import instantiate_node, to_dict
from stealing.context import RunContext, StepRecord
from stealing.data.images import Images
from stealing.defenses.chain import Chain
from stealing.encoders import Encoder
from stealing.evaluate import TrainedEncoder
from stealing.evaluation.controls import Distilled, load_controls
from stealing.preflight import control_steps, held_count, images_of
from stealing.pretraining.pretrain import pretrain_encoder
from stealing.queries.digests import digests_of
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.queries.selection import select
from stealing.targets.local import LocalTarget, fingerprint

Steal = Callable[[RunContext, BoughtAnswers], tuple[TrainedEncoder, StepRecord]]
"""The attack: `stealing.pipeline.steal`."""


def train_control(context: RunContext, answers: BoughtAnswers) -> tuple[TrainedEncoder, StepRecord]:
    """Train the control on the images that the attack holds, with the surrogate's compute."""
    config = context.config
    encoder, folder, done = pretrain_encoder(
        held_images(context, answers),
        to_dict(config.arch),
        to_dict(config.control),
        owner="control",
        name="control",
        steps=control_steps(config),
        seed=config.seed,
        root=context.work / "surrogates",
        settings=context.settings,
        recorder=context.recorder,
        monitored=False,
    )
    return TrainedEncoder(encoder, torch.nn.Identity()), StepRecord.of_fit(folder, done)


def held_images(context: RunContext, answers: BoughtAnswers) -> Images:
    """Return the images that the attack sent, and after them those of its pool.

    The pool of `attack.pool` images is drawn from `data.queries` in the random order of the seed,
    without the images that were sent and without those of any task.
    """
    pool = held_count(context.config) - images_of(context.config)
    if not pool:
        return answers.images
    excluded = set[bytes]()
    for digests in context.data.digests.values():
        excluded.update(digests)
    queries = context.data.queries
    distinct = set(digests_of(queries)) - excluded
    ordered = select(queries, len(distinct), context.config.seed, excluded)
    names = digests_of(ordered)
    place_of = {name: place for place, name in enumerate(names)}
    asked = [place_of[name] for name in digests_of(answers.images)]
    others = sorted(set(place_of.values()) - set(asked))
    return ordered.part(np.array([*asked, *others[:pool]]))


def independent_controls(
    context: RunContext, answers: BoughtAnswers, steal: Steal
) -> dict[str, Encoder]:
    """Return the encoders of the run's `controls`, by name; all processes call it together.

    Args:
        context: of the run.
        answers: what the attack bought; images and views are asked about again.
        steal: the attack.
    """
    encoders = dict[str, Encoder]()
    for name, loaded in load_controls(context.config).items():
        encoder = loaded.encoder
        if isinstance(loaded.control, Distilled):
            # The same attack, with its own warm start and pool if it has them.
            taught, _ = steal(context, answers_of(context, answers, encoder))
            encoder = taught.encoder
        encoders[name] = encoder
    return encoders


def answers_of(context: RunContext, answers: BoughtAnswers, encoder: Encoder) -> BoughtAnswers:
    """Return an independent encoder's answers to what the attack asked its target.

    They cost nothing: their ledger is a temporary one, and the run's ledger knows nothing of them.
    """
    config = context.config
    plan: Plan = instantiate_node(config.plan)
    budget: Budget = instantiate_node(config.budget)
    budget = replace(budget, images_total=None, evaluation_total=None)
    no_defense = Chain({})
    target = LocalTarget(
        encoder.to(context.device),
        no_defense,
        fingerprint(no_defense, {}),
        context.data.queries.size,
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Ledger(str(Path(folder) / "ledger.sqlite"))) as ledger,
    ):
        door = MeteredTarget(target, ledger, Path(folder) / "banks", budget)
        images, features = plan.carry_out(
            door, answers.images, "", config.seed, config.attack.batch_size
        )
        # A bank's answers are files of this folder.
        features = features.clone()
    source = f"{door.identity}/{key(plan=to_dict(config.plan), owner='independent')}"
    return replace(answers, images=images, features=features, source=source)
