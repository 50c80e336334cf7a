"""Answer an unknown setting: its name in, an error that suggests another name out."""

from difflib import get_close_matches

from stealing.errors import ConfigError
from stealing.settings.commands import COMMANDS
from stealing.settings.kinds import Built, Setting
from stealing.settings.service import SERVICE_GROUPS
from stealing.settings.table import BASE, GROUPS

RATE = "attack.optimizer.lr, pretrain.optimizer.lr or control.optimizer.lr"
DECAY = (
    "attack.optimizer.weight_decay, pretrain.optimizer.weight_decay "
    "or control.optimizer.weight_decay"
)
LENGTH = "attack.steps, attack.epochs or pretrain.epochs"
FEWER = (
    "attack.steps or pretrain.epochs for a shorter training, and budget.images or counts of "
    "data= for fewer images"
)
NETWORK = "arch=, arch@target_arch=, or target=file target.path="

OTHER_NAMES = {
    "accumulate_grad_batches": "trainer.accumulate",
    "batch_size": "attack.batch_size, pretrain.batch_size or control.batch_size",
    "data_dir": "data.root",
    "dataset": "data=",
    "device": "trainer=cpu or trainer=gpu",
    "encoder": NETWORK,
    "epochs": LENGTH,
    "fast_dev_run": "experiment=debug",
    "gpus": "trainer=gpu trainer.devices=",
    "gradient_clip_val": "trainer.clip",
    "learning_rate": RATE,
    "limit_test_batches": FEWER,
    "limit_train_batches": FEWER,
    "limit_val_batches": FEWER,
    "log_dir": "paths.work",
    "lr": RATE,
    "max_epochs": LENGTH,
    "max_steps": "attack.steps",
    "model": NETWORK,
    "network": NETWORK,
    "num_workers": "trainer.threads",
    "optimizer": "attack.optimizer, pretrain.optimizer or control.optimizer",
    "output_dir": "paths.work",
    "overfit_batches": FEWER,
    "queries": "budget.images",
    "save_dir": "paths.work",
    "wandb": "logger=wandb",
    "weight_decay": DECAY,
}
"""Last names of settings in Lightning and other tools, and what to write here."""

NOT_NEEDED = {
    "ckpt_path": "the same command resumes from its checkpoint, "
    "and target.path names an encoder to attack",
    "resume": "the same command resumes from its checkpoint",
    "strategy": "trainer.devices starts the processes, which share each batch",
}
"""Settings of other tools that are not needed here, and why."""


def unknown_setting(name: str, command: str) -> ConfigError:
    """Return an error for a dotted name that is not a setting; it suggests a name if one is close.

    Args:
        name: as typed.
        command: name of the configuration; only its settings are suggested.
    """
    problem = f"There is no setting {name}"
    first, _, rest = name.partition(".")
    last = name.rpartition(".")[2]
    if first == "defense" and rest:
        option = rest.partition(".")[0]
        return ConfigError(f"{problem}: choose defense={option} with it, or correct its name.")
    is_service = command == "service"
    # The other commands train, and the habits are those of tools that train.
    if last in OTHER_NAMES and not is_service:
        return ConfigError(f"{problem}: use {OTHER_NAMES[last]}.")
    if last in NOT_NEEDED and not is_service:
        return ConfigError(f"{problem}: leave it out, as {NOT_NEEDED[last]}.")
    settings = COMMANDS.get(command, BASE)
    if any(_is_below_node(name, setting) for setting in settings):
        return ConfigError(
            f"{problem} in this option: --cfg job shows its settings, "
            "and + adds an argument of its class."
        )
    names = {setting.name for setting in settings if "*" not in setting.name}
    names |= set(SERVICE_GROUPS if is_service else GROUPS)
    names.discard(name)
    near = get_close_matches(name, sorted(names), n=1)
    if near:
        return ConfigError(f"{problem}: did you mean {near[0]}?")
    return ConfigError(f"{problem}: docs/settings.md has them all.")


def _is_below_node(name: str, setting: Setting) -> bool:
    return isinstance(setting.kind, Built) and name.startswith(f"{setting.name}.")
