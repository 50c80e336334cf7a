"""What one table may mix: finished runs in; a sentence for its caption, or a refusal, out.

The target is left out of this: it is attacked, and it is the same for every run that is compared.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stealing.errors import DataError
from stealing.report.run_files import NEEDED, FinishedRun
from stealing.saved.files import read_config

MADE_BY_RUN = ("surrogate", "control", "run")
"""Artefacts that a run makes itself; `run` is its evaluation."""

Kind = tuple[tuple[str, ...], tuple[str, ...]]
"""Devices and precisions."""


def kind_of(result: dict[str, Any]) -> Kind:
    """Return the devices (`cpu`, `gpu`) and the precisions that a run was made on."""
    devices = set[str]()
    precisions = set[str]()
    for fact in _facts(result):
        if fact.get("device"):
            devices.add(str(fact["device"]))
        if fact.get("precision"):
            precisions.add(str(fact["precision"]))
    return tuple(sorted(devices)), tuple(sorted(precisions))


def check_unmixed(results: Mapping[str, dict[str, Any]]) -> None:
    """Refuse a table of runs on CPU and GPU, or of several precisions.

    Args:
        results: `result.json` of each run, by a name that its user finds it by.

    Raises:
        DataError: naming a run of each kind.
    """
    devices = dict[str, str]()
    precisions = dict[str, str]()
    for run, result in results.items():
        of_run, precisions_of_run = kind_of(result)
        # The first run of each kind is named in the error.
        for device in of_run:
            devices.setdefault(device, run)
        for precision in precisions_of_run:
            precisions.setdefault(precision, run)
    for name, runs in (("device", devices), ("precision", precisions)):
        if len(runs) > 1:
            places = []
            for value, run in runs.items():
                places.append(f"{value} in {run}")
            raise DataError(
                f"One table never mixes a {name} with another ({', '.join(places)}): name runs of "
                f"one {name}, or make the others again in a work folder of their own, "
                "STEALING_WORK."
            )


def check_protocol(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs of an earlier version, or that were judged by several protocols.

    Raises:
        DataError: naming a run, or the protocols and what they differ in.
    """
    for run in runs:
        if not run.result.keys() >= NEEDED:
            raise DataError(
                f"{run.folder} was judged by an earlier version: judge it again by python eval.py "
                f"run={run.folder}, and leave it out here."
            )
    by_protocol = dict[str, list[Path]]()
    for run in runs:
        by_protocol.setdefault(run.result["protocol_hash"], []).append(run.folder)
    if len(by_protocol) < 2:
        return
    counts = []
    everywhere: set[str] | None = None
    anywhere = set[str]()
    for protocol, folders in by_protocol.items():
        counts.append(f"{protocol}: {len(folders)} runs")
        # Runs of one protocol have one probe, so any of them says what it is.
        config = read_config(folders[-1], DataError)
        probe = set(flat_settings(config.get("probe")))
        everywhere = probe if everywhere is None else everywhere & probe
        anywhere |= probe
    different = " ".join(sorted(anywhere - (everywhere or set())))
    raise DataError(
        f"The runs were judged by {len(counts)} protocols ({'; '.join(counts)}; they differ in "
        f"{different}), whose figures cannot be compared: choose one by --protocol, or judge the "
        "others again by python eval.py run=<folder>."
    )


def check_code(seeds: Iterable[FinishedRun]) -> None:
    """Refuse seeds of one run group that different code made.

    Raises:
        DataError: naming a run of each.
    """
    by_code = dict[Any, Path]()
    for run in seeds:
        by_code[run.result.get("code")] = run.folder
    if len(by_code) > 1:
        folders = " and ".join(map(str, by_code.values()))
        raise DataError(
            f"{folders} were made by different code: run their commands again, which makes the "
            "older anew."
        )


def code_note(groups: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """Return a sentence if different code made the runs of a group, else an empty text.

    Stored results say so and are not refused: a commit that renames a function changes the hash of
    the code, and no figure.

    Args:
        groups: by a name, `result.json` of runs that the same code should have made.
    """
    different = []
    commits = dict[str, None]()
    for name, results in groups.items():
        if len({result.get("code") for result in results}) > 1:
            different.append(name)
            commits |= dict.fromkeys(str(result.get("commit", "unknown")) for result in results)
    if not different:
        return ""
    return (
        f"Different code made the results of {', '.join(different)} (commits {', '.join(commits)})."
    )


def mixture(results: Sequence[dict[str, Any]]) -> str:
    """Return a sentence if processors or threads differ between or within runs, else an empty text.

    Args:
        results: `result.json` of each run.
    """
    processors = dict[str, None]()
    threads = set[int]()
    for result in results:
        for fact in _facts(result):
            # On a GPU its name counts, not that of the CPU beside it.
            processor = fact.get("name") or fact.get("processor")
            if processor:
                processors[str(processor)] = None
            if fact.get("threads"):
                threads.add(fact["threads"])
    parts = []
    if len(processors) > 1:
        parts.append(f"several processors ({', '.join(processors)})")
    if len(threads) > 1:
        parts.append(f"{' and '.join(map(str, sorted(threads)))} threads")
    if not parts:
        return ""
    return f"Made on {' and with '.join(parts)}, which changes figures as another seed would."


def flat_settings(node: Any, name: str = "") -> Iterator[str]:
    """Yield each setting of a node of a configuration as `name=value`, without spaces."""
    if isinstance(node, dict):
        for part, value in node.items():
            yield from flat_settings(value, str(part))
    elif node is not None:
        yield f"{name}={node}".replace(" ", "")


def _facts(result: dict[str, Any]) -> list[dict[str, Any]]:
    made = result.get("made")
    if made:
        return [made[name] for name in MADE_BY_RUN if made.get(name)]
    # A result of an earlier version does not say what its parts were made with.
    hardware = result["hardware"]
    facts = {
        "device": "gpu" if hardware.get("gpu") else "cpu",
        "name": hardware.get("gpu"),
        "processor": hardware.get("cpu"),
        "threads": hardware.get("threads"),
    }
    return [facts]
