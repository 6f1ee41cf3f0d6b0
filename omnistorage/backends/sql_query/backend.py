"""Objects that are the results of SQL queries: SQLite, PostgreSQL, MariaDB and MySQL.

How a query runs stands in ``execution``, how its columns get their types in ``arrow_types``, what a text of a
query may hold in ``query_source``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from os import PathLike
from typing import Any

from omnistorage.backends.computed import ComputedBackend
from omnistorage.backends.computed.backend import MAX_KEYS, Entry, Source, as_time, fingerprint_of, rows_of, settled
from omnistorage.backends.computed.key_patterns import Key, Pattern, format_of
from omnistorage.backends.computed.serializers import CONTENT_TYPES, ArrowSerializer, ResultSerializer
from omnistorage.backends.computed.serializers_native import NATIVE
from omnistorage.backends.sql.database import sqlalchemy
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import ResolutionPlan
from omnistorage.core.secret import Secret, mask
from omnistorage.errors import ConfigError, NotFound, StorageError

from .catalog import Catalog, Relation, key_of, relation_of, statement_of
from .execution import QueryDatabase, QueryResult, Statement
from .query_source import FAMILIES, Query, load_queries

_CATALOG_SUFFIX = "parquet"


class SQLQueryBackend(ComputedBackend):
    """Read-only objects that are results of queries: ``SQLQueryBackend("postgresql://user@host/db",
    {"reports/{year:int}/{region}.parquet": "SELECT ... WHERE year = :year AND region = :region"})``.

    ``url`` is a database URL, a ``Secret`` with one, or a sqlalchemy ``Engine``, which is borrowed: never disposed, its
    connections given back after each stream. ``password`` goes into the URL. SQLite files are opened read-only.

    ``queries`` maps keys to queries: a str, a ``text()``, a ``Select``, a ``Query`` or a table with its fields. Or it
    is the path of a TOML or YAML file, or of a folder of ``.sql`` files with ``-- name: KEY`` lines. A parameter of the
    key (see ``computed.key_patterns`` for the patterns) is a bind parameter of the query and nothing else: a key never
    becomes SQL. One that only either of them has is a ``ConfigError`` when the backend is made.

    The suffix of the key is the format: parquet, csv, arrow (an IPC file) or ndjson. Results stream: rows become Arrow
    batches of ``batch_rows`` in bounded memory, with one connection for each open reader. The schema does not depend on
    the rows (see ``arrow_types``, also for what is refused); ``type_map={sql_type: arrow_type}`` is the way out:
    the type is the database's name in lower case, the Arrow type one of pyarrow or its name, a pair of that and a
    function for each value, or a function of the ``Column`` that returns either. Two columns of one name are refused.

    A listing shows the keys without parameters, and those of a pattern whose ``Query(sql, values=...)`` says what there
    is. Of other patterns every key that fits exists, and none is listed.

    ``strict=False`` adds ``VIEW.EXT`` and ``SCHEMA/TABLE.EXT``: **everything the user of the database may read**, in
    all schemas but the system's own, behind any key that names it. Listings show them as ``.parquet``.

    ``serializer`` is a ``ResultSerializer``, or one of "arrow", "adbc" and "connectorx". ``modified_at`` is the time of
    all objects without their own. ``frozen=True`` says that query, parameters, format, serializer and
    ``schema_version`` determine the bytes: then the plan has a fingerprint made of these, which is the etag, and a
    size, once known, stays known. Otherwise there is neither fingerprint nor etag, so that no cache keeps anything, and
    a size only when the object has been read to its end.

    ``policy`` sends every request; ``timeout`` bounds one, in seconds, ``busy_timeout`` the wait for SQLite's lock.
    """

    name = "sql_query"

    def __init__(
        self,
        url: Any,
        queries: Mapping[str, Any] | str | PathLike[str] | None = None,
        *,
        strict: bool = True,
        type_map: Mapping[str, Any] | None = None,
        serializer: ResultSerializer | str | None = None,
        batch_rows: int | None = None,
        modified_at: datetime | str | None = None,
        schema_version: str | int | None = None,
        frozen: bool = False,
        password: str | Secret | None = None,
        policy: RequestPolicy | None = None,
        timeout: float = 60.0,
        busy_timeout: float = 10.0,
    ) -> None:
        given = load_queries({} if queries is None else queries)
        loaded = {key: replace(query, values=settled(query.values)) for key, query in given.items()}
        if strict and not loaded:
            raise ConfigError("there is no query: give queries, or strict=False to show views and tables")
        self._options = {
            "queries": loaded, "strict": strict, "type_map": type_map, "serializer": serializer,
            "batch_rows": batch_rows, "modified_at": modified_at, "schema_version": schema_version, "frozen": frozen,
            "policy": policy, "timeout": timeout, "busy_timeout": busy_timeout,
        }  # fmt: skip
        self._db = QueryDatabase(
            url, password, name=self.name, policy=policy, timeout=timeout, busy_timeout=busy_timeout
        )
        self.strict, self._schema_version = strict, schema_version
        self._type_map = {str(name).lower(): kind for name, kind in (type_map or {}).items()}
        self._serializer = _serializer(serializer, batch_rows)
        self._catalog = None if strict else Catalog(self._db)
        place = self._place = self._db.place
        self._statements: dict[str, dict[str, Statement]] = {}
        entries = [self._entry(key, query) for key, query in loaded.items()]
        self._set_entries(entries, modified_at, frozen)
        self.url = None if place is None else f"{place}#queries/{self._digest(entries)}/"

    @classmethod
    def from_folder(cls, url: Any, folder: str | PathLike[str], **options: Any) -> SQLQueryBackend:
        """The queries of a folder of ``.sql`` files, subfolders included, each below a line ``-- name: KEY``."""
        return cls(url, folder, **options)

    def __repr__(self) -> str:
        return f"SQLQueryBackend({self.url or self._db.source!r}, {len(self._statements)} queries)"

    def __reduce__(self) -> Any:
        self._db.refuse_to_pickle()
        return _restore, (self._db.source, self._db.password, self._options)

    def with_options(self, **options: Any) -> SQLQueryBackend:
        """The same database, configured otherwise."""
        given = {"url": self._db.source, "password": self._db.password, **self._options, **options}
        return type(self)(given.pop("url"), **given)

    # -- configuration -------------------------------------------------------------------------------------------------

    def _digest(self, entries: list[Entry]) -> str:
        """What tells this backend from others of the same database: who asks, and what. Two users may see different
        rows of one table, and so may two values of an option such as ``options=-csearch_path=...``. No secret."""
        url = self._db.url
        return fingerprint_of(
            user=url.username, options=mask(dict(url.query)), strict=self.strict,
            queries={entry.pattern.text: self._text(entry) for entry in entries},
        )[:32]  # fmt: skip

    def _entry(self, key: str, query: Query) -> Entry:
        pattern = Pattern(key)
        formats = self._serializer.formats
        if formats is not None and pattern.format not in formats:
            raise ConfigError(f"the key {key!r} ends with one of .{', .'.join(formats)}, which tells the format")
        if pattern.is_static and query.values is not None:
            raise ConfigError(f"the key {key!r} has no parameters that values could enumerate")
        self._statements[key] = self._checked(pattern, query)
        return Entry(pattern, query, query.values, as_time(query.modified_at))

    def _checked(self, pattern: Pattern, query: Query) -> dict[str, Statement]:
        """The statement by the database it may be for: while only a Secret knows, any that the query would suit."""
        families = FAMILIES if self._db.place is None else (self._db.dialect.family,)
        found: dict[str, Statement] = {}
        for family in families:
            try:
                found[family] = _checked_statement(pattern, query, family)
            except ConfigError:
                if family == families[-1] and not found:
                    raise
        return found

    def _statement(self, entry: Entry) -> Statement:
        family = self._db.dialect.family
        made = self._statements[entry.pattern.text].get(family)
        return made or _checked_statement(entry.pattern, entry.what, family)

    def _fallback(self, path: str) -> Entry | None:
        relation = None if self.strict else relation_of(path)
        known = self._serializer.formats or CONTENT_TYPES
        return None if relation is None or format_of(path) not in known else Entry(_EXACT, relation)

    def _fallback_entries(self) -> Iterable[tuple[str, Entry]]:
        if self._catalog is None:
            return
        for relation in self._catalog.relations():
            path = key_of(relation, _CATALOG_SUFFIX)
            if path is not None:
                yield path, Entry(_EXACT, relation)

    # -- what a key stands for -----------------------------------------------------------------------------------------

    def resolve(self, key: str) -> ResolutionPlan:
        """The query of ``key``, its parameters and its format; no I/O, so a table that it names may be missing."""
        return super().resolve(key)

    def _text(self, entry: Entry) -> str:
        if isinstance(entry.what, Relation):
            return statement_of(entry.what, sqlalchemy().engine.default.DefaultDialect())
        return next(iter(self._statements[entry.pattern.text].values())).text

    def _plan(self, entry: Entry, key: Key) -> tuple[str, dict[str, Any], str]:
        query = self._text(entry)
        details = {"query": query, "parameters": dict(key.params), "format": key.format}
        version, types = self._schema_version, None
        if isinstance(entry.what, Query):
            version = version if entry.what.schema_version is None else entry.what.schema_version
            types = entry.what.types
        fingerprint = fingerprint_of(
            **details, schema_version=version, serializer=self._serializer.name,
            types=_shown(types), type_map=_shown(self._type_map),
        )  # fmt: skip
        return "sql_query", {"source": self._place or self._db.place, **details}, fingerprint

    def _content_type(self, entry: Entry, key: Key) -> str | None:
        return CONTENT_TYPES.get(key.format or "")

    def _find_there(self, path: str, op: str) -> tuple[Entry, Key]:
        entry, key = super()._find_there(path, op)
        if self._catalog is not None and isinstance(entry.what, Relation):
            with self._placing(op, path):
                self._catalog.check(entry.what, path)
        return entry, key

    def _rows(self, entry: Entry) -> Iterable[Any]:
        if not isinstance(entry.values, str):
            return rows_of(entry)
        names, rows = self._db.fetch("list", sqlalchemy().text(_escaped(entry.values)), {}, MAX_KEYS + 1)
        _check_values(entry.pattern, names)
        return (entry.pattern.typed(dict(zip(names, row, strict=True))) for row in rows)

    def _has(self, entry: Entry, key: Key) -> bool:
        if not isinstance(entry.values, str):
            return super()._has(entry, key)
        quote = self._db.engine().dialect.identifier_preparer.quote
        conditions = " AND ".join(f"{quote(name)} = :{name}" for name in entry.pattern.names)
        sql = f"SELECT * FROM (\n{_escaped(entry.values)}\n) AS omnistorage_values WHERE {conditions}"  # noqa: S608
        names, rows = self._db.fetch("open_reader", sqlalchemy().text(sql), key.params, MAX_KEYS)
        _check_values(entry.pattern, names)
        # The database may take for equal what is not, such as letters of another case.
        return any(_is_key(entry.pattern, dict(zip(names, row, strict=True)), key.path) for row in rows)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _produce(self, entry: Entry, key: Key) -> Source:
        if isinstance(entry.what, Relation):
            query = Query(sqlalchemy().text(statement_of(entry.what, self._db.engine().dialect).replace(":", "\\:")))
            statement = Statement(query, self._db.dialect.family, key.path)
        else:
            query, statement = entry.what, self._statement(entry)
        result = QueryResult(self._db, statement, key, query, self._type_map)
        try:
            stream: Any = _served(lambda: self._serializer.serialize(result, key.format or ""))
        except BaseException:
            result.close()
            raise
        return stream if hasattr(stream, "interrupt") else _Stream(stream, result)

    def check_health(self) -> None:
        """``SELECT 1``: that the tables of the queries are there is not asked."""
        self._enter("read", "check_health", "")
        self._db.ping()

    def native(self) -> object:
        return self._db.engine()

    def _close(self) -> None:
        self._db.close()


def _checked_statement(pattern: Pattern, query: Query, family: str) -> Statement:
    """The query made ready for one family of databases; ``ConfigError`` if it and the key do not suit each other."""
    key = pattern.text
    statement = Statement(query, family, key)
    lacking = set(statement.names) - set(pattern.names) - statement.supplied
    if lacking:
        raise ConfigError(f"the query of {key!r} binds {_names(lacking)}, which the key does not give")
    unused = set(pattern.names) - set(statement.names)
    if unused:
        raise ConfigError(f"the key {key!r} gives {_names(unused)}, which its query does not bind")
    return statement


def _served(call: Callable[[], Any]) -> Any:
    """What ``call`` returns; the errors of somebody's serializer become ours."""
    try:
        return call()
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(f"the serializer failed: {type(error).__name__}: {str(error)[:300]}") from error


class _Stream:
    """A plain binary stream of somebody's serializer, with the result behind it."""

    def __init__(self, stream: Any, result: QueryResult) -> None:
        self._stream, self._result = stream, result

    def read(self, size: int, /) -> bytes:
        data: bytes = _served(lambda: self._stream.read(size))
        return data

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._result.close()

    def interrupt(self) -> None:
        self._result.interrupt()


_EXACT = Pattern("catalog")


def _escaped(sql: str) -> str:
    """A query that binds nothing, as ``text`` takes it."""
    return sql.strip().removesuffix(";").replace(":", "\\:")


def _check_values(pattern: Pattern, names: list[str]) -> None:
    if set(names) != set(pattern.names) or len(names) != len(pattern.names):
        raise ConfigError(f"the values of {pattern.text!r} return {_names(names)}, not {_names(pattern.names)}")


def _is_key(pattern: Pattern, row: Mapping[str, Any], path: str) -> bool:
    try:
        return pattern.path_of(pattern.typed(row)) == path
    except StorageError:
        return False


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _serializer(given: Any, batch_rows: int | None) -> ResultSerializer:
    if given is None or given == "arrow":
        return ArrowSerializer() if batch_rows is None else ArrowSerializer(batch_rows=batch_rows)
    if isinstance(given, str):
        if given not in NATIVE:
            raise ConfigError(f"a serializer is called arrow, {' or '.join(NATIVE)}, not {given!r}")
        made: ResultSerializer = NATIVE[given]() if batch_rows is None else NATIVE[given](batch_rows=batch_rows)
        return made
    if batch_rows is not None:
        raise ConfigError("batch_rows is for the serializers that are called by name: give it to your own")
    for name in ("name", "formats", "serialize"):
        if not hasattr(given, name):
            raise ConfigError(f"a serializer has name, formats and serialize(result, format), and this has no {name}")
    found: ResultSerializer = given
    return found


def _shown(types: Mapping[str, Any] | None) -> dict[str, str]:
    """Types as text for the fingerprint; a function stands there by its name."""

    def text(kind: Any) -> str:
        if isinstance(kind, tuple | list):
            return ", ".join(map(text, kind))
        return getattr(kind, "__qualname__", None) or str(kind)

    return {name: text(kind) for name, kind in (types or {}).items()}


def _restore(source: Any, password: Any, options: dict[str, Any]) -> SQLQueryBackend:
    return SQLQueryBackend(source, password=password, **options)


__all__ = ["NotFound", "Query", "QueryResult", "SQLQueryBackend"]
