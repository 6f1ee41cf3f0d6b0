"""What boto3 does not do by itself: small requests at once, and requests that can be ended."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from io import SEEK_END, BytesIO
from typing import Any

from omnistorage.backends.connections import Connections

_SHORT = 1 << 20


def parse_time(value: Any) -> datetime:
    """A time in an answer of S3, in UTC: ISO 8601, as an HTTP date (RFC 9110, section 5.6.7), or in seconds since 1970.
    The SDK's own parser, which knows every form there is, takes a tenth of a listing. Raises ``ValueError``."""
    try:
        return _time(str(value))
    except (OverflowError, OSError) as error:  # it is beyond the calendar
        raise ValueError(f"no time is {value!s:.40}") from error


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            moment = datetime.fromtimestamp(float(text), UTC)  # a ValueError if it is no time at all
    if moment.tzinfo is UTC:
        return moment  # ``astimezone`` would take as long as the rest
    return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def send_at_once(params: dict[str, Any], **_: Any) -> None:
    """Of a short body: the SDK would send its headers and wait for a word before each body, however short."""
    body = params.get("body")
    if isinstance(body, BytesIO):
        size = body.seek(0, SEEK_END)  # its buffer would be copied to be looked at
        body.seek(0)
        if size <= _SHORT:
            params["headers"].pop("Expect", None)


def follow_sdk(sdk: Any) -> Connections:
    """The connections of a boto3 client, each of which can be ended from another thread."""
    connections, session = Connections(), sdk._endpoint.http_session
    pools = connections.followed(session._pool_classes_by_scheme, {})
    session._pool_classes_by_scheme = session._manager.pool_classes_by_scheme = pools
    return connections


@lru_cache(maxsize=1)
def models() -> Any:
    """What the SDK knows of services, read once: for each session anew it costs 70 ms."""
    from botocore.loaders import create_loader

    return create_loader()
