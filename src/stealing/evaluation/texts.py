"""Texts of a run's tasks: a target with a text tower in; the zero-shot head of each task out.

Shape letters: M test images, V held rows, K classes, D feature width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn

from stealing.artefacts import key
from stealing.config import instantiate_node, to_dict
from stealing.encoders.foreign.load import TEXT_FAMILIES, load_text
from stealing.encoders.foreign.loaded import ForeignTarget
from stealing.errors import ConfigError
from stealing.evaluation.protocol import Evaluator, HeadInput, Predicted, Task
from stealing.evaluation.zero_shot import MAJORITY, ZeroShot, class_vectors, zero_shot_predict


@dataclass(frozen=True)
class ClassTexts:
    """Vectors of the class names of all tasks.

    Attributes:
        identity: hash of the text tower and of the tokens of all prompts.
        vectors: (K, D) of each task, by its name.
    """

    identity: str
    vectors: Mapping[str, Tensor]


def open_texts(config: DictConfig, tasks: Sequence[Task]) -> ClassTexts | None:
    """Return the vectors of all class names; None if the protocol has no zero-shot head.

    Args:
        config: of the run. The text tower is that of `target`.
        tasks: whose classes are named, by their data or by `data.tasks.<name>.classes`.

    Raises:
        ConfigError: the target has no text tower, or a task has no class names.
        CheckpointError: the text tower cannot be loaded.
    """
    settings = instantiate_node(config.probe).zero_shot
    if settings is None:
        return None
    assert isinstance(settings, ZeroShot)
    if config.target.get("family") not in TEXT_FAMILIES:
        raise ConfigError(
            "The zero-shot head needs a target with a text tower: choose target=open_clip, or "
            "target=huggingface with a CLIP or SigLIP, or leave probe=zero_shot out."
        )
    names = {task.name: _class_names(config, task) for task in tasks}
    tower = load_text(ForeignTarget.of(to_dict(config.target)))
    identity = {"tower": tower.identity}
    vectors = dict[str, Tensor]()
    for task, classes in names.items():
        tokens = tower.tokens(settings.prompts(classes))
        # Tokens and not names: they hold the templates and what the tokenizer does, too.
        identity[task] = key(tokens=tokens.tolist())
        vectors[task] = class_vectors(tower.embed(tokens), len(settings.templates))
    return ClassTexts(key(**identity), vectors)


def _class_names(config: DictConfig, task: Task) -> list[str]:
    """Return the name of each class, by label.

    Raises:
        ConfigError: there are none, or not one a class.
    """
    setting = f"data.tasks.{task.name}.classes"
    given = config.data.tasks[task.name].get("classes")
    names = list(given or task.train.class_names)
    if not names:
        raise ConfigError(
            f"The zero-shot head needs names of classes, and the data of task {task.name} has "
            f"none: set '{setting}=[...]' in the order of the labels, or leave probe=zero_shot out."
        )
    if len(names) != task.train.classes:
        raise ConfigError(
            f"{setting} has {len(names)} names, and the task has {task.train.classes} classes: "
            "name each class once, in the order of the labels."
        )
    return names


@dataclass(frozen=True)
class ZeroShotHead:
    """Predicts by texts.

    Attributes:
        texts: of the tasks.
        adapter: maps the surrogate's features to the target's space.
    """

    texts: ClassTexts
    adapter: nn.Module

    @torch.inference_mode()
    def predictions(
        self, task: Task, evaluator: Evaluator, inputs: Mapping[str, HeadInput]
    ) -> dict[str, Predicted]:
        """Return the predictions by encoder: `TA`, `TA_clean`, `SA` and the control `majority`.

        Args:
            task: its test labels are not read.
            evaluator: knows the held rows.
            inputs: features by encoder. Controls among them have none that a text can be compared
                with.
        """
        classes_KD = self.texts.vectors[task.name]
        adapters = {"TA": nn.Identity(), "TA_clean": nn.Identity(), "SA": self.adapter}
        predictions = dict[str, Predicted]()
        for name, adapter in adapters.items():
            if name not in inputs:
                continue
            held_VD, _ = evaluator.rows(task, inputs[name]).held
            test_M = zero_shot_predict(adapter(inputs[name].test_MD), classes_KD)
            held_V = zero_shot_predict(adapter(held_VD), classes_KD)
            predictions[name] = Predicted(test=test_M.numpy(), held=held_V.numpy())
        counts = np.bincount(task.train.targets())
        predictions[MAJORITY] = Predicted(
            test=_always(counts, len(predictions["TA"].test)),
            held=_always(counts, len(predictions["TA"].held)),
        )
        return predictions


def _always(counts: NDArray[np.int64], images: int) -> NDArray[np.int64]:
    """Return the most frequent class, of equal ones the first, for a number of images."""
    return np.full(images, counts.argmax(), np.int64)
