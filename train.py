"""Run one experiment: the command line in; a table, `result.json` and all artefacts out."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from stealing.commands import one_line_errors
from stealing.config import check_choices
from stealing.report.states import summed_up
from stealing.settings.overrides import check_command_line
from stealing.signals import stoppable


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """Check the choices, then do what is not done yet.

    Returns:
        SA on the held rows, for sweepers that search; None if the run does not evaluate.
    """
    # These two stand here too, because a launcher may call this in a process of its own.
    with stoppable(), one_line_errors(config):
        check_choices(config)
        # Torch is imported only after the choices are checked: a mistake is answered at once.
        from stealing.pipeline import run
        from stealing.report.run_files import score_for_search

        folder = run(config, dict(HydraConfig.get().runtime.choices))
        if folder is None or config.until != "evaluate":
            return None
        return score_for_search(folder)


if __name__ == "__main__":
    with stoppable(), one_line_errors(), summed_up():
        check_command_line("train")
        main()
