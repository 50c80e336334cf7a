"""The closing tables of a command: a run's folder, or its result.json, in; printed tables out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stealing.artefacts import write_atomically
from stealing.console import TextConsole
from stealing.evaluation.protocol import BESIDE, INFORMATIVE
from stealing.evaluation.shares import reaches
from stealing.evaluation.statistics import SHARES
from stealing.evaluation.zero_shot import ZERO_SHOT
from stealing.report.mixing import mixture
from stealing.report.run_files import FinishedRun
from stealing.report.seeds import join, siblings
from stealing.report.shares import control_cell, held_lead, left_out, reference_of, share_of
from stealing.report.tables import Table
from stealing.text import printable

Row = tuple[str, str, str, dict[str, Any]]
"""Task, role, head and figures."""


def show_result(folder: Path, resamples: int, console: TextConsole) -> None:
    """Show the tables of a finished run, then those over all its seeds if there are several.

    Args:
        folder: of the run.
        resamples: of the bootstrap over all seeds.
        console: to print on.
    """
    run = FinishedRun.read(folder)
    show(run.result, console)
    runs, left_out_runs = siblings(run)
    console.print(f"Written: {folder / 'result.json'}", soft_wrap=True)
    for sentence in left_out_runs:
        console.print(sentence, soft_wrap=True)
    if len(runs) < 2:
        return
    joined = join(runs, resamples)
    # A folder's name ends in `-s<seed>-<group>`.
    without_seed = folder.name.rsplit("-s", 1)[0]
    path = folder.parent / f"{without_seed}-seeds-{joined['group']}.json"
    write_atomically(path, json.dumps(joined, indent=1).encode())
    show(joined, console)
    if mixed := mixture([one.result for one in runs]):
        console.print(mixed, soft_wrap=True)
    console.print(f"Written: {path}", soft_wrap=True)


def show(result: dict[str, Any], console: TextConsole) -> None:
    """Print the tables of one run, or of the mean over several seeds of it."""
    share = _share_name(result)
    # The name of a task may be narrowed, a figure never.
    console.print(
        _tasks_table(result).terminal(
            wrapped=["task (role)"], title=headline(result), caption=_caption(result)
        )
    )
    console.print(
        _roles_table(result).terminal(title=f"{share} by role of the task", title_justify="left")
    )
    beside = _beside_table(result)
    if beside.rows:
        title = "encoders judged beside the surrogate"
        console.print(beside.terminal(title=title, title_justify="left"))
    for line in remarks(result):
        console.print(line, soft_wrap=True)


def headline(result: dict[str, Any]) -> str:
    """Return how many queries were sent, and their cost: to attack, and to measure the attack."""
    queries = result["queries"]
    attack = (
        f"{queries['spent']} queries of {queries['budget']} allowed, cost {queries['cost']:.2f}"
    )
    # Earlier versions did not write the cost of measuring.
    measuring = f"{queries['evaluation']} queries, cost {queries.get('evaluation_cost', 0.0):.2f}"
    seeds = ", ".join(map(str, result["seeds"]))
    return f"Attack: {attack}; measuring it: {measuring}; seeds {seeds}"


def remarks(result: dict[str, Any]) -> list[str]:
    """Return what a reader must know beside the tables, one sentence each."""
    sentences = []
    for task, _, head, row in _rows_of(result):
        if why := left_out(row):
            sentences.append(f"{task} ({head}) is left out: {why}.")
        # Named even if another control won: then the target's features lose to its input.
        pixels = row["controls"].get("pixels", 0.0)
        pixel_lead = 100 * (pixels - row[reference_of(row)])
        if pixel_lead > 0 and row["control"]["name"] != "pixels":
            sentences.append(
                f"{task} ({head}): the target loses to raw pixels by {pixel_lead:.1f} points."
            )
    queries = result["queries"]
    # Earlier versions had no attack with a pool.
    if "held" in queries and queries["held"] > queries["images"]:
        sentences.append(
            f"The attack holds {queries['held']:,} images and sent {queries['images']:,} of them: "
            "the control SimCLR was trained on all that it holds, with equal compute."
        )
    if "pixels" in result:
        sentences.append(
            "The control of raw pixels sees images of {size} pixels averaged to {reduced_to}: a "
            "probe on all pixels would take hours.".format(**result["pixels"])
        )
    if len(result["seeds"]) == 2:
        sentences.append(
            "Two seeds say little about how seeds vary, so intervals may be too narrow: run three "
            "or more."
        )
    return sentences


def _rows_of(result: dict[str, Any]) -> Iterator[Row]:
    for task, heads in result["tasks"].items():
        for head, row in heads.items():
            if head != "role":
                yield task, heads["role"], head, row


def _share_name(result: dict[str, Any]) -> str:
    _, _, _, row = next(_rows_of(result))
    return share_of(row)


def _is_defended(result: dict[str, Any]) -> bool:
    return result["defense"] is not None and result["defense"]["name"] != "none"


def _tasks_table(result: dict[str, Any]) -> Table:
    """Return one row a task and head."""
    columns = (
        "task (role)",
        "head",
        "TA",
        "SA",
        "SA/TA",
        "control C, lead",
        f"{_share_name(result)} [95 %]",
        "honest loss [95 %]" if _is_defended(result) else "agree (max)",
    )
    rows = []
    for task, role, head, row in _rows_of(result):
        rows.append([f"{task} ({role})", head, *_cells(row, _is_defended(result))])
    return Table(columns, rows)


def _cells(row: dict[str, Any], is_defended: bool) -> list[str]:
    """Return the figures of one task and head as text, from TA to the last column."""
    share = share_of(row)
    if row[share] is None:
        recovered = "left out"
    else:
        lead = held_lead(row)
        # A share of a small gap is mostly noise.
        mark = "" if reaches(lead, INFORMATIVE) else " *"
        recovered = _share_cell(row, share) + mark
    if is_defended and row["honest_loss"] is not None:
        low, high = row["intervals"]["honest_loss"]
        last = f"{100 * row['honest_loss']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    else:
        last = f"{row['agreement']:.2f} ({row['agreement_ceiling']:.2f})"
    return [
        f"{row['TA']:.3f}",
        f"{row['SA']:.3f}",
        "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
        control_cell(row),
        recovered,
        last,
    ]


def _share_cell(row: dict[str, Any], share: str) -> str:
    if row[share] is None:
        return "-"
    low, high = row["intervals"][share]
    return f"{row[share]:.2f} [{low:.2f}, {high:.2f}]"


def _roles_table(result: dict[str, Any]) -> Table:
    """Return what was recovered of the tasks of each role, and of all of them together."""
    share = _share_name(result)
    rows = []
    for head, row in result["overall"].items():
        for role, figures in row["roles"].items():
            tasks = ", ".join(figures["tasks"]) or "none is informative"
            rows.append([role, head, _share_cell(figures, share), tasks])
        if len(row["roles"]) > 1:
            tasks = f"the {len(row['informative'])} above"
            rows.append(["all, pooled", head, _share_cell(row, share), tasks])
    return Table(("role", "head", f"{share} [95 %]", "tasks"), rows)


def _beside_table(result: dict[str, Any]) -> Table:
    """Return one row a task and head with the encoders that are judged beside the surrogate."""
    records = []
    for task, role, head, row in _rows_of(result):
        known = {name: row["controls"][name] for name in BESIDE if name in row["controls"]}
        if known:
            record = {"task (role)": f"{task} ({role})", "head": head, "SA": f"{row['SA']:.3f}"}
            record |= {name: f"{accuracy:.3f}" for name, accuracy in known.items()}
            records.append(record)
    return Table.of_records(records)


def _caption(result: dict[str, Any]) -> str:
    """Return how to read the table of tasks, in lines that fit an ordinary terminal."""
    share = _share_name(result)
    unknown = (
        " The target without its service's defense is unknown here." if share == "offered" else ""
    )
    similarities = ", ".join(f"{name} {value:.3f}" for name, value in result["fidelity"].items())
    if _is_defended(result):
        last = (
            "honest loss: TA_clean - TA in points, what honest users lose by the defense "
            f"{printable(result['defense']['name'])}."
        )
    else:
        last = (
            "agree: equal predictions of two heads, each trained on its own bootstrap sample, one "
            "on the target and one\n"
            "on the surrogate (max: both on the target)."
        )
    return (
        "TA, SA: test accuracy on the target's and the surrogate's features.\n"
        f"{share} = (SA - C) / ({SHARES[share]} - C).{unknown}\n"
        "C is the accuracy of the best control. It sent no query and was chosen on held rows. "
        "lead: its distance to\n"
        "the second-best control on those rows.\n"
        f"{_zero_shot_note(result)}"
        f"*: on these rows the target is less than {INFORMATIVE:.2f} ahead of C: the task is "
        "excluded from\nmeans over tasks.\n"
        f"{last}\nFeatures: {similarities}."
    )


def _zero_shot_note(result: dict[str, Any]) -> str:
    """Return how to read the rows of the zero-shot head; empty without it."""
    if not any(head == ZERO_SHOT for _, _, head, _ in _rows_of(result)):
        return ""
    return (
        "zero_shot: the class whose text is nearest to the features; the surrogate's are those "
        "behind its adapter.\nNo control has features that a text can be compared with: C is the "
        "accuracy of the most frequent\nclass (majority).\n"
    )
