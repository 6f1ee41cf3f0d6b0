"""Reading over HTTP: the client of this process, and a reader that goes on where a connection broke.

A reader that must ask again sends ``If-Range`` with a strong validator and believes the answer only if it carries the
same one: a strong etag, or without any etag a time of change that is long past. Without either, and after a change, it
raises ``CorruptData`` rather than splice two versions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from copy import copy
from os import getpid
from typing import TypeVar

from omnistorage.backends.base import BackendBase, translating
from omnistorage.backends.object_store.client import Get
from omnistorage.backends.streams import ReaderBase, check_conditions
from omnistorage.checksums import new_hash
from omnistorage.concurrency.in_flight import watched
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import ObjectInfo, ReadOptions
from omnistorage.errors import (
    BackendUnavailable,
    Cancelled,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ReaderClosed,
    StorageError,
)
from omnistorage.paths import check_key

from .client import WASTE, HTTPClient, refuse_unframed, translate
from .network import Dial
from .responses import Body, is_strong
from .settings import NAME, Settings
from .urls import Root, why_not

T = TypeVar("T")


class Core(BackendBase):
    """Requests through the policy, and what needs no more than GET and HEAD."""

    name = NAME
    policy: RequestPolicy
    _settings: Settings
    _dial: Dial
    _made: HTTPClient | None = None

    def _begin(self) -> None:
        """Nothing is open in this process yet."""
        self._pid = getpid()
        self._made = None
        self._making = threading.Lock()

    @property
    def client(self) -> HTTPClient:
        """The client of this process."""
        if self._pid != getpid():  # a forked child: its parent's connections and locks are not its own
            self._begin()
        if self._made is None:
            with self._making:
                if self._made is None:
                    self._made = HTTPClient(self._settings, self._dial)
        return self._made

    @property
    def root(self) -> Root:
        return self._settings.root

    def run(
        self,
        op: str,
        path: str,
        call: Callable[[], T],
        *,
        idempotent: bool = True,
        cut: Callable[[], object] | None = None,
    ) -> T:
        """Send a request through the policy; native errors become ours, with ``path``. ``cut`` ends it when its time
        is over, where it is more than a request."""
        cutter = self.client.cutter()  # made first: a configuration that cannot work is not tried again

        def attempt() -> T:
            with translating(op, path, translate):
                return call()

        return self.policy.run(op, attempt, path=path, idempotent=idempotent, cut=cut or cutter)

    def _close(self) -> None:
        if self._made is not None and self._pid == getpid():
            self._made.close()

    def _why_not(self, path: str) -> str | None:
        """Why no URL of this server stands for the key ``path``. None if one does."""
        return why_not(path)

    def _key(self, path: str, op: str) -> str:
        """``path``, if a URL stands for it."""
        why = self._why_not(path)
        if why is not None:
            raise InvalidPath(why, path=path, op=op, backend=NAME)
        return path

    # -- reading -------------------------------------------------------------------------------------------------------

    def _open_reader(self, path: str, options: ReadOptions) -> ReaderBase:
        self._key(path, "open_reader")
        if options.version is not None:
            self._refuse("version", "open_reader", path)
        return self._open_url(self.root.of(path), path, options)

    def _open_url(self, url: str, path: str, options: ReadOptions, *, document: bool = False) -> ReaderBase:
        if options.length == 0:
            return self._nothing(url, path, options)
        end = None if options.length is None else options.offset + options.length
        get = Get(options.offset, end, options.if_match, options.if_none_match)
        try:
            body = self.run("open_reader", path, lambda: self._got(url, path, get))
        except StorageError as error:
            if getattr(error, "status", 0) != 416:
                raise
            return self._nothing(url, path, options)
        try:
            check_conditions(body.info, options, NAME)  # not every server does
            if document:
                refuse_unframed(body.answer)
        except StorageError as error:
            body.close()
            error.op = "open_reader"
            raise
        return HTTPReader(self, url, body, options)

    def _got(self, url: str, path: str, get: Get) -> Body:
        return self.client.get(url, path, get)

    def _nothing(self, url: str, path: str, options: ReadOptions) -> ReaderBase:
        """A range without a byte, which no request can ask for: the conditions still hold."""
        info = self.run("open_reader", path, lambda: self.client.head(url, path))
        check_conditions(info, options, NAME)
        if options.length != 0 and info.size is not None and options.offset < info.size:
            raise CorruptData("the server calls a range outside that lies inside", path=path, backend=NAME)
        return NothingReader(info)

    def _head(self, path: str, op: str) -> ObjectInfo:
        return self.run(op, path, lambda: self.client.head(self.root.of(path), path))

    def _exists(self, path: str) -> bool:
        if self._why_not(path) is not None:
            return False
        try:
            self._head(path, "exists")
        except NotFound:
            return False
        return True

    def _stat(self, path: str) -> ObjectInfo:
        return self._head(self._key(path, "stat"), "stat")

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self._enter("range_read", "read_ranges", path)
        check_key(path, op="read_ranges")
        found: list[bytes] = []
        first: HTTPReader | None = None
        for options in [ReadOptions(offset, length) for offset, length in ranges]:
            with self._open_reader(path, options) if first is None else first.again(options) as reader:
                if first is None and len(ranges) > 1 and isinstance(reader, HTTPReader):
                    first = reader
                    first.demand_validator()
                found.append(reader.read(-1))
        return found

    def check_health(self) -> None:
        """The listing's document, or any answer for the root that is no refusal: a server that shows no page for its
        folders may well give their files."""
        self._enter("read", "check_health", "")
        try:
            self.run("check_health", "", lambda: self.client.head(self.root.url, ""))
        except (NotFound, CapabilityNotSupported):
            pass
        except PermissionDenied as error:
            if getattr(error, "status", 0) != 403:
                raise


class NothingReader(ReaderBase):
    """A range that holds nothing."""

    def _read(self, size: int) -> bytes:
        return b""


class HTTPReader(ReaderBase):
    """Reads one body; what broke off is asked for again, of the same version."""

    def __init__(self, store: Core, url: str, body: Body, options: ReadOptions) -> None:
        super().__init__(body.info)
        self._store, self._url = store, url
        self._body: Body | None = body
        self._validator = body.validator
        self._at = options.offset
        self._pid = getpid()
        size = body.info.size
        ends = None if options.length is None else options.offset + options.length
        self._ends = size if ends is None else ends if size is None else min(ends, size)
        self._whole = options.offset == 0 and (options.length is None or self._ends == size)
        self._digest = new_hash(body.digest[0]) if body.digest is not None and self._whole else None
        self._wanted = body.digest[1] if body.digest is not None else ""

    _damage: CorruptData | None = None
    _thread = 0

    def demand_validator(self) -> None:
        if self._validator is None:
            raise CapabilityNotSupported(
                "the server gives no strong etag: several ranges could be of several versions",
                capability="read_ranges", path=self._info.path, backend=NAME, op="read_ranges",
            )  # fmt: skip

    def again(self, options: ReadOptions) -> HTTPReader:
        """Another range of the same version, asked for when it is read."""
        found = copy(self)
        found._lock = threading.Lock()
        found._closed = found._released = False
        found._body = found._digest = None
        found._at, found._ends = options.offset, self._info.size
        if options.length is not None:
            end = options.offset + options.length
            found._ends = end if self._info.size is None else min(end, self._info.size)
        return found

    _owed = 0  # bytes that were read and not yet charged to the bandwidth

    def _read(self, size: int) -> bytes:
        if self._damage is not None:
            raise self._damage
        if self._ends is not None:
            size = min(size, self._ends - self._at)
            if size <= 0:
                return b""
        # Charged before the next read: what is charged may raise, and then nothing is in hand that would be lost.
        self._store.policy.throttle(self._owed)
        self._owed = 0
        try:
            data = self._store.run("read", self._info.path, lambda: self._attempt(size), cut=self._interrupt)
        except CorruptData as error:
            self._damage = error
            raise
        except Cancelled:
            self._let_go()  # what it has given is lost, and what it would give next comes behind that
            raise
        except BackendUnavailable:
            self._check_open()  # perhaps it was ``close`` that broke the connection
            raise
        self._owed = len(data)
        self._at += len(data)
        if self._digest is not None:
            self._digest.update(data)
            if (not data or self._at == self._ends) and self._digest.hexdigest() != self._wanted:
                self._damage = CorruptData(
                    "what arrived is not what the server has: its digest is another",
                    path=self._info.path, backend=NAME, op="read",
                )  # fmt: skip
                raise self._damage
        return data

    def _attempt(self, size: int) -> bytes:
        if self._pid != getpid():  # the connection is its parent's
            raise ReaderClosed("this reader belongs to the process that opened it", path=self._info.path, op="read")
        self._check_open()
        self._thread = threading.get_ident()
        body = self._body
        if body is None or body.left == 0:  # broken, or a range cut shorter than asked
            body = self._reopened()
        self._check_open()
        if body is None:
            self._ends = self._at
            return b""
        try:
            data = body.read(size)
            if not data and self._info.size is not None:
                raise ConnectionError("the body ended too early")
            return data
        except BaseException:
            self._body = None
            body.close()
            raise

    def _check_open(self) -> None:
        """``close`` from another thread ends the attempts, too."""
        if self._closed:
            raise ReaderClosed("the reader is closed", path=self._info.path, op="read")

    def _reopened(self) -> Body | None:
        """A body that goes on; None at the end of an object of unknown size."""
        if self._body is not None:
            self._body.close()
            self._body = None
        if self._validator is None:
            raise CorruptData(
                "the body broke off, and the server gives no strong etag: the rest could be another version's",
                offset=self._at,
            )
        try:
            body = self._store.client.get(
                self._url, self._info.path, Get(self._at, self._ends), if_range=self._validator if self._at else None
            )
        except (NotFound, PreconditionFailed) as error:
            raise self._changed() from error
        except StorageError as error:
            if getattr(error, "status", 0) != 416:
                raise
            if self._info.size is not None:
                raise self._changed() from error
            return None
        new, old = body.info, self._info
        same = new.etag == old.etag if is_strong(old.etag) else new.modified_at == old.modified_at
        if not same or (None not in (new.size, old.size) and new.size != old.size):
            body.close()
            raise self._changed()
        try:
            if body.start < self._at:
                self._store.client.skip(body, self._at)
        except BaseException:
            body.close()
            raise
        self._body = body
        return body

    def _changed(self) -> CorruptData:
        return CorruptData(
            "the object changed while it was read: what was read is of a version that is gone",
            offset=self._at,
        )

    def _interrupt(self) -> None:
        body = self._body
        if body is not None:
            body.interrupt()
        elif self._thread:
            self._store.client.cut(self._thread)

    def _release(self) -> None:
        body = self._body
        try:
            if body and self._closed and self._pid == getpid() and body.left is not None and body.left <= WASTE:
                with watched(body.interrupt):
                    while body.read(WASTE):  # the connection can serve the next request
                        pass
        except Exception:  # noqa: S110  the bytes are wanted by nobody
            pass
        self._let_go()

    def _let_go(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()


def check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"{name} is above zero, not {value!r}")
