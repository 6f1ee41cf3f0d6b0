"""Objects in a table of a SQL database: SQLite, PostgreSQL, MariaDB and MySQL.

What the tables look like stands in ``schema``. Keys are compared and sorted by their bytes. A body of up to
1 MiB lives in its row; a larger one in chunks of 1 MiB, written as they come and pointed at by the row when the writer
is closed. Readers of a large body pin it for ``lease`` seconds at a time, writers too: what neither an object nor a
lease holds is garbage, which later writers and ``remove_stale_uploads`` collect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote

from omnistorage.backends.base import BackendBase
from omnistorage.backends.sql.connection import Link
from omnistorage.backends.sql.database import Database
from omnistorage.backends.streams import WriterBase, check_conditions
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import (
    READ,
    CopyOptions,
    Features,
    ListOptions,
    ObjectInfo,
    Reader,
    ReadOptions,
    ResolutionPlan,
    SetMetadata,
    StaleUploads,
    WriteOptions,
)
from omnistorage.core.option_checks import check_metadata, check_time
from omnistorage.core.secret import Secret
from omnistorage.errors import CapabilityNotSupported, ConfigError, CorruptData, NotFound, StorageError
from omnistorage.paths import check_key, check_prefix, is_under

from .existing_table import find
from .garbage_collection import collect, discard, keys_of, pin, remove, stale, sweep
from .integrity import check_size
from .listing import INFOS, as_bytes, as_time, glob_rows, list_dir_rows, listed, loose_infos, refusing_last
from .schema import COLUMNS, INLINE, Table, check_name
from .streams import BlobWriter, ChunkReader, ColumnReader, ColumnWriter, InlineReader
from .transactions import Transfer, as_json, delete, new_token

T = TypeVar("T")

_FEATURES = Features(
    read=True,
    write=True,
    delete=True,
    list=True,
    sorted_list=True,
    list_seek=True,
    stat=True,
    copy=True,
    move=True,
    atomic_move=True,
    range_read=True,
    lazy_read=True,
    atomic_write=True,
    create_only=True,
    if_match=True,
    user_metadata=True,
    set_modified=True,
    hashes=frozenset({"sha256"}),
    kept_hashes=frozenset({"sha256"}),
    modified_precision=timedelta(microseconds=1),
)
_HELD = 64 << 20
"""The longest body that is held in memory, in bytes, unless ``max_blob_size`` says otherwise."""
_OURS = "omnistorage_objects"


class SQLBlobBackend(BackendBase):
    """Objects as rows of ``table_name``; see the module for how.

    ``url`` is a database URL (``sqlite:///file.db``, ``postgresql://user@host/db``, ``mysql://...``), a ``Secret`` with
    one, or a sqlalchemy ``Engine``, which is borrowed: never disposed, its connections given back after each call.
    ``password`` goes into the URL. ``:memory:`` is one database for all threads. No driver demands TLS by itself: for
    PostgreSQL add ``?sslmode=verify-full&sslrootcert=system``, for MySQL ``?ssl_ca=FILE``.

    ``create_table=False`` takes a table that is there. It needs a column for the key, which must be unique and compared
    by its bytes, and one for the data; ``columns={"key": "id", "data": "body", ...}`` names them and any of ``size
    modified_at content_type digest etag extra``. What is missing is None in every answer, and ``features`` claims
    ``if_match``, ``user_metadata`` and the rest only for columns named in ``columns``. In such a table a body is one
    value: SQLite streams it, elsewhere it is held in memory.

    ``max_blob_size``, in bytes: a longer object cannot be written. By default there is no limit, except where a body is
    held in memory (64 MiB); there a longer object cannot be read either.

    ``policy`` sends every request; ``timeout`` bounds one, in seconds, ``busy_timeout`` the wait for SQLite's lock.
    """

    name = "sql"
    takes_fragment = True  # in a URL: the table, and the path behind it

    def __init__(
        self,
        url: Any,
        *,
        table_name: str = _OURS,
        create_table: bool = True,
        columns: Mapping[str, str] | None = None,
        password: str | Secret | None = None,
        policy: RequestPolicy | None = None,
        max_blob_size: int | None = None,
        timeout: float = 60.0,
        busy_timeout: float = 10.0,
        lease: float = 600.0,
    ) -> None:
        check_name(table_name, ours=create_table)
        self.table_name, self.create_table = table_name, create_table
        if max_blob_size is not None and (type(max_blob_size) is not int or max_blob_size < 0):
            raise ConfigError(f"max_blob_size is a number of bytes, not {max_blob_size!r}")
        self.max_blob_size, self._lease = max_blob_size, lease
        self._columns = _checked_columns(columns, create_table)
        self._db = Database(url, password, name=self.name, policy=policy, timeout=timeout, busy_timeout=busy_timeout)
        self._db.setup, self._db.tidy = self._set_up, self._tidy
        self._table: Table = None  # type: ignore[assignment]  # known from the first connection on
        self._infos: Callable[[Iterable[Any]], list[ObjectInfo]] = loose_infos
        self.features = _FEATURES if create_table else _features_of(self._columns)
        self._policy, self._given = policy, (table_name, create_table, dict(self._columns), max_blob_size, timeout)
        self._waits = (busy_timeout, lease)
        place = self._db.place
        self.url = None if place is None else f"{place}#{table_name}/"

    @property
    def write_limit(self) -> int | None:
        """The length of the longest object that can be written, in bytes; None for any."""
        streams = self.create_table or self._table.streams
        return _HELD if self.max_blob_size is None and not streams else self.max_blob_size

    def __repr__(self) -> str:
        return f"SQLBlobBackend({self.url or self._db.source!r})"

    def __reduce__(self) -> Any:
        self._db.refuse_to_pickle()
        return _restore, (self._db.source, self._db.password, self._policy, *self._given, *self._waits)

    @classmethod
    def options_from_url(cls, parts: SplitResult, *, is_object: bool) -> tuple[dict[str, Any], str]:
        """``sqlite:///file.db#table/path/of/object``: a database as sqlalchemy writes it, then a table, then a path."""
        if parts.scheme == "sql":
            raise ConfigError("write sqlite://, postgresql:// or mysql://; or give the option url to the backend 'sql'")
        place = unquote(parts.path) if parts.scheme == "sqlite" else parts.path
        table, _, path = unquote(parts.fragment).partition("/")
        options = {"url": f"{parts.scheme}://{parts.netloc}{place}"}
        if table:
            options["table_name"] = table
        return options, path

    def power_of(self, kind: type) -> Any:
        if kind is SetMetadata and not self.features.set_modified:
            return None
        if kind is StaleUploads and not self.create_table:
            return None
        return self if isinstance(self, kind) else None

    def _set_up(self, link: Link) -> None:
        if self.create_table:
            quote = self._db.engine().dialect.identifier_preparer.quote
            table = Table(self._db.dialect, quote, self.table_name, None)
            table.create(link)
        else:
            table = find(self._db, link, self.table_name, self._columns)
        self._infos = INFOS[self._db.dialect.family] if table.ours else loose_infos
        self._table = table

    def native(self) -> object:
        return self._db.engine()

    def _close(self) -> None:
        if self._db.garbage:
            try:
                self._db.run("close", None, lambda link: None)
            except StorageError:
                pass  # nothing is visible, and StaleUploads finds it
        self._db.close()

    # -- what the streams need -----------------------------------------------------------------------------------------

    def _call(self, op: str, path: str | None, work: Callable[[Link], T]) -> T:
        return self._db.run(op, path, work)

    def _to_info(self, row: Any) -> ObjectInfo:
        return self._infos((row[:8],))[0]

    def _written(self, info: ObjectInfo) -> ObjectInfo:
        """What a writer answers, without what an existing table does not keep."""
        table = self._table
        if table.ours:
            return info
        had = table.present
        return info._replace(
            modified_at=info.modified_at if "modified_at" in had else None,
            etag=info.etag if "etag" in had else None,
            content_type=info.content_type if "content_type" in had else None,
            hashes=info.hashes if "digest" in had else None,
            metadata=info.metadata if "extra" in had else None,
        )

    def _quietly(self, work: Callable[[Link], object]) -> None:
        """Clean up: what fails stays garbage, for the next one to collect."""
        try:
            self._db.run("collect", None, work)
        except StorageError:
            pass

    def _collect(self, blob: str) -> None:
        self._quietly(lambda link: collect(link, self._table, blob))

    def _drop_blob(self, blob: str) -> None:
        self._quietly(lambda link: discard(link, self._table, blob))

    def _sweep(self) -> None:
        self._quietly(lambda link: sweep(link, self._table))

    def _tidy(self, link: Link, blob: str) -> None:
        """A dropped writer's blob, on the way of another call."""
        try:
            discard(link, self._table, blob)
        except Exception as error:
            if self._db.dialect.verdict(error) == "lost":
                raise

    # -- reading -------------------------------------------------------------------------------------------------------

    def _open_reader(self, path: str, options: ReadOptions) -> Reader:
        if options.version is not None:
            self._refuse("version", "open_reader", path)
        return self._db.run("open_reader", path, self._reader, path, options)

    def _reader(self, link: Link, path: str, options: ReadOptions) -> Reader:
        table = self._table
        if not table.has_blobs:
            return self._column_reader(link, path, options)
        key = table.key(path)
        whole = options is READ or (options.offset == 0 and options.length is None)
        for _ in range(10):
            if whole:
                link.execute(table.read, (key,))
                row = link.fetch()
            else:
                start, length = min(options.offset, INLINE), min(options.length or INLINE, INLINE)
                row = link.one(table.read_part, (start + 1, 0 if options.length == 0 else length, key))
            if row is None:
                raise NotFound("no such object", path=path, backend=self.name, op="open_reader")
            if options.if_match is not None or options.if_none_match is not None:
                check_conditions(self._to_info(row), options, self.name)
            if row[7] is None:
                data = row[8] if type(row[8]) is bytes else as_bytes(row[8])
                check_size(path, row[1] if whole else _part_size(row[1], options), len(data))
                return InlineReader(row, self._to_info, data, path, whole=whole)
            if pin(link, table, row[7], self._lease):
                return ChunkReader(self, self._to_info(row), row[7], options)
        raise CorruptData("the chunks of this object are missing", path=path, backend=self.name, op="open_reader")

    def _column_reader(self, link: Link, path: str, options: ReadOptions) -> Reader:
        table = self._table
        held = _HELD if self.max_blob_size is None else self.max_blob_size
        limit = INLINE if table.streams and not self._db.shared else held
        row = link.one(table.read_bounded, (limit, table.key(path)))
        if row is None:
            raise NotFound("no such object", path=path, backend=self.name, op="open_reader")
        info = self._to_info(row)
        check_conditions(info, options, self.name)
        if row[8] is None and row[9] is not None and row[9] > limit:
            if table.streams and not self._db.shared:
                return self._streamed(path, options)
            raise CapabilityNotSupported(
                f"this object has more than max_blob_size={limit} bytes",
                capability="max_blob_size", path=path, backend=self.name, op="open_reader",
            )  # fmt: skip
        data = as_bytes(row[8])
        if "size" in table.present:
            check_size(path, info.size, len(data))
        stop = len(data) if options.length is None else options.offset + options.length
        part = data if options.offset == 0 and stop >= len(data) else data[options.offset : stop]
        return InlineReader(row, self._to_info, part, path, whole=part is data)

    def _streamed(self, path: str, options: ReadOptions) -> Reader:
        """On a connection of its own, inside a snapshot that lasts as long as the reader."""
        table, link = self._table, self._db.take()
        try:
            link.execute("BEGIN")
            row = link.one(table.stat, (table.key(path),))
            if row is None:
                raise NotFound("no such object", path=path, backend=self.name, op="open_reader")
            info = self._to_info(row)
            check_conditions(info, options, self.name)
            return ColumnReader(self, info, link, self._open_column(link, path, readonly=True), options)
        except BaseException:
            self._db.throw_away(link)
            raise

    def _open_column(self, link: Link, path: str, *, readonly: bool) -> Any:
        table = self._table
        (rowid,) = link.one(table.rowid, (table.key(path),))
        schema, _, plain = self.table_name.rpartition(".")
        column = self._columns.get("data", "data")
        return link.connection.blobopen(plain, column, rowid, readonly=readonly, name=schema or "main")

    def _exists(self, path: str) -> bool:
        def work(link: Link) -> bool:
            table = self._table
            return link.one(table.exists, (table.key(path),)) is not None

        return self._db.run("exists", path, work)

    def _stat(self, path: str) -> ObjectInfo:
        return self._db.run("stat", path, self._stat_on, path, "stat")

    def _stat_on(self, link: Link, path: str, op: str) -> ObjectInfo:
        table = self._table
        row = link.one(table.stat, (table.key(path),))
        if row is None:
            raise NotFound("no such object", path=path, backend=self.name, op=op)
        return self._to_info(row)

    def check_health(self) -> None:
        """One row of the table is asked for: a database that answers while the table is gone is not healthy."""
        self._enter("read", "check_health", "")
        self._db.run("check_health", None, lambda link: link.all(self._table.probe))

    def resolve(self, key: str) -> ResolutionPlan:
        """The row that ``key`` stands for; no I/O."""
        check_key(key, op="resolve")
        return ResolutionPlan("sql_blob", self.name, key, {"url": self.url, "table": self.table_name})

    # -- listing -------------------------------------------------------------------------------------------------------

    def _page(self, page: tuple[str, Any, str | None, str | None, int], op: str, path: str) -> list[Any]:
        begin, low, end, looks, size = page

        def work(link: Link) -> list[Any]:
            table = self._table
            values = [low if type(low) is not str else table.key(low)]
            values += [table.key(text) for text in (end, looks) if text is not None]
            return link.all(table.pages[begin, end is not None, looks is not None], (*values, size))

        return self._db.run(op, path, work)

    def _list(self, prefix: str, options: ListOptions) -> Iterator[ObjectInfo]:
        return listed(self, prefix, options)

    def _list_dir(self, path: str) -> Iterator[ObjectInfo]:
        return refusing_last(self, "list_dir", partial(list_dir_rows, self, path))

    def glob(self, pattern: str) -> Iterator[ObjectInfo]:
        """What ``ops.glob`` finds, with most of the matching done by the database."""
        self._enter("list", "glob", pattern)
        return glob_rows(self, pattern)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _open_writer(self, path: str, options: WriteOptions) -> WriterBase:
        if self.create_table:
            return BlobWriter(self, path, options)
        if self._table is None:
            self._db.run("open_writer", path, lambda link: None)
        return (BlobWriter if self._table.has_blobs else ColumnWriter)(self, path, options)

    def set_metadata(
        self, path: str, *, modified_at: datetime | None = None, user_metadata: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        self._enter("set_modified", "set_metadata", path)
        check_key(path, op="set_metadata")
        check_time(modified_at)
        check_metadata(user_metadata or {})
        if user_metadata is not None:
            self._need("user_metadata", "set_metadata", path)
        extra = None if user_metadata is None else as_json(user_metadata)
        etag = new_token()

        def work(link: Link) -> ObjectInfo:
            table = self._table
            new = {"modified_at": table.time(modified_at), "extra": extra, "etag": etag}
            values = [value for column, value in new.items() if column in table.present]
            if link.change(table.set, (*values, table.key(path))) == 0:
                raise NotFound("no such object", path=path, backend=self.name, op="set_metadata")
            return self._stat_on(link, path, "set_metadata")

        return self._db.run("set_metadata", path, work)

    def _delete(self, path: str, if_match: str | None) -> bool | None:
        loose: list[str] = []
        gone = self._db.settle(
            "delete", path, lambda link, lost: delete(link, lost, self._table, path, if_match, loose)
        )
        for blob in set(loose):
            self._collect(blob)
        return gone

    def _copy(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        return self._carry(Transfer("copy", src, dst, options))

    def _move(self, src: str, dst: str, options: CopyOptions) -> ObjectInfo:
        return self._carry(Transfer("move", src, dst, options))

    def _carry(self, transfer: Transfer) -> ObjectInfo:
        if transfer.options.source is not None and transfer.options.source is not self:
            self._refuse("source", transfer.op, transfer.src)
        row = self._db.settle(transfer.op, transfer.src, lambda link, lost: transfer.run(link, lost, self._table))
        for blob in set(transfer.loose):
            self._collect(blob)
        return self._to_info(row)

    # -- what dead writers left ----------------------------------------------------------------------------------------

    def stale_uploads(self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)) -> Iterator[ObjectInfo]:
        """Blobs that neither an object nor a lease holds, by the key they were written for."""
        self._enter("list", "stale_uploads", prefix)
        return (info for _, info in self._stale(prefix, older_than))

    def remove_stale_uploads(self, prefix: str = "", *, older_than: timedelta = timedelta(hours=1)) -> int:
        """Remove what ``stale_uploads`` yields; the number of blobs removed."""
        self._enter("delete", "remove_stale_uploads", prefix)
        return sum(self._db.run("remove_stale_uploads", prefix, work) for work in self._removals(prefix, older_than))

    def _removals(self, prefix: str, older_than: timedelta) -> Iterator[Callable[[Link], bool]]:
        for blob, _ in self._stale(prefix, older_than):
            yield partial(self._remove, blob)

    def _remove(self, blob: str, link: Link) -> bool:
        return remove(link, self._table, blob)

    def _stale(self, prefix: str, older_than: timedelta) -> Iterator[tuple[str, ObjectInfo]]:
        folder, age = check_prefix(prefix, op="stale_uploads"), older_than // timedelta(microseconds=1)
        rows: list[Any] = [("",)]
        while rows:
            after = str(rows[-1][0])
            rows = self._db.run("stale_uploads", prefix, partial(self._stale_page, after, age))
            for row, key in zip(rows, keys_of(rows), strict=True):
                if is_under(key, folder):
                    yield row[0], ObjectInfo(key, int(row[3] or 0), as_time(row[2]))

    def _stale_page(self, after: str, age: int, link: Link) -> list[Any]:
        return stale(link, self._table, after, age)


def _part_size(size: int, options: ReadOptions) -> int:
    """How many bytes of a body of ``size`` bytes are asked for."""
    rest = max(0, size - options.offset)
    return rest if options.length is None else min(rest, options.length)


def _restore(
    source: Any, password: Any, policy: Any, table_name: str, create_table: bool, columns: Any, most: int,
    timeout: float, busy_timeout: float, lease: float,
) -> SQLBlobBackend:  # fmt: skip
    return SQLBlobBackend(
        source, table_name=table_name, create_table=create_table, columns=columns or None, password=password,
        policy=policy, max_blob_size=most, timeout=timeout, busy_timeout=busy_timeout, lease=lease,
    )  # fmt: skip


def _checked_columns(columns: Mapping[str, str] | None, create_table: bool) -> dict[str, str]:
    if columns and create_table:
        raise ConfigError("columns= maps those of an existing table: give create_table=False, too")
    for ours, theirs in (columns or {}).items():
        if ours not in COLUMNS[:7] and ours != "data":
            raise ConfigError(f"columns maps {', '.join((*COLUMNS[:7], 'data'))}, not {ours!r}")
        check_name(theirs, ours=False)
    return dict(columns or {})


def _features_of(columns: Mapping[str, str]) -> Features:
    """What is true of an existing table as far as its configuration tells."""
    return replace(
        _FEATURES,
        if_match="etag" in columns,
        user_metadata="extra" in columns,
        set_modified="modified_at" in columns,
        lazy_read=False,
        hashes=_FEATURES.hashes if "digest" in columns else frozenset(),
        kept_hashes=_FEATURES.hashes if "digest" in columns else frozenset(),
        modified_precision=_FEATURES.modified_precision if "modified_at" in columns else None,
    )
