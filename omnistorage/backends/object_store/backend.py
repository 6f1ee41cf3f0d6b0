"""``ObjectBackend``: what S3, GCS and Azure share, over an ``ObjectClient``.

Paths become keys below the root's prefix; every request goes through one ``RequestPolicy``; the client is made when it
is needed, and again in a forked child. A flat key space: a folder is there while an object is under it.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from os import getpid
from typing import Any, TypeVar

from omnistorage.backends.base import BackendBase, is_nameable, translating
from omnistorage.concurrency.in_flight import abandonable, watched
from omnistorage.concurrency.pools import side_by_side
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import CopyOptions, Features, ListOptions, ObjectInfo, Reader, ReadOptions, WriteOptions
from omnistorage.errors import (
    BucketNotFound,
    Cancelled,
    ConfigError,
    InvalidPath,
    NotFound,
    PreconditionFailed,
    StorageError,
)
from omnistorage.media_types import content_type
from omnistorage.paths import check_key, sort_key, suffixes

from .client import Body, Get, ObjectClient, Page, Put, Upload
from .conditions_probe import FOUND, Kept, remove, tried
from .reader import NothingReader, ObjectReader
from .writer import MAX_PARTS, ObjectWriter, Parts, new_put

T = TypeVar("T")
PAGE = 1000
MAX_COPY = 5 << 30
"""The longest object that one request copies, and the longest part."""
SECOND = timedelta(seconds=1)
"""How exactly stores tell the time."""
LIVE: set[str] = set()
"""The uploads of the writers of this process."""


class ObjectBackend(BackendBase):
    """A subclass sets ``name``, ``url``, ``features``, and says how to make a client."""

    durable = True  # the store's answer means that it keeps the object
    conditional_deletes = True  # whether if_match holds for deletes and copies, too
    conditional_uploads = True  # whether overwrite=False and if_match hold for a body of several parts, too
    any_order = True  # whether the parts of an upload may arrive in any order
    ranged = False  # whether even the first request of a read asks for a range: nothing is lost by it, and the store
    # does not read on for a connection that is given up
    most_parts: int | None = MAX_PARTS  # of an upload
    delete_batch = PAGE  # how many objects one request deletes
    _unknown: str | None = None  # the server and bucket, as long as nobody knows which conditions it keeps

    def __init__(
        self, prefix: str, policy: RequestPolicy | None, *, part_size: int, concurrency: int, least_part: int
    ) -> None:
        if type(part_size) is not int or not least_part <= part_size <= MAX_COPY:
            raise ConfigError(f"part_size counts bytes, from {least_part} to {MAX_COPY}: not {part_size!r}")
        if type(concurrency) is not int or concurrency < 1:
            raise ConfigError(f"concurrency is a number of requests from 1 up, not {concurrency!r}")
        self.part_size = part_size
        self.concurrency = concurrency
        self._policy = policy or RequestPolicy()
        self._prefix = prefix + "/" if prefix else ""
        self._begin()

    def _begin(self) -> None:
        """Nothing is open in this process yet."""
        self._pid = getpid()
        self._made: ObjectClient | None = None
        self._making, self._learning = threading.Lock(), threading.Lock()
        self._probe: str | None = None
        self._abandoned: deque[Parts] = deque()

    def _make_client(self) -> ObjectClient:
        raise TypeError(f"{type(self).__name__} does not define _make_client")

    # -- requests ------------------------------------------------------------------------------------------------------

    @property
    def client(self) -> ObjectClient:
        """The client of this process."""
        if self._pid != getpid():  # a forked child: its parent's connections and locks are not its own
            self._begin()
        if self._made is None:
            with self._making:
                if self._made is None:
                    self._made = self._make_client()
        return self._made

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
        client = self.client
        if self._abandoned and op != "abort":
            self._abort_abandoned()

        def attempt() -> T:
            with translating(op, path, client.translate):
                return call()

        return self._policy.run(op, attempt, path=path, idempotent=idempotent, cut=cut or client.cutter())

    def learn_features(self) -> Features:
        if self._unknown is None:
            return self.features
        self.client  # noqa: B018  a forked child begins anew: a thread of its parent may hold the lock
        with self._learning:
            if self._unknown is not None:
                self._learn(self._unknown)
                self._unknown = None
        return self.features

    def _learn(self, server: str) -> None:
        """Have the features say what ``server`` keeps, by a probe where none has told it in this process."""
        if (kept := FOUND.get(server)) is not None:
            self._take(kept)
            return
        client, self._probe = self.client, f"{self._prefix}.omnistorage-probe-{uuid.uuid4().hex}"
        reached = False
        try:
            self.run("probe", "", partial(remove, client, self._probe))  # who may not remove it must not begin it
            if self._unknown is None:  # the answer has told what the server is
                return
            reached = True
            kept = self.run("probe", "", partial(abandonable, partial(tried, client, self._probe)))
            FOUND[server] = kept
        except StorageError as error:
            if isinstance(error, Cancelled | BucketNotFound) or (error.transient and not reached):
                raise
            kept = Kept(why=f"it could not be tried ({error.args[0]})")
        finally:
            self._probe = None
        self._take(kept)

    def _take(self, kept: Kept) -> None:
        """Have the features say what the server keeps."""

    def throttle(self, size: int) -> None:
        self._policy.throttle(size)

    def live(self, upload: Upload, alive: bool) -> None:
        (LIVE.add if alive else LIVE.discard)(upload.id)

    def abandon(self, parts: Parts) -> None:
        """A writer was dropped: its upload is aborted with the next request, or when the backend is closed."""
        self._abandoned.append(parts)

    def _abort_abandoned(self, *, last: bool = False) -> None:
        for _ in range(len(self._abandoned)):
            try:
                parts = self._abandoned.popleft()
            except IndexError:  # another thread took the last one
                return
            if parts.flying and not last:  # a part that arrives after the abort would stay
                self._abandoned.append(parts)
                continue
            client, upload = self.client, parts.upload
            try:  # once: this is somebody else's call
                parts.settle()
                with watched(client.cutter()), translating("abort", upload.key, client.translate):
                    client.abort_upload(upload)
            except StorageError:
                pass  # StaleUploads finds it
            self.live(upload, False)

    def _close(self) -> None:
        if self._made is not None and self._pid == getpid():
            self._abort_abandoned(last=True)
            self._made.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _open_reader(self, path: str, options: ReadOptions) -> Reader:
        key = self._prefix + path
        start, end = options.offset, None if options.length is None else options.offset + options.length
        get = Get(start, end, options.if_match, options.if_none_match, options.version)
        first = start + 2 * self.part_size
        split = self.ranged and (end is None or end > first)
        if options.length == 0:
            return self._nothing(path, key, options)

        def request() -> tuple[Body, int | None]:
            if not split:
                return self.client.get(key, get), None
            try:
                body = self.client.get(key, replace(get, end=first))
            except Exception as error:
                ours = error if isinstance(error, StorageError) else self.client.translate(error)
                if ours is None or not _is_past_end(ours):
                    raise
                return self.client.get(key, get), None  # of an empty object no range can be asked for
            size = body.info.size
            if size is not None and body.info.etag is not None:
                return body, size if end is None else min(end, size)
            body.close()  # the rest could not be asked for
            return self.client.get(key, get), None

        try:
            body, last = self.run("open_reader", path, request)
        except StorageError as error:
            if not _is_past_end(error):
                raise
            return self._nothing(path, key, options, error)
        return ObjectReader(self, key, options, body, last)

    def _nothing(self, path: str, key: str, options: ReadOptions, refused: StorageError | None = None) -> Reader:
        """A range without a byte, which no request can ask for: the conditions still hold."""
        info = self.run("open_reader", path, lambda: self.client.head(key, options.version))
        if refused is not None and (info.size or 0) > options.offset:
            raise refused
        for wanted, fails in ((options.if_match, False), (options.if_none_match, True)):
            if wanted is not None and (info.etag == wanted) is fails:
                raise PreconditionFailed(
                    f"the object's etag is {info.etag!r}", path=path, backend=self.name, op="open_reader"
                )
        return NothingReader(info)

    def _exists(self, path: str) -> bool:
        try:
            self.run("exists", path, lambda: self.client.head(self._prefix + path))
        except NotFound:
            return False
        return True

    def _stat(self, path: str) -> ObjectInfo:
        return self.run("stat", path, lambda: self.client.head(self._prefix + path))

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self._enter("range_read", "read_ranges", path)
        check_key(path, op="read_ranges")
        wanted = [ReadOptions(offset, length) for offset, length in ranges]
        if not wanted:
            return []
        found: list[bytes | None] = [None] * len(wanted)
        with self._open_reader(path, wanted[0]) as reader:
            etag = reader.info.etag
            found[0] = reader.read(-1)

        def fetch(at: int) -> None:
            with self._open_reader(path, ReadOptions(wanted[at].offset, wanted[at].length, if_match=etag)) as reader:
                found[at] = reader.read(-1)

        side_by_side(fetch, range(1, len(wanted)), self.concurrency)
        return [data for data in found if data is not None]

    # -- listing -------------------------------------------------------------------------------------------------------

    def _list(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        head = self._prefix + prefix + "/" if prefix else self._prefix
        after = options.start_after
        seek = None if after is None or not self.features.list_seek else self._prefix + after
        if after is not None and seek is not None and not seek.startswith(head):
            # Nothing of the folder is before it, or all of it is.
            if sort_key(seek) > sort_key(head):
                return
            seek = None
        low = None if after is None else sort_key(after)
        for page in self._pages("list", prefix, head, folders=False, after=seek):
            for info in page.objects:
                path = info.path
                if path.endswith("/") or not path or (self._probe is not None and self._prefix + path == self._probe):
                    continue  # the marker of a folder, or our own probe
                if low is not None and sort_key(path) <= low:
                    continue
                if (".." in path or "\0" in path) and not is_nameable(path, "list", options, self.name):
                    continue
                yield info

    def _pages(self, op: str, path: str, head: str, *, folders: bool, after: str | None = None) -> Iterator[Page]:
        token: Any = None
        seen = set[Any]()

        def request() -> Page:
            return self.client.page(head, folders=folders, after=after, token=token, limit=None)

        while True:
            try:
                page = self.run(op, path, request)
            except BucketNotFound:
                raise
            except NotFound as error:  # nothing else can be missing: a prefix without keys is an empty page
                raise BucketNotFound(f"no such bucket: {error.args[0]}", path=path, op=op, backend=self.name) from error
            yield page
            token = page.token
            if token is None:
                return
            if token in seen:
                raise StorageError("the store repeats a page of its listing", path=path, op=op, backend=self.name)
            seen.add(token)

    def _list_dir(self, path: str) -> Iterator[ObjectInfo]:
        head = self._prefix + path + "/" if path else self._prefix
        skip, empty, rest = len(self._prefix), True, []
        refused: list[StorageError] = []
        odd = ListOptions(on_error=refused.append)
        for page in self._pages("list_dir", path, head, folders=True):
            hidden = {head, self._probe}
            children = [(info.path, info) for info in page.objects if self._prefix + info.path not in hidden]
            for key in page.folders:
                # A folder without a name keeps its slash: without it, it would be its own parent.
                folder = key[skip:] if key.endswith("//") or key == "/" else key[skip:-1]
                children.append((key[skip:], ObjectInfo(folder, kind="dir")))
            children = [row for row in children if is_nameable(row[0], "list_dir", odd, self.name)]
            empty = empty and not (page.objects or page.folders)
            if self.features.sorted_list:
                for _, info in sorted(children, key=_by_key):
                    yield info
            else:
                rest += children
        for _, info in sorted(rest, key=_by_key):
            yield info
        if empty and path:
            raise NotFound("no such folder", path=path, backend=self.name, op="list_dir")
        if refused:  # after the rest, which is listed all the same
            raise refused[0]

    # -- writing -------------------------------------------------------------------------------------------------------

    def _open_writer(self, path: str, options: WriteOptions) -> ObjectWriter:
        self.client  # noqa: B018  a configuration that cannot work is an error here, not in the first write
        put = new_put(options, content_type("x" + "".join(suffixes(path)[-2:])))
        writer = ObjectWriter(self, path, self._prefix + path, options, put)
        try:
            writer.check_size()
        except BaseException:
            writer.abort()
            raise
        return writer

    def _delete(self, path: str, if_match: str | None) -> bool | None:
        return self.run("delete", path, lambda: self.client.delete(self._prefix + path, if_match))

    def delete_many(self, paths: Iterable[str]) -> Iterator[tuple[str, StorageError | None]]:
        """``delete_batch`` objects with each request."""
        self._enter("delete", "delete_many", "")
        source = iter(paths)
        while batch := list(itertools.islice(source, self.delete_batch)):
            keys: dict[str, str] = {}
            refused: dict[str, StorageError] = {}
            for path in batch:
                try:
                    keys[path] = self._prefix + self._checked(path, "delete_many")
                except InvalidPath as error:
                    refused[path] = error
            answers = self._delete_keys(list(keys.values()))
            errors = dict(zip(keys, answers, strict=True)) | refused
            for path in batch:
                failed = errors[path]
                if failed is not None:
                    failed.path, failed.op = path, "delete_many"
                yield path, failed

    def _checked(self, path: str, op: str) -> str:
        """``path``, if an object here may have it."""
        return check_key(path, op=op)

    def _delete_keys(self, keys: list[str]) -> list[StorageError | None]:
        return self.run("delete_many", "", lambda: self.client.delete_many(keys)) if keys else []

    def purge(self, path: str) -> None:
        self._enter("purge", "purge", path)
        check_key(path, op="purge")
        found = False
        for page in self._pages("purge", path, self._prefix + path + "/", folders=False):
            found = True if page.objects else found
            keys = [self._prefix + info.path for info in page.objects]
            for at in range(0, len(keys), self.delete_batch):
                for error in filter(None, self._delete_keys(keys[at : at + self.delete_batch])):
                    error.path, error.op = path, "purge"
                    raise error
        if not found:
            raise NotFound("no such folder", path=path, backend=self.name, op="purge")

    def check_health(self) -> None:
        self._enter("list", "check_health", "")
        self.run(
            "check_health",
            "",
            lambda: self.client.page(self._prefix, folders=False, after=None, token=None, limit=1),
        )

    # -- copy and move -------------------------------------------------------------------------------------------------

    def _source(self, options: CopyOptions, src: str, op: str) -> tuple[str, str]:
        """Container and key of a source that the store itself can reach."""
        raise TypeError(f"{type(self).__name__} does not define _source")

    def _place(self, path: str) -> tuple[str, str]:
        """Container and key of ``path``."""
        raise TypeError(f"{type(self).__name__} does not define _place")

    def _move(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        source = options.source or self
        if self._source(options, src, "move") == self._place(dst):
            return self._onto_itself("move", dst, options)
        info = self._copy(src, dst, options)
        if not self.conditional_deletes:
            source.delete(src)
            return info
        # What is deleted is what was copied: a copy made in one request has its source's etag, most of the time.
        try:
            source.delete(src, if_match=options.source_if_match or info.etag)
            return info
        except NotFound:
            return info
        except PreconditionFailed:
            if options.source_if_match is not None:
                raise
        head = self.run("move", src, lambda: self.client.head(self._source(options, src, "move")[1]))
        if head.modified_at and info.modified_at and head.modified_at + SECOND < info.modified_at:
            source.delete(src, if_match=head.etag)  # older than the copy: an upload's etag is no single object's
            return info
        again = replace(options, overwrite=True, if_match=info.etag, source_if_match=head.etag)
        info = self._copy(src, dst, again)
        source.delete(src, if_match=head.etag)
        return info

    def _copy_in_parts(
        self, source: tuple[str, str], head: ObjectInfo, src: str, dst: str, put: Put, etag: str | None
    ) -> ObjectInfo:
        """A copy as an upload whose parts the store copies: for conditions on the target, and for long objects."""
        size = head.size or 0
        writer = ObjectWriter(self, dst, self._prefix + dst, WriteOptions(), put)
        client = self.client
        try:
            if size:
                upload = self.run("copy", dst, lambda: client.start_upload(self._prefix + dst, put))
                writer._parts = parts = Parts(self, upload, dst)
                self.live(upload, True)
                step = max(min(self.part_size * 8, MAX_COPY), -(-size // MAX_PARTS))
                starts = range(0, size, step)
                parts.sent = len(starts)

                def copy_part(at: int) -> None:
                    start = starts[at]
                    parts.tags[at + 1] = self.run(
                        "copy",
                        src,
                        lambda: client.copy_part(upload, at + 1, source, start, min(start + step, size), etag),
                    )

                side_by_side(copy_part, range(len(starts)), self.concurrency)
                writer._written = size
            return writer.close()._replace(size=size)
        except BaseException:
            writer.abort()
            raise


def _is_past_end(error: StorageError) -> bool:
    """Whether the store refused a range because it begins behind the end. Errors of the way hold names, which may be
    anything; those of the store begin with its code."""
    return not error.transient and str(error.args[0]).startswith(("InvalidRange", "416"))


def _by_key(child: tuple[str, ObjectInfo]) -> bytes:
    return sort_key(child[0])
