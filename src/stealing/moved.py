"""Names of earlier versions: an old import path in; the new one, or what it names, out.

A user's file may name or import a class that has moved since. The old name still works, with one
line of notice on the standard error.
"""

import importlib
import sys
from typing import Any

MOVED = {
    "stealing.attacks.asking.Plan": "stealing.attacks.query_plan.Plan",
    "stealing.data.draws.Dice": "stealing.data.sampling.BatchRandom",
    "stealing.defenses.chain.Asked": "stealing.defenses.chain.QueryBatch",
    "stealing.defenses.chain.Remembering": "stealing.defenses.chain.StatefulDefense",
    "stealing.report.sweep.Record": "stealing.sweeps.record.Record",
    "stealing.service.serving.Limits": "stealing.service.limits.Limits",
    "stealing.targets.wire.Garbled": "stealing.targets.wire.InvalidResponse",
    "stealing.targets.wire.picture": "stealing.targets.wire.encode_image",
}
"""Import paths of earlier versions, and where the same class or function is today."""


def new_path(path: str) -> str:
    """Return the present import path for one in `MOVED`, and print the line of notice."""
    print(f"{path} is now {MOVED[path]}: change the file.", file=sys.stderr)
    return MOVED[path]


def moved_name(module: str, name: str) -> Any:
    """Return what a module had under a name in an earlier version; its `__getattr__` calls this.

    Args:
        module: its import path.
        name: that it does not define.

    Raises:
        AttributeError: it had no such name.
    """
    path = f"{module}.{name}"
    if path not in MOVED:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    home, _, present = new_path(path).rpartition(".")
    value = getattr(importlib.import_module(home), present)
    # The module has the name from now on, so that the notice is printed once.
    setattr(sys.modules[module], name, value)
    return value
