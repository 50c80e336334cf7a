"""Claim files from finished runs: folders in; one file for each attack and budget out."""

from collections.abc import Sequence
from pathlib import Path

from stealing.errors import DataError
from stealing.report.claim_checks import read_claim
from stealing.report.claim_command import command_of_runs
from stealing.report.claims import Claim, claim_path, make_claim, write_claim
from stealing.report.run_files import FinishedRun
from stealing.report.runs import find_runs
from stealing.saved.files import read_choices


def write_claims(paths: Sequence[Path], out: Path) -> list[Path]:
    """Write a claim for each run group; a claim that is there keeps its other seeds.

    Args:
        paths: runs, folders of runs, or sweeps.
        out: folder to write to.

    Returns:
        The files.

    Raises:
        DamageError: a run or an earlier claim is broken.
        DataError: a run attacked a service, is of an earlier version, or differs from the earlier
            claim of its attack and budget in more than its seed.
    """
    groups = dict[str, list[FinishedRun]]()
    for folder in find_runs(paths):
        run = FinishedRun.read(folder)
        if "training" not in run.result:
            raise DataError(
                f"{folder} was judged by an earlier version: judge it again by python eval.py "
                f"run={folder}."
            )
        groups.setdefault(run.result["group"], []).append(run)
    # All are made before one is written, so that a refusal leaves the folder as it was.
    claims = dict[Path, Claim]()
    for runs in groups.values():
        first = runs[0]
        attack = read_choices(first.folder, DataError)["attack"]
        path = claim_path(out, attack, first.result["queries"]["budget"])
        earlier = read_claim(path) if path.exists() else None
        seeds = {int(number) for number in earlier["seeds"]} if earlier else set()
        seeds |= {run.result["seed"] for run in runs}
        if path in claims:
            raise DataError(
                f"{first.folder} and another run have one attack and one budget, and differ in "
                "more than their seed: name the runs of one of them."
            )
        claims[path] = make_claim(runs, command_of_runs(first.folder, seeds), earlier)
    return [write_claim(claim, out) for claim in claims.values()]
