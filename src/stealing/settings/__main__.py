"""Print the reference of settings as Markdown: python -m stealing.settings > docs/settings.md."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stealing.settings.arguments import BUILT_BY_NAME, EVERYWHERE
from stealing.settings.defaults import composed, default_of, options_of
from stealing.settings.kinds import Setting
from stealing.settings.reference import reference, table
from stealing.settings.service import SERVICE, SERVICE_GROUPS
from stealing.settings.table import AUDIT, BASE, EVAL, GROUPS

INTRODUCTION = """\
# Settings

`python -m stealing.settings` writes this page from the code and from `conf/`.
Before a command opens anything, it refuses a value of another type or out of
range in one sentence. Write a setting as `name=value`; `+` adds an argument that
the option does not set, such as `+attack.optimizer.amsgrad=true`, and a task, as
in `+data/task@data.tasks.svhn=svhn`. A command accepts no other new setting.
`--cfg job` prints all settings of a command with their values.

`*` stands for any name. A *default* is what `conf/` says without any override:
`${...}` stands as it is written there and is filled in when the command starts;
*absent* is a setting that this choice of options does not have. A setting that
is built from a class (`_target_`) has the name of the class as its default, and
the arguments of the class as settings: see
[Arguments of classes](#arguments-of-classes).

Groups, `group=option`. `conf/data/mine/pets.yaml`, or the same file in a folder
that `--config-dir` names, is `data=mine/pets`:
"""

BY_NAME = f"""\
Arguments with these names are checked in every constructor of the project and of
torch.optim, and {", ".join(f"`{name}`" for name in sorted(EVERYWHERE))} in a user's
own class too. Other numbers are finite, and the constructor has their range.
"""

CLASSES = """\
## Arguments of classes

Each class that `conf/` names, under the setting that holds it. A default is the
value of the options that name the class, else that of its constructor. *By
option* means that more than three values stand in `conf/`. *The project passes
it* means that it is no setting of this node. A value that is *a node* is built
from a class of its own. The nodes of `data` stand at any depth: most of them take
another node as `images`.
"""

DIFFERENT = "These settings have another default there than for `train.py`:"

SETTING = ("setting", "values", "default", "unit", "meaning")


def document() -> str:
    """Return the reference, as Markdown."""
    return "\n".join(_lines()).rstrip()


def _lines() -> Iterator[str]:
    yield from INTRODUCTION.splitlines()
    yield ""
    yield from table(("group", "what it chooses", "options"), _groups())
    yield ""
    service_groups = [f"`{name}`" for name in SERVICE_GROUPS]
    faults = ", ".join(f"`{option}`" for option in options_of("faults"))
    yield f"The service has the groups {', '.join(service_groups)} ({faults})."
    yield ""
    yield from BY_NAME.splitlines()
    yield ""
    named = [(f"`{name}`", str(kind)) for name, kind in BUILT_BY_NAME.items()]
    yield from table(("argument", "values"), named)
    defaults = composed("train")
    yield from _section("Settings of `train.py`, `eval.py` and the audit", BASE, defaults)
    yield from _command("`eval.py`", "eval", EVAL[len(BASE) :], defaults)
    audit = "`eval.py --config-name audit`"
    yield from _command(audit, "audit", AUDIT[len(BASE) :], defaults)
    of_service = "Settings of `python -m stealing.service`"
    yield from _section(of_service, SERVICE, composed("service"))
    yield ""
    yield from CLASSES.splitlines()
    yield ""
    yield from reference()


def _groups() -> list[tuple[str, ...]]:
    """Return a row for each group, with its options."""
    rows: list[tuple[str, ...]] = []
    for name, meaning in GROUPS.items():
        options = ", ".join(f"`{option}`" for option in options_of(name))
        rows.append((f"`{name}`", meaning, options))
    return rows


def _command(
    title: str, name: str, settings: Sequence[Setting], defaults: Mapping[str, Any]
) -> Iterator[str]:
    """Yield the section of a command that has the settings of `train.py`, and more."""
    own = composed(name)
    yield from _section(f"More settings of {title}", settings, own)
    rows = []
    for setting in BASE:
        default = default_of(setting, own)
        if default != default_of(setting, defaults):
            rows.append((f"`{setting.name}`", default))
    yield ""
    yield DIFFERENT
    yield ""
    yield from table(("setting", "default"), rows)


def _section(title: str, settings: Sequence[Setting], defaults: Mapping[str, Any]) -> Iterator[str]:
    """Yield a section with a table of settings."""
    yield ""
    yield f"## {title}"
    yield ""
    rows = []
    for one in settings:
        row = (f"`{one.name}`", str(one), default_of(one, defaults), one.unit, one.meaning)
        rows.append(row)
    yield from table(SETTING, rows)


if __name__ == "__main__":
    print(document())
