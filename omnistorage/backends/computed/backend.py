"""What backends share whose objects are made when they are read: keys, listings, plans, sizes.

A subclass turns a key into a stream; here stand the patterns and who wins (a key without parameters first, then the
patterns in their order), what a listing shows, and what is known of an object before it is made: its time if the
configuration gives one, and its size and etag only where ``frozen`` says that the fingerprint determines the bytes.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice, product
from typing import Any, NamedTuple, Protocol

from omnistorage.backends.base import BackendBase
from omnistorage.backends.streams import ReaderBase, check_conditions
from omnistorage.core import Features, ListOptions, ObjectInfo, Reader, ReadOptions, ResolutionPlan
from omnistorage.core.option_checks import check_time
from omnistorage.errors import ConfigError, NotFound, StorageError
from omnistorage.globs import compile_glob, literal_folder
from omnistorage.paths import check_key, is_under, sort_key

from .key_patterns import Key, Pattern, format_of

MAX_KEYS = 1_000_000
"""Keys that one pattern may list: they are sorted in memory, some 150 bytes each."""
KNOWN_SIZES = 10_000


class Source(Protocol):
    """What a subclass makes of a key: ``read`` may be short, ``b""`` only at the end; ``interrupt`` comes from another
    thread and makes a blocked ``read`` fail soon."""

    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...
    def interrupt(self) -> None: ...


class Entry(NamedTuple):
    """A pattern and what stands behind it. ``values`` enumerates its parameters, if anything does; ``what`` is the
    subclass's own."""

    pattern: Pattern
    what: Any
    values: Any = None
    modified_at: datetime | None = None


class ComputedBackend(BackendBase):
    """The shared base; see the module. Sorted, read-only, without ranges."""

    _sizes: dict[str, int]

    def _set_entries(self, entries: Sequence[Entry], modified_at: datetime | str | None, frozen: bool) -> None:
        self._modified_at = as_time(modified_at)
        self._frozen = frozen
        self._static = {entry.pattern.path_of({}): entry for entry in entries if entry.pattern.is_static}
        self._patterns = [entry for entry in entries if not entry.pattern.is_static]
        _check_distinct(entries)
        timed = bool(entries) and all(entry.modified_at or self._modified_at for entry in entries)
        self.features = Features(
            read=True, list=True, sorted_list=True, stat=True,
            modified_precision=timedelta(microseconds=1) if timed or self._modified_at else None,
        )  # fmt: skip
        self._sizes = {}
        self._there: dict[str, frozenset[str] | None] = {}
        self._sizes_lock = threading.Lock()

    # -- what a subclass says ------------------------------------------------------------------------------------------

    def _produce(self, entry: Entry, key: Key) -> Source:
        """The bytes of ``key``; errors are ours."""
        raise TypeError(f"{type(self).__name__} does not define _produce")

    def _plan(self, entry: Entry, key: Key) -> tuple[str, dict[str, Any], str]:
        """Kind, details and fingerprint; no I/O."""
        raise TypeError(f"{type(self).__name__} does not define _plan")

    def _content_type(self, entry: Entry, key: Key) -> str | None:
        return None

    def _rows(self, entry: Entry) -> Iterable[Any]:
        """What ``values`` gives: a mapping for each key."""
        return rows_of(entry)

    def _has(self, entry: Entry, key: Key) -> bool:
        """Whether ``key`` is among the values of a pattern that has some."""
        if callable(entry.values):
            return key.path in _paths_of(entry.pattern, self._rows(entry))
        if entry.pattern.text not in self._there:
            rows = list(islice(_paths_of(entry.pattern, self._rows(entry)), MAX_KEYS + 1))
            self._there[entry.pattern.text] = None if len(rows) > MAX_KEYS else frozenset(rows)
        known = self._there[entry.pattern.text]
        return key.path in (_paths_of(entry.pattern, self._rows(entry)) if known is None else known)

    def _fallback(self, path: str) -> Entry | None:
        """What a key means that no entry means; no I/O."""
        return None

    def _fallback_entries(self) -> Iterable[tuple[str, Entry]]:
        """What else a listing shows."""
        return ()

    # -- keys ----------------------------------------------------------------------------------------------------------

    def parse(self, key: str) -> Key:
        """What ``key`` means: ``Key(path, format, params)``; no I/O. ``NotFound`` if no entry means it."""
        return self._find(check_key(key, op="parse"), "parse")[1]

    def _seek(self, path: str) -> tuple[Entry, Key] | None:
        if (entry := self._static.get(path)) is not None:
            return entry, Key(path, entry.pattern.format, {})
        for entry in self._patterns:
            params = entry.pattern.match(path)
            if params is not None:
                return entry, _key_of(entry, path, params)
        other = self._fallback(path)
        return None if other is None else (other, _key_of(other, path, {}))

    def _find(self, path: str, op: str) -> tuple[Entry, Key]:
        found = self._seek(path)
        if found is None:
            raise NotFound("nothing is configured for this key", path=path, backend=self.name, op=op)
        return found

    def _find_there(self, path: str, op: str) -> tuple[Entry, Key]:
        """The same, once it is known to be there as far as anything tells."""
        entry, key = self._find(path, op)
        if entry.values is not None and not entry.pattern.is_static:
            with self._placing(op, path):
                there = self._has(entry, key)
            if not there:
                raise NotFound("these parameters are not among the values", path=path, backend=self.name, op=op)
        return entry, key

    def resolve(self, key: str) -> ResolutionPlan:
        """What ``key`` would be made of; no I/O. ``NotFound`` if no entry means it. There is a fingerprint only where
        ``frozen`` says that it determines the bytes: caches believe it."""
        entry, found = self._find(check_key(key, op="resolve"), "resolve")
        kind, details, fingerprint = self._plan(entry, found)
        return ResolutionPlan(kind, self.name, key, details, fingerprint if self._frozen else None)

    # -- one object ----------------------------------------------------------------------------------------------------

    def _info(self, entry: Entry, key: Key) -> ObjectInfo:
        moment = entry.modified_at or self._modified_at
        etag = self._plan(entry, key)[2] if self._frozen else None
        return ObjectInfo(
            key.path, self._sizes.get(etag) if etag else None, moment, etag=etag,
            content_type=self._content_type(entry, key),
        )  # fmt: skip

    def _open_reader(self, path: str, options: ReadOptions) -> Reader:
        if options.version is not None:
            self._refuse("version", "open_reader", path)
        entry, key = self._find_there(path, "open_reader")
        info = self._info(entry, key)
        check_conditions(info, options, self.name)
        with self._placing("open_reader", path):
            source = self._produce(entry, key)
        return ComputedReader(self, info, source)

    def _exists(self, path: str) -> bool:
        try:
            self._find_there(path, "exists")
        except NotFound as error:
            if error.path == path:
                return False
            raise
        return True

    def _stat(self, path: str) -> ObjectInfo:
        return self._info(*self._find_there(path, "stat"))

    def _note_size(self, info: ObjectInfo) -> None:
        """What was read to its end is known from then on, where the bytes cannot change."""
        if info.etag is None or info.size is None:
            return
        with self._sizes_lock:
            self._sizes[info.etag] = info.size
            while len(self._sizes) > KNOWN_SIZES:
                del self._sizes[next(iter(self._sizes))]

    def _placing(self, op: str, path: str) -> _Placing:
        return _Placing(self.name, op, path)

    # -- listing -------------------------------------------------------------------------------------------------------

    def _keys(self, folder: str, on_error: Callable[[StorageError], None] | None = None) -> list[tuple[str, Entry]]:
        """All that can be enumerated under ``folder``, in the order of keys."""
        found = {path: entry for path, entry in self._static.items() if is_under(path, folder)}
        for entry in self._patterns:
            if entry.values is not None and _may_hold(entry.pattern, folder):
                self._enumerate(entry, folder, found, on_error)
        for path, entry in self._fallback_entries():
            owner = self._seek(path)
            if owner is not None and owner[0] == entry and is_under(path, folder):
                found.setdefault(path, entry)
        return sorted(found.items(), key=lambda item: sort_key(item[0]))

    def _enumerate(
        self, entry: Entry, folder: str, found: dict[str, Entry], on_error: Callable[[StorageError], None] | None
    ) -> None:
        placing = self._placing("list", entry.pattern.text)
        with placing:
            for number, row in enumerate(self._rows(entry)):
                if number >= MAX_KEYS:
                    raise StorageError(f"{entry.pattern.text!r} has more than {MAX_KEYS} keys: give it fewer values")
                try:
                    path = entry.pattern.path_of(row)
                except StorageError as error:
                    if on_error is None:
                        raise
                    placing.place(error)
                    on_error(error)
                    continue
                owner = self._seek(path)
                if owner is not None and owner[0] is entry and is_under(path, folder):
                    found[path] = entry

    def _list(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        after = None if options.start_after is None else sort_key(options.start_after)
        for path, entry in self._keys(prefix, options.on_error):
            if after is None or sort_key(path) > after:
                yield self._listed(path, entry)

    def _listed(self, path: str, entry: Entry) -> ObjectInfo:
        params = {} if entry.pattern.is_static else entry.pattern.match(path) or {}
        return self._info(entry, _key_of(entry, path, params))

    def _list_dir(self, path: str) -> Iterator[ObjectInfo]:
        start = len(path) + 1 if path else 0
        found: dict[bytes, ObjectInfo] = {}
        for key, entry in self._keys(path):
            head, deeper, _ = key[start:].partition("/")
            at = f"{key[:start]}{head}"
            if deeper:
                found.setdefault(sort_key(at + "/"), ObjectInfo(at, kind="dir"))
            else:
                found[sort_key(at)] = self._listed(key, entry)
        if path and not found:
            raise NotFound("no such folder", path=path, backend=self.name, op="list_dir")
        yield from (found[at] for at in sorted(found))

    def glob(self, pattern: str) -> Iterator[ObjectInfo]:
        """What ``ops.glob`` finds; patterns of keys that cannot lie under its folder are not enumerated."""
        self._enter("list", "glob", pattern)
        matching = compile_glob(pattern, anchored=True)
        return (
            self._listed(path, entry) for path, entry in self._keys(literal_folder(pattern)) if matching.fullmatch(path)
        )


class ComputedReader(ReaderBase):
    """Over a source. ``info.size`` is None until the end has been read."""

    def __init__(self, backend: ComputedBackend, info: ObjectInfo, source: Source) -> None:
        super().__init__(info)
        self._from = backend
        self._source = source
        self._count = 0

    def _read(self, size: int) -> bytes:
        if self._failed is not None:
            raise self._failed  # what is left of the source would look like an end
        try:
            with self._from._placing("read", self._info.path):
                data = self._source.read(size)
        except StorageError as error:
            self._failed = error
            raise
        except BaseException as error:
            what = f"an earlier read ended with {type(error).__name__}: open a new reader"
            self._failed = StorageError(what, path=self._info.path, op="read", backend=self._from.name)
            raise
        self._count += len(data)
        if not data and not self._ended:
            self._ended = True
            self._info = self._info._replace(size=self._count)
            self._from._note_size(self._info)
        return data

    _ended = False
    _failed: StorageError | None = None

    def _release(self) -> None:
        self._source.close()

    def _interrupt(self) -> None:
        self._source.interrupt()


class _Placing:
    """Errors of ours that leave the block say where they happened."""

    __slots__ = ("_backend", "_op", "_path")

    def __init__(self, backend: str, op: str, path: str) -> None:
        self._backend, self._op, self._path = backend, op, path

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, StorageError):
            self.place(error)

    def place(self, error: StorageError) -> None:
        error.op = error.op or self._op
        error.backend = error.backend or self._backend
        if error.path is None:
            error.path = self._path


# --- configuration ----------------------------------------------------------------------------------------------------


def _check_distinct(entries: Sequence[Entry]) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        other = seen.setdefault(entry.pattern.shape, entry.pattern.text)
        if other != entry.pattern.text:
            raise ConfigError(f"the keys {other!r} and {entry.pattern.text!r} mean the same: leave one out")


def _key_of(entry: Entry, path: str, params: Mapping[str, Any]) -> Key:
    return Key(path, entry.pattern.format or format_of(path), params)


def _may_hold(pattern: Pattern, folder: str) -> bool:
    """Whether keys of ``pattern`` can lie under ``folder``, as far as its literal beginning tells."""
    head = pattern.head
    return f"{folder}/".startswith(head) or head.startswith(f"{folder}/") or not folder


def as_time(value: datetime | str | None) -> datetime | None:
    """A configured time in UTC; ``ConfigError`` for one without a zone."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ConfigError(f"modified_at is a time of ISO 8601, not {value!r}") from None
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise ConfigError(f"modified_at is a datetime, not {type(value).__name__}")
    check_time(value)
    return value.astimezone(UTC)


def rows_of(entry: Entry) -> Iterable[Any]:
    """The parameters that ``values`` enumerates: a sequence of mappings, or of plain values for one parameter; a
    mapping from each parameter to its values, all combinations of which are meant; or a function that returns one."""
    return _guarded(entry) if callable(entry.values) else _rows_of(entry.pattern, entry.values)


def _guarded(entry: Entry) -> Iterator[Any]:
    """What a function of the user's gives; its errors become ours."""
    try:
        yield from _rows_of(entry.pattern, entry.values())
    except StorageError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {str(error)[:300]}"
        raise StorageError(f"the values of {entry.pattern.text!r} failed: {what}") from error


def _rows_of(pattern: Pattern, values: Any) -> Iterable[Any]:
    names = pattern.names
    if isinstance(values, Mapping):
        columns = [values.get(name) for name in names]
        if set(values) != set(names) or any(isinstance(c, str) or not isinstance(c, Iterable) for c in columns):
            raise ConfigError(f"values of {pattern.text!r} name a list for each of {', '.join(names)}")
        return (dict(zip(names, row, strict=True)) for row in product(*columns))  # type: ignore[arg-type]
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigError(f"values of {pattern.text!r} are a list or a table, not {type(values).__name__}")
    return (row if isinstance(row, Mapping) else _single(names, row, pattern) for row in values)


def settled(values: Any) -> Any:
    """``values`` as they are when the backend is made: an iterator would be used up by the first look at it, a list
    might change behind what is known of it. Functions and queries are asked each time."""
    if values is None or callable(values) or isinstance(values, str | bytes | range):
        return values
    if isinstance(values, Mapping):
        return {name: settled(column) for name, column in values.items()}
    if not isinstance(values, Iterable):
        return values  # which ``rows_of`` refuses
    found = tuple(islice(values, MAX_KEYS + 1))
    if len(found) > MAX_KEYS:
        raise ConfigError(f"values are at most {MAX_KEYS}: give fewer, or a function")
    return found


def _paths_of(pattern: Pattern, rows: Iterable[Any]) -> Iterator[str]:
    """The keys of values; those that make none are what a listing reports."""
    for row in rows:
        try:
            yield pattern.path_of(row)
        except StorageError:
            continue


def _single(names: Sequence[str], value: Any, pattern: Pattern) -> dict[str, Any]:
    if len(names) != 1:
        raise ConfigError(f"values of {pattern.text!r} are tables with {', '.join(names)}")
    return {names[0]: value}


def fingerprint_of(**parts: Any) -> str:
    """SHA-256 over canonical JSON: keys sorted, no blanks, UTF-8; dates as ISO 8601."""

    def plain(value: Any) -> Any:
        if isinstance(value, date):
            return value.isoformat()
        raise TypeError(f"{type(value).__name__} is not plain data")

    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
