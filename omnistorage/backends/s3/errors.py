"""What the errors of S3 mean."""

from __future__ import annotations

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

NAME = "s3"

_MISSING = frozenset(("NoSuchKey", "NoSuchUpload", "NoSuchVersion", "NotFound", "404"))
_DENIED = frozenset(
    ("AccessDenied", "AllAccessDisabled", "ExpiredToken", "Forbidden", "InvalidAccessKeyId", "InvalidToken",
     "RequestTimeTooSkewed", "SignatureDoesNotMatch", "AccountProblem", "401", "403")
)  # fmt: skip
_BUSY = frozenset(
    ("ConditionalRequestConflict", "OperationAborted", "SlowDown", "ServiceUnavailable", "Throttling",
     "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "429")
)  # fmt: skip
_AGAIN = frozenset(("InternalError", "RequestTimeout", "408", "500", "502", "503", "504"))
_DAMAGED = frozenset(
    ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody")
)
_NAME = frozenset(("KeyTooLongError", "InvalidObjectName", "XMinioInvalidObjectName"))


def translate(error: BaseException) -> StorageError | None:
    """Ours for an error of botocore; None for what is none of its."""
    from botocore import exceptions as native

    if isinstance(error, native.ClientError):
        return _of_answer(error.response)
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, native.FlexibleChecksumError):
        return CorruptData(
            f"the body does not have the checksum that came with it: {error}", transient=True, backend=NAME
        )
    if isinstance(error, native.NoCredentialsError | native.PartialCredentialsError | native.CredentialRetrievalError):
        return PermissionDenied(f"no usable credentials: {error}", backend=NAME)
    if isinstance(error, native.EndpointConnectionError | native.ConnectTimeoutError | native.ProxyConnectionError):
        return BackendUnavailable(text, retry_after=0.0, backend=NAME)  # nothing was sent
    if isinstance(error, native.SSLError):  # the wrong certificate stays wrong; what breaks off may go on
        return BackendUnavailable(text, transient="CERTIFICATE_VERIFY_FAILED" not in text, backend=NAME)
    if isinstance(error, native.HTTPClientError | native.IncompleteReadError | native.ResponseStreamingError):
        return BackendUnavailable(text, backend=NAME)
    if isinstance(error, native.ConnectionError | native.ConnectionClosedError | native.ReadTimeoutError):
        return BackendUnavailable(text, backend=NAME)
    if type(error).__name__ == "ResponseParserError":
        return BackendUnavailable(f"the answer cannot be understood: {error}", backend=NAME)
    if isinstance(error, UnicodeEncodeError):
        return InvalidPath("the key of an object is UTF-8, and this name is not", backend=NAME)
    if isinstance(error, native.ParamValidationError | native.BotoCoreError):
        return ConfigError(text, backend=NAME)
    if isinstance(error, OSError):
        return BackendUnavailable(text, backend=NAME)
    if type(error).__module__.partition(".")[0] == "urllib3":
        return BackendUnavailable(text, backend=NAME)
    return None


def _of_answer(response: Mapping[str, Any]) -> StorageError:
    told, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0) or 0)
    error = of_code(str(told.get("Code", "")), str(told.get("Message", "")), status)
    asked = retry_after(meta.get("HTTPHeaders", {}).get("retry-after"))
    if asked is not None and error.retry_after is not None:  # only where nothing was done
        error.retry_after = asked
    elif status == 503:
        error.wait_for = asked
    return error


def of_code(code: str, message: str, status: int) -> StorageError:
    text = f"{code}: {message}" if message else code or f"HTTP {status}"
    if code in ("PreconditionFailed", "412", "NotModified", "304") or status in (304, 412):
        return PreconditionFailed(text, backend=NAME)
    if code == "NoSuchBucket":
        return BucketNotFound("no such bucket", backend=NAME)
    if code in _MISSING or (status == 404 and code not in _AGAIN):
        return NotFound(f"no such object ({text})", backend=NAME)
    if code in _BUSY or status == 429:
        return BackendUnavailable(text, retry_after=0.0, backend=NAME)  # it says that it did nothing
    if code == "InvalidObjectState":
        return PermissionDenied(f"the object is archived, restore it first: {text}", backend=NAME)
    if code in _DENIED or (status in (401, 403) and code not in _DAMAGED):
        return PermissionDenied(text, backend=NAME)
    if code in _DAMAGED:
        return CorruptData(
            f"what arrived at the store is not what was sent: {text}", transient=True, retry_after=0.0, backend=NAME
        )
    if code in _AGAIN or status == 408 or (status >= 500 and status != 501):
        return BackendUnavailable(text, backend=NAME)
    if code == "NotImplemented" or status == 501:
        return CapabilityNotSupported(f"the server cannot do this: {text}", capability=code, backend=NAME)
    if code in _NAME:
        return InvalidPath(f"the store cannot hold such a name: {text}", backend=NAME)
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        return ConfigError(f"another region has this bucket, set region=...: {text}", backend=NAME)
    if 300 <= status < 400:
        return ConfigError(f"the endpoint sends elsewhere, set region=... or endpoint_url=...: {text}", backend=NAME)
    return StorageError(text, backend=NAME)


def is_too_long(error: StorageError) -> bool:
    """Whether a copy was refused for the length of its source."""
    text = str(error.args[0])
    return ("InvalidRequest" in text and "maximum" in text) or "EntityTooLarge" in text
