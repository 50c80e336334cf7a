"""The address of a service: a URL in, whether it is on this machine out, or why it is refused."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from stealing.errors import ConfigError


def is_here(url: str, *, authorized: bool, sends_key: bool) -> bool:
    """Return True if a service is on this machine.

    Args:
        url: of the service.
        authorized: the user declares that they own the encoder or may test it.
        sends_key: whether requests carry a key.

    Raises:
        ConfigError: the URL is not an address; or it is outside this machine, and the user has not
            declared that they may ask it, or a key would be sent without encryption.
    """
    invalid = ConfigError(
        f"target.remote.url={url} is not an address: give one such as http://127.0.0.1:8000."
    )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise invalid from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise invalid
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            "target.remote.url would be written into every run: keep keys out of it, in the "
            "environment."
        )
    here = _is_loopback(parts.hostname)
    if not here and not authorized:
        raise ConfigError(
            f"{parts.hostname} is not on this machine, and this project asks only encoders that "
            "you own or may test: add target.authorized=true if this is one."
        )
    if not here and sends_key and parts.scheme != "https":
        raise ConfigError(f"{url} would carry your key unencrypted: use https.")
    return here


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        # a name: any other one than localhost may resolve to another machine later
        return host == "localhost"
