"""Kinds of values of a setting: a kind checks a value, and describes its valid values in words.

Values are those of a resolved configuration: numbers, text, true, false, null, lists and mappings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Kind(Protocol):
    """Values that are valid; `str()` of a kind completes the sentence "set it to ..."."""

    def fits(self, value: Any) -> bool:
        """Return True if the value is valid."""


@dataclass(frozen=True)
class Integer:
    """Whole numbers from `low` to `high`, both included; 2.0 and true are not whole numbers."""

    low: int
    high: int

    def fits(self, value: Any) -> bool:
        """Return True for a whole number in the range."""
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Number:
    """Finite numbers from `low` to `high`.

    Attributes:
        low: smallest number.
        high: largest number.
        above: whether `low` itself is excluded.
        below: whether `high` itself is excluded.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False

    def fits(self, value: Any) -> bool:
        """Return True for a finite number in the range."""
        # Python's True is an int.
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        # NaN fails both comparisons.
        if not self.low <= value <= self.high:
            return False
        if self.above and value == self.low:
            return False
        return not (self.below and value == self.high)

    def __str__(self) -> str:
        if not self.above and not self.below:
            return f"a number from {self.low:g} to {self.high:g}"
        low = f"above {self.low:g}" if self.above else f"of {self.low:g} or more"
        high = f"below {self.high:g}" if self.below else f"at most {self.high:g}"
        return f"a number {low} and {high}"


@dataclass(frozen=True)
class Switch:
    """True or false; `yes` and 1 are not valid."""

    def fits(self, value: Any) -> bool:
        """Return True for true and false."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Text:
    """Text that is not empty, such as a name or a path; a number needs quotes to be text."""

    def fits(self, value: Any) -> bool:
        """Return True for text."""
        return isinstance(value, str) and value != ""

    def __str__(self) -> str:
        return "text"


@dataclass(frozen=True)
class Choice:
    """One of a few names."""

    names: Sequence[str]

    def fits(self, value: Any) -> bool:
        """Return True for one of the names."""
        return value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


@dataclass(frozen=True)
class Free:
    """Any value; the code that reads it checks it."""

    def fits(self, value: Any) -> bool:
        """Return True."""
        return True

    def __str__(self) -> str:
        return "anything"


@dataclass(frozen=True)
class Several:
    """A list of at least `least` values of one kind."""

    of: Kind
    least: int = 1

    def fits(self, value: Any) -> bool:
        """Return True for a list whose entries all fit."""
        if not isinstance(value, list) or len(value) < self.least:
            return False
        return all(self.of.fits(part) for part in value)

    def __str__(self) -> str:
        if isinstance(self.of, Free):
            return "a list"
        return f"a list of {self.least} or more, each {self.of}"


@dataclass(frozen=True)
class Names:
    """One name or a list of names."""

    def fits(self, value: Any) -> bool:
        """Return True for text, and for a list of texts."""
        names = value if isinstance(value, list) else [value]
        return all(Text().fits(name) for name in names)

    def __str__(self) -> str:
        return "a name, or a list of names such as [a,b]"


@dataclass(frozen=True)
class Built:
    """A mapping whose `_target_` names a class or function.

    The constructor is the schema of everything below it.

    Attributes:
        later: whether the project calls the class or function itself, with arguments that no
            setting has, such as the parameters of an optimizer.
    """

    later: bool = False

    def fits(self, value: Any) -> bool:
        """Return True for a mapping with a `_target_`."""
        return isinstance(value, dict) and isinstance(value.get("_target_"), str)

    def __str__(self) -> str:
        return "a mapping with a _target_"


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: dotted; `*` stands for any name.
        kind: its valid values.
        meaning: one sentence.
        unit: of a number.
        nullable: whether null is valid, too.
        required: whether a configuration without it is refused.
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    nullable: bool = False
    required: bool = True

    def fits(self, value: object) -> bool:
        """Return True if the value is valid."""
        if self.nullable and value is None:
            return True
        return self.kind.fits(value)

    def __str__(self) -> str:
        return f"{self.kind}, or null" if self.nullable else str(self.kind)


def as_typed(value: Any) -> str:
    """Return a value as a user types it, in one printable line of at most 60 characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
