"""How a query runs: its connection, its transaction, its rows as Arrow batches.

A statement reaches the database as it was configured; what a key gives travels as bind parameters. A result holds one
connection until it is read to its end or closed: on PostgreSQL a server-side cursor in a read-only transaction, on
MariaDB an unbuffered cursor in one, on SQLite a cursor on a connection that can only read. Results that a broken or
abandoned connection would have to drain are thrown away with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import date
from functools import cached_property, partial
from os import getpid
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary, ref

from omnistorage.backends.computed.key_patterns import Key
from omnistorage.backends.computed.serializers import check_distinct
from omnistorage.backends.sql.connection import Link
from omnistorage.backends.sql.database import _FORSAKEN, Database, is_memory, sqlalchemy
from omnistorage.concurrency.cancellation import check
from omnistorage.concurrency.in_flight import abandonable
from omnistorage.core.secret import reveal
from omnistorage.errors import ConfigError, NotFound, ReaderClosed, StorageError

from .arrow_types import (
    AS_TEXT,
    Column,
    Field,
    batch_of,
    described,
    fields_of,
    schema_of,
    sqlalchemy_column,
    sqlite_column,
)
from .query_source import Query, scanned, with_nulls

FETCH = 8192
"""The most rows held as Python objects at once."""
_FETCH_BYTES = 16 << 20
"""What those rows may weigh, as far as the rows before them tell."""
_VIEW = "omnistorage_columns"


class QueryLink(Link):
    """A link with the sqlalchemy connection that statements go through."""

    __slots__ = ("sql",)

    def __init__(self, sql: Any, dialect: Any) -> None:
        super().__init__(sql, sql.connection.dbapi_connection, dialect, sql.engine.raw_connection)
        self.sql = sql


class QueryDatabase(Database):
    """A database that is only read. SQLite files of our own are opened read-only, and as they are: a missing one stays
    missing, and its journal mode is its owner's."""

    def _make_engine(self) -> Any:
        found = self.url
        try:
            if found.drivername.startswith("sqlite") and not is_memory(found):
                name = found.database
                if not name.startswith("file:"):
                    self._url = found.set(database=f"file:{quote(name)}").update_query_dict({"uri": "true"})
                if "mode" not in dict(found.query):
                    self._url = self._url.update_query_dict({"mode": "ro"})
            return super()._make_engine()
        finally:
            self._url = found

    def _open(self) -> QueryLink:
        sql = abandonable(self.engine().connect, lambda late: late.invalidate())
        try:
            if self.dialect.family == "postgresql":
                sql.execution_options(isolation_level="READ COMMITTED", postgresql_readonly=True)
                sqlalchemy().event.listen(sql, "before_cursor_execute", _ask_for_text)
            return QueryLink(sql, self.dialect)
        except BaseException:
            sql.invalidate()
            raise

    def lend(self) -> QueryLink:
        """A connection for as long as a result needs it, to be given back with ``restore``. Where all threads share
        one, this is another handle on it, and each step takes ``guard``."""
        if not self.shared:
            self.engine()  # which tells whether it is shared
        if not self.shared:
            link: QueryLink = self.take()  # type: ignore[assignment]
            return link
        with self._opening:
            link = self.take()  # type: ignore[assignment]
            try:
                return self._open()
            finally:
                self.give(link)

    @property
    def guard(self) -> Any:
        return self._opening if self.shared else nullcontext()

    def restore(self, link: QueryLink, *, broken: bool = False) -> None:
        """Back from ``lend``, with no transaction left."""
        if self.shared:
            with self._opening:
                link.sql.close()
            return
        if not broken:
            try:
                link.sql.rollback()
            except Exception:
                broken = True
        if broken:
            self.throw_away(link)
        else:
            self.give(link)

    def fetch(self, op: str, statement: Any, params: Mapping[str, Any], limit: int) -> tuple[list[str], list[Any]]:
        """The names of the columns and the first ``limit`` rows of a statement."""

        bound = _dates_as_text(params) if self.dialect.family == "sqlite" else dict(params)

        def work(link: Link) -> tuple[list[str], list[Any]]:
            sql = link.sql  # type: ignore[attr-defined]
            try:
                options = {} if op == "check_health" else _STREAM
                with sql.execute(statement, bound, execution_options=options) as result:
                    return list(result.keys()), [tuple(row) for row in result.fetchmany(limit)]
            finally:
                if not self.shared:
                    sql.rollback()

        if op == "check_health":
            return self.run(op, None, work)
        try:
            return self.run(op, None, work)
        except NotFound as error:
            raise _not_missing(error) from error

    def url_with_password(self, family: str) -> str:
        """The URL for a native client, as its family is called everywhere."""
        password = reveal(self.password)
        found = self.url.set(drivername=family).difference_update_query(["ssl_disabled"])  # which is pymysql's own
        text: str = (found if password is None else found.set(password=password)).render_as_string(hide_password=False)
        return text

    def ping(self) -> None:
        """``SELECT 1``; ``NotFound`` if there is no such database."""
        self.fetch("check_health", sqlalchemy().text("SELECT 1"), {}, 1)


_LATEST: WeakKeyDictionary[Any, ref[Any]] = WeakKeyDictionary()
"""The cursor of each connection to PostgreSQL that ran last: nobody else closes one whose connection broke under it."""
_STREAM = {"stream_results": True, "yield_per": FETCH}


def _ask_for_text(conn: Any, cursor: Any, *_: Any) -> None:
    """psycopg parses JSON, intervals and addresses, and loses something of each: have them as they are written."""
    if type(cursor).__module__.partition(".")[0] != "psycopg":
        return
    from psycopg.types.string import TextLoader

    _LATEST[conn] = ref(cursor)
    for name in AS_TEXT:
        cursor.adapters.register_loader(name, TextLoader)


def _not_missing(error: StorageError) -> StorageError:
    """A table that is gone is a fault of the configuration, not a key that is not there."""
    return StorageError(error.args[0], op=error.op, backend=error.backend)


class Statement:
    """A query as it was configured, made ready once: the statement for sqlalchemy, its text, the names it binds."""

    def __init__(self, query: Query, family: str, where: str) -> None:
        sa = sqlalchemy()
        self.family = family
        given = query.sql
        if isinstance(given, str):
            self.text = given.strip().removesuffix(";").rstrip()  # which could stand in no view
            escaped, self.names = scanned(self.text, family)
            self.clause = sa.text(escaped)
            return
        if not isinstance(given, sa.sql.ClauseElement) or not hasattr(given, "compile"):
            raise ConfigError(f"the query of {where!r} is a str, a text() or a Select, not {type(given).__name__}")
        self.clause = given
        binds = [part for part in sa.sql.visitors.iterate(given) if isinstance(part, sa.BindParameter)]
        self.names = tuple(dict.fromkeys(bind.key for bind in binds if bind.required or not bind.unique))
        self.supplied = {bind.key for bind in binds if not bind.required}
        self.text = _text_of(given, family, where, sa)

    supplied: set[str] = set()  # noqa: RUF012  (binds that bring a value of their own, replaced where there are any)

    def compiled(self, family: str, style: str) -> Any:
        """The statement for a database and a style of parameters."""
        return self.clause.compile(dialect=sqlalchemy().make_url(f"{family}://").get_dialect()(paramstyle=style))

    def columns(self) -> list[tuple[str, Any]] | None:
        """The names and types of a Select's columns, None of other queries."""
        found = getattr(self.clause, "selected_columns", None)
        return None if found is None else [(name, column.type) for name, column in found.items()]


def _text_of(clause: Any, family: str, where: str, sa: Any) -> str:
    """What stands for a query in plans: its text with the names of parameters, then their own values. In the words of
    its database: those of another would leave out what only this one has."""
    dialect = sa.make_url(f"{family}://").get_dialect()(paramstyle="named")
    try:
        compiled = clause.compile(dialect=dialect)
    except sa.exc.SQLAlchemyError as error:
        raise ConfigError(f"the query of {where!r} is none of {family}: {str(error)[:300]}") from error
    values = {name: value for name, value in sorted(compiled.params.items()) if value is not None}
    return f"{str(compiled).strip()}{f' -- {values!r}' if values else ''}"


def _dates_as_text(params: Mapping[str, Any], typed: Collection[str] = ()) -> dict[str, Any]:
    """What SQLite's driver would make of dates itself, with a warning from Python 3.12 on; not of ``typed`` ones, whose
    type does it."""
    return {
        name: value.isoformat() if isinstance(value, date) and name not in typed else value
        for name, value in params.items()
    }


class QueryResult:
    """The result of one query, not yet read. ``schema`` is known before any row; ``batches`` can be read once."""

    def __init__(
        self, database: QueryDatabase, statement: Statement, key: Key, query: Query, type_map: Mapping[str, Any]
    ) -> None:
        self.key, self.statement, self.database = key, statement, database
        self.parameters = {name: key.params[name] for name in statement.names if name in key.params}
        self._query, self._type_map = query, type_map
        self._link: QueryLink | None = None
        self._rows: Any = None
        self._fields: list[Field] = []
        self._pid = getpid()
        self._ended = self._interrupted = self._typed = False

    def __repr__(self) -> str:
        return f"QueryResult({self.key.path!r})"

    @cached_property
    def schema(self) -> Any:
        """The Arrow schema; runs the query unless that is done."""
        self.open()
        return schema_of(self._fields)

    @property
    def fields(self) -> list[Field]:
        """How each column is converted; known with the schema."""
        return self._fields

    def describe(self) -> None:
        """Find the schema for somebody who runs the query himself: SQLite need not run it, the others begin to."""
        if self.database.dialect.family == "sqlite" and self.statement.columns() is None:
            self.database.policy.run("open_reader", self._describe, path=self.key.path)
        else:
            self.open()
        _ = self.schema
        self.close()

    def _describe(self) -> None:
        def work(link: Link) -> list[Column]:
            return _declared(link.sql, self.statement)  # type: ignore[attr-defined]

        try:
            columns = self.database.run("open_reader", self.key.path, work)
        except NotFound as error:
            raise _not_missing(error) from error
        self._fields = fields_of(columns, self._query.types, self._type_map)
        self._ended = True

    def positional(self, style: str) -> tuple[str, list[Any]]:
        """The text with ``?`` or ``$1``, and the values in that order, for SQLite with dates as text."""
        compiled = self.statement.compiled(self.database.dialect.family, style)
        values = compiled.construct_params(self.parameters)
        found = [values[name] for name in compiled.positiontup or ()]
        as_text = self.database.dialect.family == "sqlite"
        return str(compiled), [value.isoformat() if as_text and isinstance(value, date) else value for value in found]

    def open(self) -> None:
        """Run the query. Errors are ours; what may pass is tried again."""
        if self._link is None and not self._ended:
            self.database.policy.run("open_reader", self._start, path=self.key.path)

    def _start(self) -> None:
        self._ended = False  # an attempt before this one may have ended it
        link = None
        try:
            link = self.database.lend()
            with self.database.guard:
                self.database.limited(link, partial(self._execute, link))
        except BaseException as error:
            ours = self._ours(error, link, "open_reader") if isinstance(error, Exception) else None
            if link is not None:
                self._abandon(link)
            if ours is None:
                raise
            raise ours from error
        self._link = link

    def _bound(self, family: str) -> dict[str, Any]:
        """The parameters as they are bound."""
        if family != "sqlite" or not any(isinstance(value, date) for value in self.parameters.values()):
            return self.parameters
        binds = self.statement.compiled(family, "qmark").binds
        return _dates_as_text(self.parameters, {name for name in self.parameters if not binds[name].type._isnull})

    def _execute(self, link: QueryLink) -> None:
        family, sql = self.database.dialect.family, link.sql
        columns: list[Column] | None = None
        typed = self.statement.columns()
        self._typed = typed is not None
        if family == "mysql":
            sql.exec_driver_sql("START TRANSACTION READ ONLY")
        elif family == "sqlite" and typed is None:
            columns = _declared(sql, self.statement)
        rows = sql.execute(self.statement.clause, self._bound(family), execution_options=_STREAM)
        self._rows = rows
        if not rows.returns_rows:
            raise ConfigError("the query returns no rows at all")
        names = [column[0] for column in rows.cursor.description]
        check_distinct(names)
        if columns is None and family != "sqlite":
            columns = list(described(rows.cursor, family, lambda codes: _names_of(sql, codes)))
        columns = columns or [Column(name, "", loose=True) for name in names]
        columns = [column._replace(name=name) for column, name in zip(columns, names, strict=True)]
        if typed is not None:
            columns = [_cooked(kind, column, family) for (_, kind), column in zip(typed, columns, strict=True)]
        self._fields = fields_of(columns, self._query.types, self._type_map)

    def batches(self) -> Iterator[Any]:
        """The rows as Arrow batches of at most ``FETCH`` rows, and of some 16 MiB: each is as long as the width of the
        rows before it allows. The connection goes back with the last one."""
        schema, number, count = self.schema, 1, 1
        while rows := self._fetch(count):
            batch = batch_of(self._fields, rows, schema, number)
            number += len(rows)
            fitting = _FETCH_BYTES * len(rows) // max(1, batch.nbytes)
            count = max(1, min(8 * count, fitting, FETCH))
            del rows
            yield batch
        self.close()

    def _fetch(self, count: int) -> Sequence[Any]:
        check("read", self.key.path)
        if self._pid != getpid():
            raise ReaderClosed("this reader belongs to the process that opened it", path=self.key.path, op="read")
        if self._ended:
            return ()
        try:
            assert self._link is not None
            with self.database.guard:
                found = self.database.limited(self._link, lambda: self._next(self._rows, count))
        except BaseException as error:
            ours = self._ours(error, self._link, "read") if isinstance(error, Exception) else None
            if ours is not None and self._interrupted:
                ours = ReaderClosed("the reader was closed while it was read", path=self.key.path, op="read")
            self._interrupted = True
            self.close()
            if ours is None:
                raise
            raise ours from error
        if not found:
            self._ended = True
        return found

    def _next(self, rows: Any, count: int) -> Sequence[Any]:
        """The next rows: of a text as the driver gives them, which spares sqlalchemy's rows around them."""
        strategy = None if self._typed else getattr(rows, "cursor_strategy", None)
        found: Sequence[Any]
        found = rows.fetchmany(count) if strategy is None else strategy.fetchmany(rows, rows.cursor, count)
        return found

    def _ours(self, error: Exception, link: QueryLink | None, op: str) -> StorageError:
        if isinstance(error, StorageError):
            ours: StorageError = error
        else:
            connection = None if link is None else link.connection
            ours = self.database.translated(error, op, self.key.path, connecting=link is None, connection=connection)
        if isinstance(ours, NotFound):
            ours = _not_missing(ours)
        elif isinstance(ours, ConfigError):
            ours.path = ours.path or self.key.path
        return ours

    def interrupt(self) -> None:
        """From another thread: make a blocked read fail soon."""
        link, self._interrupted = self._link, True
        if link is not None and not self.database.shared:
            link.cancel()

    def close(self) -> None:
        """Give the connection back; again, nothing happens."""
        link, rows, self._link, self._rows = self._link, self._rows, None, None
        if link is None:
            self._ended = True
            return
        if self._pid != getpid():
            _FORSAKEN.append((link, rows))
            return
        self._rows = rows
        if self._interrupted or (self.database.dialect.family == "mysql" and not self._ended):
            self._abandon(link)  # rather than read what is left of it
            return
        self._ended = True
        try:
            with self.database.guard:
                rows.close()
        except Exception:
            self._abandon(link)
        else:
            self.database.restore(link)

    def _abandon(self, link: QueryLink) -> None:
        """Throw the connection away, with what it has not delivered yet."""
        self._ended = True
        rows, self._rows = self._rows, None
        result: Any = getattr(getattr(rows, "cursor", None), "_result", None)
        if hasattr(result, "unbuffered_active"):
            result.unbuffered_active = False  # else pymysql goes on reading, and from a closed connection
        if self.database.dialect.family == "sqlite":
            self._let_go(rows)  # or its lock stays as long as the statement is unfinished
        latest = _LATEST.pop(link.sql, None)
        self.database.restore(link, broken=True)
        self._let_go(rows)  # afterwards it costs no answer of the server
        self._let_go(None if latest is None else latest())

    def _let_go(self, rows: Any) -> None:
        """Close a result or a cursor."""
        try:
            if rows is not None:
                with self.database.guard:
                    rows.close()
        except Exception:  # noqa: S110  (its connection is gone)
            pass


def _cooked(kind: Any, column: Column, family: str) -> Column:
    """A typed column of a Select, whose values sqlalchemy makes; what has no type stays what the database calls it."""
    found = sqlalchemy_column(column.name, kind, sqlalchemy(), json_is_text=family == "postgresql")
    return column if found is None else found


def _names_of(sql: Any, codes: list[int]) -> dict[int, str]:
    """PostgreSQL's names of types that are not its own: of extensions, and enumerations."""
    if not codes:
        return {}
    sa = sqlalchemy()
    asked = sa.text("SELECT oid, typname FROM pg_type WHERE oid IN :codes").bindparams(
        sa.bindparam("codes", expanding=True)
    )
    return {int(oid): str(name) for oid, name in sql.execute(asked, {"codes": codes})}


def _declared(sql: Any, statement: Statement) -> list[Column]:
    """What SQLite declares of the columns of a query: asked of a temporary view, which is dropped at once, and for
    those it says nothing of, of a temporary table without rows, to which CAST tells a type."""
    text = with_nulls(str(statement.compiled("sqlite", "named")))
    sql.exec_driver_sql(f"CREATE TEMP VIEW {_VIEW} AS {text}")
    try:
        found = _table_info(sql)
    finally:
        sql.exec_driver_sql(f"DROP VIEW temp.{_VIEW}")
    if any(not column[1] for column in found):
        sql.exec_driver_sql(f"CREATE TEMP TABLE {_VIEW} AS SELECT * FROM (\n{text}\n) LIMIT 0")  # noqa: S608
        try:
            made = _table_info(sql)
        finally:
            sql.exec_driver_sql(f"DROP TABLE temp.{_VIEW}")
        found = [(name, declared or made[at][1]) for at, (name, declared) in enumerate(found)]
    return [sqlite_column(name, declared) for name, declared in found]


def _table_info(sql: Any) -> list[tuple[str, str]]:
    return [(str(row[1]), str(row[2])) for row in sql.exec_driver_sql(f"PRAGMA temp.table_info({_VIEW})")]
