"""The layers of the package: imports run one way, downwards."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "stealing"
LAYERS = [
    {"audit", "judge"},
    {"pipeline", "service"},
    {"verdict", "identity"},
    {"plan"},
    {"attacks", "pretraining", "targets", "report"},
    {"evaluation"},
    {"queries"},
    {"training"},
    {"data", "encoders", "defenses"},
    {"config", "artefacts", "provenance", "code"},
    {"errors", "seeds"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def modules() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path.parent != SOURCE or path.stem != "__init__"]


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


@pytest.mark.parametrize("name", ["attacks/losses.py", "defenses/chain.py"])
def test_losses_and_defenses_know_nothing_of_the_rest(name: str) -> None:
    assert imported(SOURCE / name) <= {"errors"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_says_what_it_is_and_stays_short(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 350
