"""The docs: the site builds, copied figures are today's, and every command runs or says why not.

A page is read as its reader would. A code block after a line such as "`my/losses.py`:" is written
to that file. A block of bash is run, in order, in a folder that looks like a clone. A comment
`<!-- not run: reason -->` after a block keeps it from being run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT

DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "results" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
BLOCK = re.compile(
    r"(?:^`(?P<file>[\w./]+)`:\n\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```\n"
    r"(?:<!-- not run: (?P<reason>.+?) -->)?",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A block of code of a page."""

    file: str | None
    language: str
    text: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    for match in BLOCK.finditer(page.read_text()):
        found.append(Block(match["file"], match["language"], match["text"], match["reason"]))
    return found


def is_run(block: Block) -> bool:
    return block.language == "bash" and block.reason is None


def script_of(page: Path, folder: Path) -> str:
    """Write the files that a page shows, and return its commands."""
    commands: list[str] = []
    for block in blocks(page):
        if block.file is not None:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif is_run(block):
            commands.append(block.text)
    return "\n".join(commands)


RUN = [page for page in PAGES if any(is_run(block) for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    for name in ("train.py", "eval.py"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("conf", "assets"):
        shutil.copytree(ROOT / name, tmp_path / name)
    script = script_of(page, tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    env.pop("STEALING_WORK", None)
    line = [
        "bash",
        "-e",
        "-o",
        "pipefail",
        "-c",
        f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}",
    ]
    ran = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=580)
    assert ran.returncode == 0, f"{script}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"


def test_a_file_that_a_page_shows_stands_before_the_commands_that_use_it() -> None:
    for page in RUN:
        shown: set[str] = set()
        for block in blocks(page):
            if block.file is not None:
                shown.add(block.file)
            elif is_run(block):
                used = set(re.findall(r"\bmy/[\w/]+\.py\b", block.text))
                assert used <= shown, page.name


def test_a_command_stands_in_a_block_that_runs_or_says_why_not() -> None:
    """The README's own commands are apart: a newcomer types them, and the gate runs the second."""
    for page in PAGES[1:]:
        for line in page.read_text().splitlines():
            assert not re.match(r" {4,}(python3?|pip|git) ", line), f"{page.name}: {line}"


AUDIT = ("linear heads", "one seed", "two roles", "pooled", "not trained to the end")
"""What a sentence with a figure of the audit says of it, beside the figure."""

OWN = ("CIFAR-10, the target's own domain", "linear head", "three seeds")

POOLED = ("linear heads", "three seeds", "all roles pooled")

Figure = tuple[str, str, tuple[str, ...]]
FIGURES: dict[str, Figure] = {
    "63 % [58, 68]": (
        "audit/tables.md",
        "stolen_encoder | none | once | 250 | 0.50 | 20,000 | 40.00 | .* 0.63 [0.58, 0.68] |",
        AUDIT,
    ),
    "86 % [80, 91]": (
        "audit/tables.md",
        "stolen_encoder | none | once | 1,000 | 2.00 | 20,000 | 40.00 | .* 0.86 [0.80, 0.91] |",
        AUDIT,
    ),
    "90 % [85, 96]": (
        "audit/tables.md",
        "stolen_encoder | none | standardising | 1,000 | .* 0.90 [0.85, 0.96] |",
        (*AUDIT, "standardised"),
    ),
    "recovers 87 % [82, 93]": (
        "audit/tables.md",
        "| b4b+transform | standardising | .* 0.87 [0.82, 0.93] |",
        (*AUDIT, "standardises"),
    ),
    "0.80 [0.76, 0.83]": (
        "cifar10_cpu/table.txt",
        "cifar10 (own) .* linear .* 0.80 [0.76, 0.83]",
        OWN,
    ),
    "SA/TA 0.95": (
        "cifar10_cpu/table.txt",
        "cifar10 (own) .* linear │ 0.672 │ 0.640 │ 0.95 ",
        OWN,
    ),
    "1.03 [0.88, 1.18]": (
        "cifar10_cpu/table.txt",
        "│ unseen .* linear │ 1.03 [0.88, 1.18] │ shapes_texture  ",
        (*OWN, "drawn shapes alone"),
    ),
    "0.88 [0.84, 0.92] of": (
        "leaderboard/table.md",
        "| best | 0, 1, 2 | 2,500 | .* | 0.88 [0.84, 0.92] |",
        ("2,500 images, three seeds", "by kNN"),
    ),
    "0.95 [0.92, 0.99]": (
        "leaderboard/table.md",
        "| best | 0, 1, 2 | 2,500 | .* | 0.95 [0.92, 0.99] |",
        ("2,500 images, three seeds", "linear heads"),
    ),
    "0.511 to 0.598": (
        "attack_tuning/table.txt",
        "0.5108  attack.optimizer.lr=4e-3",
        ("Eight trials", "plain regression", "target for development"),
    ),
    "0.598 on a target": (
        "attack_tuning/table.txt",
        "0.5978  attack.optimizer.weight_decay=0.1",
        ("Eight trials", "plain regression", "target for development"),
    ),
    "0.77 [0.72, 0.81]": (
        "leaderboard/table.md",
        "| conventional | 0, 1, 2 | 2,500 | .* | 0.77 [0.72, 0.81] |",
        ("2,500 queries", "linear heads"),
    ),
    "0.89 [0.84, 0.94] of": (
        "frontier/table.md",
        "| none | 0, 1, 2 | .* 0.89 [0.84, 0.94], ",
        POOLED,
    ),
    "0.55 [0.46, 0.64] and takes 3.9 points of": (
        "frontier/table.md",
        "| poisoning epsilon=1 | 0, 1, 2 | 3.9 [.* 0.55 [0.46, 0.64], ",
        POOLED,
    ),
    "0.49 [0.34, 0.64] for 7.3": (
        "frontier/table.md",
        "| topk k=16 | 0, 1, 2 | 7.3 [.* 0.49 [0.34, 0.64], ",
        POOLED,
    ),
}
"""Figures in sentences of the README: the stored table, a row of it, in which `.*` is anything, and
what the same bullet or caption says of the figure."""


def readme_part(figure: str) -> str:
    """The paragraph or bullet of the README that has a figure, in one line."""
    text = (ROOT / "README.md").read_text()
    parts = [" ".join(part.split()) for part in re.split(r"\n\n|\n(?=- )", text)]
    [part] = [part for part in parts if figure in part]
    return part


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_in_a_sentence_of_the_readme_stands_in_a_stored_table(figure: str) -> None:
    file, row, said = FIGURES[figure]
    pattern = ".*".join(re.escape(part) for part in row.split(".*"))
    assert re.search(pattern, (ROOT / "results" / file).read_text())
    part = readme_part(figure)
    assert [words for words in said if words not in part] == []


def test_what_is_said_of_the_task_that_drops_out_is_true_of_every_seed() -> None:
    held = set[float]()
    ahead = list[int]()
    for seed in range(3):
        stored = json.loads((ROOT / "results" / "cifar10_cpu" / f"seed-{seed}.json").read_text())
        row = stored["tasks"]["caltech101_groups"]["knn"]
        control = row["control"]["name"]
        held.add(round(100 * (row["held"]["TA_clean"] - row["held"][control]), 1))
        ahead.append(round(100 * (row["TA_clean"] - row["controls"][control])))
        rows = [28 * accuracy for accuracy in row["held"].values()]
        assert rows == pytest.approx([round(count) for count in rows]), "shares of 28 rows"
    assert held == {-10.7}
    for page in (DOCS / "results.md", ROOT / "results" / "README.md"):
        text = " ".join(page.read_text().split())
        assert "Caltech-101 has 28" in text and "10.7 points" in text, page.name
        assert f"{min(ahead)} to {max(ahead)}" in text, page.name


def test_what_the_readme_says_of_the_task_that_drops_out_is_true_of_all_seeds_together() -> None:
    stored = json.loads((ROOT / "results" / "cifar10_cpu" / "seeds.json").read_text())
    row = stored["tasks"]["caltech101_groups"]["linear"]
    control = row["control"]["name"]
    held = 100 * (row["held"]["TA_clean"] - row["held"][control])
    test = 100 * (row["TA_clean"] - row["controls"][control])
    part = readme_part("Caltech-101")
    assert f"28 such rows and a lead of {held:.1f} points" in part
    assert f"a lead of {test:.1f} on the test split" in part


def test_a_mean_that_the_readme_states_is_that_of_its_table() -> None:
    stored = json.loads((ROOT / "results" / "cifar10_cpu" / "seeds.json").read_text())
    row = stored["tasks"]["cifar10"]["linear"]
    share = row["controls"][row["control"]["name"]] / row["TA"]
    assert f"reaches {share:.2f} of TA" in readme_part("0.80 [0.76, 0.83]")


def test_figures_are_copied_from_results() -> None:
    line = [sys.executable, str(DOCS / "copy_results.py"), "--check"]
    ran = subprocess.run(line, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        links = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", text)
        for link in links + re.findall(r'href="([^"#]+)"', text):
            if not link.startswith(("http://", "https://")):
                assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    ran = subprocess.run(line, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr
