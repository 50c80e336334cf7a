"""An encoder behind an API: uint8 images in, checked features out, with retries under one key.

An answer counts only if it holds one vector of finite numbers for each image, and if its width and
version are those of the answers before.
"""

import os
import time
from dataclasses import dataclass
from typing import NoReturn

import httpx2
import stamina
from stamina.instrumentation import set_on_retry_hooks
from torch import Tensor

from stealing.artefacts import key
from stealing.errors import ConfigError, Refused, TargetError
from stealing.numbers import check_integer, check_number
from stealing.queries.pace import Pace
from stealing.queries.waiting import Busy, NotServed
from stealing.targets.address import is_here
from stealing.targets.retry_after import retry_after
from stealing.targets.statuses import is_busy, is_transient, may_be_billed
from stealing.targets.transport import Request, RetryableError, one_line, open_client, send
from stealing.targets.wire import STOPPED, Format, InvalidResponse, Reply, Unfit, check_digest

# stamina logs each retry, in the middle of a progress bar; the last error says how many there were
set_on_retry_hooks([])

FIRST_WAIT = 0.05
"""Seconds between the first two attempts; the waits grow."""

LONGEST_WAIT = 10.0
"""Seconds between two attempts at most."""


@dataclass(frozen=True)
class Credential:
    """The header that carries a key, and the environment variable that holds it; never a key.

    Attributes:
        header: such as `Authorization`.
        scheme: before the key, such as `Bearer`; empty for none.
        variable: holds the key of the attacker's first account; `<variable>_<n>` holds the key of
            its n-th other account.
        honest: holds the key of the account that evaluates; it may be the same variable.
    """

    header: str
    scheme: str
    variable: str
    honest: str

    def of(self, account: str) -> dict[str, str]:
        """Return the header for an account.

        Raises:
            ConfigError: the variable is not set.
        """
        variable = self.variable_of(account)
        value = os.environ.get(variable, "").strip()
        if not value:
            raise ConfigError(f"The service's key is read from the environment: set {variable}.")
        return {self.header: f"{self.scheme} {value}".strip()}

    def variable_of(self, account: str) -> str:
        """Return the name of the environment variable that holds the key of an account."""
        kind, number, *_ = account.split("/")
        if kind == "honest":
            return self.honest
        return self.variable if number == "0" else f"{self.variable}_{number}"


class RemoteTarget:
    """A target that is asked over HTTP; it has its own defense, if any.

    Args:
        url: of the service, without the path of the wire.
        wire: format of requests and answers.
        size: height and width of the images that are sent.
        version: name of the state of the service, part of the fingerprint; with another name the
            run starts with an empty bank.
        width: numbers in a vector; None if unknown, then the first answer decides.
        credential: None for a service that asks for no key.
        in_flight: most requests at a time, 1 to 1,000.
        attempts: most attempts of one request; refusals by status 429 or 503 do not count.
        deadline: seconds for a request with all its attempts, at least 0.1.
        pace: rate limit that is kept on this side.
        authorized: the user declares that they own the encoder or may test it.
        patience: seconds that one request may wait in total while the service is busy.

    Raises:
        ConfigError: the URL is not an address, or is outside this machine and not authorized; a
            number is out of its range.
    """

    defense_fingerprint = "the service's"
    is_known = False

    def __init__(
        self,
        url: str,
        wire: Format,
        *,
        size: int,
        version: str | None,
        width: int | None,
        credential: Credential | None,
        in_flight: int,
        attempts: int,
        deadline: float,
        pace: Pace,
        authorized: bool,
        patience: float = 600.0,
    ) -> None:
        here = is_here(url, authorized=authorized, sends_key=credential is not None)
        check_integer("target.remote.size", size, low=1)
        if width is not None:
            check_integer("target.remote.width", width, low=1)
        check_integer("target.remote.in_flight", in_flight, low=1, high=1000)
        check_integer("target.remote.attempts", attempts, low=1)
        check_number("target.remote.deadline", deadline, low=0.1)
        check_number("target.remote.patience", patience)
        check_integer("target.remote.wire.images_a_request", wire.images_a_request, low=1)
        self.url = url.rstrip("/")
        self.wire = wire
        self.size = size
        self.credential = credential
        self.in_flight = in_flight
        self.attempts = attempts
        self.deadline = deadline
        self.pace = pace
        self.patience = patience
        self.images_a_request = wire.images_a_request
        self.codec = wire.codec
        self.fingerprint = key(url=self.url, wire=wire.identity, version=version)
        # the fingerprint in earlier versions of this project, under which answers may be stored
        former_wire = getattr(wire, "former", wire.identity)
        self.former = key(url=self.url, wire=former_wire, version=version)
        self.version: str | None = None  # the service states it in its answers
        self._width = width
        self._has_answered = False
        self._in_doubt = set[str]()  # keys of unanswered requests that may have been served
        self._client = open_client(in_flight, use_proxy=not here)

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        """Return features (B, D) of uint8 images (B, 3, size, size).

        Args:
            images_uint8: what to send.
            account: whose key is sent.
            idempotency: key that every attempt carries, so that the service bills one of them.

        Raises:
            Busy: the service refuses the request for now.
            NotServed: with the error as its cause; the service served no attempt.
            TargetError: the attempts are used up, or the answer cannot be used.
            Refused: the service has stopped this account.
        """
        request = self._request(images_uint8, account, idempotency)

        def may_repeat(error: Exception) -> bool:
            return isinstance(error, RetryableError) and time.monotonic() < request.until

        try:
            for attempt in stamina.retry_context(
                on=may_repeat,
                attempts=self.attempts,
                timeout=self.deadline,
                wait_initial=FIRST_WAIT,
                wait_max=LONGEST_WAIT,
            ):
                with attempt:
                    reply = self._attempt(request)
        except RetryableError as last:
            error = TargetError(
                f"{self.url} did not give an answer that can be used ({last}), after "
                f"{self.attempts} attempts or {self.deadline:.0f} s: bought answers are stored; "
                "run the same command again to resume."
            )
            self._give_up(request, error)
        self._in_doubt.discard(idempotency)
        return reply.features

    def _request(self, images_uint8: Tensor, account: str, idempotency: str) -> Request:
        """Return the request with its headers.

        Raises:
            NotServed: the key of the account is absent.
        """
        message = self.wire.request(images_uint8, idempotency)
        headers = dict(message.headers)
        headers["idempotency-key"] = idempotency
        # a compressed answer could be small on the line and fill the memory
        headers["accept-encoding"] = "identity"
        if self.credential is not None:
            try:
                headers |= self.credential.of(account)
            except ConfigError as absent:
                raise NotServed from absent
        until = time.monotonic() + self.deadline
        return Request(message, headers, images_uint8, account, idempotency, until)

    def _attempt(self, request: Request) -> Reply:
        """Send a request once and return the checked reply.

        Raises:
            RetryableError: another attempt may succeed.
            Busy: another attempt may succeed later.
            TargetError, NotServed, Refused: no other attempt will succeed.
        """
        try:
            response, content = send(self._client, self.url, request, self._width)
            self._check_status(request, response, content)
            headers = dict(response.headers)  # names are in lower case
            try:
                check_digest(headers.get("content-digest", ""), content)
            except InvalidResponse as damaged:
                raise RetryableError(str(damaged), served=True) from None
            reply = self.wire.answers(request.images, headers, content)
            return self._check_consistency(reply)
        except RetryableError as error:
            request.complaints.clear()
            if error.served:
                self._in_doubt.add(request.key)
            raise
        except InvalidResponse as error:
            self._in_doubt.add(request.key)
            reason = one_line(str(error))
            request.complaints.append(reason)
            if isinstance(error, Unfit) or self._is_repeated(request.complaints):
                raise TargetError(
                    f"{self.url} gives an answer that cannot be used ({reason}), and would do so "
                    "again: bought answers are stored; correct target.remote.wire or the service."
                ) from None
            raise RetryableError(reason, served=True) from None

    def _check_status(self, request: Request, response: httpx2.Response, content: bytes) -> None:
        """Return if the status is 200; else raise what the status means for the request."""
        status = response.status_code
        if status == 200:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise RetryableError(
                    "the answer is compressed, which we did not ask for", served=True
                )
            return
        text = one_line(content[:2000].decode("utf-8", "replace"))
        wait = retry_after(response.headers)
        if may_be_billed(status):
            self._in_doubt.add(request.key)
        if is_busy(status, wait):
            raise self._busy(request, f"status {status}: {text}", wait)
        if is_transient(status):
            raise RetryableError(f"status {status}: {text}", served=True)
        if STOPPED in response.headers:
            raise Refused(f"{self.url} answers this account no more: {text}")
        if status in (401, 403) and self.credential is not None:
            variable = self.credential.variable_of(request.account)
            text = f"is the key in {variable} right? {text}"
        error = TargetError(f"{self.url} refuses the request with status {status}: {text}")
        self._give_up(request, error)

    def _busy(self, request: Request, reason: str, wait: float | None) -> Busy:
        """Return the exception for a service that asks to wait.

        Args:
            request: that was refused.
            reason: status and text of the refusal.
            wait: seconds that the service asks for, or None if it does not say.
        """
        asks = "" if wait is None else f", asks to wait {wait:.0f} s"
        error = TargetError(
            f"{self.url} is busy ({reason}){asks}, and one request waits {self.patience:.0f} s at "
            "most: bought answers are stored; run the same command again later, or raise "
            "target.remote.patience."
        )
        return Busy(
            f"{self.url} is busy ({reason})",
            after=wait,
            patience=self.patience,
            served=request.key in self._in_doubt,
            error=error,
        )

    def _give_up(self, request: Request, error: TargetError) -> NoReturn:
        """Raise the error, within `NotServed` if the service can have served no attempt."""
        if request.key in self._in_doubt:
            raise error from None
        raise NotServed from error

    def _is_repeated(self, complaints: list[str]) -> bool:
        """Return True if the same complaint came so often in a row that it would come again."""
        # without one good answer, the cause is a wrong setting rather than an accident
        enough = max(2, self.attempts // 2) if self._has_answered else 2
        return len(complaints) >= enough and len(set(complaints[-enough:])) == 1

    def _check_consistency(self, reply: Reply) -> Reply:
        """Return a reply whose width and version are those of the replies before.

        Raises:
            InvalidResponse: another width.
            TargetError: another version.
        """
        width = reply.features.shape[1]
        if self._width is not None and width != self._width:
            raise InvalidResponse(f"vectors of {width} numbers where {self._width} were expected")
        if self._has_answered and reply.version != self.version:
            raise TargetError(
                f"{self.url} is version {reply.version} now and was {self.version} before: bought "
                "answers are stored; to start with an empty bank, add "
                f"target.remote.version={reply.version}."
            )
        self._width = width
        self.version = reply.version
        self._has_answered = True
        return reply
