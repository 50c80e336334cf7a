"""How dense code is to read: some figures for each folder.

    python benchmarks/density.py src/stealing [more folders]

Lines of code are lines that are neither blank, nor comments, nor inside a docstring.
`tests/test_density.py` holds the package to limits on these figures.
"""

import ast
import io
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PRAGMAS = ("type:", "noqa", "fmt:", "pragma")


@dataclass
class Density:
    """Counts over the files of a folder."""

    lines: int = 0
    characters: int = 0
    comments: int = 0
    packed: int = 0
    comprehensions: int = 0
    nested: int = 0
    longest_function: int = 0
    longest_file: int = 0
    longest_line: int = 0

    @property
    def characters_a_line(self) -> float:
        """Return the mean length of a line of code, without its indentation."""
        return self.characters / max(1, self.lines)

    def per_thousand(self, count: int) -> float:
        """Return a count for each thousand lines of code."""
        return 1000 * count / max(1, self.lines)

    def add(self, text: str) -> None:
        """Count one file."""
        tree = ast.parse(text)
        rows = text.splitlines()
        docs: set[int] = set()
        for node in ast.walk(tree):
            self._add_node(node)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                docs.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        for number, row in enumerate(rows, 1):
            bare = row.strip()
            self.longest_line = max(self.longest_line, len(row))
            if bare and number not in docs and not bare.startswith("#"):
                self.lines += 1
                self.characters += len(bare)
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                self.comments += not token.string.lstrip("# ").startswith(PRAGMAS)
        self.longest_file = max(self.longest_file, len(rows))

    def _add_node(self, node: ast.AST) -> None:
        if isinstance(node, FUNCTIONS):
            length = (node.end_lineno or 0) - node.lineno + 1
            self.longest_function = max(self.longest_function, length)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            self.packed += isinstance(node.targets[0], ast.Tuple)
        if isinstance(node, COMPREHENSIONS):
            self.comprehensions += 1
            inner = [part for part in ast.walk(node) if part is not node]
            holds_another = any(isinstance(part, COMPREHENSIONS) for part in inner)
            self.nested += holds_another or len(node.generators) > 1


def density(folder: Path) -> Density:
    """Return the counts over all Python files below a folder."""
    total = Density()
    for path in sorted(folder.rglob("*.py")):
        total.add(path.read_text())
    return total


def main() -> None:
    """Print a row for each folder."""
    for name in sys.argv[1:]:
        counts = density(Path(name))
        print(f"{name}, {counts.lines} lines of code")
        print(f"  characters a line            {counts.characters_a_line:.1f}")
        print(f"  comments in 100 lines        {counts.per_thousand(counts.comments) / 10:.1f}")
        print(f"  packed assignments in 1,000  {counts.per_thousand(counts.packed):.1f}")
        print(f"  comprehensions in 1,000      {counts.per_thousand(counts.comprehensions):.1f}")
        print(f"  of these nested              {counts.nested}")
        print(f"  longest function             {counts.longest_function}")
        print(f"  longest file                 {counts.longest_file}")
        print(f"  longest line                 {counts.longest_line}")


if __name__ == "__main__":
    main()
