"""What a client gets if there is no answer: a status, and one sentence that says what to do."""

from typing import Any


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: of HTTP, 400 to 503.
        message: one sentence.
        retry_after: seconds after which the request may be served, or None.
        stopped: True if the defense has stopped this account for good.
    """

    def __init__(
        self, status: int, message: str, retry_after: float | None = None, *, stopped: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.stopped = stopped


def error_object(message: str, status: int) -> dict[str, Any]:
    """Return a refusal in the form that OpenAI's clients read."""
    return {"message": message, "type": "invalid_request_error", "code": status}
