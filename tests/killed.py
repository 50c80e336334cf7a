"""Runs train.py again and again in forks, each killed at a named point; the last one finishes.

Usage: python killed.py POINT... -- ARGUMENT...     (arguments of train.py)

A point is `module:attribute:n`, which kills the process instead of the n-th call of a function, or
`os:replace:name`, which kills it instead of the first rename to a file of that name: the temporary
file is whole, the final one is not. KILL_BY=SIGINT stops it as Ctrl-C does instead, and SIGTERM as
a scheduler does. Everything heavy is imported once, before the forks.
"""

import importlib
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import stealing.pipeline  # noqa: F401

ROOT = Path(__file__).parents[1]
BY = getattr(signal, os.environ.get("KILL_BY", "SIGKILL"))
ENDED = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 1, signal.SIGTERM: 143}[BY]


def arm(point: str) -> None:
    """Replace the named function in this process by one that kills at the right call."""
    module, attribute, which = point.split(":")
    holder: Any = importlib.import_module(module)
    *owners, name = attribute.split(".")
    for owner in owners:
        holder = getattr(holder, owner)
    original, calls = getattr(holder, name), [0]

    def counted(*args: Any, **options: Any) -> Any:
        hit = Path(args[1]).name == which if not which.isdigit() else calls[0] + 1 == int(which)
        calls[0] += 1
        if hit:
            os.kill(os.getpid(), BY)
        return original(*args, **options)

    setattr(holder, name, counted)


def child(point: str | None, arguments: list[str]) -> int:
    """How a run in a child of this process ended."""
    process = os.fork()
    if process == 0:
        os.chdir(ROOT)
        if point:
            arm(point)
        sys.argv = ["train.py", *arguments]
        runpy.run_path("train.py", run_name="__main__")
        sys.stdout.flush()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    cut = sys.argv.index("--")
    points, arguments = sys.argv[1:cut], sys.argv[cut + 1 :]
    for point in points:
        ended = child(point, arguments)
        if ended != ENDED:
            sys.exit(f"{point} was not reached: exit code {ended}")
    sys.exit(child(None, arguments))
