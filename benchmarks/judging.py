"""Measure how long judging takes, part by part: features, each head, intervals.

    python benchmarks/judging.py --device cuda      # ResNet-18, three tasks, 36,000 images
    python benchmarks/judging.py --arch narrow      # on a CPU: ten minutes of one core
    python benchmarks/judging.py --shrink 40 --mlp  # a quick look, with the paper's head

The protocol, the controls and the resampled heads are those of a run; the images are made up. Two
random networks stand for target and surrogate. Asking the target is not measured here.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from stealing.config import instantiate_node, to_dict
from stealing.data.images import Images
from stealing.encoders import Encoder
from stealing.evaluate import PAIRED
from stealing.evaluation import controls
from stealing.evaluation.features import encode_all
from stealing.evaluation.protocol import Evaluator, HeadInput, Protocol, Task
from stealing.evaluation.statistics import HELD, Outcomes, summarise

CONF = Path(__file__).parents[1] / "conf"
TASKS = ((10_000, 10), (5_000, 100), (3_000, 6))
"""Images of each split, and classes, as of the first tasks of `data=cifar10_tiny`."""

NETWORKS = ("TA", "SA", "untrained", "untrained_calibrated", "ssl_on_queries")


@dataclass
class Stopwatch:
    """Wall seconds by part.

    Attributes:
        device: torch's name; a part ends when the device has computed it.
        seconds: so far.
    """

    device: str
    seconds: dict[str, float]

    @contextmanager
    def part(self, name: str) -> Any:
        """Add the body's time to a part."""
        start = time.perf_counter()
        yield
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def images(name: str, count: int, classes: int) -> Images:
    """Return images of 32 pixels: the noisy pattern of a class, in a random place and brightness.

    Patterns depend on the classes alone, so that splits of one task share them.
    """
    patterns = np.random.default_rng(classes).random((classes, 3, 8, 8)).repeat(4, 2).repeat(4, 3)
    rng = np.random.default_rng(len(name) + count)
    labels = rng.integers(classes, size=count)
    labels[:classes] = np.arange(classes)
    pixels = np.empty((count, 3, 32, 32), np.uint8)
    for place, label in enumerate(labels):
        shift = tuple(rng.integers(-6, 7, size=2))
        pattern = np.roll(patterns[label], shift, (1, 2)) * rng.uniform(0.2, 0.6)
        pixels[place] = 255 * (pattern + 0.4 * rng.random((3, 32, 32))).clip(0, 1)
    return Images(name, pixels, labels, classes, np.arange(count), f"{name}/{count}/{classes}")


def networks(arch: dict[str, Any], queries: Images, watch: Stopwatch) -> dict[str, Encoder]:
    """Return networks with random weights on the device, all but one with measured statistics."""
    made: dict[str, Encoder] = {}
    for seed, name in enumerate(NETWORKS):
        network = controls.untrained(arch, seed).to(watch.device)
        if name != "untrained":
            with watch.part("calibration"):
                network = controls.calibrated(network, queries, 64)
        made[name] = network.to(memory_format=torch.channels_last)
    return made


def judge(
    arch: dict[str, Any],
    protocol: Protocol,
    device: str,
    shrink: int = 1,
) -> tuple[dict[str, float], dict[str, float]]:
    """Judge networks on three tasks, and return wall seconds by part and accuracies.

    Args:
        arch: of all networks, as in `conf/arch`.
        protocol: heads and intervals.
        device: torch's name.
        shrink: divisor of the number of images.
    """
    watch = Stopwatch(device, {})
    accuracies: dict[str, float] = {}
    encoders = networks(arch, images("queries", max(128, 2500 // shrink), 10), watch)
    with TemporaryDirectory() as folder:
        evaluator = Evaluator(protocol, Path(folder), device)
        for images_a_split, classes in TASKS:
            count = max(2 * classes, images_a_split // shrink)
            train = images("train", count, classes)
            test = images("test", count, classes)
            task = Task(f"{classes} classes", "own", train, test)
            inputs: dict[str, HeadInput] = {}
            for name, encoder in encoders.items():
                compute: Callable[[Images], torch.Tensor] = partial(encode_all, encoder)
                with watch.part("features"):
                    parts = [evaluator.features(name, part, compute) for part in (train, test)]
                inputs[name] = HeadInput(name, *parts)
            with watch.part("pixels"):
                parts = [controls.pixels(part) for part in (train, test)]
            inputs["pixels"] = HeadInput("pixels", *parts)
            jobs = inputs | {
                f"{name}/{number}": replace(inputs[name], sample=number) for name, number in PAIRED
            }
            for head in ("linear", "knn", "mlp")[: 2 + (protocol.mlp is not None)]:
                with watch.part(head):
                    predicted = evaluator.predictions(task, jobs, [head])
                right = Outcomes()
                held = evaluator.rows(task, inputs["TA"]).held[1].numpy()
                for name in inputs:
                    right[name] = predicted[name][head].test == test.targets()
                    right[name + HELD] = predicted[name][head].held == held
                    accuracies[f"{task.name}/{head}/{name}"] = float(right[name].mean())
                with watch.part("intervals"):
                    summarise([right], resamples=protocol.resamples)
    return watch.seconds, accuracies


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--arch", default="resnet18", help="of conf/arch")
    parser.add_argument("--shrink", type=int, default=1, help="divisor of the number of images")
    parser.add_argument("--mlp", action="store_true", help="with the paper's head")
    chosen = parser.parse_args()
    probe = "paper" if chosen.mlp else "standard"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=[f"arch={chosen.arch}", f"probe={probe}"])
    arch = to_dict(config.arch)
    # The first time, a GPU allocates memory and chooses its kernels.
    judge(arch, instantiate_node(config.probe), chosen.device, 200)
    seconds, accuracies = judge(arch, instantiate_node(config.probe), chosen.device, chosen.shrink)
    for name, spent in seconds.items():
        print(f"{name:12} {spent:8.2f} s")
    print(f"{'all':12} {sum(seconds.values()):8.2f} s on {device_name(chosen.device)}")
    for name in ("TA", "untrained", "pixels"):
        shown = [f"{accuracies[key]:.3f}" for key in accuracies if key.endswith(f"/{name}")]
        print(f"{name:12} {' '.join(shown)}")


def device_name(device: str) -> str:
    """Return the name of a GPU, or the number of threads of a CPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads of the processor"


if __name__ == "__main__":
    main()
