"""The layers of the package: imports run one way, downwards."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "stealing"
LAYERS = [
    {"audit"},
    {"export", "judge", "pipeline", "service"},
    {"controls", "result"},
    {"context", "evaluate", "finished", "preview", "surrogates"},
    {"compute", "forecast"},
    {"identity", "preflight"},
    {"attacks", "pretraining", "targets", "report"},
    {"evaluation"},
    {"queries"},
    {"training"},
    {"data", "encoders", "defenses"},
    {"saved"},
    {"commands", "sweeps"},
    {"config", "artefacts", "provenance", "code"},
    {"settings"},
    {"schema"},
    {"numbers", "trust"},
    {"reading"},
    {"errors", "seeds", "console", "signals", "timing", "processor"},
    {"text", "moved"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def modules() -> list[Path]:
    return [
        path
        for path in sorted(SOURCE.rglob("*.py"))
        if path.parent != SOURCE or path.stem != "__init__"
    ]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("stealing.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_downwards(path: Path) -> None:
    place = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    upwards = {name for name in imported(path) if name != place and RANK[name] <= RANK[place]}
    assert upwards == set(), f"{place} imports {upwards}, which stands above or beside it"


@pytest.mark.parametrize(
    ("pattern", "known"),
    [
        ("attacks/losses.py", {"errors"}),
        ("attacks/contrastive.py", {"errors", "numbers"}),
        ("attacks/prototypes.py", {"attacks", "numbers"}),
        ("attacks/siamese.py", {"attacks", "numbers"}),
        ("attacks/pairing.py", {"data", "errors", "numbers"}),
        ("attacks/perturbing.py", {"attacks", "data", "numbers"}),
        ("defenses/*.py", {"defenses", "errors", "moved", "numbers"}),
    ],
)
def test_losses_pairings_and_defenses_know_nothing_of_the_rest(
    pattern: str, known: set[str]
) -> None:
    paths = sorted(SOURCE.glob(pattern))
    assert paths
    for path in paths:
        assert imported(path) <= known, path.name


def test_the_files_from_a_command_to_a_number_are_those_that_the_docs_name() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    sentence = text.partition("From a command to a number you read six files:")[2]
    names = re.findall(r"`([\w/]+)\.py`", sentence.partition("\n\n")[0])
    assert len(names) == 6 and names[0] == "train"
    read = [(ROOT / "train.py").read_text()]
    for name in names[1:]:
        statement = f"from stealing.{name.replace('/', '.')} import"
        assert any(statement in earlier for earlier in read), f"no file before it uses {name}.py"
        read.append((SOURCE / f"{name}.py").read_text())


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_says_what_it_is_and_stays_short(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 350
