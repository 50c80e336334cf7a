"""Export is safe: one set of hostile names through every writer of tables, figures and pages."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet
import pytest
import surface
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from made_up import finished_run
from test_frontier import result as frontier_result
from test_table import result as closing_result

from stealing.console import TextConsole
from stealing.errors import TargetError
from stealing.queries import __main__ as queries_command
from stealing.queries.ledger import Ledger
from stealing.report import console as closing
from stealing.report import frontier
from stealing.report.console import show_result
from stealing.report.page import Content, page
from stealing.report.samples import agreement
from stealing.report.states import show as show_cells
from stealing.report.tables import Table
from stealing.report.write import write
from stealing.sweeps.cells import Cell
from stealing.text import for_latex, for_markdown, for_spreadsheet, printable, printable_lines
from stealing.training.distributed import say

HOSTILE = (
    r"$\frac{$",
    r"x$^2$",
    r"\input{secret}^~",
    "a&b%c#d_e{f}",
    "=HYPERLINK(1)",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "\tcmd",
    "\rcmd",
    "[red]x",
    "[/]",
    "[/nothing]",
    ":smile:",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "a|b\nWritten: c",
    "a\\|b",
    "<script>alert(1)</script>",
    "`code`",
    "[x](javascript:alert(1))",
    "\x00\x7f",
)

PLAIN = "x".join(name for name in HOSTILE if "/" not in name)
"""Most of them in one; a slash parts a task from its head in the files of a run."""

TASKS = (*(name for name in HOSTILE if name[0] in "=+-@\t\r"), "[red]x", PLAIN)
"""Names whose beginning counts, and all others."""

STEERING = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What no output may hold: control characters but the end of a line, and marks of direction."""


def runs(work: Path) -> list[Path]:
    """Runs whose tasks have hostile names; those of options are refused (`stealing.saved`)."""
    tasks = dict.fromkeys(TASKS, (0.6, 0.5, 0.3))
    roles = {name: ("own", "unseen")[place % 2] for place, name in enumerate(TASKS)}
    same: dict[str, Any] = {"roles": roles, "price": 0.01}
    plain = finished_run(work, "g0", tasks, **same)
    return [plain, finished_run(work, "g1", tasks, defense="topk", plan="averaging", **same)]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    return write(
        runs(work / "runs"), work / "report", "linear", title=HOSTILE[-4], command=HOSTILE[14]
    ).parent


def shown(print_on: Any) -> str:
    console = TextConsole(200, file=StringIO())
    print_on(console)
    told: str = console.file.getvalue()  # type: ignore[attr-defined]
    return told


def check_shown(told: str, names: Iterable[str] = HOSTILE) -> None:
    """Nothing steers, and each name stands there as text, though it may be folded."""
    assert STEERING.search(told) is None
    flat = re.sub(r"[\s│]", "", told)
    for name in names:
        assert re.sub(r"\s", "", printable(name)) in flat, repr(name)


@given(st.text())
def test_no_text_steers_a_terminal(text: str) -> None:
    assert STEERING.search(printable(text)) is None and "\n" not in printable(text)
    assert STEERING.search(printable_lines(text)) is None
    printable(text).encode()


@pytest.mark.parametrize(
    "name", ["Zürich", "猫", "naïve café", "भारत", "a (b), c-d_e.f/g", "-0.5", "🙂"]
)
def test_an_honest_name_stays_as_it_is(name: str) -> None:
    assert printable(name) == for_spreadsheet(name) == name


def test_a_service_that_sends_escape_sequences_cannot_steer_the_terminal_by_an_error() -> None:
    error = TargetError("The service says: \x1b[2J\x9b31m\u202e gone\nWritten: nothing")
    assert str(error) == r"The service says: \x1b[2J\x9b31m\u202e gone\nWritten: nothing"


def test_a_commands_error_shows_a_hostile_file_name_as_text() -> None:
    line = [sys.executable, "-m", "stealing.report", "--status", "\x1b]0;x\x07[/red]\u202e"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert r"\x1b]0;x\x07[/red]\u202e" in done.stderr and STEERING.search(done.stderr) is None


def test_a_line_that_is_said_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(" ".join(HOSTILE))
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and STEERING.search(told) is None


def test_the_closing_tables_show_hostile_names_as_text() -> None:
    told = closing_result()
    first = next(iter(told["tasks"].values()))
    told["tasks"] = {name: {**first, "role": name} for name in HOSTILE}
    told["defense"] = {"name": HOSTILE[14]}
    for row in told["overall"].values():
        of = next(iter(row["roles"].values()))
        row["roles"] = {name: {**of, "tasks": [name]} for name in HOSTILE}
    check_shown(shown(lambda console: closing.show(told, console)))


def test_the_table_over_seeds_shows_hostile_names_as_text(tmp_path: Path) -> None:
    tasks = dict.fromkeys(("[red]x", "\x1b[31mred"), (0.6, 0.5, 0.3))
    for seed in (0, 1):
        folder = finished_run(tmp_path, "g", tasks, seed=seed)
        told = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**told, "seeds": [seed]}))
    check_shown(shown(lambda console: show_result(folder, 50, console)), tasks)


def test_the_matrix_of_a_sweep_shows_hostile_overrides_and_errors_as_text() -> None:
    cells = [Cell((f"a={name}", f"b={name}"), "failed", None, name) for name in HOSTILE]
    told = shown(lambda console: show_cells(cells, console))
    assert STEERING.search(told) is None and "failed" in told and "[/nothing]: [/nothing]" in told


def test_the_table_of_a_frontier_shows_hostile_names_as_text_and_its_figure_is_drawn(
    tmp_path: Path,
) -> None:
    found = [frontier_result("none", 0.0, 0.0, 0.9)]
    for name in HOSTILE:
        of = frontier_result(name, 0.01, 0.02, 0.5, plan=name)
        of["cell"]["strength"] = f"k={name}"
        found.append({**of, "queries": {"images": 100, "budget": 100}})
    found[0]["queries"]["budget"] = 100
    frontier.write(found, tmp_path)
    told = (tmp_path / "table.txt").read_text()
    check_shown(told)
    check_markdown((tmp_path / "table.md").read_text())
    ElementTree.parse(tmp_path / "frontier.svg")


def test_the_ledgers_table_shows_hostile_targets_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(str(tmp_path / "ledger.sqlite"))
    with ledger.database.transaction() as execute:
        for name in HOSTILE:
            execute("INSERT INTO budgets (target, purpose, spent) VALUES (?, 'attack', 0)", (name,))
    queries_command._show(ledger)
    check_shown(capsys.readouterr().out, [name[:24] for name in HOSTILE])


def test_a_figure_with_hostile_class_names_is_drawn() -> None:
    """With names that matplotlib would take for formulas, and with a file name that is no UTF-8."""
    classes = [*HOSTILE[:18], "\udc80"]
    labels = np.arange(len(classes))
    sample = {f"predicted/linear/{name}": labels for name in ("TA", "SA")}
    setting: Any = _Shown([_Run(Path("run"), {"sample": {"classes": classes}})])
    picture = agreement(setting, sample, HOSTILE[0], "linear")
    text = picture.svg.decode()
    ElementTree.fromstring(text)
    assert r"<!-- $\frac{$ -->" in text and "mathdefault" not in text


class _Run:
    def __init__(self, folder: Path, result: dict[str, Any]) -> None:
        self.folder = folder
        self.result = result


class _Shown:
    def __init__(self, runs: list[_Run]) -> None:
        self.runs = runs


def test_each_figure_of_a_report_on_hostile_names_is_drawn(report: Path) -> None:
    figures = sorted(report.glob("figure-*.svg"))
    assert len(figures) >= 3
    for path in figures:
        assert STEERING.search(path.read_text()) is None
        ElementTree.parse(path)


def test_no_cell_of_runs_csv_is_a_formula_and_numbers_stay_numbers(report: Path) -> None:
    with (report / "runs.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    whole = pyarrow.parquet.read_table(report / "runs.parquet").to_pylist()
    assert len(rows) == len(whole) > 0
    assert set(surface.listed()["columns"]) <= set(whole[0]), "columns stay: docs/files.md"
    for row, raw in zip(rows, whole, strict=True):
        for name, cell in row.items():
            if isinstance(raw[name], float):
                assert float(cell) == raw[name]
            else:
                assert not cell.startswith(tuple("=+-@\t\r\n")), (name, cell)
    assert {"'=HYPERLINK(1)", "'+1+1", "'-1+1", "'@SUM(1)"} <= {row["task"] for row in rows}


def test_a_negative_number_is_no_formula() -> None:
    for cell in (-0.5, "-0.5", "+3e-5", "-7", None, True):
        assert for_spreadsheet(cell) == cell
    for formula in ("-1+1", "=1", "+a", "@a", "\t=1", "\r=1", "-", "\uff1d1"):
        assert for_spreadsheet(formula).startswith("'")


ESCAPED = re.compile(
    r"\\text(backslash|asciicircum|asciitilde|less|greater|bar)\{\}|\\[&%$#_{}]|\$\\pm\$|\\textbf\{|\{\}"
)


def test_tables_tex_escapes_all_that_latex_would_read_as_its_own(report: Path) -> None:
    told = (report / "tables.tex").read_text()
    assert STEERING.search(told) is None
    assert (
        r"\$\textbackslash{}frac\{\$" in told
        and r"\textbackslash{}input\{secret\}\textasciicircum{}" in told
    )
    for line in told.splitlines():
        if line.startswith(("\\begin", "\\end", "\\toprule", "\\midrule", "\\bottomrule")):
            continue
        body = line.removesuffix(r" \\")
        assert not body.startswith(("[", "*")), "an option of the line before"
        assert re.search(r"[\\^~$#%_{<>|]", ESCAPED.sub("", body)) is None, line


@given(st.text())
def test_any_text_has_its_escapes_in_latex(text: str) -> None:
    assert re.search(r"[\\^~$#%&_{}<>|]", ESCAPED.sub("", for_latex(text))) is None


def check_markdown(told: str) -> None:
    """Check that all rows of each table have as many cells as its head.

    GitHub splits a row at each bar that is not escaped.
    """
    assert STEERING.search(told) is None and "<" not in told.replace("\\<", "") and "](" not in told
    for block in told.strip().split("\n\n"):
        counts = {len(re.findall(r"\|", re.sub(r"\\.", "", row))) for row in block.splitlines()}
        assert len(counts) == 1, block


def test_tables_of_markdown_escape_bars_and_line_ends(report: Path) -> None:
    check_markdown((report / "tables.md").read_text())
    sheet = Table(("a|b", "c"), [["x\ny|z", "a\\|b"]], {(0, 0)})
    assert sheet.markdown() == "| a\\|b | c |\n| --- | --- |\n| **x\\\\ny\\|z** | a\\\\\\|b |\n"


@given(st.text())
def test_any_text_is_one_cell_of_markdown(text: str) -> None:
    assert "|" not in re.sub(r"\\.", "", for_markdown(text)) and "\n" not in for_markdown(text)


def test_the_page_shows_hostile_names_as_text(report: Path) -> None:
    told = (report / "index.html").read_text()
    assert STEERING.search(told) is None
    assert "<script>alert" not in told and "&lt;script&gt;alert(1)&lt;/script&gt;" in told
    assert r"\x1b[31mred" in told and r"\u202egnp.exe" in told
    page(Content("\udc80", ["\udc80"], options={"\udc80": "\udc80"})).encode()
