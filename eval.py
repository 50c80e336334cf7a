"""Judge a run again, judge any encoder, or audit one: choices in; tables, JSON or a page out."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from stealing.commands import one_line_errors
from stealing.config import check_choices
from stealing.errors import ConfigError
from stealing.saved.restore import choose_surrogate, restore_run
from stealing.settings.overrides import check_command_line
from stealing.signals import stoppable
from stealing.text import printable_lines


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
def main(config: DictConfig) -> None:
    """Check the choices, then do what is not done yet."""
    # Torch is imported only after the choices are checked: a mistake is answered at once.
    with one_line_errors(config):
        if "audit" in config:
            check_choices(config)
            from stealing.audit import audit

            audit(config, list(HydraConfig.get().overrides.task))
        elif config.run is not None:
            saved, choices = restore_run(config, list(HydraConfig.get().overrides.task))
            check_choices(saved)
            from stealing.pipeline import run

            folder = run(saved, choices, aside=True)
            assert folder is not None
            print(printable_lines((folder / "result.json").read_text()))
        else:
            if config.surrogate is not None:
                choose_surrogate(config, HydraConfig.get().overrides.task)
            if OmegaConf.is_missing(config.target, "path"):
                raise ConfigError(
                    "Nothing to judge is named: add run= or surrogate=<a run's folder>, "
                    "target.path=<a file> or target=."
                )
            check_choices(config)
            from stealing.judge import judge

            judge(config, dict(HydraConfig.get().runtime.choices))


if __name__ == "__main__":
    with stoppable(), one_line_errors(command="eval"):
        check_command_line("eval")
        main()
