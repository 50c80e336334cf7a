"""The hash of a step's code: what changes it, what does not, and that it covers all of a step."""

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

from stealing.artefacts import key
from stealing.code import NOT_FOLLOWED, code_of, followed

SOURCE = ROOT / "src" / "stealing"
STEAL = "stealing.attacks.steal.steal_encoder"
L2 = "stealing.attacks.losses.l2"


def targets() -> set[str]:
    """The package's own classes and functions that the configuration names."""
    texts = [path.read_text() for path in (ROOT / "conf").rglob("*.yaml")]
    return {name for text in texts for name in re.findall(r"_target_: *(stealing\.[\w.]+)", text)}


def edited(tmp_path: Path, file: str, old: str, new: str, *roots: str) -> list[str]:
    """Hashes of the roots in a copy of the package, in which one text was replaced by another."""
    copy = tmp_path / "stealing"
    shutil.copytree(SOURCE, copy, dirs_exist_ok=True)
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new, 1))
    program = "import sys; from stealing.code import code_of; print(*map(code_of, sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *roots],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


LOSSES = "attacks/losses.py"


def test_a_comment_a_docstring_and_another_loss_change_nothing(tmp_path: Path) -> None:
    now = [code_of(STEAL), code_of(L2)]
    another = "def another(a: Tensor) -> Tensor:\n    return a\n\n\ndef l2("
    for number, (old, new) in enumerate(
        (
            ("def l2(", "# A remark.\ndef l2("),
            ("not squared", "never squared"),
            ("def l2(", another),
        )
    ):
        assert edited(tmp_path / str(number), LOSSES, old, new, STEAL, L2) == now


def test_an_edit_changes_the_code_of_what_uses_it_alone(tmp_path: Path) -> None:
    mse = "stealing.attacks.losses.mse"
    now = [code_of(STEAL), code_of(L2), code_of(mse)]
    first = edited(tmp_path / "1", LOSSES, "dim=1", "dim=-1", STEAL, L2, mse)
    assert [a == b for a, b in zip(now, first, strict=True)] == [True, False, True], (
        "a loss is a setting of the step"
    )
    second = edited(tmp_path / "2", "seeds.py", '"little"', '"big"', STEAL, L2, mse)
    assert [a == b for a, b in zip(now, second, strict=True)] == [False, True, True], (
        "through three modules"
    )
    third = edited(tmp_path / "3", "training/progress.py", "import", "import math\nimport", STEAL)
    assert third == now[:1], "a progress bar changes no result"


def test_a_setting_that_names_a_class_counts_with_all_that_it_nests() -> None:
    views = {"_target_": "stealing.data.views.Views", "crop": [0.2, 1.0]}
    node = {"pairing": [{"_target_": "stealing.attacks.pairing.RawOrView", "views": views}]}
    assert {"stealing.attacks.pairing.RawOrView", "stealing.data.views._crop"} <= followed(
        node
    ).keys()
    assert followed({"_target_": "torch.optim.SGD"}) == {"torch.optim.SGD": ""}, (
        "its version stands beside"
    )


def test_a_users_own_module_counts_by_its_path_and_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "from my_codes.parts import half\n\n\ndef f(a):\n    return half(a)\n"
    (tmp_path / "my_codes").mkdir()
    (tmp_path / "my_codes" / "__init__.py").write_text("from .parts import half\n")
    (tmp_path / "my_codes" / "parts.py").write_text("def half(a):\n    return a / 2\n")
    for name in ("one", "two"):
        (tmp_path / "my_codes" / f"{name}.py").write_text(text)
    (tmp_path / "my_codes" / "three.py").write_text(text.replace("(a)\n", "(a) + 1\n"))
    assert followed("my_codes.one.f").keys() == {"my_codes.one.f", "my_codes.parts.half"}
    assert followed("my_codes.half").keys() == {"my_codes.parts.half"}, "found where it is defined"
    codes = [code_of({"_target_": f"my_codes.{name}.f"}) for name in ("one", "two", "three")]
    assert len(set(codes)) == 3


def test_what_pip_installed_is_not_followed_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_losses.py").write_text("def f(a, b):\n    return a - b\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_losses-1.0.dist-info").mkdir()
    assert followed("their_losses.f") == {"their_losses.f": ""}


def test_modules_that_import_a_name_from_each_other_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ring_one.py").write_text("from ring_two import f\n")
    (tmp_path / "ring_two.py").write_text("from ring_one import f\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert followed("ring_one.f") == {"ring_one.f": ""}


def test_another_place_of_a_file_changes_neither_key_nor_code(tmp_path: Path) -> None:
    moved = {"loss": {"_target_": "stealing.elsewhere.l2", "reduction": "mean"}}
    assert key(attack=moved) == key(attack={"loss": {"_target_": L2, "reduction": "mean"}})
    assert key(attack=moved) != key(attack={"loss": {"_target_": "mine.l2", "reduction": "mean"}})
    assert key(of=[{"_target_": "mine.l2"}]) != key(of=[{"_target_": "yours.l2"}])
    shutil.copytree(SOURCE, tmp_path / "stealing")
    (tmp_path / "stealing" / LOSSES).rename(tmp_path / "stealing" / "elsewhere.py")
    (there,) = edited(
        tmp_path, "elsewhere.py", "L2-normalised", "normalised", "stealing.elsewhere.l2"
    )
    assert there == code_of(L2)


def test_names_in_the_configuration_are_unique_in_the_package() -> None:
    trees = [ast.parse(path.read_text()) for path in SOURCE.rglob("*.py")]
    kinds = (ast.FunctionDef, ast.ClassDef)
    counted = Counter(node.name for tree in trees for node in tree.body if isinstance(node, kinds))
    assert {name: counted[name.rpartition(".")[2]] for name in targets()} == dict.fromkeys(
        targets(), 1
    )


def test_all_that_the_steps_import_is_followed_or_listed_with_a_reason() -> None:
    """Walk the import statements of the followed modules, which `followed` itself does not do."""
    apart = ("stealing.service.", "stealing.data.", "stealing.report.", "stealing.training.wandb.")
    roots = [name for name in targets() if not name.startswith(apart)]
    steps = ("stealing.context.open_run", "stealing.pipeline.run_steps")
    reached = {path.rpartition(".")[0] for path in followed(*steps, *roots)}
    files = {name: SOURCE.parent.joinpath(*name.split(".")).with_suffix(".py") for name in reached}
    own = {name: file for name, file in files.items() if name.startswith("stealing.")}
    assert len(own) > 30
    imported = set[str]()
    for file in own.values():
        nodes = [
            node
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom)
        ]
        imported |= {
            f"{node.module}.{name.name}"
            if node.module in ("stealing.evaluation", "stealing.queries")
            else str(node.module)
            for node in nodes
            for name in node.names
        }
    ours = {name for name in imported if name.startswith("stealing.")} - {
        "stealing.encoders"
    }  # only hands on
    listed = tuple(f"{name}." for name in NOT_FOLLOWED)
    forgotten = {name for name in ours - own.keys() if not f"{name}.".startswith(listed)}
    assert forgotten == set()
    stale = [
        name for name in NOT_FOLLOWED if not list(SOURCE.parent.glob(f"{name.replace('.', '/')}*"))
    ]
    assert stale == [], "the list names what there is"
    assert all(len(reason.split()) > 2 for reason in NOT_FOLLOWED.values())
