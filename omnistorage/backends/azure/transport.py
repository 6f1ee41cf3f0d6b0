"""Requests to Azure's Blob service through the SDK's pipeline, which signs and sends them, and what the answers mean.

The SDK's own methods read a whole answer before they give any of it, and make a client for each blob; so requests are
written here, after the REST reference (https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api).
Native errors end here, too: theirs hold URLs, and a URL may hold a SAS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omnistorage.backends.base import retry_after
from omnistorage.backends.object_store.response_marks import unmarked
from omnistorage.core.secret import mask_url
from omnistorage.errors import (
    BackendUnavailable,
    BucketNotFound,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    DirectoryNotEmpty,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)

from .account import NAME, blob_url

_BUSY = frozenset(
    ("ServerBusy", "PendingCopyOperation", "ContainerBeingDeleted", "AccountBeingCreated", "SourcePathIsBeingDeleted",
     "DestinationPathIsBeingDeleted", "FilesystemBeingDeleted")
)  # fmt: skip
_CONTAINER = frozenset(("ContainerNotFound", "ContainerDisabled", "FilesystemNotFound"))
_DENIED = frozenset(
    ("InvalidAuthenticationInfo", "NoAuthenticationInformation", "BlobImmutableDueToPolicy", "BlobArchived",
     "BlobImmutableDueToLegalHold", "AuthorizationFailure", "AccountIsDisabled")
)  # fmt: skip
_DAMAGED = frozenset(("Md5Mismatch", "Crc64Mismatch"))
_NAME = frozenset(("InvalidUri", "InvalidResourceName", "RequestUrlFailedToParse", "InvalidBlobName"))
_FOLDER = frozenset(
    ("ResourceTypeMismatch", "PathConflict", "InvalidSourceOrDestinationResourceType", "InvalidDestinationPath")
)
_THERE = frozenset(("BlobAlreadyExists", "PathAlreadyExists"))
_NEVER_SENT = frozenset(("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ConnectTimeout"))


MAX_PAGE = 64 << 20
"""The longest page of a listing, in bytes: 5,000 blobs with their metadata fit."""
SHOWN = 64 << 10
"""So much of any other body is looked at."""
STATUSES = {"GET": (200, 206), "HEAD": (200,), "PUT": (201,), "DELETE": (202,)}
"""The documented statuses of success, of all requests that do not say otherwise."""
REQUEST_ID = "x-ms-request-id"
"""The header by which an answer is known to be the service's: each one has it."""


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code or status}: {message}" if message else str(code or status))
        self.status = status
        self.code = code
        self.retry_after = retry_after


class Broken(Exception):
    """No answer, or one that broke off; ``sent``: whether the request may have been heard."""

    def __init__(self, message: str, *, sent: bool = True, again: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
        self.again = again


class Wire:
    """Sends requests about one container with the pipeline of the SDK's client of it."""

    def __init__(self, container: Any) -> None:
        from azure.core.pipeline.transport import HttpRequest

        self._request = HttpRequest
        self._pipeline = container._pipeline
        self.url = str(container.url).partition("?")[0]
        self._headers = {"x-ms-version": str(container.api_version), "Accept-Encoding": "identity"}

    def send(
        self,
        method: str,
        key: str | None,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        *,
        stream: bool = False,
        statuses: tuple[int, ...] = (),
    ) -> Any:
        """The answer (of ``requests``) to one request about the blob ``key``, or about the container; ``Refused`` or
        ``Broken`` if it is no success. Its body has been read unless it is a ``stream``. ``statuses`` are those of
        success, where they are not the usual ones of the method. A redirect is never followed."""
        url = self.url if key is None else blob_url(self.url, key)
        url = f"{url}?{query}" if query else url
        with quiet():
            answer = self._pipeline.run(  # the request gets the signature, so it is no variable that a traceback shows
                self._made(method, url, headers, data), stream=True, permit_redirects=False
            ).http_response.internal_response
            if answer.status_code >= 300 and not (answer.status_code == 304 and method != "GET"):
                raise _refused(answer)
            if not stream or answer.status_code >= 300:
                _body(answer, SHOWN)  # so that the connection is free
            try:
                _check_marks(method, answer, statuses or STATUSES[method])
            except BaseException:
                answer.close()
                raise
            return answer

    def document(self, query: str) -> bytes:
        """The body of the answer to a GET about the container. ``CorruptData`` if it is longer than ``MAX_PAGE``."""
        answer = self.send("GET", None, query, stream=True)
        with quiet():
            data = _body(answer, MAX_PAGE)
        if len(data) > MAX_PAGE:
            raise CorruptData(f"the store's page has more than {MAX_PAGE} bytes", backend=NAME)
        return data

    def _made(self, method: str, url: str, headers: Mapping[str, str] | None, data: bytes | None) -> Any:
        request = self._request(method, url, headers={**self._headers, **(headers or {})})
        if data is not None:
            request.set_bytes_body(data)
        return request


def _body(answer: Any, limit: int) -> bytes:
    """The body. Of one that is longer than ``limit`` bytes its beginning, somewhat more than the limit, and the
    connection is closed."""
    data = bytearray()
    for piece in answer.iter_content(SHOWN):
        data += piece
        if len(data) > limit:
            answer.close()
            break
    return bytes(data)


def _check_marks(method: str, answer: Any, statuses: tuple[int, ...]) -> None:
    if answer.status_code not in statuses:
        raise unmarked(f"{method} was answered with {answer.status_code}", NAME)
    if REQUEST_ID not in answer.headers:
        raise unmarked(f"the answer to {method} has no {REQUEST_ID}", NAME)


def _refused(answer: Any) -> Refused:
    headers = answer.headers
    code, message = headers.get("x-ms-error-code", ""), ""
    body = _body(answer, SHOWN)[:SHOWN].decode("utf-8", "replace")
    if body:
        code = code or _between(body, "Code")
        message = _between(body, "Message").partition("\n")[0]
    return Refused(answer.status_code, code, mask_url(message), retry_after(headers.get("Retry-After")))


def _between(body: str, name: str) -> str:
    """The text of an element of an error's XML, or of a member of its JSON; no parser is let near a stranger's page."""
    found = re.search(rf"<{name}>([^<]*)<|\"{name.lower()}\"\s*:\s*\"([^\"]*)\"", body)
    return (found[1] or found[2] or "") if found else ""


@contextmanager
def quiet() -> Iterator[None]:
    """Whatever the SDK or what is below it raises becomes ``Refused`` or ``Broken``, with nothing secret in it."""
    try:
        yield
    except (Refused, Broken, StorageError):
        raise
    except Exception as error:
        ours = _plain(error)
        if ours is None:
            raise
        raise ours from None  # the native one shows URLs


def _plain(error: Exception) -> Exception | None:
    from azure.core import exceptions as native

    text = mask_url(f"{type(error).__name__}: {error}".partition("\n")[0])
    if isinstance(error, native.HttpResponseError) and error.response is not None:
        headers: Any = getattr(error.response, "headers", {})
        told = headers.get("x-ms-error-code") or getattr(error, "error_code", None) or ""
        code = str(getattr(told, "value", told))
        status, message = int(error.response.status_code or 0), mask_url(str(error.message).partition("\n")[0])
        if isinstance(error, native.ClientAuthenticationError) and not code and status not in (401, 403):
            return _without_token(status, message)
        return Refused(status, code, message, retry_after(headers.get("Retry-After")))
    if isinstance(error, native.ClientAuthenticationError):  # of azure-identity, or of a key that is none
        return Refused(401, "", f"no usable credentials: {text}")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return Broken(text, again=False)
    if isinstance(error, native.AzureError):
        return Broken(text, sent=not _never_sent(error))
    root = type(error).__module__.partition(".")[0]
    if root in ("requests", "urllib3", "http") or isinstance(error, OSError):
        return Broken(text)
    return None


def _without_token(status: int, message: str) -> Exception:
    """What azure-identity says when it gets no token: then nothing was sent."""
    if status == 429 or status >= 500:
        return Broken(f"no token: {message}", sent=False)
    return Refused(401, "", f"no usable credentials: {message}")


def _never_sent(error: BaseException | None) -> bool:
    """Whether no connection came about. What wraps what differs from version to version: look at each layer."""
    for _ in range(6):
        if error is None:
            return False
        if type(error).__name__ in _NEVER_SENT:
            return True
        first = error.args[0] if error.args else None
        inner = getattr(error, "inner_exception", None) or getattr(error, "reason", None) or first
        error = inner if isinstance(inner, BaseException) and inner is not error else None
    return False


# -- what it means -----------------------------------------------------------------------------------------------------


def translate(error: BaseException) -> StorageError | None:
    """Ours for what ``Wire`` and ``quiet`` raise, and for errors of the way; None for what is none of theirs."""
    if isinstance(error, Refused | Broken):
        error.__context__ = None  # the native one, which ``from None`` hides and keeps
    if isinstance(error, Refused):
        return _of_answer(error)
    if isinstance(error, Broken):
        again = 0.0 if not error.sent else None
        return BackendUnavailable(str(error), retry_after=again, transient=error.again, backend=NAME)
    plain = _plain(error) if isinstance(error, Exception) else None
    return None if plain is None else translate(plain)


def _of_answer(error: Refused) -> StorageError:
    code, status, text = error.code, error.status, str(error)
    if code in _CONTAINER or (status == 404 and code == "ResourceNotFound"):
        return BucketNotFound(f"no such bucket (a container, as Azure says): {text}", backend=NAME)
    if status in (304, 412) or code in _THERE:
        return PreconditionFailed(text, backend=NAME)
    if code in _BUSY or status == 429:
        return BackendUnavailable(text, retry_after=error.retry_after or 0.0, backend=NAME)  # it did nothing
    if code in _DENIED or status in (401, 403):
        return PermissionDenied(text, backend=NAME)
    if code in _DAMAGED:
        return CorruptData(  # and the store did nothing
            f"what arrived at the store is not what was sent: {text}", transient=True, retry_after=0.0, backend=NAME
        )
    if code == "InvalidBlockList":
        return PreconditionFailed(
            "another writer of this blob published first, or deleted it, and Azure then forgot the blocks of this one: "
            f"write it again ({text})",
            backend=NAME,
        )
    if code in _FOLDER:
        return InvalidPath(f"a folder has this name, or an object that of one of its folders: {text}", backend=NAME)
    if code in ("DirectoryIsNotEmpty", "DirectoryNotEmpty"):
        return DirectoryNotEmpty(text, backend=NAME)
    return _of_status(error)


def _of_status(error: Refused) -> StorageError:
    code, status, text = error.code, error.status, str(error)
    if status == 404:
        return NotFound(f"no such object ({text})", backend=NAME)
    if code in _NAME:
        return InvalidPath(f"the store cannot hold such a name: {text}", backend=NAME)
    if code == "InvalidBlobOrBlock":
        return StorageError(
            "blocks of another program lie under this name, uncommitted and with ids of another length: write the blob "
            f"once with a body that fits part_size, or wait a week ({text})",
            backend=NAME,
        )
    if status == 408 or (status >= 500 and status not in (501, 505)):
        ours = BackendUnavailable(text, backend=NAME)
        ours.wait_for = error.retry_after if status == 503 else None
        return ours
    if status == 501 or code in ("UnsupportedHeader", "UnsupportedQueryParameter", "FeatureVersionMismatch"):
        return CapabilityNotSupported(f"the server cannot do this: {text}", capability=code or "501", backend=NAME)
    if 300 <= status < 400 or code in ("AccountRequiresHttps", "InvalidHttpVerb"):
        return ConfigError(f"the endpoint is not right, look at endpoint_url=...: {text}", backend=NAME)
    if code == "InvalidHeaderValue" and "version" in text:
        return ConfigError(
            f"the server does not know this version of the API, set api_version=...: {text}", backend=NAME
        )
    return StorageError(text, backend=NAME)
