"""Totals over all runs: images that were counted for a target and a purpose, and that may be.

They are rows of the table `budgets`, read and written by single statements.
"""

from stealing.errors import BudgetExceeded
from stealing.numbers import check_integer
from stealing.queries.database import Execute
from stealing.queries.schema import Purpose


def charge(execute: Execute, target: str, purpose: Purpose, images: int) -> None:
    """Count images against the total; a negative number takes them back.

    Raises:
        BudgetExceeded: the images exceed what is left of the total. The transaction must end with
            this error, so that nothing of it is kept.
    """
    _add_row(execute, target, purpose)
    # the condition is part of the statement, so no other process can spend in between
    changed = execute(
        "UPDATE budgets SET spent = spent + ? WHERE target = ? AND purpose = ? "
        "AND (total IS NULL OR spent + ? <= total) RETURNING spent",
        (images, target, purpose, images),
    )
    if not changed:
        raise exceeded(images, read_left(execute, target, purpose), target, purpose)


def exceeded(images: int, left: float, target: str, purpose: Purpose) -> BudgetExceeded:
    """Return the error for images that exceed what is left of the total of all runs."""
    return BudgetExceeded(
        f"{images} more images for {purpose} exceed the {left:.0f} that are left to all runs "
        "together: send fewer, or raise the total by python -m stealing.queries allow "
        f"{target[:24]} {purpose} TOTAL."
    )


def set_total(
    execute: Execute, target: str, purpose: Purpose, total: int | None, *, may_raise: bool
) -> None:
    """Set the most images that may ever be counted for a target and a purpose.

    Args:
        execute: of a transaction.
        target: fingerprint.
        purpose: which of its two totals.
        total: images; None for no limit.
        may_raise: False if a lower total that is already set has to stay.

    Raises:
        ConfigError: `total` is not a count.
        BudgetExceeded: more were counted already.
    """
    if total is not None:
        setting = "budget.images_total" if purpose == "attack" else "budget.evaluation_total"
        check_integer(setting, total)
    _add_row(execute, target, purpose)
    spent = read_spent(execute, target, purpose)
    if total is not None and total < spent:
        raise BudgetExceeded(
            f"{spent} images were sent for {purpose} already and {total} are allowed in all: "
            f"allow {spent} or more, or leave the total out."
        )
    if may_raise:  # by a person, who may also remove it
        execute(
            "UPDATE budgets SET total = ? WHERE target = ? AND purpose = ?",
            (total, target, purpose),
        )
    elif total is not None:
        execute(
            "UPDATE budgets SET total = ? WHERE target = ? AND purpose = ? "
            "AND (total IS NULL OR total > ?)",
            (total, target, purpose, total),
        )


def read_spent(execute: Execute, target: str, purpose: Purpose) -> int:
    """Return how many images were ever counted."""
    rows = execute("SELECT spent FROM budgets WHERE target = ? AND purpose = ?", (target, purpose))
    return int(rows[0][0]) if rows else 0


def read_left(execute: Execute, target: str, purpose: Purpose) -> float:
    """Return how many images may still be counted; infinity if there is no total."""
    rows = execute(
        "SELECT total - spent FROM budgets WHERE target = ? AND purpose = ? AND total IS NOT NULL",
        (target, purpose),
    )
    return int(rows[0][0]) if rows else float("inf")


def _add_row(execute: Execute, target: str, purpose: Purpose) -> None:
    execute(
        "INSERT INTO budgets (target, purpose) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (target, purpose),
    )
