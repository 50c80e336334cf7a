"""Train the target of a run: its images and its configuration in, an encoder as an artefact out."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stealing.config import to_dict
from stealing.data.images import Images
from stealing.encoders import Encoder
from stealing.pretraining.pretrain import pretrain_encoder
from stealing.training.fit import Recorder, Settings


def pretrain_target(
    config: DictConfig, images: Images, *, settings: Settings, recorder: Recorder
) -> tuple[Encoder, Path, dict[str, Any]]:
    """Train the target, resume its training, or load it if it is finished.

    Args:
        config: of the run.
        images: what the target is trained on.
        settings: how it is trained.
        recorder: gets its curves.

    Returns:
        The encoder in eval mode, its folder, and the facts in its `done.json`.
    """
    # How long the recipe is followed is in the artefact's key as a number of steps.
    recipe = to_dict(config.pretrain)
    epochs = int(recipe.pop("epochs"))
    batch_size = min(int(recipe["batch_size"]), len(images))
    return pretrain_encoder(
        images,
        to_dict(config.target_arch),
        recipe,
        owner="target",
        name="pretrain",
        steps=settings.steps(epochs, len(images) // batch_size),
        seed=config.target.seed,
        root=Path(config.paths.work) / "targets",
        settings=settings,
        recorder=recorder,
        monitored=True,
    )
