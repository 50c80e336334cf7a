"""Check numbers that a user sets: any value in; the number, or an error with the setting, out.

This module does not import torch, so that a command can check its settings at once.
"""

from typing import Any

from stealing.errors import ConfigError

MOST = 2**31 - 1
"""The largest count: the largest INTEGER of PostgreSQL, to which a ledger may move."""

GREATEST = 1e9
"""The largest amount, rate or number of seconds."""

SIDE = 4096
"""The largest height and width of images, in pixels."""

LEAST = 1e-6
"""The smallest rate, in events a second: one event in 11 days."""


def check_integer(name: str, value: object, low: int = 0, high: int = MOST) -> int:
    """Return a whole number in a range; 128.0 and True are not whole numbers.

    Args:
        name: the setting, as a user writes it.
        value: any value.
        low: the smallest valid number.
        high: the largest valid number.

    Raises:
        ConfigError: the value is not such a number.
    """
    # `type(...) is int` excludes True, which is an instance of int.
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(
            f"{name}={_short(value)} is not a whole number from {low} to {high}: set one."
        )
    return value


def check_number(name: str, value: object, low: float = 0.0, high: float = GREATEST) -> float:
    """Return a finite number in a range; True is not a number.

    Args:
        name: the setting, as a user writes it.
        value: any value.
        low: the smallest valid number.
        high: the largest valid number.

    Raises:
        ConfigError: the value is not such a number.
    """
    # NaN fails both comparisons.
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
        raise ConfigError(
            f"{name}={_short(value)} is not a number from {low:g} to {high:g}: set one."
        )
    return value  # type: ignore[return-value]


def as_number(text: str) -> int | float | str:
    """Return the number in a text, or the text, which `check_integer` and `check_number` refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def check_budget(budget: Any) -> None:
    """Refuse a budget with an invalid number.

    Args:
        budget: a `stealing.queries.door.Budget`, or the part `budget` of a configuration.

    Raises:
        ConfigError: with the setting.
    """
    check_integer("budget.images", budget.images, low=1)
    check_integer("budget.evaluation", budget.evaluation)
    for name in ("images_total", "evaluation_total"):
        total = getattr(budget, name)
        if total is not None:
            check_integer(f"budget.{name}", total)
    check_number("budget.price", budget.price)


def _short(value: object) -> str:
    """Return a value as at most 40 characters, for an error message."""
    try:
        return str(value)[:40]
    except ValueError:  # Python prints no whole number of more than 4,300 digits
        return "a number of thousands of digits"
