"""Sources, the answers that may be mixed: single statements about the table `sources`."""

from stealing.queries.database import Execute


def find_or_add(execute: Execute, key: tuple[str, str, str, str], size: int) -> tuple[int, int]:
    """Return number and image size of a source; add it if it is new.

    Args:
        execute: of a transaction.
        key: target, defense, account and codec.
        size: height and width of the images.
    """
    execute(
        "INSERT INTO sources (target, defense, account, codec, size) "
        "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (*key, size),
    )
    [(number, known_size)] = execute(
        "SELECT id, size FROM sources "
        "WHERE target = ? AND defense = ? AND account = ? AND codec = ?",
        key,
    )
    return int(number), int(known_size)


def has_target(execute: Execute, target: str) -> bool:
    """Return True if there is a source of this target."""
    return bool(execute("SELECT 1 FROM sources WHERE target = ? LIMIT 1", (target,)))


def rename_target(execute: Execute, old: str, new: str) -> None:
    """Give sources and totals of one target the name of another, which has no sources."""
    # a run that was refused may have left a total under the new name
    execute("DELETE FROM budgets WHERE target = ?", (new,))
    execute("UPDATE sources SET target = ? WHERE target = ?", (new, old))
    execute("UPDATE budgets SET target = ? WHERE target = ?", (new, old))
