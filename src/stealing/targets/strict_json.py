"""JSON from a stranger: bytes in, a value out, after what the parser would build was counted.

A body of some megabytes can ask for gigabytes of objects. The count reads the bytes block by block,
so that other threads run in between, and stops at the first limit that is passed.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 2**18
"""Bytes that are counted at a time, 2 ms at most."""

ASCII_FROM = 2**20
"""Size in bytes above which a body must be ASCII: one other letter makes Python keep four bytes for
each letter."""

STRING = re.compile(rb'"[^"]*+"')
OTHER_LETTER = re.compile(rb"\\u(?!00[0-7])")
OUTSIDE_BRACKETS = re.compile(rb"[^][{}]++")

OPENING = (ord("["), ord("{"))
STEPS = bytes(1 if byte in OPENING else 255 for byte in range(256))
"""Translates a bracket to the change of depth as int8: 1 if it opens, -1 if it closes."""


@dataclass(frozen=True)
class JsonLimits:
    """What a body may hold.

    Attributes:
        depth: most brackets that are open at a time.
        containers: most lists, objects and fields of objects together.
        values: most commas, so that all lists and objects together hold at most this number of
            values and one more for each.
        text: most bytes of all strings together, or None for no limit.
    """

    depth: int
    containers: int
    values: int
    text: int | None = None


def strict_json(content: bytes | bytearray, limits: JsonLimits) -> Any:
    """Return the value of a JSON text; NaN and Infinity, which Python accepts, are not JSON.

    Raises:
        ValueError: it is not JSON in UTF-8, or larger than the limits; the message says which.
    """
    check_size(content, limits)
    try:
        value = json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if b"\\u" in content:
            # half of a surrogate pair makes a string that can be neither written, sent nor printed
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON in UTF-8") from None
    return value


def check_size(content: bytes | bytearray, limits: JsonLimits) -> None:
    """Count what a parser would build, without building it.

    The count is exact up to the first bytes that are not JSON, where a parser stops.

    Raises:
        ValueError: more than the limits allow; the message says which.
    """
    count = _Count(limits)
    ascii_only = len(content) > ASCII_FROM
    start = 0
    while start < len(content):
        stop = _end_of_block(content, start)
        block = bytes(content[start:stop])
        if ascii_only:
            _check_ascii(content, block, start, stop)
        count.add(block)
        start = stop


class _Count:
    """Counts the blocks of one body and refuses the first that passes a limit."""

    def __init__(self, limits: JsonLimits) -> None:
        self.limits = limits
        self.depth = 0
        self.containers = 0
        self.values = 0
        self.text = 0
        self.in_string = False

    def add(self, block: bytes) -> None:
        """Count a block that does not end between a backslash and what it escapes."""
        limits = self.limits
        if b"\\" in block:
            block = block.replace(b"\\\\", b"").replace(b'\\"', b"")
        with_strings = len(block)
        block, self.in_string = _without_strings(block, self.in_string)
        self.text += with_strings - len(block)
        self.containers += block.count(b"[") + block.count(b"{") + block.count(b":")
        self.values += block.count(b",")
        if self.values > limits.values:
            raise ValueError(f"the body holds more than {limits.values} values")
        if self.containers > limits.containers:
            raise ValueError(
                f"the body holds more than {limits.containers} lists, objects and fields"
            )
        if limits.text is not None and self.text > limits.text:
            raise ValueError(f"the body holds more than {limits.text} bytes of strings")
        brackets = OUTSIDE_BRACKETS.sub(b"", block)
        steps = np.frombuffer(brackets.translate(STEPS), np.int8)
        if len(steps) == 0:
            return
        depths = self.depth + np.cumsum(steps, dtype=np.int64)
        if depths.max() > limits.depth:
            raise ValueError(f"the body is nested more than {limits.depth} deep")
        self.depth = int(depths[-1])


def _end_of_block(content: bytes | bytearray, start: int) -> int:
    """Return the end of a block: never between a backslash and what it escapes."""
    stop = min(start + BLOCK, len(content))
    block = content[start:stop]
    backslashes = len(block) - len(block.rstrip(b"\\"))
    return min(stop + backslashes % 2, len(content))


def _without_strings(block: bytes, in_string: bool) -> tuple[bytes, bool]:
    """Return a block without its strings, and whether it ends within a string.

    Args:
        block: without escaped quotes.
        in_string: whether the block begins within a string.
    """
    if in_string:
        end = block.find(b'"')
        if end < 0:
            return b"", True
        block = block[end + 1 :]
    block = STRING.sub(b"", block)
    open_at = block.find(b'"')
    if open_at < 0:
        return block, False
    return block[:open_at], True


def _check_ascii(content: bytes | bytearray, block: bytes, start: int, stop: int) -> None:
    """Refuse letters beyond ASCII in a block, as bytes or as escapes."""
    # an escape of six bytes may begin in this block and end in the next one
    escaped = OTHER_LETTER.search(content, start, min(stop + 8, len(content)))
    if not block.isascii() or (escaped is not None and escaped.start() < stop):
        raise ValueError(f"the body is larger than {ASCII_FROM} bytes and not only ASCII")


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
