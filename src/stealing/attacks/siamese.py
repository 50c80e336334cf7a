"""Losses of self-supervised learning, between surrogate features and the target's answers.

The surrogate takes the place of one branch of a Siamese network, and the target that of the other.
As in `stealing.attacks.losses`, losses compute in float32, and the gradient goes only to the
surrogate and to a loss's own parameters.

Shape letters: B images in the batch, D feature width, H hidden width.

Source: Dziedzic et al., "On the Difficulty of Defending Self-Supervised Learning against Model
Extraction" (ICML 2022, arXiv:2205.07890); "released code" is cleverhans-lab/ssl-attacks-defenses at
1d3874f.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stealing.attacks.contrastive import check_negatives
from stealing.attacks.losses import l2
from stealing.numbers import LEAST, check_integer, check_number


def infonce(surrogate_BD: Tensor, target_BD: Tensor, *, temperature: float) -> Tensor:
    """Contrast the features of each image with those of all others, from both encoders.

    The surrogate's row of an image and the target's are the positive pair. The other 2B - 2 rows
    are negatives of both. The value is in nats, at least 0.

    Args:
        surrogate_BD: surrogate features, (B, D), with gradient; normalised here. B is at least 2.
        target_BD: banked answers to the same images, (B, D); normalised here.
        temperature: softmax temperature, > 0.

    Raises:
        ConfigError: one image has no negatives.

    Source: `info_nce_loss` of simclr.py in the released code, as its stealing loop calls it. The
    released code of Cont-Steal has the same formula (Loss.py at 49233dd).
    """
    check_number("attack.loss.temperature", temperature, LEAST)
    with torch.autocast(surrogate_BD.device.type, enabled=False):
        rows = F.normalize(torch.cat([surrogate_BD.float(), target_BD.float()]))
        return _contrast(rows @ rows.T / temperature)


def infonce_and_distance(
    surrogate_BD: Tensor, target_BD: Tensor, *, temperature: float, distance_weight: float
) -> Tensor:
    """Return the contrast of `infonce` plus a weight times the mean distance of the features.

    The contrast orders the images as the target does, which serves nearest neighbours. The distance
    brings the features themselves near, which serves a linear head.

    Args:
        surrogate_BD: surrogate features, (B, D), with gradient; normalised here. B is at least 2.
        target_BD: banked answers to the same images, (B, D); normalised here.
        temperature: of `infonce`, > 0.
        distance_weight: of the distance, at least 0, in nats for a distance of 1.

    Raises:
        ConfigError: one image has no negatives.

    Source: ours.
    """
    check_number("attack.loss.distance_weight", distance_weight)
    contrast = infonce(surrogate_BD, target_BD, temperature=temperature)
    return contrast + distance_weight * l2(surrogate_BD, target_BD, reduction="mean")


def soft_nn(surrogate_BD: Tensor, target_BD: Tensor, *, temperature: float) -> Tensor:
    """Make the other encoder's row of an image the soft nearest neighbour among the 2B rows.

    It is `infonce` with the negative squared Euclidean distance in place of the cosine. Rows are
    not normalised, so lengths count, and the value is in nats, at least 0.

    Args:
        surrogate_BD: surrogate features, (B, D), with gradient; B is at least 2.
        target_BD: banked answers to the same images, (B, D).
        temperature: of the distances, > 0, in the unit of the features squared.

    Raises:
        ConfigError: one image has no negatives.

    Source: `soft_nn_loss` of loss.py in the released code; Frosst et al. 2019 (arXiv:1902.01889).
    Departure: the released code adds 1e-9 inside the logarithm, which bounds the loss at 21 nats
    and stops the gradient of a row beyond it. A log-sum-exp needs no such constant.
    """
    check_number("attack.loss.temperature", temperature, LEAST)
    with torch.autocast(surrogate_BD.device.type, enabled=False):
        rows = torch.cat([surrogate_BD.float(), target_BD.float()])
        # distances stay, and smaller numbers cancel less in the next line
        rows = rows - rows.mean(0).detach()
        lengths = rows.square().sum(1)
        distances = lengths[:, None] + lengths - 2 * rows @ rows.T
        return _contrast(-distances / temperature)


def _contrast(logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of 2B rows, (2B, 2B), with row i of the other half as label."""
    check_negatives(len(logits) // 2)
    # -inf: no row is its own neighbour
    logits = logits.fill_diagonal_(-torch.inf)
    positive = torch.arange(len(logits), device=logits.device).roll(len(logits) // 2)
    return F.cross_entropy(logits, positive)


def wasserstein(surrogate_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Return the first Wasserstein distance between rows that are read as distributions.

    A row is divided by its sum and is then a distribution over the positions 0 to D - 1. The
    distance of two rows is the sum over the positions of the difference of both cumulative sums:
    how far mass has to move, in positions, from 0 to D - 1. The value is the mean over the batch.

    Args:
        surrogate_BD: surrogate features, (B, D), with gradient; negative numbers count as 0.
        target_BD: banked answers to the same images, (B, D); negative numbers count as 0.

    Source: `torch_cdf_loss` of loss.py in the released code, with p = 1. Departure: its encoders
    end in a ReLU, and it says nothing of negative numbers, whose sum may be 0.
    """
    surrogate = _cumulative(surrogate_BD)
    target = _cumulative(target_BD)
    return (surrogate - target).abs().sum(1).mean()


def _cumulative(rows_BD: Tensor) -> Tensor:
    mass = rows_BD.float().clamp(min=0)
    # 1e-14 as in the released code, for a row without any mass
    return (mass / (mass.sum(1, keepdim=True) + 1e-14)).cumsum(1)


def barlow(surrogate_BD: Tensor, target_BD: Tensor, *, off_diagonal: float) -> Tensor:
    """Make the cross-correlation of the surrogate's and the target's features the identity.

    Each feature is standardised over the batch, as BatchNorm does. The value is the sum over the
    diagonal of (1 - c)^2 plus `off_diagonal` times the sum of c^2 over all other entries.

    Args:
        surrogate_BD: surrogate features, (B, D), with gradient; B is at least 2.
        target_BD: banked answers to the same images, (B, D).
        off_diagonal: weight of the other entries, at least 0.

    Source: Barlow Twins (arXiv:2103.03230), equation 1. Departure: `barlow_loss` in the released
    code correlates the rows of both encoders of one half of a batch with those of the other half.
    No term of it compares the surrogate with the target.
    """
    check_number("attack.loss.off_diagonal", off_diagonal)
    with torch.autocast(surrogate_BD.device.type, enabled=False):
        surrogate = F.batch_norm(surrogate_BD.float(), None, None, training=True)
        target = F.batch_norm(target_BD.float(), None, None, training=True)
        correlation_DD = surrogate.T @ target / len(surrogate)
        diagonal = correlation_DD.diagonal()
        others = correlation_DD.square().sum() - diagonal.square().sum()
        return (1 - diagonal).square().sum() + off_diagonal * others


class PredictedCosine(nn.Module):
    """Negative cosine between the answer and what a predictor makes of the surrogate's features.

    The value is in [-1, 1]. The predictor has one hidden layer with BatchNorm and ReLU. It is
    trained with the surrogate, stands in its checkpoints under `loss.`, and is dropped at the end.

    Args:
        width: D, of the answers.
        hidden: H, width of the hidden layer.

    Source: the loss `symmetrized` of simclr.py in the released code, after SimSiam
    (arXiv:2011.10566), section 3. Departure: the released code queries with two views, passes
    features and answers through a projector that is trained, too, and compares each prediction with
    the other view's answer. Here an image has one answer for all its views, so that a call is one
    of the two terms; features and answers stay as they are. BatchNorm has no scale and shift of its
    own.
    """

    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__()
        check_integer("attack.loss.hidden", hidden, 1)
        # no bias before BatchNorm, which takes it off again
        self.first = nn.Linear(width, hidden, bias=False)
        self.second = nn.Linear(hidden, width)

    def forward(self, surrogate_BD: Tensor, target_BD: Tensor) -> Tensor:
        """Return the mean negative cosine over B rows, of all processes; B is at least 2."""
        with torch.autocast(surrogate_BD.device.type, enabled=False):
            hidden_BH = self.first(surrogate_BD.float())
            # the function, not the layer: these rows are already those of all processes, and
            # nothing is ever evaluated by running statistics
            hidden_BH = F.batch_norm(hidden_BH, None, None, training=True).relu()
            predicted_BD = self.second(hidden_BH)
            return -F.cosine_similarity(predicted_BD, target_BD.float()).mean()
