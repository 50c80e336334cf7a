"""The plain arms of `benchmarks/speed.py`: training and heads as one writes them first.

Views are torchvision's, on PIL images, image by image in two workers. Losses are loops over the
images of a batch. All is float32 and eager. It shows what the project's own code is worth.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from stealing.attacks.surrogate import SurrogateModule
from stealing.data.images import Images
from stealing.data.views import Views
from stealing.evaluation.rows import Rows
from stealing.pretraining.simclr import SimCLRModule

WORKERS = 2


def transforms(views: Views, size: int) -> Callable[[Image.Image], Tensor]:
    """Return torchvision's transforms with the parameters of these views."""
    steps: list[Any] = []
    if views.crop[0] < 1:
        steps.append(v2.RandomResizedCrop(size, scale=tuple(views.crop)))
    steps += [
        v2.RandomHorizontalFlip(views.flip),
        v2.RandomApply([v2.ColorJitter(*views.jitter)], p=views.jitter_probability),
        v2.RandomGrayscale(views.grey),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    made: Callable[[Image.Image], Tensor] = v2.Compose(steps)
    return made


class PilViews(Dataset[Any]):
    """Some views of each image, and the image itself."""

    def __init__(self, images: Images, views: Views, count: int) -> None:
        self.pixels = images.batch(slice(None)).permute(0, 2, 3, 1).numpy()
        self.transform = transforms(views, images.size)
        self.count = count

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, place: int) -> tuple[int, Tensor, list[Tensor]]:
        image = Image.fromarray(self.pixels[place])
        raw = torch.from_numpy(self.pixels[place]).permute(2, 0, 1).float() / 255
        return place, raw, [self.transform(image) for _ in range(self.count)]


def batches(dataset: Dataset[Any], batch: int) -> Iterator[Any]:
    """Yield batches without end."""
    loader = DataLoader(
        dataset, batch, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True
    )
    while True:
        yield from loader


def timed(step: Callable[[Any], None], source: Iterator[Any], batch: int, seconds: float) -> float:
    """Return the images a second of a training loop, after its first two batches."""
    for item in itertools.islice(source, 2):
        step(item)
    start = time.perf_counter()
    steps = 0
    while steps < 2 or time.perf_counter() - start < seconds:
        step(next(source))
        steps += 1
    return steps * batch / (time.perf_counter() - start)


def plain_simclr(module: SimCLRModule, images: Images, batch: int, seconds: float) -> float:
    """Return the images a second of a plain SimCLR."""
    optimizer = module.configure_optimizers()["optimizer"]
    module.train()

    def step(item: Any) -> None:
        _, _, (first, second) = item
        one = F.normalize(module.head(module.encoder(first)), dim=1)
        other = F.normalize(module.head(module.encoder(second)), dim=1)
        rows = torch.cat([one, other])
        total = rows.new_zeros(())
        for place in range(2 * batch):
            logits = rows @ rows[place] / module.temperature
            others = torch.arange(2 * batch) != place
            positive = logits[(place + batch) % (2 * batch)]
            total = total + torch.logsumexp(logits[others], 0) - positive
        optimizer.zero_grad()
        torch.autograd.backward(total / (2 * batch))
        optimizer.step()

    return timed(step, batches(PilViews(images, module.views, 2), batch), batch, seconds)


def plain_steal(module: SurrogateModule, images: Images, batch: int, seconds: float) -> float:
    """Return the images a second of a plain StolenEncoder: raw image and view, one by one."""
    optimizer = module.configure_optimizers()["optimizer"]
    module.train()
    pairing: Any = module.pairing

    def step(item: Any) -> None:
        places, raw, (view,) = item
        total = raw.new_zeros(())
        for weight, part in ((1.0, raw), (pairing.view_weight, view)):
            features = module.adapter(module.encoder(part))
            for row, place in zip(features, places, strict=True):
                stolen = F.normalize(row, dim=0)
                answer = F.normalize(module.answers[place], dim=0)
                total = total + weight * torch.linalg.vector_norm(stolen - answer)
        optimizer.zero_grad()
        torch.autograd.backward(total)
        optimizer.step()

    return timed(step, batches(PilViews(images, pairing.views, 1), batch), batch, seconds)


def plain_views(views: Views, images: Images, seconds: float) -> float:
    """Return the views a second of torchvision on PIL images, in one process."""
    dataset = PilViews(images, views, 1)
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < seconds:
        dataset[count % len(dataset)]
        count += 1
    return count / (time.perf_counter() - start)


def plain_probe(rows: Rows, penalties: list[float], seconds: float) -> float:
    """Return the rows a second of scikit-learn's logistic regression over the same grid."""
    from sklearn.linear_model import LogisticRegression

    features, labels = (part.numpy() for part in rows.all)
    features = (features - features.mean(0)) / features.std(0)
    start = time.perf_counter()
    grids = 0
    while grids < 1 or time.perf_counter() - start < seconds:
        for penalty in penalties:
            strength = 1 / max(penalty * len(labels), 1e-12)
            LogisticRegression(C=strength, tol=1e-4, max_iter=1000).fit(features, labels)
        grids += 1
    return grids * len(labels) / (time.perf_counter() - start)
