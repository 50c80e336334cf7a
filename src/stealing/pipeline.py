"""The flow, as a methods section: pre-train or load a target, buy answers, steal a surrogate, judge both.

Comes in: a checked configuration. Goes out: a run folder with result.json, and a table.
"""

import json
import os
import sys
import time
import warnings
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from safetensors.numpy import save

from stealing.artefacts import claim, key, read_done, write_done, write_whole
from stealing.attacks.asking import scene_of
from stealing.attacks.steal import Answers, stolen
from stealing.code import code_of
from stealing.config import STEPS, opened, plain
from stealing.defenses.chain import Chain
from stealing.encoders import load_encoder
from stealing.errors import ProcessError, StealingError
from stealing.identity import VERSIONS, name_of, run_code, run_key
from stealing.plan import (
    Scene,
    check_inputs,
    control_steps,
    open_scene,
    show_plan,
    surrogate_start,
    target_recipe,
    target_steps,
    training_record,
)
from stealing.pretraining.pretrain import pretrained
from stealing.provenance import peak_memory, provenance
from stealing.queries.bank import Bank
from stealing.queries.buying import Target
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.queries.selection import select
from stealing.report.seeds import conclude
from stealing.report.status import write_status
from stealing.report.sweep import command, enter
from stealing.targets.contact import introduce
from stealing.targets.local import LocalTarget, fingerprint
from stealing.training.fit import Recorder, Settings
from stealing.training.launch import as_child, together
from stealing.training.making import made_with, of_card, say, say_differences
from stealing.training.ranks import first_goes_ahead, processes, rank, summed
from stealing.verdict import Stolen, evaluate, protection, record

ATTACKER = "attacker/0"

MEANT = ("num_workers", "sync_dist", "mid-epoch", "IterableDataset", "logging interval", "LeafSpec")
"""Words of Lightning's warnings about what is so on purpose here, or its own business."""


class Run:
    """One configuration, its opened data and its folder; each method is one step of the flow.

    Args:
        config: resolved and checked.
        choices: the option chosen from each group, for names and tables.
    """

    def __init__(self, config: DictConfig, choices: dict[str, str]) -> None:
        self.config, self.choices = config, {g: c for g, c in choices.items() if not g.startswith("hydra/")}
        self.choices["defense"] = "+".join(map(str, config.defense)) or "none"  # Hydra knows no name of a chain
        self.choices["start"] = str(config.start)
        self.settings: Settings = opened(config.trainer)
        torch.set_num_threads(self.settings.threads)
        count = processes(self.settings.devices)
        self.origin = provenance(self.settings.threads, count)  # now: the clone may change while this runs
        self.scene: Scene = open_scene(config)
        self.work, self.made, self.step = Path(config.paths.work), dict[str, Path](), "pretrain"
        self.seconds, self.cpu_seconds = {"pretrain": 0.0}, {"pretrain": 0.0}  # where the target is not ours to train
        self.apart = 0.0  # answers of the target to one image from each other
        self.remote: Target | None = opened(config.target.remote) if config.target.remote else None
        self.saved = load_encoder(Path(config.target.path)) if config.target.path else None
        self.start = surrogate_start(config, self.saved and self.saved[1])
        given = self.remote or (self.saved and self.saved[0])
        self.chain = Chain(opened(config.defense))
        self.defense = fingerprint(self.chain, plain(config.defense))
        self.group = run_key(config, name_of(given) if given else None, self.scene.checksums())
        self.code = run_code(config, _steps)  # now, as the files may change while this runs
        shown = [str(self.choices[group]) for group in ("data", "target", "defense", "plan", "attack")]
        self.folder = self.work / "runs" / f"{'-'.join(shown)}-b{config.budget.images}-s{config.seed}-{self.group}"
        about = {"cell": self.folder.name, "choices": self.choices, "settings": plain(config)}
        self.recorder: Recorder = opened(config.logger)(**about, **command())

    def pretrain(self) -> tuple[Target, Target | None]:
        """The target as it is offered, and the same without its defense where that is ours to take off."""
        config = self.config
        if self.remote is not None:
            return self.remote, None
        if self.saved is None:
            assert self.scene.pretrain is not None
            encoder, folder, spent = pretrained(
                self.scene.pretrain,
                plain(config.target_arch),
                target_recipe(config),
                owner="target",
                name="pretrain",
                steps=target_steps(config, self.scene),
                seed=config.target.seed,
                root=self.work / "targets",
                settings=self.settings,
                recorder=self.recorder,
                monitored=True,
            )
            size = self.scene.queries.size
            self.book("pretrain", spent)
        else:
            encoder, card = self.saved
            folder, size = Path(config.target.path).parent, int(card["size"])
        self.made["target"] = folder
        self.chain.check(encoder.fingerprint)
        encoder.to("cuda" if self.settings.accelerator == "gpu" else "cpu")
        name = key(encoder=encoder.fingerprint, **self.settings.numerics)
        features = Bank(Path(config.paths.cache) / "undefended" / name, "undefended")
        offered = LocalTarget(encoder, self.chain, self.defense, size, features)
        return offered, LocalTarget(encoder, Chain({}), fingerprint(Chain({}), {}), size, features)

    def query(self, door: MeteredTarget) -> Answers:
        """Choose the images that the budget buys, and buy what is not banked yet."""
        wall, cpu = time.monotonic(), time.process_time()
        excluded = {digest for task in self.scene.digests.values() for digest in task}
        config, plan = self.config, opened(self.config.plan)
        images = select(self.scene.queries, plan.images(config.budget.images), config.seed, excluded)
        named: dict[str, str | int] = {"plan": key(**plain(config.plan)), "queries": self.scene.queries.checksum}
        named |= {} if plan.grows else {"images": len(images)}
        scene = scene_of(door, seed=config.seed, **named)
        with first_goes_ahead():  # one process asks, all read
            if not door.is_known:
                self.apart = introduce(door, ATTACKER)
            images, features = plan.carry_out(door, images, scene, config.seed, config.attack.batch_size)
        self.book("query", {"seconds": time.monotonic() - wall, "cpu_seconds": summed(time.process_time() - cpu)})
        asked = key(plan=plain(config.plan), scene=scene)
        code = code_of(select, plain(config.plan))
        return Answers(images, features, f"{door.identity}/{asked}", code)

    def steal(self, answers: Answers) -> Stolen:
        """Train the surrogate on the answers, and the control on the same images without them."""
        config = self.config
        encoder, adapter, folder, spent = stolen(
            answers,
            plain(config.arch),
            plain(config.attack),
            seed=config.seed,
            start=self.start,
            root=self.work / "surrogates",
            settings=self.settings,
            recorder=self.recorder,
        )
        self.book("steal", spent)
        self.made["surrogate"] = folder
        return Stolen(encoder, adapter)

    def control(self, answers: Answers) -> Stolen:
        """SimCLR on the query images alone, with the surrogate's architecture and compute."""
        config = self.config
        encoder, folder, spent = pretrained(
            answers.images,
            plain(config.arch),
            plain(config.control),
            owner="control",
            name="control",
            steps=control_steps(config),
            seed=config.seed,
            root=self.work / "surrogates",
            settings=self.settings,
            recorder=self.recorder,
            monitored=False,
        )
        self.book("control", spent)
        self.made["control"] = folder
        return Stolen(encoder, torch.nn.Identity())

    def made_with(self) -> dict[str, Any]:
        """Return what each artefact, and the run itself, was made with; None for what nobody wrote down."""
        told = {"target": None} | {name: (read_done(path) or {}).get("made") for name, path in self.made.items()}
        if self.saved is not None:
            told["target"] = of_card(self.saved[1])
        return told | {"run": made_with(self.settings)}

    def begin(self, step: str) -> None:
        """Say what runs from here on."""
        self.step = step
        if rank() == 0:
            write_status(self.folder, "running", step)

    def book(self, step: str, spent: dict[str, Any]) -> None:
        """Keep what a step took."""
        self.seconds[step], self.cpu_seconds[step] = float(spent["seconds"]), float(spent["cpu_seconds"])


def run(config: DictConfig, choices: dict[str, str], *, aside: bool = False) -> Path | None:
    """Do every step up to `until` that is not done yet, and show the table, `aside` on the standard error.

    Returns:
        The run's folder; None where it was only planned.

    Raises:
        StealingError: whatever a user can mend; the run's `status.json` says at which step.
    """
    this = Run(config, choices)
    check_inputs(config, this.scene)
    console = Console(stderr=aside, width=max(124, Console().width))  # as wide as the widest table, also in a log
    if config.plan_only:
        if rank() == 0:
            show_plan(config, this.scene, this.settings, console)
        return None
    if rank() == 0 and HydraConfig.initialized():
        enter(this.folder, HydraConfig.get().overrides.task)
    with claim(this.folder) if rank() == 0 else nullcontext():
        if not _is_finished(this):
            if rank() == 0:
                (this.folder / "done.json").unlink(missing_ok=True)  # of other code
                write_whole(this.folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True).encode())
                write_whole(this.folder / "choices.json", json.dumps(this.choices).encode())
            another = [sys.executable, "-m", "stealing.pipeline", str(this.folder)]
            with together(this.settings.devices, this.settings.accelerator, another, this.folder.name):
                _do(this)
    if rank() == 0:
        if config.until == "evaluate":
            conclude(this.folder, config.probe.resamples, console)
        spent = f"{time.process_time():.0f} CPU seconds, at most {peak_memory():.1f} GiB of memory"
        print(f"This command took {spent}.", file=sys.stderr)
    return this.folder


def _is_finished(this: Run) -> bool:
    """Return whether the run is done by today's code; say what else a person would miss."""
    done = read_done(this.folder)
    if done is None:
        return False
    if done.get("code") != this.code:
        say(f"{this.folder} was judged by other code than today's: it is judged again.")
        return False
    ours = {name: made for name, made in done["made"].items() if name != "target" or this.saved is None}
    say_differences(this.folder, ours, this.settings)
    return True


def take_part(folder: Path, number: int, count: int, port: int) -> None:
    """Be one of the `count` processes of the run in this folder, whose first waits at this port."""
    config = OmegaConf.load(folder / "config.yaml")
    assert isinstance(config, DictConfig)
    this = Run(config, json.loads((folder / "choices.json").read_text()))
    with as_child(number, count, port, this.settings.accelerator, this.folder.name):
        _do(this)


def _do(this: Run) -> None:
    """The steps, with `status.json` kept true."""
    for word in MEANT:
        warnings.filterwarnings("ignore", message=f".*{word}")
    try:
        with closing(Ledger(this.config.paths.ledger)) as ledger:
            _steps(this, ledger)
    except Exception as error:
        if rank() == 0:
            write_status(this.folder, "failed", this.step, " ".join(str(error).split()))
        raise
    if rank() == 0:
        write_status(this.folder, "done", this.config.until)
        write_done(this.folder, until=this.config.until, code=this.code, made=this.made_with())


def _steps(this: Run, ledger: Ledger) -> None:
    """Those up to `until`, in their order."""
    config, last = this.config, STEPS.index(this.config.until)
    budget: Budget = opened(config.budget)
    this.begin("pretrain")
    offered, undefended = this.pretrain()
    door = MeteredTarget(offered, ledger, this.work / "banks", budget)
    if last >= 1:
        this.begin("query")
        answers = this.query(door)
    if last >= 2:
        this.begin("steal")
        surrogate = this.steal(answers)
    if last >= 3:
        control = this.control(answers)
        this.begin("evaluate")
        doors = {"TA": door}
        if undefended is not None:
            same = undefended.defense_fingerprint == offered.defense_fingerprint
            doors["TA_clean"] = door if same else MeteredTarget(undefended, ledger, this.work / "banks", budget)
        figures, right, sample, spent = evaluate(config, this.scene, doors, surrogate, control, answers, this.start)
        this.book("evaluate", spent)
        if rank() == 0:
            write_whole(this.folder / "right.safetensors", save(right))
            write_whole(this.folder / "sample.safetensors", save(sample))
            result = {**_result(this, door, answers), **figures, "protocol_hash": spent["protocol_hash"]}
            result["defense"] = undefended and protection(this.chain, plain(config.defense), undefended, answers)
            write_whole(this.folder / "result.json", json.dumps(result, indent=1).encode())
            record(this.recorder, this.folder, result, sample["queries"])


def _result(this: Run, door: MeteredTarget, answers: Answers) -> dict[str, Any]:
    """Everything in `result.json` that is not an accuracy."""
    config, made = this.config, {"run": this.folder, **this.made}
    spent, measuring = door.spent("attack"), door.spent("evaluation")
    return {
        "schema": 1,
        "choices": this.choices,
        "seed": config.seed,
        "seeds": [config.seed],
        "target": door.fingerprint,
        "target_seed": config.target.seed,
        "group": this.group,
        "config_hash": key(group=this.group, seed=config.seed),
        **this.origin,
        "data": this.scene.checksums() | {"asked": answers.images.checksum},
        "steps": VERSIONS,
        "code": this.code,
        "made": this.made_with(),
        "training": training_record(config, this.choices["attack"], this.made["surrogate"]),
        "seconds": this.seconds,
        "cpu_seconds": this.cpu_seconds,
        "queries": {
            "budget": config.budget.images,
            "spent": spent,
            "images": len(answers.images),
            "evaluation": measuring,
            "in_doubt": door.in_doubt(),
            "cost": spent * config.budget.price,
            "evaluation_cost": measuring * config.budget.price,
            "apart": this.apart,
        },
        "artefacts": {name: os.path.relpath(path, this.work) for name, path in made.items()},
        "files": {"right": "right.safetensors", "sample": "sample.safetensors"},
    }


if __name__ == "__main__":  # another process of a run, started by its first
    try:
        take_part(Path(sys.argv[1]), *map(int, sys.argv[2:]))
    except ProcessError:
        sys.exit(1)  # the one that ended first says why
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")
