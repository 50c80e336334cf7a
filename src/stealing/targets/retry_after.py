"""The header `Retry-After` (RFC 9110): headers of a refusal in, seconds to wait out."""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a service asks to wait, or None if it does not say.

    Args:
        headers: of the answer; look-up ignores case. A date is compared with the service's own
            `Date` header if there is one, because its clock and ours may differ.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII):
        return float(value)
    moment = _timestamp(value)
    if moment is None:
        return None
    now = _timestamp(headers.get("date", "")) or time.time()
    return max(0.0, moment - now)


def _timestamp(date: str) -> float | None:
    """Return the seconds since 1970 of an HTTP date, or None if it is not a date."""
    try:
        moment: datetime = parsedate_to_datetime(date)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
