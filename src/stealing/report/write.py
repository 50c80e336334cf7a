"""A whole report: runs in; a tidy table, tables for papers, pictures and one page out."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet

from stealing.artefacts import write_whole
from stealing.report.advice import Sentence, glossary
from stealing.report.runs import Setting, check_head, comparisons, found_in, settings
from stealing.report.summary import overview, paired_tests, tidy
from stealing.report.sweep import cells

OVERVIEW = (
    "One row a setting: the mean over seeds, ± the standard deviation over seeds, [95 % interval]. In bold: the theft "
    "that got most of those with the same budget and defense."
)
TESTS = (
    "SA of the first less that of the second, a mean over tasks, on the same seeds and test images. In bold: p for all "
    "tests together below 0.05. With one seed only test images vary, so that a difference may be of one training's "
    "luck: not bold. Two seeds are few."
)


def write(
    paths: Sequence[Path],
    out: Path,
    head: str,
    title: str = "How stealable is the encoder?",
    verdict: Sequence[Sentence] = (),
) -> Path:
    """Tables, pictures and the page of these runs; the page's path.

    Args:
        paths: runs, folders of runs, or sweeps, whose missing cells are shown as missing.
        out: folder to write to.
        head: kind of classifier of the figures.
        title: of the page.
        verdict: paragraphs at its top.

    Raises:
        DataError: there is no run, they cannot be compared, or what draws them is not installed.
    """
    from stealing.report.figures import pictures
    from stealing.report.page import page, standing

    found = settings(found_in(paths))
    check_head(found, head)
    cells_ = [cell for path in paths if (path / "sweep.json").exists() for cell in cells(path)]
    table, summary, compared = tidy(found), overview(found, head), paired_tests(comparisons(found, head))
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("figure-*.svg"):
        old.unlink()
    pyarrow.parquet.write_table(table, out / "runs.parquet")
    pyarrow.csv.write_csv(table, out / "runs.csv")
    sheets = [("What was stolen, for how much?", OVERVIEW, summary)]
    more = [("Which differences are more than chance?", TESTS, compared)] if compared.rows else []
    if any(cell.state != "done" for cell in cells_):
        said = "The cells of the sweep; all figures are of those that are done."
        sheets.append(("What is missing?", said, standing(cells_)))
    tables = [sheet for _, _, sheet in (*sheets, *more)]
    write_whole(out / "tables.md", "\n".join(sheet.markdown() for sheet in tables).encode())
    write_whole(out / "tables.tex", "\n".join(sheet.latex() for sheet in tables).encode())
    drawn = pictures(found, head)
    for number, picture in enumerate(drawn):
        write_whole(out / f"figure-{number}.svg", picture.svg)
    told = page(title, about(found, head), verdict, sheets, drawn, more, glossary(found))
    write_whole(out / "index.html", told.encode())
    return out / "index.html"


def about(found: Sequence[Setting], head: str) -> str:
    """Under the title: what was measured, where and when."""
    results = [result for setting in found for result in setting.results]
    dates = sorted({result["date"] for result in results})
    first = results[0]
    targets, data = (dict.fromkeys(setting.choices[kind] for setting in found) for kind in ("target", "data"))
    where = first["hardware"]["gpu"] or f"{first['hardware']['cores']} cores of {first['hardware']['cpu']}"
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"Target {', '.join(targets)} on data {', '.join(data)}: {len(results)} runs in {len(found)} settings, {head} "
        f"heads, protocol {first['protocol_hash']}; {when}, "
        f"the first on {where}, stealing {first['versions']['stealing']} at {first['commit']}. Data, target and seeds "
        "are in each run's result.json."
    )
