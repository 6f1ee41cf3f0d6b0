"""The base of every backend.

Every public method stands here, once: it checks that the backend is open, that the feature is there, that the path may
pass, and that every requirement in the options can be honoured; then it calls the underscored method that a backend
defines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from types import GeneratorType
from typing import Any, ClassVar, Concatenate, NoReturn, ParamSpec, Self, TypeVar

from omnistorage.checksums import new_hash
from omnistorage.concurrency.cancellation import check
from omnistorage.core import (
    COPY,
    LEARNED,
    LIST,
    POWERS,
    READ,
    WRITE,
    CopyOptions,
    Features,
    ListOptions,
    ObjectInfo,
    Reader,
    ReadOptions,
    WriteOptions,
    Writer,
)
from omnistorage.core.lifecycle import Closes
from omnistorage.core.option_checks import check_etag
from omnistorage.errors import (
    BackendClosed,
    CapabilityNotSupported,
    ConfigError,
    InvalidPath,
    PreconditionFailed,
    StorageError,
)
from omnistorage.paths import check_key, check_new, check_prefix, set_location, sort_key

from .streams import ReaderBase, WriterBase

P = ParamSpec("P")
T = TypeVar("T")
_STREAMS = (ReaderBase, WriterBase)


_NAMES = frozenset(name for kind in POWERS for name in vars(kind) if name[0] != "_") | {"learn_features"}
"""The methods that a subclass may add."""


def located(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Have the errors of a backend's method, and of the stream or iterator it returns, name the full path or URL."""

    @wraps(method)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            found = method(self, *args, **kwargs)
        except StorageError as error:
            set_location(error, self.url)
            raise
        if isinstance(found, _STREAMS):
            found.root = self.url
        return _items(found, self.url) if isinstance(found, GeneratorType) else found

    return call  # type: ignore[return-value]


def _items(found: Any, url: str | None) -> Iterator[Any]:
    try:
        yield from found
    except StorageError as error:
        set_location(error, url)
        raise


class BackendBase(Closes):
    """An extended backend that checks paths, options and features before each call. A subclass sets ``name``,
    ``features``, perhaps ``url``, and defines the underscored methods of whatever its features claim."""

    name = "backend"
    url: str | None = None
    features = Features()

    durable = False  # whether WriteOptions(durable=True) can be honoured
    extra_keys: frozenset[str] = frozenset()  # the keys of WriteOptions.extra that can be honoured
    not_from_urls: ClassVar[frozenset[str]] = frozenset()  # options that only trusted URLs may set
    not_from_untrusted_urls: ClassVar[frozenset[str]] = frozenset()  # and that no untrusted URL may set
    probes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The options that depend on the server, each with what ``probe`` tries for it."""
    _options: dict[str, Any]  # what the constructor was given, where it takes other options than these
    _closed = False

    def with_options(self, **options: Any) -> Self:
        """The same place, configured otherwise."""
        return type(self)(**{**self._options, **options})

    def native(self) -> object | None:
        """What it works with, for ``unwrap``; None where there is no one thing to give."""
        return None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in _NAMES & vars(cls).keys():
            setattr(cls, name, located(vars(cls)[name]))

    # -- hooks ---------------------------------------------------------------------------------------------------------

    # A subclass defines those of its features. Paths are checked, and options hold nothing that the features deny.

    def _open_reader(self, path: str, options: ReadOptions) -> Reader:
        """Open an object from ``options.offset`` on, for ``options.length`` bytes or to its end (``range_read``).

        Raises:
            NotFound: There is no such object; a folder is none.
            PreconditionFailed: ``options.if_match`` or ``if_none_match`` does not hold; see ``check_conditions``.
        """
        self._refuse("read", "open_reader", path)

    def _open_writer(self, path: str, options: WriteOptions) -> Writer:
        """Return a writer that shows nothing before its ``_publish``.

        It refuses at publication, or earlier: ``AlreadyExists`` where ``options.overwrite`` is False and there is an
        object, ``PreconditionFailed`` where its etag is not ``options.if_match``.
        """
        self._refuse("write", "open_writer", path)

    def _exists(self, path: str) -> bool:
        """Return whether there is an object; a folder is none."""
        self._refuse("read", "exists", path)

    def _delete(self, path: str, if_match: str | None) -> bool | None:
        """Delete the object. Return whether there was one; None where the store does not say."""
        self._refuse("delete", "delete", path)

    def _list(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        """Yield all objects below the folder ``prefix`` in the order of their UTF-8 bytes, from
        ``options.start_after`` on. An empty or missing folder has none; a missing root is ``NotFound``."""
        self._refuse("list", "list", prefix)

    def _stat(self, path: str) -> ObjectInfo:
        """Return what the store says of the object. Raises ``NotFound``."""
        self._refuse("stat", "stat", path)

    def _list_dir(self, path: str) -> Iterator[ObjectInfo]:
        """Yield the objects and folders right in the folder ``path``, in any order; ``NotFound`` if it is missing."""
        self._refuse("list", "list_dir", path)

    def _mkdir(self, path: str) -> None:
        """Make the folder and those above it. One that is there is fine; an object of the name is ``InvalidPath``."""
        self._refuse("dirs", "mkdir", path)

    def _rmdir(self, path: str) -> None:
        """Remove an empty folder; ``DirectoryNotEmpty``, ``NotFound``."""
        self._refuse("dirs", "rmdir", path)

    def _copy(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        """Copy inside the store, or from ``options.source``, all or nothing, and return what is at ``dst``."""
        self._refuse("copy", "copy", src)

    def _move(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        """The same, and ``src`` is gone only once ``dst`` is there."""
        self._refuse("move", "move", src)

    def _close(self) -> None:
        """Release what the backend holds; called once."""

    # -- the checks ----------------------------------------------------------------------------------------------------

    @located
    def open_reader(self, path: str, options: ReadOptions = READ) -> Reader:
        self._enter("read", "open_reader", path)
        check_key(path, op="open_reader")
        if options is not READ and (options.offset or options.length is not None):
            self._need("range_read", "open_reader", path)
        return self._open_reader(path, options)

    @located
    def open_writer(self, path: str, options: WriteOptions = WRITE) -> Writer:
        self._enter("write", "open_writer", path)
        check_new(path, op="open_writer")
        self._check_write(path, options, "open_writer")
        return self._open_writer(path, options)

    @located
    def exists(self, path: str) -> bool:
        self._enter("read", "exists", path)
        check_key(path, op="exists")
        return self._exists(path)

    @located
    def delete(self, path: str, *, if_match: str | None = None) -> bool | None:
        self._enter("delete", "delete", path)
        check_key(path, op="delete")
        if if_match is not None:
            self._need("if_match", "delete", path)
            check_etag(if_match, path=path, op="delete")
        return self._delete(path, if_match)

    @located
    def list(self, prefix: str = "", options: ListOptions = LIST) -> Iterator[ObjectInfo]:
        self._enter("list", "list", prefix)
        if options.start_after is not None:
            _check_order(options.start_after, "list")
        return self._list(_check_order(check_prefix(prefix, op="list"), "list"), options)

    @located
    def stat(self, path: str) -> ObjectInfo:
        self._enter("stat", "stat", path)
        check_key(path, op="stat")
        return self._stat(path)

    @located
    def list_dir(self, path: str = "") -> Iterator[ObjectInfo]:
        self._enter("list", "list_dir", path)
        return self._list_dir(_check_order(check_prefix(path, op="list_dir"), "list_dir"))

    @located
    def mkdir(self, path: str) -> None:
        self._enter("dirs", "mkdir", path)
        check_new(path, op="mkdir")
        self._mkdir(path)

    @located
    def rmdir(self, path: str) -> None:
        self._enter("dirs", "rmdir", path)
        check_key(path, op="rmdir")
        self._rmdir(path)

    @located
    def copy(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        return self._transfer("copy", self._copy, src, dst, options)

    @located
    def move(self, src: str, dst: str, options: CopyOptions = COPY) -> ObjectInfo:
        return self._transfer("move", self._move, src, dst, options)

    def close(self) -> None:
        """Release what the backend holds. Idempotent; every later call raises ``BackendClosed``."""
        if not self._closed:
            self._closed = True
            self._close()

    def learn_features(self) -> Features:
        """The features, once the server was asked what it keeps, where that is not known. See ``core.learned``."""
        return self.features

    # -- checks --------------------------------------------------------------------------------------------------------

    def _enter(self, flag: str, op: str, path: str) -> None:
        if self._closed:
            raise BackendClosed("the backend is closed", backend=self.name, op=op, path=path)
        if not getattr(self.features, flag):
            self._refuse(flag, op, path)
        check(op, path)

    def _need(self, flag: str, op: str, path: str) -> None:
        if not getattr(self.features, flag) and not self._learns(flag, op, path):
            self._refuse(flag, op, path)

    def _learns(self, flag: str, op: str, path: str) -> bool:
        """Whether the server turns out to keep what ``flag`` says."""
        if flag not in LEARNED:
            return False
        try:
            return bool(getattr(self.learn_features(), flag))
        except StorageError as error:
            error.op, error.path = op, path
            raise

    def _refuse(self, capability: str, op: str, path: str) -> NoReturn:
        raise CapabilityNotSupported(
            f"{self.name} does not support {capability}", capability=capability, backend=self.name, op=op, path=path
        )

    def _check_write(self, path: str, options: WriteOptions, op: str) -> None:
        """Refuse every requirement that would be ignored, before anything is touched."""
        if options is WRITE:
            return
        if not options.overwrite:
            self._need("create_only", op, path)
        if options.if_match is not None:
            self._need("if_match", op, path)
        if options.durable and not self.durable:
            self._refuse("durable", op, path)
        if options.modified_at is not None:
            self._need("set_modified", op, path)
        if options.user_metadata:
            self._need("user_metadata", op, path)
        for key in options.extra or ():
            if key not in self.extra_keys:
                self._refuse(f"extra[{key!r}]", op, path)
        for algorithm in options.expect or ():
            new_hash(algorithm)

    def _transfer(
        self,
        op: str,
        run: Callable[[str, str, CopyOptions], ObjectInfo],
        src: str,
        dst: str,
        options: CopyOptions,
    ) -> ObjectInfo:
        self._enter(op, op, src)
        check_key(src, op=op)
        if src == dst and (options.source is None or options.source is self):
            return self._onto_itself(op, src, options)
        check_new(dst, op=op)
        if not options.overwrite:
            self._need("create_only", op, dst)
        if options.if_match is not None or options.source_if_match is not None:
            self._need("if_match", op, dst)
        if options.user_metadata:
            self._need("user_metadata", op, dst)
        return run(src, dst, options)

    def _onto_itself(self, op: str, path: str, options: CopyOptions) -> ObjectInfo:
        """Nothing changes, but what was required must hold."""
        if options.user_metadata is not None:
            raise ConfigError("copying an object onto itself changes nothing: use set_metadata", path=path, op=op)
        wanted = {options.if_match, options.source_if_match} - {None}
        if wanted:
            self._need("if_match", op, path)
        info = self.stat(path)
        if wanted - {info.etag}:
            raise PreconditionFailed("the object is not the one expected", path=path, op=op, backend=self.name)
        return info


def is_nameable(path: str, op: str, options: ListOptions, backend: str) -> bool:
    """Whether a key that others have made can be a path here; one that cannot goes to ``on_error``, or raises."""
    if path and ".." not in path and "\0" not in path:
        return True
    try:
        check_key(path, op=op)
    except InvalidPath as error:
        error.backend = backend
        if options.on_error is None:
            raise
        options.on_error(error)
        return False
    return True


def _check_order(path: str, op: str) -> str:
    """Return ``path`` if it has a place in the order of keys: a lone surrogate that escapes no byte has none."""
    try:
        sort_key(path)
    except UnicodeEncodeError as error:
        raise InvalidPath("this is neither Unicode nor bytes escaped as surrogates", path=path, op=op) from error
    return path


@contextmanager
def translating(op: str, path: str | None, translate: Callable[[BaseException], StorageError | None]) -> Iterator[None]:
    """Turn a backend's native errors into ours in one place: ``translate`` gives ours, or None to let it pass."""
    try:
        yield
    except StorageError as error:
        error.op = error.op or op
        error.path = path if error.path is None else error.path
        raise
    except Exception as error:
        ours = translate(error)
        if ours is None:
            raise
        ours.op = ours.op or op
        ours.path = path if ours.path is None else ours.path
        raise ours from error


def refuse_empty_segments(path: str) -> None:
    """Raise ``ConfigError`` for a root with an empty segment: the place that was written is not the one to open."""
    if "//" in path:
        raise ConfigError(f"the path {path!r} holds an empty segment: write one slash between two names")


def checked_prefix(prefix: str) -> str:
    """Return the prefix of a root in a bucket, without its one optional trailing slash."""
    refuse_empty_segments("/" + prefix)
    return check_prefix(prefix)


def leads_out(path: str, target: str, folder: str) -> bool:
    """Whether the ``target`` of a symbolic link at ``path`` lies outside of ``folder``, as far as the names tell.

    Example:
        >>> leads_out("a/x", "../b", "a"), leads_out("a/x/y", "../b", "a"), leads_out("a/x", "/b", "a")
        (True, False, True)
    """
    if target.startswith("/"):
        return True
    below = path.count("/") - folder.count("/") - 1  # folders between ``folder`` and the link
    for segment in target.split("/"):
        if segment == "..":
            below -= 1
        elif segment not in ("", "."):
            below += 1
        if below < 0:
            return True
    return False


def is_folder_error(path: str, op: str, backend: str) -> InvalidPath:
    """The answer to work on an object whose name a folder has."""
    return InvalidPath("a folder has this name", path=path, op=op, backend=backend)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds of an HTTP ``Retry-After`` (RFC 9110, section 10.2.3), given as such or as a date; None for neither.
    ``now`` is the server's own time, if it tells it."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime  # which brings urllib along

    try:
        moment = parsedate_to_datetime(value)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def check_expires(expires: timedelta, path: str) -> None:
    """Refuse a presigned URL that would be dead, or live longer than any store signs without an account's key."""
    if not timedelta(seconds=1) <= expires <= timedelta(days=7):
        raise ConfigError(f"expires={expires}: a presigned URL lives from 1 second to 7 days", path=path, op="presign")
