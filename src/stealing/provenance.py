"""Describe where a number comes from: code, versions and hardware, for results and cards."""

import math
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux describes the processor."""

BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Linux's names of instructions that multiply in bfloat16: two of x86, one of ARM."""


def provenance(threads: int, processes: int) -> dict[str, Any]:
    """Return the date, the commit, the library versions and the hardware of this process.

    Args:
        threads: of each process.
        processes: of the run.
    """
    versions = {"python": platform.python_version()}
    for name in ("stealing", "torch", "lightning"):
        versions[name] = version(name)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "versions": versions,
        "hardware": {
            "machine": platform.machine(),
            "cpu": processor(),
            "cores": os.cpu_count(),
            "processes": processes,
            "threads": threads,
            "gpu": gpu,
        },
    }


def commit(folder: Path = Path(__file__).parent) -> str | None:
    """Return the commit of a clone, with `-dirty` if a file differs; None outside a clone.

    Files in `results/` do not count: no command computes from them, and a comparison of many runs
    writes there between two of them.

    Args:
        folder: in the clone; that of this code.
    """
    # `--exclude=*` ignores tags, so that the answer is always a commit.
    name = _git(folder, "describe", "--always", "--abbrev=12", "--exclude=*")
    if name is None:
        return None
    code = (":(top)", ":(top,exclude)results")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *code)
    return f"{name}-dirty" if changed else name


def _git(folder: Path, *words: str) -> str | None:
    """Return what git prints, or None if it fails."""
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def peak_memory() -> float:
    """Return the most memory that this process has used so far, in GiB; NaN on Windows."""
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux counts KiB.
    return float(peak) / (2**30 if sys.platform == "darwin" else 2**20)


def processor() -> str:
    """Return the name of this machine's processor, or an empty string if it is unknown."""
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if "model name" in line:
                return line.split(":")[1].strip()
    return platform.processor()


def has_fast_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Return True if this machine's processor multiplies in bfloat16; False if that is unknown."""
    return cpuinfo.exists() and not BF16.isdisjoint(cpuinfo.read_text().split())
