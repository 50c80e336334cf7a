"""Read small files that a stranger may have written: a path in, plain values out.

Plain values are text, finite numbers, true, false, null, and lists and mappings of them. Nothing is
resolved, imported or called. Every size is checked before the content is held.
"""

import json
import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unicodedata import category

import yaml

from stealing.errors import ConfigError, StealingError

LARGEST_JSON = 4 * 2**20
"""Bytes. The values of such a file take about 120 MiB of memory."""

LARGEST_HEADER = 4 * 2**20
"""Most bytes of the header of a safetensors file; torchvision's largest network needs 0.2 MiB."""

LARGEST_YAML = 128 * 2**10
"""Bytes. The configuration of a run has 10 KiB; PyYAML needs 1 KiB of memory for each value."""

DEEPEST = 32
"""Levels of lists and mappings."""

LARGEST_WHOLE = 2**64
"""Whole numbers of this project are smaller: a seed of torch is the largest of them."""


class InvalidContent(Exception):
    """Content that is not valid; the caller adds the file and the advice."""


@contextmanager
def refused_as_setting(name: str) -> Iterator[None]:
    """Turn content that is not valid into a sentence about a setting, such as `arch`.

    Raises:
        ConfigError: the block refused the content.
    """
    try:
        yield
    except InvalidContent as why:
        raise ConfigError(f"{name}= does not fit: {why}.") from why.__cause__


def read_json(path: Path, refuse: type[StealingError]) -> Any:
    """Return the values of a JSON file.

    Args:
        path: of a regular file in UTF-8.
        refuse: class of the error.

    Raises:
        StealingError: of the class `refuse`, if the file is absent, too large or not plain JSON.
    """
    try:
        return parse_json(read_text(path, LARGEST_JSON))
    except InvalidContent as why:
        raise refuse(f"{path} cannot be read ({why}): fetch or make the file again.") from None


def read_yaml(path: Path, refuse: type[StealingError]) -> Any:
    """Return the values of a YAML file.

    Anchors, tags and interpolations (`${...}`) are refused: no run writes them.

    Args:
        path: of a regular file in UTF-8.
        refuse: class of the error.

    Raises:
        StealingError: of the class `refuse`, if the file is absent, too large or not plain YAML.
    """
    try:
        return _parse_yaml(read_text(path, LARGEST_YAML))
    except InvalidContent as why:
        raise refuse(f"{path} cannot be read ({why}): fetch or make the file again.") from None


def read_text(path: Path, most: int) -> str:
    """Return the text of a regular file of at most `most` bytes.

    Raises:
        InvalidContent: there is no such file, or it is not in UTF-8.
    """
    try:
        # Reading a pipe or a device may never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidContent("it is not a file")
        with path.open("rb") as handle:
            # One byte more shows that the file is too large.
            content = handle.read(most + 1)
    except FileNotFoundError:
        raise InvalidContent("it does not exist") from None
    except OSError as error:
        raise InvalidContent(error.strerror or "the system cannot open it") from None
    except ValueError:
        raise InvalidContent("its name is not a path") from None
    if len(content) > most:
        raise InvalidContent(f"it has more than {most} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidContent("it is not in UTF-8") from None


def check_safetensors(path: Path, most: int | None = None) -> None:
    """Refuse a safetensors file that would take long to open, or much memory.

    Args:
        path: of the file; its tensors are not read.
        most: bytes of the file; None for any number.

    Raises:
        InvalidContent: it is not a regular file, is too large, or its header is.
    """
    try:
        status = path.stat()
        # A pipe may never end, and a device holds any number of bytes.
        if not stat.S_ISREG(status.st_mode):
            raise InvalidContent("it is not a file")
        if most is not None and status.st_size > most:
            raise InvalidContent(f"it has more than {most} bytes")
        with path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
    except FileNotFoundError:
        raise InvalidContent("it does not exist") from None
    except OSError as error:
        raise InvalidContent(error.strerror or "the system cannot open it") from None
    # safetensors would allocate memory for a header of any stated length.
    if length > LARGEST_HEADER:
        raise InvalidContent("it does not begin as a safetensors file")


def parse_json(text: str, *, any_text: bool = False) -> Any:
    """Return the values of a JSON text.

    Args:
        text: of the file.
        any_text: accept texts that control a terminal, as names of classes and tasks may.

    Raises:
        InvalidContent: it is not JSON, repeats a name in a mapping, or a value is not plain.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise InvalidContent(f"it nests deeper than {DEEPEST} levels") from None
    except ValueError as error:  # also for a number of thousands of digits
        raise InvalidContent(first_line(error)) from None
    check_plain(value, any_text=any_text)
    return value


def check_plain(value: Any, depth: int = 0, *, any_text: bool = False) -> None:
    """Refuse everything but plain values.

    Args:
        value: any value.
        depth: levels of lists and mappings around it.
        any_text: accept texts that control a terminal.

    Raises:
        InvalidContent: with the reason.
    """
    if depth > DEEPEST:
        raise InvalidContent(f"it nests deeper than {DEEPEST} levels")
    if isinstance(value, dict):
        for name, part in value.items():
            if not isinstance(name, str):
                raise InvalidContent(f"the name {quoted(name)} is not text")
            check_plain(name, any_text=any_text)
            check_plain(part, depth + 1, any_text=any_text)
    elif isinstance(value, list):
        for part in value:
            check_plain(part, depth + 1, any_text=any_text)
    elif isinstance(value, str):
        if not any_text:
            _check_text(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidContent(f"{value} is not a finite number")
    elif isinstance(value, int):
        if abs(value) >= LARGEST_WHOLE:
            raise InvalidContent("a whole number is larger than 64 bits")
    elif value is not None:
        raise InvalidContent(f"{quoted(value)} is neither text nor a number")


def _check_text(text: str) -> None:
    for letter in text:
        # Cc: control characters. Cs: halves of pairs, which no file in UTF-8 can hold.
        if category(letter) in ("Cc", "Cs") and letter not in "\n\t":
            raise InvalidContent(
                f"{quoted(text)} holds characters that control a terminal, or half a letter"
            )


def quoted(value: Any) -> str:
    """Return a stranger's value in at most 60 printable ASCII characters, for an error message."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message, without its full stop."""
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping; json calls it for each one."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name stands twice in one mapping")
    return values


def _parse_yaml(text: str) -> Any:
    try:
        loader = _PlainLoader(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise InvalidContent(first_line(error)) from None
    except ValueError as error:  # for a number of thousands of digits, or an impossible date
        raise InvalidContent(first_line(error)) from None
    check_plain(value)
    return value


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, which also refuses anchors, tags and interpolations.

    Anchors let a small file grow to any size in memory.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one value; PyYAML calls this for each value of the file."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise InvalidContent("it has anchors")
        if event.tag is not None:
            raise InvalidContent("it has tags")
        if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
            raise InvalidContent(f"{quoted(event.value)} is an interpolation")
        # Checked here too, as PyYAML's recursion would end in Python's limit before `check_plain`.
        if self.depth > DEEPEST:
            raise InvalidContent(f"it nests deeper than {DEEPEST} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping in which no name occurs twice."""
        names = {str(name.value) for name, _ in node.value}
        if len(names) < len(node.value):
            raise InvalidContent("a name stands twice in one mapping")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping
