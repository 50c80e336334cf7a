"""What docs/surface.md promises: a public name does not go, and a new one is listed."""

import json
from pathlib import Path
from typing import Any

import pytest
import surface
from conftest import ROOT

REMEDY = (
    "a name that users rely on is gone: keep the old one for a release, with one line that names "
    "the new one (docs/surface.md); only then take it out of tests/surface.json"
)


def test_no_public_name_is_gone() -> None:
    assert surface.gone(surface.public_names()) == [], REMEDY


def test_every_public_name_is_listed() -> None:
    missing = surface.new(surface.public_names())
    assert missing == [], "python tests/surface.py adds them to tests/surface.json"


def test_the_page_names_every_command() -> None:
    page = (ROOT / "docs" / "surface.md").read_text()
    for command in surface.listed()["commands"]:
        # the page shortens those after the first
        assert f"`{command.replace('python -m stealing', '')}`" in page or f"`{command}`" in page


@pytest.mark.parametrize("kind", ["options", "settings", "result"])
def test_a_name_that_goes_is_noticed_and_never_leaves_the_list_by_itself(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = surface.public_names()
    lost = now[kind].pop()
    assert surface.gone(now) == [lost]
    copy = tmp_path / "surface.json"
    copy.write_text(surface.LIST.read_text())
    monkeypatch.setattr(surface, "LIST", copy)
    monkeypatch.setattr(surface, "public_names", lambda: now | {"commands": ["train.py", "new"]})
    surface.main()
    written: dict[str, Any] = json.loads(copy.read_text())
    assert lost in written[kind] and "new" in written["commands"]
