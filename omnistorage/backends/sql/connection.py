"""One connection to a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from omnistorage.concurrency.in_flight import run_aside
from omnistorage.errors import Cancelled

from .dialects import Dialect

T = TypeVar("T")
PATIENCE = 5
"""How often a call is asked to end before its connection is hung up."""


def _refuse(*_: Any) -> Any:
    raise Cancelled("this connection was cut off")


class Link:
    """One connection with one cursor, used by one thread at a time."""

    __slots__ = ("_busy", "_connect", "_cuts", "_dialect", "_lend", "connection", "cursor", "execute", "fetch")

    def __init__(self, lend: Any, connection: Any, dialect: Dialect, connect: Callable[[], Any]) -> None:
        self._lend = lend  # sqlalchemy's handle on the connection
        self._dialect = dialect
        self._connect = connect  # makes another connection, to say that this one is to stop
        self._busy = False
        self._cuts = 0
        self.connection = connection
        self.cursor = dialect.cursor(connection)
        self.execute: Callable[..., Any] = self.cursor.execute
        self.fetch: Callable[[], Any] = self.cursor.fetchone

    def one(self, statement: str, values: tuple[Any, ...] = ()) -> Any:
        """The first row, or None."""
        self.execute(statement, values)
        return self.fetch()

    def all(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        self.execute(statement, values)
        rows: list[Any] = self.cursor.fetchall()
        return rows

    def change(self, statement: str, values: tuple[Any, ...] = ()) -> int:
        """How many rows the statement changed."""
        self.execute(statement, values)
        count: int = self.cursor.rowcount
        return count

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is executed in the block."""
        for statement in self._dialect.begin:
            self.execute(statement)
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            try:
                self.execute("ROLLBACK")
            except Exception:  # noqa: S110  (the first error is the one to tell; a broken link is thrown away)
                pass
            raise

    @property
    def was_cut(self) -> bool:
        """Whether somebody ended what was under way, so that the connection cannot be trusted any more."""
        return self._cuts > 0

    def cut(self) -> None:
        """From another thread, without waiting, and again until it has ended: end what is under way, and take no more.
        The server is asked to at first, and hung up on where that does not help."""
        self._cuts += 1
        self.execute = _refuse
        if self._cuts == 1:
            run_aside(self._stop)
        elif self._cuts > PATIENCE:
            self._dialect.hang_up(self.connection)

    def _stop(self) -> None:
        try:
            self._dialect.stop(self.connection, self._connect)
        except Exception:  # noqa: S110  (it ended by itself, or is hung up on)
            pass

    def alone(self, call: Callable[[], T]) -> T:
        """What ``call`` returns, which may be left alone with this connection: it is closed then at the end."""
        self._busy = True
        try:
            return call()
        finally:
            self._busy = False
            if self.was_cut:
                self.close(broken=True)

    def cancel(self) -> None:
        """From another thread: end what is under way."""
        try:
            self._dialect.cancel(self.connection)
        except Exception:  # noqa: S110  (it ended by itself)
            pass

    def close(self, *, broken: bool = False) -> None:
        if self._busy:  # closing would wait for whoever is left alone with it
            return
        try:
            self._lend.invalidate() if broken else self._lend.close()
        except Exception:  # noqa: S110  (nothing is lost with a connection that cannot even be closed)
            pass
