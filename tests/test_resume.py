"""Interrupted fits end in the bits of uninterrupted ones, and interrupted runs in their results."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DEBUG, ROOT, Command
from torch import Tensor, nn

from stealing.artefacts import claim, write_atomically
from stealing.attacks.losses import l2
from stealing.attacks.pairing import RawAndViews
from stealing.attacks.surrogate import SurrogateModule
from stealing.data.images import Images
from stealing.data.sampling import TrainingImages, generator
from stealing.data.views import Views
from stealing.encoders.encoder import Encoder
from stealing.encoders.resnet import NarrowResNet
from stealing.errors import CheckpointError, ClaimError
from stealing.pretraining.simclr import SimCLRModule
from stealing.training.fit import Recorder, Settings, fit
from stealing.training.schedule import warmup_cosine

PIXELS = torch.randint(
    0, 256, (28, 3, 8, 8), generator=generator("resume"), dtype=torch.uint8
).numpy()
IMAGES = Images("noise", PIXELS, None, 0, np.arange(28), "noise")
STEPS = 7  # three batches of eight an epoch: the end lies in the middle of the third


def encoder() -> Encoder:
    torch.manual_seed(0)
    # multiples of 8: with others, oneDNN writes past its memory on processors with AVX2 alone
    # (torch 2.15)
    return Encoder(NarrowResNet(8, [8, 16, 8], [1, 1, 1]), [0.5] * 3, [0.25] * 3)


def simclr() -> SimCLRModule:
    def optimizer(p: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(p, lr=0.1, momentum=0.9)

    options: dict[str, Any] = {"projection": 8, "temperature": 0.5, "warmup": 0.2}
    return SimCLRModule(
        encoder(),
        Views(crop=(0.5, 1)),
        optimizer,
        total_steps=STEPS,
        seed=3,
        head_seed=3,
        **options,
    )


def surrogate() -> SurrogateModule:
    answers = torch.randn(28, 8, generator=generator("answers"))
    pairing = RawAndViews(Views(), 20, 1)
    return SurrogateModule(
        encoder(),
        nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 8)),  # dropout draws from the global generator
        answers,
        loss=lambda s, t: l2(s, t, reduction="mean"),
        pairing=pairing,
        optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2),
        schedule=lambda o, n: warmup_cosine(o, n, 0.2),
        total_steps=STEPS,
        seed=3,
    )


class Interrupted(Exception):
    """Stands for the end of the process, at the start of a chosen step."""


def stop_at(module: Any, stop: int | None) -> None:
    """Make the module's fit end at the start of this step, counted from where it begins."""
    inner, count = module.training_step, [0]

    def step(batch: Any, batch_idx: int) -> Tensor:
        if count[0] == stop:
            raise Interrupted
        count[0] += 1
        return inner(batch, batch_idx)

    module.training_step = step


def trained(
    module: SimCLRModule | SurrogateModule, folder: Path, stop: int | None = None
) -> dict[str, Tensor]:
    """Weights and buffers after a fit with a checkpoint after each step, unless it is stopped."""
    stop_at(module, stop)
    torch.manual_seed(torch.seed() % 2**32)  # another global state each time
    settings = Settings(checkpoint_seconds=0, threads=1)
    batches = TrainingImages(IMAGES, 8, 5)
    fit(
        module,
        batches,
        folder,
        name="t",
        total_steps=STEPS,
        seed=3,
        settings=settings,
        recorder=Recorder(),
    )
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(after: dict[str, Tensor], before: dict[str, Tensor]) -> float:
    """How far apart two sets of weights and buffers are."""
    return float(
        torch.cat([(after[name].float() - before[name]).flatten() for name in after]).norm()
    )


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("make", [simclr, surrogate])
def test_a_fit_stopped_before_any_step_ends_in_the_bits_of_an_uninterrupted_one(
    make: Any, tmp_path: Path
) -> None:
    whole = trained(make(), tmp_path / "whole")
    assert not equal(whole, make().state_dict())
    for stop in range(1, STEPS):
        folder = tmp_path / str(stop)
        with pytest.raises(Interrupted):
            trained(make(), folder, stop)
        assert equal(trained(make(), folder), whole), f"stopped before step {stop}"


def test_a_checkpoint_cut_short_is_passed_over_for_the_one_before_it(tmp_path: Path) -> None:
    whole = trained(surrogate(), tmp_path / "whole")
    with pytest.raises(Interrupted):
        trained(surrogate(), tmp_path / "cut", 5)
    last = tmp_path / "cut" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert equal(trained(surrogate(), tmp_path / "cut"), whole)


def test_checkpoints_none_of_which_can_be_read_are_one_sentence_and_not_a_fresh_start(
    tmp_path: Path,
) -> None:
    with pytest.raises(Interrupted):
        trained(surrogate(), tmp_path, 5)
    for name in ("last.ckpt", "last.prev"):
        (tmp_path / name).write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="delete that folder"):
        trained(surrogate(), tmp_path)


PRETRAINING = "stealing.pretraining.simclr:SimCLRModule.training_step"
STEALING = "stealing.attacks.surrogate:SurrogateModule.training_step"

POINTS = {
    "in mid-epoch of the target's training": f"{PRETRAINING}:6",
    "between two renames of a checkpoint": "os:replace:last.ckpt",
    "between a trained target and its file": "os:replace:encoder.safetensors",
    "between counting and asking": "stealing.targets.local:LocalTarget.answer_digested:1",
    "between asking and storing, in the attack": "stealing.queries.ledger:Ledger.store:1",
    "in mid-epoch of the surrogate's training": f"{STEALING}:7",
    "between the surrogate and its adapter": "os:replace:adapter.safetensors",
    "in the control's training": f"{PRETRAINING}:2",
    "between asking and storing, in evaluation": "stealing.queries.ledger:Ledger.store:2",
    "in evaluation": "stealing.evaluation.protocol:probe_predict:5",
    "between the result's temporary file and its rename": "os:replace:result.json",
    "at the very end": "os:replace:done.json",
}


@pytest.mark.slow
def test_a_run_killed_at_every_named_point_ends_in_the_result_of_an_uninterrupted_one(
    command: Command, tmp_path: Path
) -> None:
    arguments = [*DEBUG, "trainer.checkpoint_seconds=0", "target_arch.backbone.widths=[8,16,24]"]
    arguments += ["arch.backbone.widths=[8,16,32]"]  # unequal widths, so that there is an adapter
    plain = command("train.py", *arguments, f"paths.work={tmp_path / 'plain'}")
    killed = command(
        "tests/killed.py", *POINTS.values(), "--", *arguments, f"paths.work={tmp_path / 'killed'}"
    )
    assert plain.returncode == 0, plain.stderr
    assert killed.returncode == 0, killed.stderr
    first, second = (result_of(tmp_path / name) for name in ("plain", "killed"))
    for times in ("seconds", "cpu_seconds"):
        assert first.pop(times).keys() == second.pop(times).keys()
    for part in ("target", "surrogate", "control"):
        both = first["compute"][part], second["compute"][part]
        assert both[0]["forward"] > 0 and both[0]["backward"] > 0
        for one in both:
            for measured in ("seconds", "cpu_seconds", "memory_gib"):
                assert one.pop(measured) > 0, measured
    assert first.pop("date") <= second.pop("date")
    assert {
        first["defense"].pop("milliseconds") >= 0,
        second["defense"].pop("milliseconds") >= 0,
    } == {True}
    assert first == second
    assert first["queries"]["spent"] == 128


def result_of(work: Path) -> dict[str, Any]:
    [path] = (work / "runs").glob("*/result.json")
    return json.loads(path.read_text())


def test_a_file_that_could_not_be_written_whole_leaves_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, b"before")

    def full(handle: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"after")
    assert path.read_bytes() == b"before"


def test_a_claim_dies_with_its_process(command: Command, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import stealing.artefacts as artefacts, time\n"
        f"with artefacts.claim(Path({str(tmp_path)!r})):\n"
        "    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ClaimError, match="another process"), claim(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with claim(tmp_path):
        pass
