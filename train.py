"""Run one experiment: choices from the command line in; a table, result.json and all artefacts out."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from stealing.config import check_choices, refusals
from stealing.errors import StealingError
from stealing.report.sweep import summed_up


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """Check the choices, then do what is not done yet; return SA on a slice of train, for sweepers that search."""
    try:
        check_choices(config)
        from stealing.pipeline import run  # torch is imported only once the choices are right
        from stealing.report.seeds import score_for_search

        folder = run(config, dict(HydraConfig.get().runtime.choices))
        return score_for_search(folder) if folder and config.until == "evaluate" else None
    except StealingError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # the other cells have their turn
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped: what was done is kept, and the same command goes on from there.")


if __name__ == "__main__":
    with refusals(), summed_up():
        main()
