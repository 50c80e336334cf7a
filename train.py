"""Run one experiment: choices from the command line in, a table and result.json out.

python train.py experiment=debug
python train.py experiment=cifar10_cpu seed=1
python train.py -m budget=b500,b1000,b2500
"""

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Check the choices, then run."""
    from stealing.pipeline import run  # torch is imported only once the choices are right

    run(config)


if __name__ == "__main__":
    main()
