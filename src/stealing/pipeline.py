"""The flow, as a methods section: open a target, buy answers, steal a surrogate, evaluate both.

A checked configuration comes in. A run folder with `result.json`, and a table, go out.
"""

import sys
import time
import warnings
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from stealing.artefacts import claim, key
from stealing.attacks.choosing import choose
from stealing.attacks.query_plan import Plan, plan_context
from stealing.attacks.steal import BoughtAnswers, steal_encoder
from stealing.attacks.view_plan import AsksViews
from stealing.code import code_of
from stealing.commands import one_line_errors
from stealing.config import instantiate_node, to_dict
from stealing.console import TextConsole
from stealing.context import QueryResult, RunContext, StepRecord, StepTimer, open_run
from stealing.controls import independent_controls, train_control
from stealing.errors import ProcessError
from stealing.evaluate import Evaluation, TrainedEncoder, evaluate_tasks
from stealing.finished import finish, is_finished
from stealing.preflight import check_inputs
from stealing.pretraining.target import pretrain_target
from stealing.preview import preview
from stealing.provenance import peak_memory
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.queries.opening import open_ledger
from stealing.report.console import show_result
from stealing.result import Records, conditions_of, write_result
from stealing.saved.files import read_own_choices, write_choices
from stealing.settings.table import STEPS
from stealing.sweeps.record import register_cell
from stealing.sweeps.status import ending_in_status, write_status
from stealing.targets.foreign_check import check_foreign
from stealing.targets.open import LocalEncoder, OpenTarget, open_target
from stealing.targets.sanity_check import check_first_answers
from stealing.training.conditions import advise_bf16
from stealing.training.distributed import main_process_first, rank
from stealing.training.launch import join_processes, run_processes

ATTACKER = "attacker/0"
"""Account of the first queries to a remote target, which check that it answers."""

IGNORED_WARNINGS = (
    "num_workers",
    "sync_dist",
    "mid-epoch",
    "IterableDataset",
    "logging interval",
    "LeafSpec",
    "in eval mode",
)
"""Words of Lightning's warnings that are expected here."""


def pretrain(context: RunContext) -> tuple[OpenTarget, StepRecord]:
    """Train the target if the run does so, and offer it under its defense."""
    source = context.source
    record = StepRecord()
    if source is None:
        images = context.data.pretrain
        assert images is not None
        encoder, folder, done = pretrain_target(
            context.config, images, settings=context.settings, recorder=context.recorder
        )
        record = StepRecord.of_fit(folder, done)
        # A target that is trained here takes images of the queries' size.
        source = LocalEncoder(encoder, context.data.queries.size, folder)
    elif isinstance(source, LocalEncoder):
        record = StepRecord(source.folder)
    check_foreign(source, context.data.tasks, context.work)
    target = open_target(
        context.config,
        source,
        device=context.device,
        keep_features=True,
    )
    return target, record


def query(context: RunContext, door: MeteredTarget) -> QueryResult:
    """Choose the images that the budget pays for, and buy the answers that are not in the bank."""
    timer = StepTimer()
    config = context.config
    plan: Plan = instantiate_node(config.plan)
    excluded = set[bytes]()  # no test image may be bought
    for digests in context.data.digests.values():
        excluded.update(digests)
    count = plan.images(config.budget.images)
    images = choose(
        context.data.queries,
        count,
        config.seed,
        excluded,
        selection=config.selection,
        arch=to_dict(config.arch),
    )
    account_context = _account_context(context, door, plan, len(images))
    repeat_distance = 0.0
    # Rank 0 sends the queries. The other ranks then read the answers.
    with main_process_first():
        if not door.is_known:
            repeat_distance = check_first_answers(door, ATTACKER)
        images, features = plan.carry_out(
            door, images, account_context, config.seed, config.attack.batch_size
        )
    record = timer.record()
    asked = key(plan=to_dict(config.plan), scene=account_context)
    answers = BoughtAnswers(
        images,
        features,
        source=f"{door.identity}/{asked}",
        code=code_of(choose, to_dict(config.plan), to_dict(config.arch)),
        views=plan.asked_views(images, config.seed) if isinstance(plan, AsksViews) else None,
    )
    return QueryResult(answers, repeat_distance, record)


def _account_context(context: RunContext, door: MeteredTarget, plan: Plan, images: int) -> str:
    """Return what distinguishes this attacker's accounts for a stateful defense."""
    inputs: dict[str, str | int] = {
        "seed": context.config.seed,
        "plan": key(**to_dict(context.config.plan)),
        "queries": context.data.queries.checksum,
    }
    if context.config.selection != "random":
        # Another selection asks other questions of a defense that remembers.
        inputs["selection"] = context.config.selection
    if not plan.grows:
        # Under such a plan an account asks other questions if the budget is another one.
        inputs["images"] = images
    return plan_context(door, **inputs)


def steal(context: RunContext, answers: BoughtAnswers) -> tuple[TrainedEncoder, StepRecord]:
    """Train the surrogate on the answers."""
    config = context.config
    encoder, adapter, folder, done = steal_encoder(
        answers,
        to_dict(config.arch),
        to_dict(config.attack),
        seed=config.seed,
        start=context.start,
        root=context.work / "surrogates",
        settings=context.settings,
        recorder=context.recorder,
    )
    return TrainedEncoder(encoder, adapter), StepRecord.of_fit(folder, done)


def evaluate(
    context: RunContext,
    doors: dict[str, MeteredTarget],
    surrogate: TrainedEncoder,
    control_encoder: TrainedEncoder,
    answers: BoughtAnswers,
) -> tuple[Evaluation | None, StepRecord]:
    """Evaluate target, surrogate and controls on all tasks; None in all processes but the first."""
    timer = StepTimer()
    beside = independent_controls(context, answers, steal)
    encoders = (surrogate, control_encoder)
    evaluation = evaluate_tasks(
        context.config, context.data, doors, *encoders, answers, context.start, beside
    )
    return evaluation, timer.record()


class StepStatus:
    """The step that a run is at, also in its `status.json`.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step = STEPS[0]

    def start(self, step: str) -> None:
        """Write that this step runs from here on."""
        self.step = step
        if rank() == 0:
            write_status(self.folder, "running", step)


def run_steps(context: RunContext, ledger: Ledger, status: StepStatus) -> Records:
    """Run the steps up to `until`, and write the result after the last one.

    Args:
        context: of the run.
        ledger: of its work folder.
        status: gets the name of each step when it starts.

    Returns:
        The record of each step.
    """
    config = context.config
    budget: Budget = instantiate_node(config.budget)
    banks = context.work / "banks"
    records = Records()

    status.start("pretrain")
    target, records["pretrain"] = pretrain(context)
    door = MeteredTarget(target.offered, ledger, banks, budget)
    if config.until == "pretrain":
        return records

    status.start("query")
    bought = query(context, door)
    answers = bought.answers
    records["query"] = bought.record
    if config.until == "query":
        return records

    status.start("steal")
    surrogate, records["steal"] = steal(context, answers)
    if config.until == "steal":
        return records

    control_encoder, records["control"] = train_control(context, answers)
    status.start("evaluate")
    doors = {"TA": door}
    if target.undefended is not None:
        doors["TA_clean"] = door
        if target.undefended.defense_fingerprint != target.offered.defense_fingerprint:
            doors["TA_clean"] = MeteredTarget(target.undefended, ledger, banks, budget)
    evaluation, records["evaluate"] = evaluate(context, doors, surrogate, control_encoder, answers)
    if evaluation is not None:
        write_result(context, target, doors, bought, records, evaluation)
    return records


def run(config: DictConfig, choices: dict[str, str], *, aside: bool = False) -> Path | None:
    """Run every step up to `until` that is not finished, and print the table.

    Args:
        config: resolved and checked.
        choices: the option chosen from each group.
        aside: print on the standard error, so that the standard output stays free.

    Returns:
        The run's folder; None if the run was only planned.

    Raises:
        StealingError: the message says what to type; the run's `status.json` names the step.
    """
    console = TextConsole(124, stderr=aside)
    if config.plan_only:
        if rank() == 0:
            preview(config, console)
        return None
    context = open_run(config, choices, run_steps)
    check_inputs(config, context.data)
    if rank() == 0 and HydraConfig.initialized():
        register_cell(context.folder, HydraConfig.get().overrides.task)
    with claim(context.folder) if rank() == 0 else nullcontext():
        if not is_finished(
            context.folder,
            config.until,
            context.code,
            context.settings,
            given=context.card is not None,
        ):
            _start(context)
    if rank() == 0:
        if config.until == "evaluate":
            show_result(context.folder, config.probe.resamples, console)
        spent = f"{time.process_time():.0f} CPU seconds, at most {peak_memory():.1f} GiB of memory"
        print(f"This command took {spent}.", file=sys.stderr)
    return context.folder


def _start(context: RunContext) -> None:
    """Run the steps in as many processes as the trainer asks for."""
    folder = context.folder
    settings = context.settings
    status = StepStatus(folder)
    checksum = ""
    ending: AbstractContextManager[None] = nullcontext()
    if rank() == 0:
        advise_bf16(settings)
        (folder / "done.json").unlink(missing_ok=True)  # written by other code
        checksum = write_choices(folder, context.config, context.choices)
        ending = ending_in_status(folder, lambda: status.step)
    another = [sys.executable, "-m", "stealing.pipeline", str(folder), checksum]
    processes = run_processes(
        settings.devices,
        settings.accelerator,
        another,
        folder.name,
    )
    with ending, processes:
        _execute(context, status)


def take_part(folder: Path, checksum: str, number: int, count: int, port: int) -> None:
    """Be process `number` of the `count` processes of a run; the first one waits at this port."""
    config, choices = read_own_choices(folder, checksum)
    context = open_run(config, choices, run_steps)
    accelerator = context.settings.accelerator
    with join_processes(number, count, port, accelerator, context.folder.name):
        _execute(context, StepStatus(context.folder))


def _execute(context: RunContext, status: StepStatus) -> None:
    """Run the steps in this process; the first process then writes that the run is done."""
    for words in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=f".*{words}")
    config = context.config
    with closing(open_ledger(config.paths.ledger, context.work)) as ledger:
        records = run_steps(context, ledger, status)
    if rank() == 0:
        write_status(context.folder, "done", config.until)
        made = conditions_of(context, records)
        finish(context.folder, config.until, context.code, made, ledger.identity)


if __name__ == "__main__":  # another process of a run; the first process started it
    # The process that ended first prints the reason.
    with one_line_errors(), suppress(ProcessError):
        take_part(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
        sys.exit()
    sys.exit(1)
