"""Open a run: a checked configuration in; its data, target, key and folder out."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from omegaconf import DictConfig

from stealing.attacks.steal import BoughtAnswers
from stealing.config import instantiate_node, to_dict
from stealing.encoders import Encoder
from stealing.identity import name_of, run_choices, run_code, run_key, run_name
from stealing.preflight import RunData, open_run_data, surrogate_start
from stealing.processor import set_up_processor
from stealing.provenance import provenance
from stealing.queries.target import Target
from stealing.sweeps.record import command
from stealing.targets.open import LocalEncoder, load_target
from stealing.training.distributed import all_reduce_sum, process_count
from stealing.training.fit import Recorder, Settings, device_of, settings_of


@dataclass(frozen=True)
class RunContext:
    """One configuration, opened. No step of the run changes it.

    Attributes:
        config: resolved and checked.
        choices: the option chosen from each group, for names and tables.
        data: all images.
        settings: of the trainer.
        source: the saved encoder or remote target; None if the run trains its target.
        start: seed of the surrogate's initial weights.
        group: key of the run, the same for all its seeds.
        code: hash of the code of all steps.
        work: folder of all artefacts.
        folder: of the run.
        origin: date, commit, versions and hardware.
        recorder: gets the curves of all fits.
    """

    config: DictConfig
    choices: dict[str, str]
    data: RunData
    settings: Settings
    source: LocalEncoder | Target | None
    start: int
    group: str
    code: str
    work: Path
    folder: Path
    origin: dict[str, Any]
    recorder: Recorder

    @property
    def device(self) -> str:
        """Return torch's name of the device that encoders compute on."""
        return device_of(self.settings.accelerator)

    @property
    def card(self) -> dict[str, Any] | None:
        """Return the card of the saved encoder that is the target, or None."""
        return self.source.card if isinstance(self.source, LocalEncoder) else None


def open_run(config: DictConfig, choices: dict[str, str], steps: Callable[..., Any]) -> RunContext:
    """Open the data and the target of a run, and find its key and its folder; make nothing.

    Args:
        config: resolved and checked.
        choices: the option chosen from each group.
        steps: the function that runs the steps, whose code is hashed.

    Raises:
        StealingError: data, target or defense cannot be opened; the message says what to type.
    """
    choices = run_choices(config, choices)
    settings = settings_of(config)
    set_up_processor(settings.threads)
    # Commit and code are read now: a person may edit the clone while the run lasts.
    origin = provenance(settings.threads, process_count(settings.devices))
    data = open_run_data(config)
    source = load_target(config)
    card = source.card if isinstance(source, LocalEncoder) else None
    start = surrogate_start(config, card)
    group = run_key(config, _target_name(source), data.checksums())
    code = run_code(config, open_run, steps)
    work = Path(config.paths.work)
    folder = work / "runs" / run_name(config, choices, group)
    return RunContext(
        config=config,
        choices=choices,
        data=data,
        settings=settings,
        source=source,
        start=start,
        group=group,
        code=code,
        work=work,
        folder=folder,
        origin=origin,
        recorder=open_recorder(config, choices, folder.name),
    )


def open_recorder(config: DictConfig, choices: dict[str, str], cell: str) -> Recorder:
    """Return the configured recorder of curves.

    Args:
        config: of the run.
        choices: the option chosen from each group.
        cell: name of the run's folder.
    """
    make = instantiate_node(config.logger)
    recorder: Recorder = make(cell=cell, choices=choices, settings=to_dict(config), **command())
    return recorder


def _target_name(source: LocalEncoder | Target | None) -> str | None:
    if source is None:
        return None
    given: Encoder | Target = source.encoder if isinstance(source, LocalEncoder) else source
    return name_of(given)


@dataclass(frozen=True)
class StepRecord:
    """Artefact, time and memory of one step.

    Attributes:
        artefact: its folder; None if the step makes none.
        seconds: wall time, summed over interruptions.
        cpu_seconds: CPU time of all processes.
        memory_gib: peak memory of a fit; None if it is not known.
    """

    artefact: Path | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_gib: float | None = None

    @classmethod
    def of_fit(cls, artefact: Path, done: dict[str, Any]) -> Self:
        """Return the record of a fit from the facts in its `done.json`."""
        # The times are absent if a person edited the file.
        seconds = float(done.get("seconds") or 0.0)
        memory = done.get("memory_gib")
        return cls(
            artefact,
            seconds,
            float(done.get("cpu_seconds") or 0.0),
            None if memory is None else float(memory),
        )


@dataclass(frozen=True)
class QueryResult:
    """What the query step returns.

    Attributes:
        answers: images and the target's features of them.
        repeat_distance: relative difference between two answers to the same image; 0 for a local
            target.
        record: of the step.
    """

    answers: BoughtAnswers
    repeat_distance: float
    record: StepRecord


class StepTimer:
    """Measures the wall and CPU time of a step, from the moment that it is built."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._cpu = time.process_time()

    def record(self) -> StepRecord:
        """Return what the step took; all processes call it together, as it sums over them."""
        seconds = time.monotonic() - self._wall
        cpu_seconds = all_reduce_sum(time.process_time() - self._cpu)
        return StepRecord(seconds=seconds, cpu_seconds=cpu_seconds)
