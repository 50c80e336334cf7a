"""Where a number comes from: code, versions and hardware, for result.json and cards."""

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


def provenance(threads: int, processes: int) -> dict[str, Any]:
    """The day, the commit of this clone (null elsewhere), library versions, and what it ran on."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {n: version(n) for n in ("stealing", "torch", "lightning")},
        "hardware": {
            "machine": platform.machine(),
            "cpu": processor(),
            "cores": os.cpu_count(),
            "processes": processes,
            "threads": threads,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def commit() -> str | None:
    """The clone's commit, marked where tracked files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory() -> float:
    """Most memory that this process held so far, in GiB; not a number where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**30 if sys.platform == "darwin" else 2**20)


def processor() -> str:
    """Return the name of this machine's processor, or an empty text if the system does not tell."""
    info = Path("/proc/cpuinfo")
    names = (
        [row.split(":")[1].strip() for row in info.read_text().splitlines() if "model name" in row]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()
