"""The arms of `benchmarks/speed.py`: a step and a configuration in, functions to be timed out.

Images are noise: no step here takes another time for other pixels.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra import compose
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from speed_plain import plain_probe, plain_simclr, plain_steal, plain_views
from torch import Tensor, nn

from stealing.attacks.surrogate import SurrogateModule, build_adapter
from stealing.config import instantiate_node, to_dict
from stealing.data.images import Images
from stealing.data.sampling import BatchRandom, TrainingImages, generator
from stealing.defenses.chain import Chain
from stealing.encoders import Encoder, build_encoder
from stealing.evaluation.features import encode, encode_all
from stealing.evaluation.probe import probe_predict
from stealing.evaluation.protocol import Evaluator, HeadInput, Task
from stealing.evaluation.rows import Rows
from stealing.pretraining.recipe import build_module
from stealing.pretraining.simclr import SimCLRModule
from stealing.processor import set_up_processor
from stealing.queries.bank import Bank
from stealing.queries.door import Budget, MeteredTarget
from stealing.queries.ledger import Ledger
from stealing.targets.local import LocalTarget
from stealing.training.fit import Recorder, Settings, device_of, fit, settings_of

IMAGES = 5000
"""Images that a fit draws from."""

ASKED = 2500
"""Images that go through the door, and that heads are trained on."""

CLASSES = 10
TRAINED = ("simclr", "steal", "steal_paper")
"""Steps that are fits; the others are measured in float32 alone."""

SKIPPED = 2
"""First steps of a turn that do not count: memory is allocated in them."""

Arm = Callable[[], float]
Module = SimCLRModule | SurrogateModule


def device_name(config: DictConfig) -> str:
    """Return `cpu` or the name of the GPU."""
    if config.trainer.accelerator == "gpu":
        return torch.cuda.get_device_name()
    return "cpu"


def precisions(step: str, config: DictConfig) -> list[str]:
    """Return the number formats in which a step is measured."""
    if step not in TRAINED:
        return [str(config.trainer.precision)]
    if config.trainer.accelerator == "gpu":
        return ["bf16-mixed"]
    return ["32-true", "bf16-mixed"]


def arms_of(
    step: str, config: DictConfig, precision: str, seconds: float, *, is_compiled: bool
) -> dict[str, Arm]:
    """Return the arms of one step by name.

    Args:
        step: of `speed.STEPS`.
        config: of a run.
        precision: Lightning's name.
        seconds: of one turn, about.
        is_compiled: true to compile networks on a CPU, too.
    """
    # before any arm runs, so that all of them keep freed memory
    set_up_processor(settings_of(config).threads)
    if step in TRAINED:
        return _fits(step, config, precision, seconds, is_compiled)
    arms: dict[str, Callable[[DictConfig, float], dict[str, Arm]]] = {
        "views": _views,
        "probe": _probe,
        "door": _door,
        "evaluate": _evaluate,
    }
    return arms[step](config, seconds)


def noise(count: int, size: int, classes: int = 0) -> Images:
    """Return a list of images of noise, with labels if there are classes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    labels = rng.integers(0, classes, count) if classes else None
    return Images("noise", pixels, labels, classes, np.arange(count), f"noise/{count}/{size}")


def _fits(
    step: str, config: DictConfig, precision: str, seconds: float, is_compiled: bool
) -> dict[str, Arm]:
    """Return the arms of a fit."""
    if step == "steal_paper":
        on_gpu = config.trainer.accelerator == "gpu"
        arch = "resnet34" if on_gpu else "resnet18"  # the larger one takes minutes a turn on a CPU
        config = compose("train", ["attack=stolen_encoder_paper", f"arch={arch}"])
        config.trainer.accelerator = "gpu" if on_gpu else "cpu"
    images = noise(IMAGES, int(config.data.size))
    device = torch.device(device_of(config.trainer.accelerator))
    settings = Settings(
        accelerator=config.trainer.accelerator,
        precision=precision,
        graph=device.type == "cuda",
        threads=settings_of(config).threads,
    )
    make = partial(_module, step, config)
    batch = int(config.pretrain.batch_size if step == "simclr" else config.attack.batch_size)
    arms: dict[str, Arm] = {"ours": Ours(make, images, batch, settings, seconds)}
    if step == "simclr":
        arms["plain"] = partial(plain_simclr, make(), images, batch, seconds)
    else:
        arms["plain"] = partial(plain_steal, make(), images, batch, seconds)
    ways = ["eager"]
    if device.type == "cuda":
        ways += ["compiled", "graph", "compiled_graph"]
    elif is_compiled:
        ways += ["compiled"]
    for way in ways:
        arms[f"limit_{way}"] = Limit(make(), images, batch, device, precision, way, seconds)
    return arms


def _module(step: str, config: DictConfig) -> Module:
    """Build the real module of a fit."""
    encoder = build_encoder(to_dict(config.arch), 0)
    if step == "simclr":
        recipe = to_dict(config.pretrain)
        module = build_module(recipe, encoder, total_steps=10_000, seed=0, head_seed=0)
        assert isinstance(module, SimCLRModule)
        return module
    attack = to_dict(config.attack)
    return SurrogateModule(
        encoder,
        build_adapter(encoder.feature_dim, encoder.feature_dim, 0),
        torch.randn(IMAGES, encoder.feature_dim, generator=generator("speed")),
        loss=instantiate(attack["loss"]),
        pairing=instantiate(attack["pairing"], _convert_="all"),
        optimizer=instantiate(attack["optimizer"]),
        schedule=instantiate(attack["schedule"]),
        total_steps=10_000,
        seed=0,
    )


class Clock(Callback):
    """Measures the images a second of a fit after its first steps."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.images = 0
        self.rate = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, _: int
    ) -> None:
        """Start after the first steps; stop at the last one."""
        if trainer.global_step == SKIPPED:
            finish(self.device)
            self.start = time.perf_counter()
        elif trainer.global_step > SKIPPED:
            self.images += batch.draw.total
        if trainer.global_step == trainer.max_steps:
            finish(self.device)
            self.rate = self.images / (time.perf_counter() - self.start)


class Ours:
    """The real module under the real Trainer."""

    def __init__(
        self,
        make: Callable[[], Module],
        images: Images,
        batch: int,
        settings: Settings,
        seconds: float,
    ) -> None:
        self.make = make
        self.images = images
        self.batch = batch
        self.settings = settings
        self.seconds = seconds
        self.steps = 0

    def __call__(self) -> float:
        """Train for about `seconds`; return images a second."""
        if not self.steps:  # a first short fit says how many steps that is
            self.steps = SKIPPED + 1
            rate = self()
            self.steps = SKIPPED + max(2, round(self.seconds * rate / self.batch))
        clock = Clock(torch.device(device_of(self.settings.accelerator)))
        with TemporaryDirectory() as folder:
            fit(
                self.make(),
                TrainingImages(self.images, self.batch, 0),
                Path(folder),
                name="speed",
                total_steps=self.steps,
                seed=0,
                settings=self.settings,
                recorder=Recorder(),
                monitors=(clock,),
            )
        return clock.rate


class Limit:
    """The same networks and optimizer on images in memory; no views, no loss beyond a mean."""

    def __init__(
        self,
        module: Module,
        images: Images,
        batch: int,
        device: torch.device,
        precision: str,
        way: str,
        seconds: float,
    ) -> None:
        self.module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.batch = batch
        self.way = way
        self.seconds = seconds
        self.is_half = precision == "bf16-mixed"
        networks: list[nn.Module] = [module.encoder]
        networks.append(module.head if isinstance(module, SimCLRModule) else module.adapter)
        if "compiled" in way:
            for network in networks:
                network.compile()
        self.networks = networks
        count = 2 * batch if isinstance(module, SimCLRModule) else batch
        self.passes = 1 if isinstance(module, SimCLRModule) else module.pairing.passes  # type: ignore[attr-defined]
        pixels = images.batch(slice(count)).to(device).float() / 255
        self.pixels = pixels.contiguous(memory_format=torch.channels_last)
        self.optimizer = module.configure_optimizers()["optimizer"]
        self.step: Callable[[], object] | None = None

    def _eager(self) -> None:
        half = torch.autocast(
            self.device.type, torch.bfloat16, cache_enabled="graph" not in self.way
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.pixels.new_zeros(())
        with half if self.is_half else nullcontext():
            for _ in range(self.passes):
                rows = self.pixels
                for network in self.networks:
                    rows = network(rows)
                loss = loss + rows.float().square().mean()
        torch.autograd.backward(loss)
        self.optimizer.step()

    def _captured(self) -> Callable[[], object]:
        """Return the replay of a step; its rate is fixed."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        for group in self.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True
        with torch.cuda.stream(side):
            for _ in range(3):
                self._eager()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._eager()
        return graph.replay

    def __call__(self) -> float:
        """Train for about `seconds`; return images a second, one count for each image of a step."""
        self.module.train()
        if self.step is None:
            for _ in range(SKIPPED):
                self._eager()
            self.step = self._captured() if "graph" in self.way else self._eager
        return rate_of(self.step, self.batch, self.seconds, self.device)


def rate_of(work: Callable[[], object], images: int, seconds: float, device: torch.device) -> float:
    """Return the images a second of a function that takes this many images at each call."""
    finish(device)
    start = time.perf_counter()
    calls = 0
    while calls < 2 or time.perf_counter() - start < seconds:
        work()
        calls += 1
        if calls % 20 == 0:
            finish(device)  # a GPU's queue is not work that is done
    finish(device)
    return calls * images / (time.perf_counter() - start)


def finish(device: torch.device) -> None:
    """Wait until the device has computed what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _views(config: DictConfig, seconds: float) -> dict[str, Arm]:
    """Return the arms of SimCLR's views alone."""
    device = torch.device(device_of(config.trainer.accelerator))
    views = instantiate_node(config.pretrain.views)
    batch = int(config.pretrain.batch_size)
    images = noise(batch, int(config.data.size))
    pixels = images.batch(slice(None)).to(device)
    random = BatchRandom(generator("speed"), batch, slice(None))

    def ours() -> Tensor:
        made: Tensor = views(pixels.float() / 255, random)
        return made

    return {
        "ours": partial(rate_of, ours, batch, seconds, device),
        "plain": partial(plain_views, views, images, seconds),
    }


def _probe(config: DictConfig, seconds: float) -> dict[str, Arm]:
    """Return the arms of the linear probe, grid and all; rows a second."""
    device = torch.device(device_of(config.trainer.accelerator))
    protocol = instantiate_node(config.probe)
    rng = generator("speed", "probe")
    labels = torch.randint(0, CLASSES, (ASKED,), generator=rng)
    # classes that overlap, as features of an encoder do
    features = (
        torch.randn(ASKED, 192, generator=rng)
        + 0.5 * torch.randn(CLASSES, 192, generator=rng)[labels]
    )
    rows = Rows.split(features, labels, protocol.holdout, None)

    def ours() -> object:
        return probe_predict(rows.to(str(device)), features.to(device), CLASSES, protocol.linear)

    return {
        "ours": partial(rate_of, ours, ASKED, seconds, device),
        "plain": partial(plain_probe, rows, protocol.linear.penalties, seconds),
    }


def _target(config: DictConfig) -> Encoder:
    encoder = build_encoder(to_dict(config.arch), 0)
    device = device_of(config.trainer.accelerator)
    encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder


def _door(config: DictConfig, seconds: float) -> dict[str, Arm]:
    """Return the arms of an undefended local target behind its meter."""
    images = noise(ASKED, int(config.data.size)).batch(slice(None))
    encoder = _target(config)
    device = encoder.mean.device

    def ours() -> object:
        with TemporaryDirectory() as name:
            folder = Path(name)
            bank = Bank(folder / "undefended", "none")
            target = LocalTarget(encoder, Chain({}), "none", images.shape[-1], bank)
            ledger = Ledger(str(folder / "ledger.sqlite"))
            door = MeteredTarget(target, ledger, folder / "banks", Budget(ASKED, ASKED))
            return door.ask(images, "attacker/0", "attack")

    return {
        "ours": partial(rate_of, ours, ASKED, seconds, device),
        "limit_encoder": partial(rate_of, lambda: encode(encoder, images), ASKED, seconds, device),
    }


def _evaluate(config: DictConfig, seconds: float) -> dict[str, Arm]:
    """Return the arms of judging one encoder on one task: features, linear probe and kNN."""
    train = noise(ASKED, int(config.data.size), CLASSES)
    test = noise(ASKED, int(config.data.size), CLASSES)
    task = Task("noise", "own", train, test)
    protocol = instantiate_node(config.probe)
    encoder = _target(config)
    device = encoder.mean.device

    def ours() -> object:
        with TemporaryDirectory() as folder:
            evaluator = Evaluator(protocol, Path(folder), device.type)
            features = [
                evaluator.features(part.name, part, partial(encode_all, encoder))
                for part in (train, test)
            ]
            job = HeadInput("encoder", *features)
            return evaluator.predictions(task, {"SA": job}, ["linear", "knn"])

    def features_alone() -> Iterator[Tensor]:
        return iter([encode_all(encoder, train), encode_all(encoder, test)])

    return {
        "ours": partial(rate_of, ours, 2 * ASKED, seconds, device),
        "limit_encoder": partial(rate_of, features_alone, 2 * ASKED, seconds, device),
    }
