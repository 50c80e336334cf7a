"""Options in conf/: the command that runs in; its groups, their options and first lines out.

A file whose name starts with an underscore is a base that other options inherit, and no option.
The first comment of an option's file says what it is.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf

from stealing.errors import ConfigError
from stealing.settings.service import SERVICE_GROUPS
from stealing.settings.table import GROUPS

CONF = Path(__file__).parents[3] / "conf"
"""The options of the project."""


def groups_of(command: str) -> dict[str, str]:
    """Return what each group of a command decides.

    Args:
        command: name of its configuration: `train`, `eval`, `audit`, `service`, or a user's own.
    """
    return SERVICE_GROUPS if command == "service" else GROUPS


def without_bases(names: Iterable[str]) -> list[str]:
    """Return the names that a user may choose, sorted."""
    return sorted(name for name in names if not name.startswith("_"))


def first_line(group: str, option: str) -> str:
    """Return the first comment of an option's file, or an empty text without one."""
    for folder in _folders():
        path = folder / group / f"{option}.yaml"
        if path.is_file():
            return _first_comment(path)
    return ""


def _first_comment(path: Path) -> str:
    for line in path.read_text(errors="replace").splitlines():
        # Hydra reads this comment itself; it says where the option goes, and nothing about it.
        if line.startswith("# @package") or not line.strip():
            continue
        return line.lstrip("# ").strip() if line.startswith("#") else ""
    return ""


def _folders() -> Iterator[Path]:
    """Give the folders with options: those of the command's own search path first."""
    if HydraConfig.initialized():
        # The project's, those of `--config-dir`, and those of `hydra.searchpath`.
        for source in HydraConfig.get().runtime.config_sources:
            if source.schema == "file":
                yield Path(source.path)
    # Of a user whose own options lie in her working folder.
    yield Path("conf")
    yield CONF


def option_table() -> str:
    """Return one line for each group, `group: option, option`, of the command that runs."""
    table = ""
    for group, options in _options().items():
        table += f"{group}: {', '.join(options)}\n"
    return table


def option_help(*names: str) -> str:
    """Return the options of groups, one a line, each with the first comment of its file.

    Args:
        names: of groups of the command that runs.

    Raises:
        ConfigError: one of them is not a group with options.
    """
    options = _options()
    lines = list[str]()
    for group in names:
        if group not in options:
            raise ConfigError(
                f"{group} is not a group of options: --help takes one of {', '.join(options)}."
            )
        decides = groups_of(_command()).get(group, "")
        lines += ["", f"{group}: {decides}".rstrip(": "), ""]
        width = max(map(len, options[group]))
        for option in options[group]:
            lines.append(f"  {option:{width}}  {first_line(group, option)}".rstrip())
    # Hydra substitutes $names in this text.
    return "\n".join(lines[1:]).replace("$", "$$")


def _options() -> dict[str, list[str]]:
    """Return the options of each group of this command, those of a user's own folder included."""
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    options = dict[str, list[str]]()
    for top in sorted(groups_of(_command())):
        for group in [top, *_groups_below(loader, top)]:
            names = without_bases(loader.get_group_options(group))
            if names:
                options[group] = names
    return options


def _groups_below(loader: ConfigLoaderImpl, parent: str) -> list[str]:
    """Return the groups below one, at any depth."""
    groups = []
    for name in sorted(loader.get_group_options(parent, ObjectType.GROUP)):
        group = f"{parent}/{name}"
        groups += [group, *_groups_below(loader, group)]
    return groups


def _command() -> str:
    """Return the name of the configuration of the command that runs."""
    return str(HydraConfig.get().job.config_name)


# Hydra's own $APP_CONFIG_GROUPS would list the bases among the options
OmegaConf.register_new_resolver("option_table", option_table, replace=True)
OmegaConf.register_new_resolver("option_help", option_help, replace=True)
