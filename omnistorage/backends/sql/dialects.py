"""What differs from database to database: how a statement is written, and what an error means.

``Dialect`` has a subclass for each family. ``verdict(error)`` sorts a native error into one word:

duplicate    a unique key is taken               busy         not done, may work later (lock, deadlock, timeout)
    guard        a guarded upsert met a blob         lost         the connection broke: done or not, nobody knows
    missing      no such table or database           unavailable  no connection could be made
    denied       credentials or rights               corrupt      the database file is damaged
    other        the rest
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from omnistorage.errors import ConfigError

CHARSET = "utf8mb4"
"""What MySQL and MariaDB are spoken to in: no byte of one character is a quote or backslash of another."""


class Dialect:
    """The common denominator; statements are written with ``?`` for a value and ``{name}`` for an identifier."""

    family = ""
    mark = "?"
    times = "number"  # how our own table keeps them
    page = 1000  # rows asked for at once: each page is a round trip
    begin: tuple[str, ...] = ("BEGIN",)
    for_update = ""
    # What the database's own clock says, and a time given as a value, by how a column keeps times. "number" is
    # microseconds since 1970, "iso" a text as of ISO 8601, "text" one as SQLite writes it, "zoned" and "plain" are
    # timestamps with and without a zone.
    clocks: ClassVar[Mapping[str, tuple[str, str]]] = {}
    json = "?"  # a JSON text as a value
    json_text = "{}"  # a JSON column as text
    length = "length({})"
    head = "substr({}, ?, ?)"
    returning = False  # whether a change can answer with what it made

    def key(self, path: str) -> Any:
        """``path`` as the value that a key column holds; UnicodeEncodeError if none can be made."""
        if not path.isascii():
            path.encode()
        return path

    def verdict(self, error: BaseException) -> str:
        return "other"

    def on_conflict(self, key: str, columns: list[str], guard: str | None) -> str:
        """The end of an INSERT that replaces the row of the same key, unless its column ``guard`` holds something."""
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
        held = f" WHERE o.{guard} IS NULL" if guard else ""
        return f" ON CONFLICT ({key}) DO UPDATE SET {changes}{held}"

    def cursor(self, connection: Any) -> Any:
        return connection.cursor()

    def cancel(self, connection: Any) -> None:
        """Make what ``connection`` does in another thread fail soon."""

    def stop(self, connection: Any, connect: Callable[[], Any]) -> None:
        """Ask the server to do no more of it, which may take its time. ``connect`` makes another connection."""
        self.cancel(connection)

    def hang_up(self, connection: Any) -> None:
        """Do so without the server."""
        self.cancel(connection)

    def connect_args(self, driver: str, timeout: float, busy_timeout: float) -> dict[str, Any]:
        """What the driver is told about waiting."""
        return {}

    def check_session(self, link: Any) -> None:
        """Raise ``ConfigError`` for a session in which values could be taken for statements."""


class SQLite(Dialect):
    family = "sqlite"
    times = "iso"  # which python reads faster than numbers
    page = 200  # a page costs nothing, and rows that die young cost less
    begin = ("BEGIN IMMEDIATE",)
    clocks: ClassVar = {
        "number": ("CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)", "?"),
        "iso": ("strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')", "?"),
        "text": ("strftime('%Y-%m-%d %H:%M:%f', 'now')", "?"),
    }

    _CODES: ClassVar = {
        3: "denied",
        5: "busy",
        6: "busy",
        8: "denied",
        11: "corrupt",
        14: "missing",
        23: "denied",
        26: "corrupt",
    }

    def verdict(self, error: BaseException) -> str:
        code = getattr(error, "sqlite_errorcode", None) or 0
        if code in (1555, 2067):
            return "duplicate"
        if "no such table" in str(error):
            return "missing"
        return self._CODES.get(code & 0xFF, "other")

    def cancel(self, connection: Any) -> None:
        connection.interrupt()

    def connect_args(self, driver: str, timeout: float, busy_timeout: float) -> dict[str, Any]:
        return {"timeout": busy_timeout, "check_same_thread": False, "cached_statements": 256}


class Postgres(Dialect):
    family = "postgresql"
    mark = "%s"
    begin = ("BEGIN ISOLATION LEVEL READ COMMITTED",)
    for_update = " FOR UPDATE"
    clocks: ClassVar = {
        "number": ("CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)", "CAST(? AS BIGINT)"),
        "zoned": ("clock_timestamp()", "CAST(? AS TIMESTAMPTZ)"),
        "plain": ("(clock_timestamp() AT TIME ZONE 'UTC')", "CAST(? AS TIMESTAMP)"),
    }
    json = "CAST(? AS JSON)"
    json_text = "CAST({} AS TEXT)"
    length = "octet_length({})"
    returning = True

    _STATES: ClassVar = {
        "23505": "duplicate",
        "42P01": "missing",
        "3D000": "missing",
        "3F000": "missing",
        "42501": "denied",
        "25006": "denied",
        "28000": "denied",
        "28P01": "denied",
        "40001": "busy",
        "40P01": "busy",
        "55P03": "busy",
        "57014": "busy",
        "53300": "unavailable",
        "57P03": "unavailable",
        "57P01": "lost",
        "57P02": "lost",
        "XX001": "corrupt",
    }

    def verdict(self, error: BaseException) -> str:
        state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if state:
            return self._STATES.get(state, "lost" if state.startswith("08") else "other")
        # The library behind the drivers gives no code for what happens while it connects.
        text = str(error)
        if re.search("authentication failed|no password supplied|no pg_hba.conf entry|permission denied", text):
            return "denied"
        if re.search(r'(database|role) ".*" does not exist', text):
            return "missing"
        if re.search(
            "server closed the connection|connection (is|was|has been)? ?(lost|closed)|terminating conn", text
        ):
            return "lost"
        return "other"

    def cursor(self, connection: Any) -> Any:
        if type(connection).__module__.partition(".")[0] == "psycopg":
            return connection.cursor(binary=True)  # else bytes would travel as twice as much text
        return connection.cursor()

    def cancel(self, connection: Any) -> None:
        connection.cancel()

    def hang_up(self, connection: Any) -> None:
        with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as twin:
            twin.shutdown(socket.SHUT_RDWR)

    def connect_args(self, driver: str, timeout: float, busy_timeout: float) -> dict[str, Any]:
        if driver not in ("psycopg", "psycopg2"):
            return {}
        wait = int(timeout * 1000)
        return {
            "connect_timeout": max(1, int(min(timeout, 15))),
            "options": f"-c statement_timeout={wait}",
            "tcp_user_timeout": wait,
        }


class MySQL(Dialect):
    """MariaDB and MySQL. Keys are bytes there."""

    family = "mysql"
    mark = "%s"
    # Above READ COMMITTED a look at a missing key locks the gap, and two writers of one new key would wait in a circle.
    begin = ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION")
    for_update = " FOR UPDATE"
    clocks: ClassVar = {
        "number": ("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))", "?"),
        "plain": ("UTC_TIMESTAMP(6)", "?"),
    }

    _CODES: ClassVar = {
        1062: "duplicate",
        1048: "guard",
        4025: "guard",
        3819: "guard",
        1146: "missing",
        1049: "missing",
        1044: "denied",
        1045: "denied",
        1142: "denied",
        1143: "denied",
        1227: "denied",
        1290: "denied",
        1698: "denied",
        1792: "denied",
        1205: "busy",
        1213: "busy",
        1020: "busy",
        1040: "unavailable",
        1203: "unavailable",
        2002: "unavailable",
        2003: "unavailable",
        1053: "lost",
        1317: "lost",
        1927: "lost",
        2006: "lost",
        2013: "lost",
        2014: "lost",
        2055: "lost",
        0: "lost",
    }

    def key(self, path: str) -> Any:
        return path.encode("utf-8", "surrogateescape")

    def verdict(self, error: BaseException) -> str:
        code = error.args[0] if error.args else None
        return self._CODES.get(code, "other") if isinstance(code, int) else "other"

    def on_conflict(self, key: str, columns: list[str], guard: str | None) -> str:
        changes = [f"{name} = VALUES({name})" for name in columns]
        if guard:
            # There is no WHERE here, so what must not be replaced is made an error: a key cannot be NULL.
            changes.insert(0, f"{key} = IF({guard} IS NULL, {key}, NULL)")
        return f" ON DUPLICATE KEY UPDATE {', '.join(changes)}"

    def stop(self, connection: Any, connect: Callable[[], Any]) -> None:
        other = connect()  # a server that is only hung up on would do the statement when its lock is free
        try:
            other.cursor().execute("KILL QUERY %s", (connection.thread_id(),))
        finally:
            other.close()

    def cancel(self, connection: Any) -> None:
        sock = getattr(connection, "_sock", None)
        if sock is not None:
            sock.shutdown(2)

    def connect_args(self, driver: str, timeout: float, busy_timeout: float) -> dict[str, Any]:
        if driver not in ("pymysql", "mysqldb"):
            return {}
        wait = max(1, int(timeout))
        return {"connect_timeout": min(wait, 15), "read_timeout": wait, "write_timeout": wait, "charset": CHARSET}

    def check_session(self, link: Any) -> None:
        # In gbk, big5, sjis and their like a backslash may be half of a character, so that it escapes no quote.
        (found,) = link.one("SELECT @@character_set_client")
        if found not in (CHARSET, "utf8mb3", "utf8"):
            raise ConfigError(
                f"the connection speaks {found}, in which a key could be taken for a statement: make the engine with "
                f"charset={CHARSET}, and leave out init_command and read_default_file that set another one"
            )


DIALECTS: dict[str, Callable[[], Dialect]] = {
    "sqlite": SQLite,
    "postgresql": Postgres,
    "mysql": MySQL,
    "mariadb": MySQL,
}
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
EXTRAS = {"postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql", "sqlite": "sql"}
