"""Offer an encoder over HTTP: choices in, a service until SIGTERM or Ctrl-C out. See conf/service.yaml."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from stealing.config import refusals
from stealing.errors import StealingError

CONF = Path(__file__).parents[3] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="service")
def main(config: DictConfig) -> None:
    """Open the encoder and the books, then serve."""
    try:
        from stealing.service.serve import serve

        serve(config)
    except ImportError as error:
        sys.exit(f"ConfigError: the service needs {error.name}: pip install -e '.[serve]'.")
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    with refusals():
        main()
