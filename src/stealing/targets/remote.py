"""An encoder behind HTTP: uint8 images in, its answers out, asked again under one key until one can be believed.

An answer counts only if it is one vector of finite numbers for each image, of the width and version of those before.
"""

import os
import re
import time
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx2
import stamina
from stamina.instrumentation import set_on_retry_hooks
from torch import Tensor

from stealing.artefacts import key
from stealing.errors import ConfigError, Refused, TargetError
from stealing.queries.buying import NotServed
from stealing.queries.pace import Pace
from stealing.targets.wire import STOPPED, Format, Garbled, Message, Reply, intact

set_on_retry_hooks([])  # what is tried again is told at the end, not in the middle of a progress bar

LARGEST = 256 * 2**20
"""Bytes of an answer; more is no answer of ours."""


@dataclass(frozen=True)
class Credential:
    """Which header carries a key, and which environment variable holds it: never a key itself.

    Attributes:
        header: such as `Authorization`.
        scheme: before the key, such as `Bearer`; empty for none.
        variable: holds the key of the attacker's account; that of its n-th other one is in `<variable>_<n>`.
        honest: holds that of the account which measures; the same where the service gave us one.
    """

    header: str
    scheme: str
    variable: str
    honest: str

    def of(self, account: str) -> dict[str, str]:
        """The header for this account.

        Raises:
            ConfigError: the variable is not set.
        """
        variable = self.variable_of(account)
        value = os.environ.get(variable, "").strip()
        if not value:
            raise ConfigError(f"The service's key is read from the environment: set {variable}.")
        return {self.header: f"{self.scheme} {value}".strip()}

    def variable_of(self, account: str) -> str:
        """Which environment variable holds the key of this account."""
        kind, number, *_ = account.split("/")
        return self.honest if kind == "honest" else self.variable + (f"_{number}" if number != "0" else "")


class Again(Exception):
    """An attempt that may be repeated.

    Args:
        why: what went wrong.
        served: whether the service may have answered, and billed.
        after: seconds that it asked us to wait, or None.
    """

    def __init__(self, why: str, *, served: bool, after: float | None = None) -> None:
        super().__init__(why)
        self.served, self.after = served, after


class RemoteTarget:
    """Asks a service; its defense is its own.

    Args:
        url: of the service, without the wire's path.
        wire: how it is spoken to.
        size: height and width of the images that it is sent.
        version: a name for the state of the service, part of the fingerprint: change it to begin anew.
        width: of its vectors, where it is known; else the first answer's.
        credential: None for a service that asks for no key.
        in_flight: most requests at a time.
        attempts: of one request.
        deadline: seconds for a request with all its attempts.
        pace: how fast it may be asked.
        authorized: the user's word that they own the encoder or may test it.

    Raises:
        ConfigError: the address is none, or outside this machine and not authorized.
    """

    defense_fingerprint, is_known = "the service's", False

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
    ) -> None:
        here = _checked(url, credential, authorized)
        self.url, self.wire, self.size, self.credential = url.rstrip("/"), wire, size, credential
        self.in_flight, self.attempts, self.deadline, self.pace = in_flight, attempts, deadline, pace
        self.images_a_request, self.codec = wire.images_a_request, wire.codec
        self.fingerprint = key(url=self.url, wire=wire.identity, version=version)
        self.version: str | None = None  # as the service tells it
        self._width, self._told = width, False
        limits = httpx2.Limits(max_connections=in_flight, max_keepalive_connections=in_flight, keepalive_expiry=30)
        self._client = httpx2.Client(limits=limits, follow_redirects=False, trust_env=not here)

    def answer(self, images_uint8: Tensor, account: str, idempotency: str = "") -> Tensor:
        """Features (B, D) of uint8 images (B, 3, size, size); every attempt carries the same key.

        Raises:
            NotServed: around the reason, where no attempt can have been served.
            TargetError: it was given up, or what came back is not to be trusted.
            Refused: the service answers this account no more.
        """
        message, served, until = self.wire.request(images_uint8, idempotency), False, time.monotonic() + self.deadline
        headers = {**message.headers, "idempotency-key": idempotency, "accept-encoding": "identity"}
        try:
            headers |= self.credential.of(account) if self.credential is not None else {}
        except ConfigError as absent:
            raise NotServed from absent
        policy = {"attempts": self.attempts, "timeout": self.deadline, "wait_initial": 0.05, "wait_max": 10.0}
        try:
            for attempt in stamina.retry_context(on=lambda error: _pause(error, until), **policy):  # type: ignore[arg-type]
                with attempt:
                    try:
                        reply = self._believed(self._sent(message, headers, images_uint8, account, until))
                    except Again as again:
                        served = served or again.served
                        raise
        except Again as again:
            error = TargetError(
                f"{self.url} did not give an answer that can be used ({again}), after {self.attempts} attempts or "
                f"{self.deadline:.0f} s: what was bought is kept; run the same command again to go on."
            )
            if served:
                raise error from None
            raise NotServed from error
        return reply.features

    def _sent(self, message: Message, headers: dict[str, str], images: Tensor, account: str, until: float) -> Reply:
        """One attempt."""
        left = max(0.1, until - time.monotonic())
        try:
            with self._client.stream(
                "POST", self.url + message.path, content=message.content, headers=headers, timeout=left
            ) as response:
                content = bytearray()
                for part in response.iter_raw():
                    content += part
                    if len(content) > LARGEST or time.monotonic() > until:
                        raise Again("the answer did not end", served=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise Again(f"no connection, {_short(str(error))}", served=False) from None
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise Again(f"the connection broke, {type(error).__name__}", served=True) from None
        self._judged(response, bytes(content), account)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Again("the answer is compressed, which we did not ask for", served=True)
        try:
            intact(response.headers.get("content-digest", ""), bytes(content))
            return self.wire.answers(images, {name.lower(): v for name, v in response.headers.items()}, bytes(content))
        except Garbled as garbled:
            raise Again(str(garbled), served=True) from None

    def _judged(self, response: httpx2.Response, content: bytes, account: str) -> None:
        """Tell by the status whether to go on, to try again, or to stop."""
        status, said = response.status_code, _short(content.decode("utf-8", "replace"))
        if status == 200:
            return
        if status in (408, 409, 425, 429) or status >= 500:
            refused = status in (429, 503)
            raise Again(f"status {status}: {said}", served=not refused, after=_seconds(response.headers))
        if STOPPED in response.headers:
            raise Refused(f"{self.url} answers this account no more: {said}")
        if status in (401, 403) and self.credential is not None:
            said = f"is the key in {self.credential.variable_of(account)} right? {said}"
        raise NotServed from TargetError(f"{self.url} refuses the request with status {status}: {said}")

    def _believed(self, reply: Reply) -> Reply:
        """The reply, if it is of one kind with those before."""
        width = reply.features.shape[1]
        if self._width is not None and width != self._width:
            raise Again(f"vectors of {width} numbers where {self._width} were expected", served=True)
        if self._told and reply.version != self.version:
            raise TargetError(
                f"{self.url} is version {reply.version} now and was {self.version} before: what was bought is kept; "
                f"add target.remote.version={reply.version} to begin anew."
            )
        self._width, self.version, self._told = width, reply.version, True
        return reply


def _pause(error: Exception, until: float) -> bool | float:
    """Whether, and after how many seconds if the service said so, to try again; not where that is past the deadline."""
    if not isinstance(error, Again) or time.monotonic() + (error.after or 0.0) > until:
        return False
    return True if error.after is None else error.after


def _seconds(headers: httpx2.Headers) -> float | None:
    """`Retry-After` in seconds; its other form, a date, is left to our own waiting."""
    said = headers.get("retry-after", "")
    return min(float(said), 3600.0) if re.fullmatch(r"\d{1,6}(\.\d{1,3})?", said) else None


def _short(text: str) -> str:
    """What a service said, fit for one sentence."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:200]).strip()


def _checked(url: str, credential: Credential | None, authorized: bool) -> bool:
    """Whether the service is on this machine."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"target.remote.url={url} is no address: give one such as http://127.0.0.1:8000.")
    if parts.username or parts.password or parts.query:
        raise ConfigError("target.remote.url would be written into every run: keep keys out of it, in the environment.")
    try:
        here = ip_address(parts.hostname).is_loopback
    except ValueError:
        here = parts.hostname == "localhost"
    if not here and not authorized:
        raise ConfigError(
            f"{parts.hostname} is not on this machine, and only encoders that you own or may test are to be asked: "
            "add target.authorized=true if this is one."
        )
    if not here and credential is not None and parts.scheme != "https":
        raise ConfigError(f"{url} would carry your key unencrypted: use https.")
    return here
