"""What an HTTP status means for a request: to wait, to try again, or to stop."""

BUSY = (429, 503)
"""The service did not serve the request and may serve it later."""

TRANSIENT = (408, 409, 425)
"""Statuses below 500 of failures that pass."""

PERMANENT = (501, 505)
"""Statuses of 500 and more that the same request gets each time."""


def is_transient(status: int) -> bool:
    """Return True if the same request may succeed later."""
    return status in TRANSIENT or (status >= 500 and status not in PERMANENT)


def is_busy(status: int, retry_after: float | None) -> bool:
    """Return True if the service asks to wait.

    Args:
        status: of the answer.
        retry_after: seconds that the service asks to wait, or None if it does not say.
    """
    return status in BUSY or (is_transient(status) and retry_after is not None)


def may_be_billed(status: int) -> bool:
    """Return True if the service may have counted a request that it answered with this status."""
    # statuses such as 201, 202 and 206 are a kind of success, so the service may bill them
    is_success = status < 300
    return is_success or (is_transient(status) and status not in BUSY)
