"""Copy stored results into the README and the docs, so that no figure is typed by hand.

    python docs/copy_results.py            write the pages
    python docs/copy_results.py --check    write nothing; exit code 1 if a page is behind

A page names the file, and its lines if not all are wanted. The text between the two comments is
replaced:

    <!-- copied from results/quickstart/table.txt lines 1-4,6 -->
    <!-- end -->

A text file becomes a code block. A Markdown file stays as it is. For a file that is not there the
page says that it was not measured yet.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<start><!-- copied from (?P<path>\S+)(?: lines (?P<lines>[\d,-]+))? -->\n)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)


def selected(text: str, wanted: str | None) -> str:
    """Return the wanted lines of a text, such as `1-4,6`; all of it for None."""
    if wanted is None:
        return text.rstrip("\n")
    lines = text.splitlines()
    chosen: list[str] = []
    for part in wanted.split(","):
        first, _, last = part.partition("-")
        chosen += lines[int(first) - 1 : int(last or first)]
    return "\n".join(chosen)


def block(match: re.Match[str]) -> str:
    """Return a block with today's result in it."""
    path = ROOT / match["path"]
    if not path.exists():
        return f"{match['start']}\nNot measured yet.\n\n{match['end']}"
    content = selected(path.read_text(), match["lines"])
    if path.suffix != ".md":
        content = f"```\n{content}\n```"
    return f"{match['start']}\n{content}\n\n{match['end']}"


def copied(page: str) -> str:
    """Return a page with all its blocks filled."""
    return BLOCK.sub(block, page)


def main() -> None:
    """Write the pages, or say which are behind."""
    behind = [path for path in PAGES if copied(path.read_text()) != path.read_text()]
    if "--check" in sys.argv[1:]:
        for path in behind:
            print(f"{path.relative_to(ROOT)} is behind results/: run python docs/copy_results.py")
        sys.exit(1 if behind else 0)
    for path in behind:
        path.write_text(copied(path.read_text()))


if __name__ == "__main__":
    main()
