"""Requests over HTTP through urllib3: one call, one request (and its redirects), no retries.

Rules, by RFC 9110: the body is wanted as it is (``Accept-Encoding: identity``) and never decoded here; credentials go
to the root's origin alone, and a redirect that leaves it leaves them behind for good; a redirect from https to http is
refused unless allowed; a redirect that only adds a slash says that the path is a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar
from urllib.parse import urljoin, urlsplit

from omnistorage.backends.base import retry_after
from omnistorage.backends.connections import Connections
from omnistorage.backends.object_store.client import Get
from omnistorage.backends.object_store.response_marks import unmarked
from omnistorage.core import ObjectInfo
from omnistorage.errors import (
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)

from .network import Blocked, Dial, make_manager
from .responses import (
    Body,
    content_range,
    digest_of,
    info_of,
    is_strong,
    number,
    refuse_encoding,
    time_of,
    validator_of,
)
from .settings import NAME, Settings, own_headers
from .urls import cleaned, decode, origin_of

T = TypeVar("T")
REDIRECTS = frozenset((301, 302, 303, 307, 308))
NO_HEAD = frozenset((405, 501))
SMALL = 64 * 1024
WASTE = 256 * 1024
"""What is rather read and thrown away than left in a connection, which is closed then."""
MAX_SKIP = 16 << 20
"""How much of a body is thrown away to come to an offset, where a server does not give ranges."""


class Folder(NotFound):
    """What is there is a folder."""


class HTTPClient:
    """The requests of one process."""

    def __init__(self, settings: Settings, dialling: Dial) -> None:
        self._settings = settings
        self._connections = Connections()
        self._manager = make_manager(settings, dialling, self._connections)
        self._no_head = False

    def close(self) -> None:
        self._manager.clear()

    def cut(self, thread: int) -> None:
        """Break off the request that ``thread`` waits for."""
        self._connections.cut(thread)

    def cutter(self) -> Callable[[], None]:
        """What breaks off, from any thread, the request that this thread sends next."""
        return self._connections.cutter()

    def translate(self, error: BaseException) -> StorageError | None:
        return translate(error)

    # -- one request ---------------------------------------------------------------------------------------------------

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        *,
        follow: bool = True,
    ) -> Any:
        """The answer, its body still to be read; ``finish`` or ``close`` it. Redirects are followed for reading."""
        asked, hops, own = url, 0, True
        while True:
            answer = self._manager.urlopen(  # what is secret is no variable that a traceback shows
                method, self._signed(asked) if not hops else asked, headers=self._sent(headers, own=own), body=body,
                redirect=False, retries=False, preload_content=False, decode_content=False,
            )  # fmt: skip
            location = answer.headers.get("Location")
            if answer.status not in REDIRECTS or location is None:
                return answer
            finish(answer)
            hops += 1
            leads = self._next(method, asked, location, hops, follow=follow)
            # For good: what comes back to the root's origin was sent by somebody else.
            own = own and _same_origin(asked, leads)
            asked = leads

    def _signed(self, url: str) -> str:
        query = self._settings.query
        return url if query is None else f"{url}{'&' if '?' in url else '?'}{query.reveal().lstrip('?')}"

    def _sent(self, headers: Mapping[str, str] | None, *, own: bool) -> dict[str, str]:
        secret = own_headers(self._settings) if own else {}
        return {"Accept-Encoding": "identity", "User-Agent": "omnistorage", **(headers or {}), **secret}

    def _next(self, method: str, asked: str, location: str, hops: int, *, follow: bool) -> str:
        """Where a redirect leads, if it may be followed."""
        s = self._settings
        try:
            found = urljoin(asked, location)
            parts, here = urlsplit(found), urlsplit(asked)
            _ = parts.port
        except ValueError:
            raise StorageError("the server sends to what is no URL", backend=NAME) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PermissionDenied(f"the server sends to {parts.scheme}:, and only http and https are followed")
        found = cleaned(found)
        if parts.hostname == here.hostname and decode(parts.path) == decode(here.path) + "/":
            raise Folder("this is a folder, not an object: the server adds a slash", backend=NAME)
        if not follow:
            raise ConfigError(f"the server answers {method} with a redirect: make its target the root", backend=NAME)
        if here.scheme == "https" and parts.scheme == "http" and not s.allow_downgrade:
            raise PermissionDenied("the server sends from https to http: allow_downgrade=True follows, without secrets")
        if hops > s.max_redirects:
            raise StorageError(f"more than {s.max_redirects} redirects: they may go round in circles", backend=NAME)
        return found

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, url: str, path: str, get: Get, *, if_range: str | None = None) -> Body:
        """The body of ``path`` from ``get.start``. The conditions are the server's to keep, and the caller's to check:
        not every server does."""
        headers: dict[str, str] = {}
        if get.range is not None:
            headers["Range"] = get.range
        if get.if_match is not None and is_strong(get.if_match):
            headers["If-Match"] = f'"{get.if_match}"'
        if get.if_none_match is not None and is_strong(get.if_none_match):
            headers["If-None-Match"] = f'"{get.if_none_match}"'
        if if_range is not None:
            headers["If-Range"] = if_range
        answer = self.send("GET", url, headers)
        try:
            return self._body(answer, path, get, resumed=if_range is not None)
        except BaseException:
            answer.close()
            raise

    def _body(self, answer: Any, path: str, get: Get, *, resumed: bool) -> Body:
        if answer.status not in (200, 206):
            fail(answer)
        refuse_encoding(path, answer.headers, self._settings.encoded)
        info = info_of(path, answer.headers, self._settings.encoded)
        left = number(answer.headers.get("Content-Length"))
        start = 0
        if answer.status == 206:
            found = content_range(answer.headers.get("Content-Range"))
            if found is None or get.range is None or found[0] != get.start or (left or 0) > found[1] - found[0] + 1:
                raise CorruptData("the server gives another range than it was asked for", backend=NAME)
            start, info = found[0], info._replace(size=found[2])
            left = found[1] - start + 1
        body = Body(answer, info, start, left, validator_of(answer.headers, info), digest_of(info))
        if start < get.start and not resumed:
            self.skip(body, get.start)
        return body

    def skip(self, body: Body, to: int) -> None:
        """The server gave the whole object: come to where the range begins."""
        if to > MAX_SKIP:
            raise CapabilityNotSupported(
                f"the server gives no ranges, and {to} bytes are too many to read and throw away",
                capability="range_read", backend=NAME,
            )  # fmt: skip
        while body.start < to and body.read(min(SMALL, to - body.start)):
            pass

    def head(self, url: str, path: str) -> ObjectInfo:
        """What the server says of an object. Where HEAD is refused, the head of a GET of one byte serves."""
        if not self._no_head:
            answer = self.send("HEAD", url)
            finish(answer)
            if answer.status == 200:
                return info_of(path, answer.headers, self._settings.encoded)
            if 200 < answer.status < 300:
                raise unmarked(f"HEAD was answered with {answer.status}", NAME)
            if answer.status not in NO_HEAD and answer.status not in (400, 403):
                fail(answer)
            self._no_head = answer.status in NO_HEAD
        answer = self.send("GET", url, {"Range": "bytes=0-0"})
        try:
            found = content_range(answer.headers.get("Content-Range"))
            if answer.status == 416 and found is not None and found[2] == 0:
                return info_of(path, answer.headers, self._settings.encoded)._replace(size=0, content_type=None)
            if answer.status not in (200, 206):
                fail(answer)
            info = info_of(path, answer.headers, self._settings.encoded)
            return info if answer.status == 200 else info._replace(size=found[2] if found else None)
        finally:
            finish(answer)

    def parsed(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        limit: int,
        parse: Callable[[Any, Iterator[bytes]], T],
        body: bytes | None = None,
    ) -> T:
        """What ``parse`` makes of the answer to a request for a document and of its body, of at most ``limit`` bytes.
        The body is given as it comes."""
        answer = self.send(method, url, headers, body, follow=method == "GET")
        try:
            if answer.status not in (200, 207):
                fail(answer)
            refuse_encoding("", answer.headers, "refuse")
            refuse_unframed(answer)
            return parse(answer, _body(answer, limit))
        finally:
            answer.close() if not answer.closed else answer.release_conn()


def _body(answer: Any, limit: int) -> Iterator[bytes]:
    """The body in pieces. Raises ``CorruptData`` if it has more than ``limit`` bytes, at once if its length says so."""
    left = limit - (number(answer.headers.get("Content-Length")) or 0)
    if left >= 0:
        left = limit
        while piece := answer.read(SMALL):
            left -= len(piece)
            if left < 0:
                break
            yield piece
    if left < 0:
        raise CorruptData(f"the listing's page has more than {limit} bytes", backend=NAME)


def _same_origin(one: str, other: str) -> bool:
    a, b = urlsplit(one), urlsplit(other)
    return origin_of(a.scheme, a.hostname, a.port) == origin_of(b.scheme, b.hostname, b.port)


def refuse_unframed(answer: Any) -> None:
    """A listing that ends where the connection ends may have been cut, and would only look shorter."""
    if "Content-Length" not in answer.headers and "chunked" not in answer.headers.get("Transfer-Encoding", "").lower():
        raise CorruptData("the listing has no length and no framing: nobody can tell whether it is whole", backend=NAME)


def finish(answer: Any) -> None:
    """Let go of an answer whose body nobody wants; the connection is used again if little is left in it."""
    try:
        if (number(answer.headers.get("Content-Length")) or 0) <= WASTE:
            answer.read(WASTE)
    except Exception:  # noqa: S110  the bytes are wanted by nobody
        pass
    if not answer.closed:
        answer.close()
    answer.release_conn()


# -- errors ------------------------------------------------------------------------------------------------------------


def fail(answer: Any) -> NoReturn:
    """Raise what the status of ``answer`` means."""
    finish(answer)
    raise error_of(answer.status, answer.headers)


def error_of(status: int, headers: Mapping[str, str]) -> StorageError:
    """Ours for an answer's status, which stands in its ``status`` too. What the server wrote is not repeated: it may
    hold what it was sent."""
    error = _of_status(status)
    error.backend = NAME
    if isinstance(error, BackendUnavailable):
        asked = retry_after(headers.get("Retry-After"), time_of(headers.get("Date")))
        if asked is not None and (status in (425, 429, 503)):
            error.retry_after = asked
    error.__dict__["status"] = status
    return error


def _of_status(status: int) -> StorageError:
    try:
        text = f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        text = f"HTTP {status}"
    if status in (404, 410):
        return NotFound(f"no such object ({text})")
    if status in (304, 412):
        return PreconditionFailed(text)
    if status in (401, 402, 403, 407, 423, 451, 511):
        return PermissionDenied(text)
    if status in (425, 429, 503):
        return BackendUnavailable(text, retry_after=0.0)
    if status in (405, 501, 505):
        return CapabilityNotSupported(f"the server does not do this: {text}", capability=str(status))
    if status == 414:
        return InvalidPath(f"the server takes no such long names: {text}")
    if status == 408 or (status >= 500 and status not in (507, 508)):
        return BackendUnavailable(text)
    return StorageError(text)


def translate(error: BaseException) -> StorageError | None:
    """Ours for an error of urllib3 or the system; None for what is none of theirs."""
    if isinstance(error, Blocked):
        return PermissionDenied(f"untrusted mode does not connect there: {error}", backend=NAME)
    kind = type(error)
    if kind.__module__.partition(".")[0] == "urllib3":
        return _of_urllib3(error)
    if isinstance(error, UnicodeError):
        return ConfigError(f"no such request can be sent: {kind.__name__}", backend=NAME)
    if isinstance(error, OSError) or kind.__module__ == "http.client":
        return BackendUnavailable(f"{kind.__name__}: {error}", backend=NAME)
    return None


def _of_urllib3(error: BaseException) -> StorageError:
    from urllib3 import exceptions as native

    text = f"{type(error).__name__}: {error}"
    if isinstance(error, native.ProxyError):
        cause = getattr(error, "original_error", None)
        refused = isinstance(cause, OSError) and "Tunnel connection failed" in str(cause)
        return BackendUnavailable(f"the proxy does not let through: {cause}", transient=not refused, backend=NAME)
    if isinstance(error, native.NewConnectionError | native.ConnectTimeoutError | native.NameResolutionError):
        unsent = BackendUnavailable(text, retry_after=0.0, backend=NAME)
        unsent.__dict__["unsent"] = True
        return unsent
    if isinstance(error, native.SSLError):  # the wrong certificate stays wrong; what breaks off may go on
        return BackendUnavailable(text, transient="CERTIFICATE_VERIFY_FAILED" not in text, backend=NAME)
    if isinstance(error, native.LocationValueError):
        return ConfigError("no such host can be asked", backend=NAME)
    return BackendUnavailable(text, backend=NAME)
