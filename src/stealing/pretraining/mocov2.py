"""MoCo v2: unlabelled images in, a pre-trained encoder out.

Shape letters: B images of all processes, P projection width, K keys in the queue.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from stealing.data.sampling import RandomNumbers
from stealing.data.views import Views
from stealing.encoders import Encoder
from stealing.numbers import check_integer, check_number
from stealing.training.distributed import all_gather_with_grad
from stealing.training.schedule import warmup_cosine
from stealing.training.step import StepModule


def contrast_with_queue(
    query_BP: Tensor, key_BP: Tensor, queue_KP: Tensor, *, temperature: float
) -> Tensor:
    """Contrast each query with its own key and all keys of the queue.

    Args:
        query_BP: projections of one view of each image, (B, P), with gradient; normalised here.
        key_BP: projections of another view by the momentum encoder, (B, P), rows of length 1.
        queue_KP: keys of earlier steps, (K, P), rows of length 1; the negatives.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar mean over the B rows, in nats, computed in float32 also under autocast.

    Source: MoCo (arXiv:1911.05722), equation 1.
    """
    with torch.autocast(query_BP.device.type, enabled=False):
        queries = F.normalize(query_BP.float())
        own = (queries * key_BP).sum(1, keepdim=True)
        logits = torch.cat([own, queries @ queue_KP.T], 1) / temperature
        # the own key is in column 0
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


class MoCoV2Module(StepModule):
    """Trains `encoder` so that a view is nearer to another view of its image than to earlier ones.

    The other view goes through the momentum encoder: a copy of encoder and head that no gradient
    reaches, and that follows both slowly. Its features of earlier steps are the queue. Checkpoints
    hold head, momentum encoder and queue; the finished encoder is saved without them.

    A step of several processes is that of one: each of them computes the loss over all rows, and
    puts the keys of all rows into its own queue, in one order. With `trainer.accumulate`, momentum
    encoder and queue move with each batch.

    Args:
        encoder: trained in place.
        views: distribution of the two views.
        optimizer: takes parameters, returns the optimizer.
        projection: P, width of the head's output; its hidden layer is as wide as the features.
        temperature: of the contrast.
        warmup: share of the steps over which the learning rate rises linearly; it then falls as a
            cosine to zero.
        queue: K, keys of earlier steps, at least 1; the newest ones count.
        momentum: share of itself that the momentum encoder keeps in a step, 0 to 1.
        total_steps: horizon of the schedule.
        seed: of all views.
        head_seed: of the head's initial weights and of the initial queue.

    Raises:
        ConfigError: a number is out of range.

    Source: MoCo v2 (arXiv:2003.04297); moco/builder.py of facebookresearch/moco. Departure:
    BatchNorm of the momentum encoder uses running statistics, which follow like its weights (EMAN,
    arXiv:2101.08482). The source shuffles the images of its batches between GPUs instead. Both keep
    a query from knowing its key by the statistics of their batch. Running statistics are the same
    in one process and in several, and no images are sent.
    """

    pushed = (2, 1)  # views of an image in a step: forward, and backward

    queue: Tensor

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        projection: int,
        temperature: float,
        warmup: float,
        queue: int,
        momentum: float,
        total_steps: int,
        seed: int,
        head_seed: int,
    ) -> None:
        super().__init__(seed, "pretrain/loss")
        check_integer("queue", queue, 1)
        check_number("momentum", momentum, high=1)
        self.encoder = encoder
        self.views = views
        self.optimizer = optimizer
        self.temperature = temperature
        self.warmup = warmup
        self.momentum = momentum
        self.total_steps = total_steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(head_seed)
            self.head = nn.Sequential(
                nn.Linear(encoder.feature_dim, encoder.feature_dim),
                nn.ReLU(True),
                nn.Linear(encoder.feature_dim, projection),
            )
            self.register_buffer("queue", F.normalize(torch.randn(queue, projection), dim=1))
        both = nn.Sequential(encoder, self.head)
        self.momentum_encoder = copy.deepcopy(both).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the momentum encoder, which stays in evaluation mode."""
        super().train(mode)
        self.momentum_encoder.eval()
        return self

    def step_loss(self, images_uint8: Tensor, places_B: Tensor, random: RandomNumbers) -> Tensor:
        """Return the contrast between two fresh views of each image, over all processes' rows."""
        images = images_uint8.float().div_(255)
        query_BP = self.head(self.encoder(self.views(images, random))).float()
        with torch.no_grad():
            self._follow()
            key_BP = F.normalize(self.momentum_encoder(self.views(images, random)).float())
            key_BP = all_gather_with_grad(key_BP)
            earlier = self.queue.clone()  # the backward pass needs the keys of this step
            self.queue.copy_(torch.cat([key_BP, earlier])[: len(earlier)])
        return contrast_with_queue(
            all_gather_with_grad(query_BP), key_BP, earlier, temperature=self.temperature
        )

    def _follow(self) -> None:
        """Move weights and statistics of the momentum encoder towards those of encoder and head."""
        state = nn.Sequential(self.encoder, self.head).state_dict()
        for name, own in self.momentum_encoder.state_dict().items():
            if own.is_floating_point():
                own.lerp_(state[name], 1 - self.momentum)
            else:  # BatchNorm's count of batches
                own.copy_(state[name])

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule; the schedule moves at each step, not at each epoch."""
        parameters = [*self.encoder.parameters(), *self.head.parameters()]
        optimizer = self.optimizer(parameters)
        scheduler = warmup_cosine(optimizer, self.total_steps, self.warmup)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
