"""Check the overrides of a command line before Hydra composes them: grammar, choices and names.

Hydra itself answers some mistakes with a traceback, some with the position of a character, and
accepts any `+name`.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException

from stealing.errors import ConfigError
from stealing.settings.checks import Tree, is_required, tree_of
from stealing.settings.commands import COMMANDS
from stealing.settings.kinds import Free, Setting
from stealing.settings.nearest import unknown_setting
from stealing.settings.options import groups_of, without_bases
from stealing.settings.table import BASE

BUDGETS = (500, 1000, 2500)
"""Images of the options in `conf/budget`, which are named b500 and so on."""

HELP = ("--help", "-h")
"""Flags after which the names of groups may follow."""

GROUP = re.compile(r"\w+(/\w+)*(@\w+)?")
"""What may be the name of a group."""


def check_command_line(command: str) -> None:
    """Check the overrides that this process was started with, and read the groups after `--help`.

    Args:
        command: name of the configuration, unless `--config-name` gives another.

    Raises:
        ConfigError: as `check_overrides`.
    """
    sys.argv[1:] = with_help_of_groups(sys.argv[1:])
    arguments = get_args_parser().parse_args()
    if not arguments.shell_completion:
        check_overrides(arguments.overrides, arguments.config_name or command)


def with_help_of_groups(words: Sequence[str]) -> list[str]:
    """Return a command line on which Hydra's `--help` shows the options of groups.

    Hydra's own `--help` takes no word.

    Args:
        words: as typed, such as `--help attack` or `--help=attack`.
    """
    kept = list[str]()
    groups = list[str]()
    follows_help = False
    for word in words:
        flag, _, group = word.partition("=")
        follows_help = flag in HELP or (follows_help and GROUP.fullmatch(word) is not None)
        if flag in HELP:
            kept.append(flag)
            # What cannot be a group is refused as an override.
            (groups if GROUP.fullmatch(group) else kept).extend([group] if group else [])
        elif follows_help:
            groups.append(word)
        else:
            kept.append(word)
    if groups:
        # `arch@target_arch` has the options of `arch`.
        names = [group.partition("@")[0] for group in groups]
        kept.append(f"hydra.help.template=${{option_help:{','.join(names)}}}")
    return kept


def check_overrides(words: Sequence[str], command: str) -> None:
    """Refuse overrides that cannot be read, choices that are not options, and unknown settings.

    Args:
        words: as typed, such as `attack.steps=100`.
        command: name of the configuration: `train`, `eval`, `audit` or `service`.

    Raises:
        ConfigError: one sentence with the override and what to type instead.
    """
    groups = groups_of(command)
    overrides = [_parsed(word) for word in words]
    added = {override.key_or_group for override in overrides if _is_added(override)}
    for word, override in zip(words, overrides, strict=True):
        name = override.key_or_group
        if override.is_hydra_override():
            continue
        if override.is_delete():
            # `~node +node={...}` replaces a node; without `~`, Hydra would merge their keys.
            if name not in added:
                _check_removal(override, command)
        elif name in groups or "/" in name:
            _check_choice(override)
            if override.is_add() and override.package is not None:
                _check_name(override.package, command, is_new=True)
        elif name == "target_arch" and isinstance(override.value(), str):
            raise ConfigError(f"{word} is not a network: use arch@target_arch={override.value()}.")
        else:
            _check_name(name, command, is_new=_is_added(override))


def _is_added(override: Override) -> bool:
    return override.is_add() or override.is_force_add()


def _parsed(word: str) -> Override:
    """Return an override, or raise an error that shows how to quote its value."""
    parser = OverridesParser.create()
    try:
        return parser.parse_override(word)
    except HydraException:
        pass
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        name = word.partition("=")[0]
        raise ConfigError(f"{name} has a number of thousands of digits: set another.") from None
    name, equals, value = word.partition("=")
    if not equals:
        raise ConfigError(f"{word} is not an override: write setting=value or group=option.")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    quoted = f'{name}="{escaped}"'
    try:
        parser.parse_override(quoted)
    except HydraException:
        raise ConfigError(f"{word} cannot be read: write setting=value or group=option.") from None
    raise ConfigError(
        f"{word} cannot be read, because its value holds special characters: quote the value, and "
        f"quote the whole override for the shell: {shlex.quote(quoted)}"
    )


def _is_name(value: Any) -> bool:
    """Return whether a value is a string; a quoted one has a text."""
    return isinstance(value, str) or hasattr(value, "text")


def _check_choice(override: Override) -> None:
    """Refuse a value that is not a name of an option; Hydra would raise a ValueError."""
    values: list[Any]
    if override.is_choice_sweep():
        values = list(override.sweep_iterator())
    elif override.is_sweep_override():
        return  # such as glob(*), whose values Hydra finds itself
    else:
        values = [override.value()]
    for value in values:
        names = value if isinstance(value, list) else [value]
        if all(_is_name(name) for name in names):
            continue
        word = override.input_line
        if override.key_or_group == "budget":
            is_number = isinstance(value, int) and not isinstance(value, bool) and value > 0
            images = value if is_number else BUDGETS[-1]
            option = images if images in BUDGETS else BUDGETS[-1]
            raise ConfigError(
                f"{word} names no option: write budget=b{option}, "
                f"or budget.images={images} for a number."
            )
        raise ConfigError(
            f"{word} names no option of {override.key_or_group}: --help lists them; "
            "leave it out for the default."
        )


def _check_name(name: str, command: str, *, is_new: bool) -> None:
    """Refuse a dotted name that is not a setting; below a `Built` node, its constructor decides."""
    part = tree_of(COMMANDS.get(command, BASE))
    for step in name.split("."):
        inner = part.get(step, part.get("*"))
        if inner is None:
            raise unknown_setting(name, command)
        if isinstance(inner, Setting):
            # A user's own data file may add any name; on a command line a new name is a mistake.
            if is_new and isinstance(inner.kind, Free) and inner.name.endswith("*"):
                raise unknown_setting(name, command)
            return
        part = inner


def _check_removal(override: Override, command: str) -> None:
    """Refuse to remove a setting that the command requires; a task or an added setting may go."""
    name = override.package or override.key_or_group
    part: Tree | Setting = tree_of(COMMANDS.get(command, BASE))
    for step in name.split("."):
        if isinstance(part, Setting) or step not in part:
            return
        part = part[step]
    if is_required(part):
        raise ConfigError(f"{override.input_line} removes what the command needs: leave it out.")


def explain_hydra_error(error: HydraException, command: str) -> str:
    """Return an error of Hydra as one sentence with advice.

    Args:
        error: of the composition.
        command: name of the configuration.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.options:
        match = re.search(r"Could not find '(.+?)'", text)
        if match is not None:
            options = ", ".join(without_bases(error.options))
            return (
                f"There is no option {match[1]}: choose one of {options}, or name the folder of "
                "your own options by --config-dir."
            )
    match = re.match(r"Could not override '(.+?)'", text)
    if match is not None:
        return str(unknown_setting(match[1], command))
    match = re.search(r"An item is already at '(.+?)'", text)
    if match is not None:
        return f"{match[1]} is there already: leave the + out."
    match = re.match(r"Ambiguous value for argument '((.+?)=(.+?))' ", text)
    if match is not None:
        word, name, values = match.groups()
        return (
            f"{word} names several values: add -m for a sweep, or write '{name}=[{values}]' "
            "for a list."
        )
    # The rest of Hydra's message is a page of folders, or advice for its own command line.
    problem = text.split("Config search path")[0].split("To append")[0].strip().rstrip(".")
    return f"{problem}: see --help for the groups and --cfg job for every setting."
