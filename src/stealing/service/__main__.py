"""Offer an encoder over HTTP: choices in, a service until SIGTERM or Ctrl-C out."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from stealing.commands import one_line_errors
from stealing.config import check_values
from stealing.errors import ConfigError
from stealing.settings.overrides import check_command_line

CONF = Path(__file__).parents[3] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="service")
def main(config: DictConfig) -> None:
    """Check the choices, then serve."""
    with one_line_errors(config):
        if config.target.remote is not None:
            raise ConfigError(
                "A service offers a saved encoder: choose target=zoo, or target=file "
                "target.path=...."
            )
        check_values(config)
        try:
            from stealing.service.serve import serve
        except ImportError as error:
            raise ConfigError(
                f"The service needs {error.name}: pip install -e '.[serve]'."
            ) from None
        serve(config)


if __name__ == "__main__":
    with one_line_errors(command="service"):
        check_command_line("service")
        main()
