"""Every command of the docs can be typed: its overrides compose, and it is run or says why not."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from test_docs import PAGES, blocks, is_run
from typed import Typed, is_open_pattern, typed_in, words_of

from stealing.config import check_choices, check_values
from stealing.settings.constructors import check_constructors
from stealing.settings.overrides import check_overrides

OF_RESULTS = ROOT / "results" / "README.md"
"""Its commands made the stored results, which is why none of them is run again."""

SETTINGS = ROOT / "docs" / "settings.md"
"""Its tables are made of docstrings."""

FLAGS = {"-m", "--multirun", "--info", "--cfg", "job"}
VALUES = ("--config-dir", "--config-name", "--shell-completion")

STORED = ("run=", "surrogate=")
"""Overrides that take the settings of a run, so that there is nothing to compose."""


def test_the_parts_of_a_page_and_their_marks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Type `python a.py x=1` or\n`STEALING_KEY=k python b.py`.\n\n"
        "| a |\n|---|\n| `python c.py` |\n\n<!-- not run: why -->\n\n"
        "    pip install x && python d.py\n<!-- run by: e.py -->\n\n"
        "```bash\npython f.py \\\n  y=2\n\ngit log\n```\n"
    )
    assert typed_in(page) == [
        Typed("python a.py x=1", "sentence", None),
        Typed("STEALING_KEY=k python b.py", "sentence", None),
        Typed("python c.py", "table", "why"),
        Typed("pip install x", "indented", "e.py"),
        Typed("python d.py", "indented", "e.py"),
        Typed("python f.py    y=2", "block", None),
        Typed("git log", "block", None),
    ]
    assert words_of("A=1 python f.py run=<a folder> 'b=[c]' ... > out.txt 2>&1 &") == [
        "python",
        "f.py",
        "run=x",
        "b=[c]",
    ]
    assert is_open_pattern("python f.py b=[c]") and not is_open_pattern("python f.py 'b=[c]'")


# Run, or the reason why not.


def run_in_a_block() -> set[str]:
    """The commands of blocks that tests/test_docs.py runs."""
    found: set[str] = set()
    for page in PAGES:
        for block in blocks(page):
            if is_run(block):
                found |= {" ".join(line.split()) for line in block.text.splitlines()}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_command_outside_of_a_block_is_run_or_says_why_not(page: Path) -> None:
    """Sentences of the README say it too: it is what a newcomer types."""
    if page in (OF_RESULTS, SETTINGS):
        return
    run = run_in_a_block()
    kinds = {"indented", "table"} | ({"sentence"} if page.name == "README.md" else set())
    for command in typed_in(page):
        # a module without arguments is the name of a command
        is_name = re.fullmatch(r"python -m [\w.]+( > \S+)?", command.text) is not None
        if command.kind in kinds and command.text not in run and not is_name:
            assert command.mark is not None, f"{page.name}: mark {command.text} (tests/typed.py)"


def test_what_is_said_to_run_a_command_is_there() -> None:
    for page in PAGES:
        for place in re.findall(r"<!-- run by: (\S+) -->", page.read_text()):
            assert (ROOT / place).exists(), f"{page.name}: {place}"


def test_brackets_of_a_command_stand_in_quotes() -> None:
    for page in PAGES:
        for command in typed_in(page):
            assert not is_open_pattern(command.text), f"{page.name}: zsh refuses {command.text}"
        unquoted = re.findall(r"(?<!')trust=\[", page.read_text())
        assert not unquoted, f"{page.name}: 'trust=[...]' stands in quotes"


def test_brackets_of_an_override_that_a_message_prints_stand_in_quotes() -> None:
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                unquoted = re.findall(r"(?<![\w.'`])[a-z_.]+=\[\S*", node.value)
                assert not unquoted, f"{path.name}: zsh refuses {unquoted[0]}"


# Overrides that compose.


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files that all pages show, from which their modules are imported."""
    folder = tmp_path_factory.mktemp("examples")
    for page in PAGES:
        for block in blocks(page):
            if block.file is not None and block.file.startswith("my/"):
                path = folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name == "my" or name.startswith("my.")]:
        del sys.modules[name]


def compose_check(words: list[str], name: str, folder: Path | None) -> None:
    """Compose a command's overrides, each value of a sweep in its turn, and check what comes."""
    check_overrides(words, name)
    if any(word.startswith(STORED) for word in words):
        return
    found = [] if folder is None else [f"hydra.searchpath=[file://{folder}]"]
    words = [word for word in words if not word.startswith("hydra")]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for cell in cells(words):
            if name == "service":
                check_values(compose(name, overrides=[*found, *cell]))
                continue
            config = compose(name, overrides=[*found, *cell, "plan_only=true"])
            check_choices(config)
            for node in config.values():
                check_constructors(node)


def cells(words: list[str]) -> Iterator[list[str]]:
    """Yield the overrides of a few cells of a sweep, with each value in one of them at least."""
    choices = []
    for word in words:
        name, _, value = word.partition("=")
        is_sweep = "," in value and not re.search(r"[\[{(]", value)
        choices.append([f"{name}={one}" for one in value.split(",")] if is_sweep else [word])
    for number in range(max(map(len, choices), default=1)):
        yield [values[min(number, len(values) - 1)] for values in choices]


def overrides_of(command: str) -> tuple[str, list[str], bool] | None:
    """Return the configuration, the overrides and if `--config-dir` is given, or None if the
    command has no overrides."""
    _, *words = words_of(command)
    if "--help" in words:
        return None
    if words[:1] == ["train.py"] or words[:1] == ["eval.py"]:
        name, words = words[0].removesuffix(".py"), words[1:]
    elif words[:2] == ["-m", "stealing.service"]:
        name, words = "service", words[2:]
    else:
        return None
    overrides = []
    is_own = False
    while words:
        word = words.pop(0)
        if word in VALUES:
            value = words.pop(0)
            is_own = is_own or word == "--config-dir"
            name = value if word == "--config-name" else name
        elif word not in FLAGS:
            overrides.append(word)
    return name, overrides, is_own


COMPOSED = [page for page in PAGES if any(map(overrides_of, [c.text for c in typed_in(page)]))]


@pytest.mark.parametrize("page", COMPOSED, ids=lambda page: page.stem)
def test_the_overrides_of_every_command_of_a_page_compose(page: Path, examples: Path) -> None:
    check_all({command.text for command in typed_in(page)}, examples)


def check_all(commands: set[str], examples: Path) -> None:
    for text in sorted(commands):
        found = overrides_of(text)
        if found is not None:
            name, overrides, is_own = found
            try:
                compose_check(overrides, name, examples / "my" / "conf" if is_own else None)
            except Exception as error:
                raise AssertionError(f"{text}: {error}") from error


IN_CONF = re.compile(r"python (?:train|eval)\.py(?: [^\s`(]+)*")
"""A command in a comment or a help text; two spaces end it."""


def test_the_overrides_of_every_command_in_conf_compose(examples: Path) -> None:
    found: set[str] = set()
    for path in (ROOT / "conf").rglob("*.yaml"):
        # a comment goes on in its next line
        text = re.sub(r" \\\n#? *", " ", path.read_text())
        found |= {command.rstrip(".,:;") for command in IN_CONF.findall(text)}
    assert len(found) > 20
    check_all(found, examples)


MODULES = re.compile(r"-m (stealing[.\w]*)|(benchmarks/\w+\.py)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_module_or_a_script_of_a_command_has_its_options(page: Path) -> None:
    for command in typed_in(page):
        match = MODULES.search(command.text)
        if match is None:
            continue
        place = match[2] or f"src/{match[1].replace('.', '/')}"
        path = ROOT / place
        if not path.suffix:
            path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        source = path.read_text()
        # Some commands have their options in the modules that add them.
        for module in re.findall(r"^from (stealing[\w.]*) import add_commands", source, re.M):
            source += (ROOT / "src" / f"{module.replace('.', '/')}.py").read_text()
        for word in words_of(command.text):
            option = word.partition("=")[0]
            assert not word.startswith("--") or f'"{option}"' in source, f"{page.name}: {word}"
