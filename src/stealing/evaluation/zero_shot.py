"""The zero-shot head: features of images and embeddings of class names in, predictions out.

A CLIP has an image tower and a text tower, whose outputs can be compared. The class of an image is
the one whose text is nearest, so the head is not trained. The text tower is public: it runs here,
and costs no query. A surrogate has learned to give the target's features, so the same texts apply
to its features behind its adapter. No control has features in that space.

Source: Radford et al. 2021 (arXiv:2103.00020), section 3.1; prompts are averaged as in 3.1.4.

Shape letters: K classes, T templates, M images, D feature width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stealing.errors import ConfigError

ZERO_SHOT = "zero_shot"
"""Name of the head in results and tables."""

MAJORITY = "majority"
"""Name of its control: the most frequent class of the training split, for every image."""

PLACE = "{}"
"""Place of the class name in a template."""


@dataclass(frozen=True)
class ZeroShot:
    """Settings of the zero-shot head.

    Attributes:
        templates: prompts with `{}` in place of the class name.

    Raises:
        ConfigError: there is none, or one has no place or several places for the class name.
    """

    templates: list[str]

    def __post_init__(self) -> None:
        if not self.templates or any(text.count(PLACE) != 1 for text in self.templates):
            raise ConfigError(
                "probe.zero_shot.templates takes one prompt or more, each with one {} for the "
                "class name, such as 'a photo of a {}.'."
            )

    def prompts(self, names: Sequence[str]) -> list[str]:
        """Return the prompts of all classes, T for each; `_` in a name is read as a space."""
        prompts = list[str]()
        for name in names:
            for template in self.templates:
                prompts.append(template.replace(PLACE, name.replace("_", " ")))
        return prompts


def class_vectors(embeddings: Tensor, templates: int) -> Tensor:
    """Return one vector a class, (K, D): the mean of its normalised embeddings, normalised.

    Args:
        embeddings: of the prompts, (K * T, D), in the order of `ZeroShot.prompts`.
        templates: T.
    """
    width = embeddings.shape[1]
    by_class_KTD = F.normalize(embeddings, dim=1).view(-1, templates, width)
    return F.normalize(by_class_KTD.mean(1), dim=1)


@torch.inference_mode()
def zero_shot_predict(features_MD: Tensor, classes_KD: Tensor) -> Tensor:
    """Return for each image the class whose vector has the greatest cosine, int64 (M,).

    Raises:
        ConfigError: the features are not of the texts' width.
    """
    if features_MD.shape[1] != classes_KD.shape[1]:
        raise ConfigError(
            f"The target has {features_MD.shape[1]} features and its text tower "
            f"{classes_KD.shape[1]}: leave probe=zero_shot out."
        )
    # The length of the features is a common factor of all cosines of an image.
    return (features_MD.float() @ classes_KD.T).argmax(1)
