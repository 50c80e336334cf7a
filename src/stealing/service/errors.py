"""What a client is told when it gets no answer: a status, and one sentence that says what to do."""


class Denied(Exception):
    """A request that is not served.

    Args:
        status: of HTTP, 400 to 503.
        message: one sentence.
        retry_after: seconds after which it may be served, or None.
        stopped: whether the defense answers this account no more.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None, *, stopped: bool = False) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after, self.stopped = status, message, retry_after, stopped
