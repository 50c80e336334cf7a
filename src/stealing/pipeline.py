"""The flow."""
from pathlib import Path
from typing import Any
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from stealing.artefacts import claim, key, read_done, write_done
from stealing.data.draws import TrainingImages
from stealing.encoders import build_encoder, save_encoder
from stealing.pretraining.monitor import KNNMonitor
from stealing.pretraining.simclr import SimCLRModule
from stealing.training.fit import Recorder, fit


def run(config: DictConfig) -> None:
    settings = instantiate(config.trainer)
    images = instantiate(config.data.pretrain)
    arch: Any = OmegaConf.to_container(config.target_arch, resolve=True)
    recipe: Any = OmegaConf.to_container(config.pretrain, resolve=True)
    folder = Path(config.paths.work) / "targets" / key(version=1, images=images.checksum, arch=arch, recipe=recipe, seed=config.target.seed, precision=settings.precision)
    with claim(folder):
        if read_done(folder):
            return
        encoder = build_encoder(arch, config.target.seed)
        steps = recipe["epochs"] * (len(images) // recipe["batch_size"])
        module = SimCLRModule(encoder, instantiate(config.pretrain.views, _convert_="all"), instantiate(config.pretrain.optimizer), projection=recipe["projection"], temperature=recipe["temperature"], warmup=recipe["warmup"], total_steps=steps, seed=config.target.seed)
        spent = fit(module, TrainingImages(images, recipe["batch_size"], config.target.seed), folder, name="pretrain", total_steps=steps, seed=config.target.seed, settings=settings, recorder=Recorder(), monitors=(KNNMonitor(images, 5000),))
        save_encoder(encoder, folder / "encoder.safetensors", arch=arch, size=images.size, provenance={"recipe": recipe, "seed": config.target.seed, "images": images.checksum, **spent})
        write_done(folder, **spent)
