"""A whole report: runs in; a tidy table, tables for papers, pictures and one page out."""

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet

from stealing.artefacts import write_whole
from stealing.report.advice import Sentence
from stealing.report.comparisons import comparisons
from stealing.report.mixing import mixture
from stealing.report.runs import Setting, check_head, found_in, settings
from stealing.report.summary import by_task, overview, paired_tests, tasks_left_out, tidy
from stealing.report.sweep import cells
from stealing.report.words import explained, glossary

TESTS = (
    "Two settings that differ in one choice: SA of the first less that of the second, a mean over tasks, on the same "
    "seeds and test images. In bold: p for all tests together below 0.05. With one seed only test images vary, so a "
    "difference may be the luck of one training: nothing is bold. Two seeds are few."
)

BOLD = (
    "In bold: an SA that is above that of every other attack with the same budget and defense, by the paired 95 % "
    "interval over seeds and test images. With fewer than two seeds in common nothing is bold."
)

LEFT_OUT = (
    "These tasks say nothing about an attack, so they are in no share over tasks. It is decided on a slice of train, "
    "for each setting by its own controls."
)


def write(
    paths: Sequence[Path],
    out: Path,
    head: str,
    title: str = "How stealable is the encoder?",
    verdict: Sequence[Sentence] = (),
    command: str = "",
    protocol: str | None = None,
) -> Path:
    """Tables, pictures and the page of these runs; the page's path.

    Args:
        paths: runs, folders of runs, or sweeps, whose missing cells are shown as missing.
        out: folder to write to.
        head: kind of classifier of the figures.
        title: of the page.
        verdict: paragraphs at its top.
        command: that makes it.
        protocol: by which the runs were judged; others are left out.

    Raises:
        DataError: there is no run, they cannot be compared, or what draws them is not installed.
    """
    from stealing.report.figures import pictures
    from stealing.report.page import page, standing

    found = settings(found_in(paths), protocol)
    check_head(found, head)
    cells_ = [cell for sweep in _sweeps(paths) for cell in cells(sweep)]
    table, summary, compared = tidy(found), overview(found, head), paired_tests(comparisons(found, head))
    out.mkdir(parents=True, exist_ok=True)
    earlier = (out / "index.html").read_text() if (out / "index.html").exists() else ""
    for name in re.findall(r'<section id="(figure-\d+)">', earlier):
        (out / f"{name}.svg").unlink(missing_ok=True)
    pyarrow.parquet.write_table(table, out / "runs.parquet")
    pyarrow.csv.write_csv(table, out / "runs.csv")
    sheets = [("What was stolen, for how much?", overview_caption(found), summary)]
    omitted = tasks_left_out(found, head)
    if omitted.rows:
        sheets.append(("Which tasks are left out, and why?", LEFT_OUT, omitted))
    more = [("What was stolen on each task?", task_caption(found), by_task(found, head))]
    if compared.rows:
        more.append(("Which differences are more than chance?", TESTS, compared))
    if any(cell.state != "done" for cell in cells_):
        said = "The cells of sweeps that are not done; all figures are of those that are."
        sheets.append(("What is missing?", said, standing([cell for cell in cells_ if cell.state != "done"])))
    tables = [sheet for _, _, sheet in (*sheets, *more)]
    write_whole(out / "tables.md", "\n".join(sheet.markdown() for sheet in tables).encode())
    write_whole(out / "tables.tex", "\n".join(sheet.latex() for sheet in tables).encode())
    drawn = pictures(found, head)
    for number, picture in enumerate(drawn):
        write_whole(out / f"figure-{number}.svg", picture.svg)
    notes = [*about(found, head), *([f"Made by: {command}"] if command else [])]
    told = page(title, notes, verdict, sheets, drawn, more, glossary(found))
    write_whole(out / "index.html", told.encode())
    return out / "index.html"


def _sweeps(paths: Sequence[Path]) -> list[Path]:
    """The sweeps that are named, and those whose runs lie in a named folder `runs`."""
    sweeps = [path.resolve() for path in paths if (path / "sweep.json").exists()]
    for path in paths:
        if path.resolve().name == "runs":
            sweeps += sorted(file.parent for file in path.resolve().parent.glob("sweeps/*/sweep.json"))
    return list(dict.fromkeys(sweeps))


def _figures(found: Sequence[Setting]) -> str:
    """What the figures of a table are."""
    most = max(len(setting.runs) for setting in found)
    figures = "means over seeds, ± the standard deviation over seeds" if most > 1 else "of one seed"
    mixed = mixture([run.result for setting in found for run in setting.runs])
    return f"Figures are {figures}, [95 % interval]." + (f" {mixed}" if mixed else "")


def overview_caption(found: Sequence[Setting]) -> str:
    """Return how to read the first table."""
    return (
        f"{_figures(found)} SA is the mean over all tasks, and honest loss is in test images of 100. Shares are of the "
        "informative tasks, by role; a pooled share is of those of all roles together. Queries to attack are the "
        f"attacker's, queries to measure those of the honest users. {BOLD}"
    )


def task_caption(found: Sequence[Setting]) -> str:
    """Return how to read the table by task."""
    return (
        f"{_figures(found)} C is the test accuracy of the strongest control, which is chosen on a slice of train; its "
        f"lead says how far the next best is behind it there. {BOLD}"
    )


def about(found: Sequence[Setting], head: str) -> list[str]:
    """Return the notes under the title: what was measured, where, when, and for how many queries."""
    results = [run.result for setting in found for run in setting.runs]
    dates = sorted({result["date"] for result in results})
    first = results[0]
    target, data = (
        ", ".join(dict.fromkeys(explained(setting.choices[kind]) for setting in found)) for kind in ("target", "data")
    )
    where = first["hardware"]["gpu"] or f"{first['hardware']['cores']} cores of {first['hardware']['cpu']}"
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    encoders = ", ".join(dict.fromkeys(result["target"][:8] for result in results))
    return [
        f"Target: {target}, fingerprint {encoders}. Images: {data}.",
        *_asked(found, head),
        f"{len(results)} runs in {len(found)} settings, {head} heads, protocol {first['protocol_hash']}; {when}, the "
        f"first on {where}, stealing {first['versions']['stealing']} at {first['commit']}. What else a run was made of "
        "is in its result.json.",
    ]


def _asked(found: Sequence[Setting], head: str) -> list[str]:
    """What was asked and paid, to attack and to measure; and what is not known of a remote target."""
    largest = max(found, key=lambda setting: setting.joined["queries"]["spent"])
    queries = largest.joined["queries"]
    attack = f"{queries['spent']:,} queries, cost {queries['cost']:.2f}"
    measuring = f"{queries['evaluation']:,} more, cost {queries['evaluation_cost']:.2f}"
    said = [f"With one seed, the largest attack took {attack}; measuring it took {measuring}."]
    if any(setting.overall(head)["honest_loss"] is None for setting in found):
        said.append(
            "A service's own defense cannot be taken off, so TA_clean and recovered are unknown for it. In their "
            "place: offered, the share of what the service offers."
        )
    return said
