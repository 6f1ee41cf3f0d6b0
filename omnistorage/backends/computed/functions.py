"""Objects that are made by functions: a key, a Python callable, bytes."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from omnistorage.core import ResolutionPlan
from omnistorage.errors import CapabilityNotSupported, ConfigError, StorageError

from .backend import ComputedBackend, Entry, Source, as_time, fingerprint_of, settled
from .key_patterns import Key, Pattern
from .serializers import CONTENT_TYPES, ArrowSerializer, arrow, check_distinct, without_views

PART = 1 << 20


@dataclass(frozen=True)
class Computed:
    """A function with what is known of its objects: ``values`` enumerate the parameters (see ``ComputeBackend``),
    ``modified_at`` is their time, ``content_type`` their type, ``version`` changes when the function's results do."""

    function: Callable[..., Any]
    values: Any = None
    modified_at: datetime | str | None = None
    content_type: str | None = None
    version: str | int | None = None


class ComputeBackend(ComputedBackend):
    """Read-only objects that functions make: ``ComputeBackend({"reports/{year:int}.csv": make_report})``.

    Patterns of keys are those of ``key_patterns``; the function gets the parameters as keyword arguments and returns

    - bytes, or a str, which is encoded as UTF-8;
    - a binary stream or an iterable of bytes, which is read as it is needed and closed after;
    - an Arrow table: whatever has ``__arrow_c_stream__`` (pyarrow tables and readers, DuckDB relations, Polars frames),
      written as the key's suffix says: parquet, csv, arrow or ndjson.

    Each ``open_reader`` calls the function anew, on the caller's thread. An error of ours that it raises passes
    (``NotFound`` says that there is no such object); any other becomes a ``StorageError`` that names the key, with the
    native one as its cause.

    A listing shows the keys without parameters, and those of a pattern whose ``Computed(function, values=...)`` says
    what there is: a list of mappings (or of plain values, for one parameter), a mapping from each parameter to its
    values, or a function that returns either. Of other patterns every key that fits exists, and none is listed. Objects
    have no size before they are read.

    ``modified_at`` is the time of all objects without their own. ``frozen=True`` says that a function's bytes change
    only with its parameters and its ``version``: then the plan has a fingerprint, which is the etag, and a size, once
    known, stays known. The fingerprint knows a function by its name, so one without a name of its own in its module (a
    lambda, a partial, a method) needs a ``version``. Pickles if the functions do.
    """

    name = "compute"

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any] | Computed],
        *,
        modified_at: datetime | str | None = None,
        version: str | int | None = None,
        frozen: bool = False,
    ) -> None:
        if not isinstance(functions, Mapping):
            raise ConfigError(f"functions are a table of keys, not {type(functions).__name__}")
        made = {key: value if isinstance(value, Computed) else Computed(value) for key, value in functions.items()}
        for key, one in made.items():
            if not callable(one.function):
                raise ConfigError(f"what {key!r} names is no function but {type(one.function).__name__}")
            if frozen and one.version is None and version is None and not _is_named(one.function):
                raise ConfigError(
                    f"frozen: the function of {key!r} has no name of its own in its module to be known by: give it one,"
                    " or a version"
                )
            made[key] = replace(one, values=settled(one.values))
        self._options = {"functions": made, "modified_at": modified_at, "version": version, "frozen": frozen}
        self._version = version
        self._serializer = ArrowSerializer()
        entries = [Entry(Pattern(key), one, one.values, as_time(one.modified_at)) for key, one in made.items()]
        self._set_entries(entries, modified_at, frozen)

    def __repr__(self) -> str:
        count = len(self._static) + len(self._patterns)
        return f"ComputeBackend({count} {'key' if count == 1 else 'keys'})"

    def __reduce__(self) -> Any:
        try:
            pickle.dumps(self._options)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"this backend pickles only with functions of modules, not lambdas or closures: {error}"
            ) from None
        return _restore, (self._options,)

    def check_health(self) -> None:
        """There is nothing to ask: raises only when the backend is closed."""
        self._enter("read", "check_health", "")

    def resolve(self, key: str) -> ResolutionPlan:
        """The function of ``key`` and its parameters; nothing is called."""
        return super().resolve(key)

    def _plan(self, entry: Entry, key: Key) -> tuple[str, dict[str, Any], str]:
        function = _name_of(entry.what.function)
        version = self._version if entry.what.version is None else entry.what.version
        details = {"function": function, "parameters": dict(key.params), "format": key.format}
        return "compute", details, fingerprint_of(**details, pattern=entry.pattern.text, version=version)

    def _content_type(self, entry: Entry, key: Key) -> str | None:
        said: str | None = entry.what.content_type
        return said or CONTENT_TYPES.get(key.format or "")

    def _produce(self, entry: Entry, key: Key) -> Source:
        made = _called(entry.pattern, key, lambda: entry.what.function(**key.params))
        if isinstance(made, str):
            made = _called(entry.pattern, key, made.encode)
        if isinstance(made, bytes | bytearray | memoryview):
            return _Parts(entry.pattern, key, iter([made]), None)
        if hasattr(made, "__arrow_c_stream__"):
            return self._table(entry.pattern, key, made)
        if callable(getattr(made, "read", None)):
            return _Parts(entry.pattern, key, _blocks(made), made)
        if isinstance(made, Iterable) and not isinstance(made, Mapping):
            return _Parts(entry.pattern, key, iter(made), made)
        raise StorageError(
            f"the function of {entry.pattern.text!r} returned {type(made).__name__}: bytes, str, a binary stream, an"
            " iterable of bytes or an Arrow table are needed"
        )

    def _table(self, pattern: Pattern, key: Key, made: Any) -> Source:
        if key.format not in CONTENT_TYPES:
            raise CapabilityNotSupported(
                f"a table needs a key that ends with one of .{', .'.join(CONTENT_TYPES)}", capability="format"
            )
        reader = _called(pattern, key, lambda: without_views(arrow().RecordBatchReader.from_stream(made)))
        check_distinct(reader.schema.names)
        table = _Table(pattern, key, reader)
        return self._serializer.serialize(table, key.format or "")  # type: ignore[return-value]


class _Table:
    """A reader of Arrow batches as what serializers take."""

    def __init__(self, pattern: Pattern, key: Key, reader: Any) -> None:
        self._pattern, self._key, self._reader = pattern, key, reader
        self.schema = reader.schema

    def batches(self) -> Iterator[Any]:
        while (batch := _called(self._pattern, self._key, self._next)) is not None:
            yield batch

    def _next(self) -> Any:
        try:
            return self._reader.read_next_batch()
        except StopIteration:
            return None

    def close(self) -> None:
        self._reader.close()

    def interrupt(self) -> None:
        """Nothing here can be interrupted: the read ends when the function's own does."""


_END = object()


class _Parts:
    """Over an iterable of bytes; ``owner`` is closed after, if it can be."""

    def __init__(self, pattern: Pattern, key: Key, parts: Iterator[Any], owner: Any) -> None:
        self._pattern, self._key = pattern, key
        self._parts, self._owner = parts, owner
        self._held = io.BytesIO()

    def read(self, size: int, /) -> bytes:
        while not (data := self._held.read(size)):
            part = _called(self._pattern, self._key, lambda: next(self._parts, _END))
            if part is _END:
                return b""
            if not isinstance(part, bytes | bytearray | memoryview):
                raise StorageError(
                    f"the function of {self._pattern.text!r} made a part that is {type(part).__name__}, not bytes"
                )
            self._held = io.BytesIO(part)
        return data

    def close(self) -> None:
        self._held = io.BytesIO()
        for one in (self._parts, self._owner):
            close = getattr(one, "close", None)
            if callable(close):
                try:
                    close()
                except Exception:  # noqa: S110  (what was read is good; what the function does at its end is its own)
                    pass

    def interrupt(self) -> None:
        """Nothing here can be interrupted: the read ends when the function's own does."""


def _blocks(stream: Any) -> Iterator[Any]:
    while (block := stream.read(PART)) != b"":  # which alone is the end: None is a stream that would block
        yield block


def _called(pattern: Pattern, key: Key, call: Callable[[], Any]) -> Any:
    """What ``call`` returns; the errors of other people's code become ours."""
    try:
        return call()
    except StorageError as error:
        error.path = key.path
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {str(error)[:300]}"
        raise StorageError(f"the function of {pattern.text!r} failed: {what}", path=key.path) from error


def _name_of(function: Any) -> str:
    inner = getattr(function, "func", function)  # of a partial
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return f"{getattr(inner, '__module__', None) or '?'}:{name}"


def _is_named(function: Any) -> bool:
    """Whether the name of a function means this function and no other."""
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for part in getattr(function, "__qualname__", "?").split("."):
        found = getattr(found, part, None)
    return found is function


def _restore(options: dict[str, Any]) -> ComputeBackend:
    return ComputeBackend(**options)
