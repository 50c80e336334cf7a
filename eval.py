"""Judge a finished run: its folder in; the table, and result.json under the chosen protocol, out."""

import sys

import hydra
from omegaconf import DictConfig

from stealing.config import check_choices, refusals, saved_choices
from stealing.errors import StealingError


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(config: DictConfig) -> None:
    """Put the run's own choices together with this protocol, then do what is not done yet."""
    try:
        saved, choices = saved_choices(config)
        check_choices(saved)
        from stealing.pipeline import run  # torch is imported only once the choices are right

        run(saved, choices)
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped: what was done is kept, and the same command goes on from there.")


if __name__ == "__main__":
    with refusals():
        main()
