"""The code stays light to read: limits on what `benchmarks/density.py` counts."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from density import Density, density

DENSE = '''"""Docstring of one line."""
a, b = 1, 2  # why
c = [[x for x in range(y)] for y in range(3)]  # noqa: X
'''


def test_what_is_counted_is_what_a_reader_meets() -> None:
    counts = Density()
    counts.add(DENSE)
    assert (counts.lines, counts.comments, counts.packed) == (2, 1, 1)
    assert (counts.comprehensions, counts.nested) == (2, 1)


@pytest.fixture(scope="module")
def package() -> Density:
    return density(ROOT / "src" / "stealing")


def test_a_line_holds_one_thing(package: Density) -> None:
    assert package.characters_a_line <= 36
    assert package.per_thousand(package.packed) <= 1
    assert package.per_thousand(package.comprehensions) <= 25
    assert package.longest_line <= 100


def test_functions_and_files_end_before_a_reader_tires(package: Density) -> None:
    assert package.longest_function <= 60
    assert package.longest_file <= 350


def test_comments_say_why_often_enough(package: Density) -> None:
    assert package.per_thousand(package.comments) / 10 >= 3
