"""Serializers that read results by a native client instead of through the rows of the driver.

How much faster they are is measured by the benchmark ``sql_query``. What a client returns is cast to the schema that
the default finds, so that schema and values are the same whichever is taken; a value that would change on the way is
refused by the name of its column. Each result has a connection of the client's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, BinaryIO
from urllib.parse import quote

from omnistorage.concurrency.in_flight import abandonable, run_aside
from omnistorage.concurrency.pools import IO, Ahead
from omnistorage.core.secret import mask_url
from omnistorage.errors import Cancelled, CapabilityNotSupported, ConfigError, MissingExtra, StorageError

from .serializers import BATCH_ROWS, ArrowSerializer, TableStream, arrow, check_distinct

_FIRST_ROWS = 8192
_AHEAD = 8  # batches of so many rows


class ADBCSerializer(ArrowSerializer):
    """By ADBC (https://arrow.apache.org/adbc/), for SQLite files and PostgreSQL: columns come as Arrow arrays and never
    as Python objects. Needs ``omnistorage[adbc]``, and ``adbc-driver-postgresql`` for PostgreSQL.

    SQLite's driver takes the type of a column from its first 8,192 rows: where they are all NULL and text or floats
    follow, the result is refused with an error.
    """

    def __init__(self, *, batch_rows: int = BATCH_ROWS, compression: str = "zstd") -> None:
        super().__init__(batch_rows=batch_rows, compression=compression)
        _client("adbc_driver_manager", "adbc")

    def serialize(self, result: Any, format: str) -> BinaryIO:
        family = result.database.dialect.family
        if family == "mysql":
            raise CapabilityNotSupported("there is no ADBC driver for this database", capability="adbc")
        result.describe()
        driver = _client({"sqlite": "adbc_driver_sqlite", "postgresql": "adbc_driver_postgresql"}[family], "adbc")
        sqlite = family == "sqlite"
        place = f"file:{_file_of(result)}?mode=ro" if sqlite else result.database.url_with_password("postgresql")
        text, values = result.positional("qmark" if sqlite else "numeric_dollar")
        table = _opened(result, lambda: _ADBCTable(result, driver, place, text, values))
        return _stream(table, format, self)


class ConnectorXSerializer(ArrowSerializer):
    """By ConnectorX (https://sfu-db.github.io/connector-x/). It binds no parameters, so queries with any are refused,
    as are databases in memory and, on SQLite, booleans, as it takes every number but 0 for true. Needs ``connectorx``,
    which belongs to no extra: ``pip install connectorx``."""

    def __init__(self, *, batch_rows: int = BATCH_ROWS, compression: str = "zstd") -> None:
        super().__init__(batch_rows=batch_rows, compression=compression)
        self._client = _client("connectorx", "")

    def serialize(self, result: Any, format: str) -> BinaryIO:
        if result.parameters:
            raise CapabilityNotSupported("connectorx binds no parameters: take another serializer", capability="bind")
        result.describe()
        family = result.database.dialect.family
        for field in result.fields:
            if family == "sqlite" and not field.own and arrow().types.is_boolean(field.type):
                raise CapabilityNotSupported(
                    f"column {field.name!r}: connectorx takes any number but 0 for true: take another serializer",
                    capability="boolean",
                )
        place = f"sqlite://{_file_of(result)}" if family == "sqlite" else result.database.url_with_password(family)
        text, _ = result.positional("qmark")

        def read() -> Any:
            return self._client.read_sql(place, text, return_type="arrow_stream", batch_size=_FIRST_ROWS)

        table = _opened(result, lambda: NativeTable(result, read()))
        return _stream(table, format, self)


NATIVE: dict[str, Callable[..., ArrowSerializer]] = {"adbc": ADBCSerializer, "connectorx": ConnectorXSerializer}


class NativeTable:
    """A reader of Arrow batches under the schema of a result. The client reads ahead while a batch is written."""

    def __init__(self, result: Any, reader: Any) -> None:
        self._result, self._reader = result, reader
        self._step = threading.Lock()
        self._is_left = False
        self._ahead = Ahead(IO, self._next, _AHEAD)
        self.schema = result.schema
        names = list(reader.schema.names)
        check_distinct(names)
        if names != list(self.schema.names):
            raise StorageError(f"the client returns the columns {', '.join(names)}")

    def batches(self) -> Iterator[Any]:
        while (batch := self._pulled()) is not None:
            arrays = [cast(field, column) for field, column in zip(self._result.fields, batch.columns, strict=True)]
            yield arrow().RecordBatch.from_arrays(arrays, schema=self.schema)

    def _pulled(self) -> Any:
        try:
            return abandonable(self._ahead.next)
        except Cancelled:  # the client may be at work as long as it likes
            self._is_left = True
            run_aside(self.interrupt)
            run_aside(self._end_at_last)
            raise
        except BaseException:
            self.close()  # now: who closes the client's objects in another order hears of it
            raise

    def _next(self) -> Any:
        with self._step:
            return None if self._reader is None else _native(self._result, self._read)

    def _read(self) -> Any:
        try:
            return self._reader.read_next_batch()
        except StopIteration:
            return None

    def close(self) -> None:
        """The reader goes with the last reference to it, once a batch under way is there."""
        if not self._is_left:
            self._end_at_last()

    def _end_at_last(self) -> None:
        self._ahead.cancel()
        with self._step:
            self._reader = None
            self._end()
        self._result.close()

    def _end(self) -> None:
        """Close what stands behind the reader."""

    def interrupt(self) -> None:
        """The client cannot be interrupted: the read ends with its batch."""


class _ADBCTable(NativeTable):
    def __init__(self, result: Any, driver: Any, place: str, text: str, values: list[Any]) -> None:
        dbapi = import_module(f"{driver.__name__}.dbapi")
        self._connection = dbapi.connect(place)
        self._cursor: Any = None
        try:
            options = {"adbc.sqlite.query.batch_rows": _FIRST_ROWS} if driver.__name__.endswith("sqlite") else None
            self._cursor = self._connection.cursor(adbc_stmt_kwargs=options)
            self._cursor.execute(text, values or None)
            super().__init__(result, self._cursor.fetch_record_batch())
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        for one in (self._cursor, self._connection):
            try:
                if one is not None:
                    one.close()
            except Exception:  # noqa: S110  (nothing is lost with a connection that only read)
                pass

    def interrupt(self) -> None:
        if self._cursor is not None:
            self._cursor.adbc_cancel()


def cast(field: Any, column: Any) -> Any:
    """A client's column as the field of the schema; ``StorageError`` names the column if a value would change."""
    pa = arrow()
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if column.type == field.type:
        return column
    try:
        if field.own:
            return field.convert(column.to_pylist())
        made = _checked(column, field.type).cast(field.type)
        if pa.types.is_floating(column.type) and pa.types.is_decimal(field.type):
            import pyarrow.compute as compute

            if not compute.all(compute.equal(made.cast(column.type), column), skip_nulls=True, min_count=0).as_py():
                raise ValueError("a number would be rounded")
    except (pa.ArrowException, TypeError, ValueError, ArithmeticError) as error:
        raise StorageError(
            f"column {field.name!r} comes as {column.type} and cannot be {field.type}: {str(error)[:200]}"
        ) from error
    return made


def _checked(column: Any, kind: Any) -> Any:
    """The column, once its cast to ``kind`` is known to mean what the default means; ``ValueError`` if it does not."""
    pa = arrow()
    t, given = pa.types, column.type
    if t.is_integer(given) and t.is_temporal(kind):
        raise ValueError("a number is no time")
    if t.is_integer(given) and t.is_boolean(kind):
        import pyarrow.compute as compute

        truths = compute.is_in(column.drop_null(), pa.array([0, 1], given))
        if not compute.all(truths, min_count=0).as_py():
            raise ValueError("a number is neither 0 nor 1")
    if t.is_integer(given) and t.is_decimal(kind):
        return column.cast(pa.decimal256(76, kind.scale))  # wide enough for the type: now its values are looked at
    return column


def _stream(table: NativeTable, format: str, serializer: ArrowSerializer) -> BinaryIO:
    try:
        return TableStream(table, table.schema, table.batches(), format, serializer.batch_rows, serializer.compression)
    except BaseException:
        table.close()
        raise


def _opened(result: Any, make: Callable[[], NativeTable]) -> NativeTable:
    """The table that ``make`` gives, once the client has an answer."""
    table: NativeTable = abandonable(lambda: _native(result, make), NativeTable.close)
    return table


def _file_of(result: Any) -> str:
    """The path of a SQLite database, as part of a URL."""
    name: str | None = result.database.url.database
    if result.database.shared or not name or name.startswith("file:") or name == ":memory:":
        raise ConfigError("a database that is no plain file is out of a native client's reach: leave out serializer")
    return quote(name)


def _client(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        if extra:
            raise MissingExtra(f'{module} is not installed: pip install "omnistorage[{extra}]"', extra=extra) from error
        raise MissingExtra(f"{module} is not installed: pip install {module}", extra="sql-query") from error


def _native(result: Any, call: Callable[[], Any]) -> Any:
    """What ``call`` returns; the errors of a client become ours."""
    try:
        return call()
    except StorageError:
        raise
    except BaseException as error:
        # The panics of a client in Rust are no Exceptions, and no class that can be imported.
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        what = f"{type(error).__name__}: {mask_url(str(error)).strip()[:300]}"
        raise StorageError(what, path=result.key.path, op="open_reader") from error
