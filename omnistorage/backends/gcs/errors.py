"""What the errors of Google Cloud Storage mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from omnistorage.backends.base import retry_after
from omnistorage.errors import (
    BackendUnavailable,
    BucketNotFound,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)

NAME = "gcs"


_URL = re.compile(r"with url: \S+")
"""The URL of an upload is the right to write to it, and no text of an error."""


class Refused(Exception):
    """An answer of the data path that is no success; ``translate`` makes ours of it."""

    def __init__(self, answer: Any, status: int | None = None, text: str = "") -> None:
        self.status = status or answer.status_code
        self.headers = answer.headers
        self.reasons: list[str] = []
        if not text:
            body = answer.raw.read(4096, decode_content=True) if not answer._content_consumed else answer.content[:4096]
            text, self.reasons = _told(body)
        super().__init__(text or f"HTTP {self.status}")


def _told(body: bytes) -> tuple[str, list[str]]:
    """What the body of an error says, in JSON, in XML or else, and its reasons."""
    text = body.decode(errors="replace").strip()
    try:
        told = json.loads(text)["error"]
        return str(told["message"]), [str(row.get("reason", "")) for row in told.get("errors") or ()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        found = [re.search(f"<{tag}>([^<]*)</{tag}>", text) for tag in ("Code", "Message")]
        return ": ".join(match[1] for match in found if match) or text[:300], []


def translate(error: BaseException) -> StorageError | None:
    """Ours for an error of the SDK, of its session, or of its credentials; None for what is none of theirs."""
    if isinstance(error, Refused):
        return _of_status(error.status, str(error), error.headers, error.reasons)
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth import exceptions as auth
    from requests import exceptions as native

    if isinstance(error, GoogleAPICallError):
        answer = getattr(error, "response", None)
        told, reasons = ("", []) if answer is None else _told(answer.content[:4096])
        headers = {} if answer is None else answer.headers
        return _of_status(int(error.code or 0), told or error.message or "", headers, reasons)
    text = _URL.sub("", f"{type(error).__name__}: {error}")
    if isinstance(error, auth.DefaultCredentialsError):
        return PermissionDenied(f"no usable credentials: {error}", backend=NAME)
    if isinstance(error, auth.GoogleAuthError):
        if isinstance(error, auth.TransportError) or getattr(error, "retryable", False):
            return BackendUnavailable(f"no token: {text}", retry_after=0.0, backend=NAME)  # nothing was sent
        return PermissionDenied(f"the credentials are refused: {text}", backend=NAME)
    if isinstance(error, native.SSLError):  # the wrong certificate stays wrong; what breaks off may go on
        return BackendUnavailable(text, transient="CERTIFICATE_VERIFY_FAILED" not in text, backend=NAME)
    if isinstance(error, native.ConnectTimeout) or "NewConnectionError" in text:
        return BackendUnavailable(text, retry_after=0.0, backend=NAME)  # nothing was sent
    if isinstance(error, native.InvalidURL | native.InvalidSchema | native.MissingSchema | native.InvalidHeader):
        return ConfigError(text, backend=NAME)
    if isinstance(error, UnicodeEncodeError):
        return InvalidPath("the name of an object is UTF-8, and this is not", backend=NAME)
    if isinstance(error, native.RequestException | OSError):
        return BackendUnavailable(text, backend=NAME)
    if type(error).__name__ == "InvalidResponse" or type(error).__module__.partition(".")[0] == "urllib3":
        return BackendUnavailable(text, backend=NAME)
    return None


def of_part(answer: Any) -> StorageError | None:
    """What a batch's answer says of one delete; an object that was not there is no failure."""
    if answer.status_code < 300:
        return None
    told, reasons = _told(answer.content[:4096])
    error = _of_status(answer.status_code, told, answer.headers, reasons)
    if not isinstance(error, NotFound):
        return error
    if isinstance(error, BucketNotFound):
        raise error
    return None


def _of_status(status: int, message: str, headers: Mapping[str, str], reasons: list[str] | None = None) -> StorageError:
    text = f"{status}: {message}"
    busy = {"rateLimitExceeded", "userRateLimitExceeded"} & set(reasons or ())
    if status in (304, 412):
        return PreconditionFailed(text, backend=NAME)
    if status in (404, 410):
        of_bucket = message.startswith("NoSuchBucket") or message.rstrip(".") == "The specified bucket does not exist"
        if of_bucket:
            return BucketNotFound("no such bucket", backend=NAME)
        return NotFound(f"no such object ({text})", backend=NAME)
    if status == 429 or busy:
        asked = retry_after(headers.get("Retry-After"))
        return BackendUnavailable(text, retry_after=asked or 0.0, backend=NAME)  # it says that it did nothing
    if status in (401, 403):
        return PermissionDenied(text, backend=NAME)
    if status == 400 and ("doesn't match calculated" in message or "CRC32C" in message):
        return CorruptData(
            f"what arrived at the store is not what was sent: {text}", transient=True, retry_after=0.0, backend=NAME
        )
    if status == 400 and "object name" in message.lower():
        return InvalidPath(f"the store cannot hold such a name: {text}", backend=NAME)
    if status == 501:
        return CapabilityNotSupported(f"the server cannot do this: {text}", capability="501", backend=NAME)
    if status in (408, 409) or status >= 500:
        error = BackendUnavailable(text, backend=NAME)
        error.wait_for = retry_after(headers.get("Retry-After")) if status == 503 else None
        return error
    if 300 <= status < 400:
        return ConfigError(f"the endpoint sends elsewhere, set endpoint_url=...: {text}", backend=NAME)
    return StorageError(text, backend=NAME)
