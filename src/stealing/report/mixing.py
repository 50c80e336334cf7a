"""What the runs of one table were made with: results in; a sentence for its caption, or a refusal, out.

The target is left out: it is what is attacked, and the same for every run that is compared.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stealing.errors import DataError

OURS = ("surrogate", "control", "run")
"""What a run makes itself; `run` is its evaluation."""

Kind = tuple[tuple[str, ...], tuple[str, ...]]


def kind_of(result: dict[str, Any]) -> Kind:
    """Return the devices (`cpu`, `gpu`) and the precisions that a run was made on."""
    facts = _facts(result)
    devices = sorted({str(fact["device"]) for fact in facts if fact.get("device")})
    precisions = sorted({str(fact["precision"]) for fact in facts if fact.get("precision")})
    return tuple(devices), tuple(precisions)


def check_unmixed(results: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Refuse a table of runs on CPU and GPU, or of several precisions.

    Args:
        results: folder and `result.json` of each run.

    Raises:
        DataError: naming a run of each kind.
    """
    places = dict[tuple[str, str], Path]()
    for folder, result in results:
        for name, found in zip(("device", "precision"), kind_of(result), strict=True):
            for value in found:
                places.setdefault((name, value), folder)
    for name in ("device", "precision"):
        values = [(value, folder) for (each, value), folder in places.items() if each == name]
        if len(values) > 1:
            told = ", ".join(f"{value} in {folder}" for value, folder in values)
            raise DataError(
                f"One table never mixes a {name} with another ({told}): name runs of one {name}, or make the others "
                "again in a work folder of their own, STEALING_WORK."
            )


def mixture(results: Sequence[dict[str, Any]]) -> str:
    """Return a sentence if processors or threads differ between runs or within one, else an empty text."""
    facts = [fact for result in results for fact in _facts(result)]
    names = dict.fromkeys(fact.get("name") or fact.get("processor") for fact in facts)
    threads = sorted({fact["threads"] for fact in facts if fact.get("threads")})
    processors = [str(name) for name in names if name]
    parts = []
    if len(processors) > 1:
        parts.append(f"several processors ({', '.join(processors)})")
    if len(threads) > 1:
        parts.append(f"{' and '.join(map(str, threads))} threads")
    return f"Made on {' and with '.join(parts)}, which changes figures as another seed would." if parts else ""


def _facts(result: dict[str, Any]) -> list[dict[str, Any]]:
    made = result.get("made")
    if made:
        return [made[name] for name in OURS if made.get(name)]
    hardware = result["hardware"]  # of a result that does not say what made its parts
    device = "gpu" if hardware.get("gpu") else "cpu"
    return [
        {
            "device": device,
            "name": hardware.get("gpu"),
            "processor": hardware.get("cpu"),
            "threads": hardware.get("threads"),
        }
    ]
