"""Judge a run again, judge any encoder, or audit one: its choices in; tables, JSON or one page out."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from stealing.config import check_choices, name_surrogate, refusals, saved_choices
from stealing.errors import ConfigError, StealingError


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(config: DictConfig) -> None:
    """Check the choices, then do what is not done yet; torch is imported only once they are right."""
    try:
        if "audit" in config:
            check_choices(config)
            from stealing.audit import audit

            audit(config, list(HydraConfig.get().overrides.task))
        elif config.run is not None:
            saved, choices = saved_choices(config, list(HydraConfig.get().overrides.task))
            check_choices(saved)
            from stealing.pipeline import run

            folder = run(saved, choices, aside=True)
            assert folder is not None
            print((folder / "result.json").read_text())
        else:
            if config.surrogate is not None:
                name_surrogate(config, HydraConfig.get().overrides.task)
            if OmegaConf.is_missing(config.target, "path"):
                raise ConfigError(
                    "Nothing to judge is named: add run= or surrogate=<a run's folder>, "
                    "target.path=<a file> or target=."
                )
            check_choices(config)
            from stealing.judge import judge

            judge(config, dict(HydraConfig.get().runtime.choices))
    except StealingError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped: what was done is kept, and the same command goes on from there.")


if __name__ == "__main__":
    with refusals():
        main()
