"""A database behind a backend: its engine, its connections, its errors. The one module that imports sqlalchemy.

sqlalchemy finds the driver, makes the connections and knows the dialects; statements go to the driver's own cursor,
written once per backend and parametrised, because a call here costs microseconds. Connections of an engine of our own
wait in a list between calls; those of a borrowed engine go back to its pool after each. Every connection is in
autocommit mode: no transaction outlives a call. Every call goes through one ``RequestPolicy``, and native errors become
ours in ``Database._attempt``.
"""

from __future__ import annotations

import os.path
import threading
from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from os import getpid
from typing import Any, TypeVar

from omnistorage.concurrency.cancellation import SLICE, check, is_limited
from omnistorage.concurrency.in_flight import abandonable, watched
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core.secret import Secret, mask, mask_url, reveal
from omnistorage.errors import (
    BackendClosed,
    BackendUnavailable,
    Cancelled,
    ConfigError,
    CorruptData,
    InvalidPath,
    MissingExtra,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    StorageError,
)

from .connection import Link
from .dialects import CHARSET, DIALECTS, DRIVERS, EXTRAS, Dialect

T = TypeVar("T")
IDLE = 16  # connections kept open between calls

_FORSAKEN: list[Any] = []
"""Connections of the parent, kept for ever in a forked child: closing them would end the parent's sessions."""


class Lost(BackendUnavailable):
    """The connection broke while a statement was under way: it may have been done."""


def sqlalchemy() -> Any:
    """The library; ``MissingExtra`` if it is not installed."""
    try:
        import sqlalchemy
    except ImportError as error:
        raise MissingExtra('sqlalchemy is not installed: pip install "omnistorage[sql]"', extra="sql") from error
    return sqlalchemy


def parsed(url: str) -> Any:
    """sqlalchemy's URL object, with the drivers that our extras bring where none is named and files as full paths."""
    sa = sqlalchemy()
    try:
        found = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(f"not a database URL: {mask_url(url)}") from None
    family = found.drivername.partition("+")[0]
    if family not in DIALECTS:
        raise ConfigError(f"no such database is supported: {family!r}; use sqlite, postgresql, mysql or mariadb")
    found = found.set(drivername=DRIVERS.get(found.drivername, found.drivername))
    charset = found.query.get("charset", CHARSET)
    if family in ("mysql", "mariadb") and charset != CHARSET:
        raise ConfigError(f"MySQL is spoken to in {CHARSET} alone, not in {charset!r:.50}: leave out charset")
    if family == "sqlite" and not is_memory(found) and not found.database.startswith("file:"):
        found = found.set(database=os.path.abspath(found.database))
    return found


def is_memory(url: Any) -> bool:
    """Whether a SQLite URL means a database in memory."""
    name = url.database or ""
    return name in ("", ":memory:") or (name.startswith("file:") and "mode=memory" in f"{name}{dict(url.query)}")


def _invalidate(lend: Any) -> None:
    lend.invalidate()


class Database:
    """The database that ``source`` means: a URL, a ``Secret`` with one, or an engine, which is only borrowed.

    Nothing is opened before the first call. ``setup(link)`` runs once, before anything else.
    """

    def __init__(
        self,
        source: Any,
        password: str | Secret | None,
        *,
        name: str,
        policy: RequestPolicy | None,
        timeout: float,
        busy_timeout: float,
    ) -> None:
        self.name = name
        self.policy = policy or RequestPolicy()
        self.source, self.password = source, password
        self.timeout, self.busy_timeout = timeout, busy_timeout
        self.setup: Callable[[Link], None] = lambda link: None
        self.tidy: Callable[[Link, Any], None] = lambda link, left: None
        self.garbage: deque[Any] = deque()  # what dropped writers left, for the next call to see to
        self._url: Any = None
        self._engine: Any = None
        self._closed = False
        self._ready = False
        self._plain = False  # whether a connection may be taken from the list and put back without a further look
        self._idle: list[Link] = []
        self._opening = threading.RLock()
        self._pid = getpid()
        self.shared = False  # whether all threads must share one connection
        self.borrowed = not isinstance(source, str | Secret) and hasattr(source, "raw_connection")
        if self.borrowed:
            self._adopt(source)
        elif isinstance(source, str):
            self._url = parsed(source)
        elif isinstance(source, Secret):
            sqlalchemy()
        elif hasattr(source, "render_as_string"):
            self.source = source.render_as_string(hide_password=False)
            self._url = parsed(self.source)
        else:
            raise ConfigError(f"a database is a URL, a Secret with one, or an engine, not {type(source).__name__}")

    def _adopt(self, engine: Any) -> None:
        self._engine, self._url = engine, engine.url
        if engine.dialect.name not in DIALECTS:
            raise ConfigError(f"no such database is supported: {engine.dialect.name!r}")
        if engine.dialect.name == "sqlite" and is_memory(engine.url):
            if type(engine.pool).__name__ != "StaticPool":
                raise ConfigError(
                    "in this engine each thread has a :memory: database of its own: make it with "
                    "poolclass=StaticPool and connect_args={'check_same_thread': False}, or pass the URL"
                )
            self.shared = True

    # -- what is known without a connection ----------------------------------------------------------------------------

    @property
    def url(self) -> Any:
        """sqlalchemy's URL, with the password."""
        if self._url is None:
            self._url = parsed(reveal(self.source) or "")
        return self._url

    @property
    def place(self) -> str | None:
        """Where the database is, without any secret; None while only a Secret knows, and for one in memory, as two of
        them are not the same."""
        if self._url is None:
            return None
        url = self._url
        family = url.drivername.partition("+")[0]
        if family == "sqlite":
            return None if is_memory(url) else f"sqlite:///{url.database}"
        port = f":{url.port}" if url.port else ""
        return f"{family}://{url.host or ''}{port}/{url.database or ''}"

    @cached_property
    def dialect(self) -> Dialect:
        return DIALECTS[self.url.drivername.partition("+")[0]]()

    def refuse_to_pickle(self) -> None:
        """Raise ``ConfigError`` if another process could not use this database as it is configured."""
        if self.borrowed:
            raise ConfigError("a borrowed engine cannot be pickled: pass a URL instead")
        if isinstance(self.source, Secret):
            return
        if self.url.drivername.startswith("sqlite") and is_memory(self.url):
            raise ConfigError("a :memory: database cannot be pickled: it lives in this process only")
        query = dict(self.url.query)
        hidden = self.url.password is not None or mask(query) != query
        if hidden or isinstance(self.password, str):
            raise ConfigError(
                "a URL with a password does not pickle: pass Secret.env/file/command as the URL or the password"
            )

    # -- connections ---------------------------------------------------------------------------------------------------

    def engine(self) -> Any:
        """The engine, made when first needed."""
        if self._engine is None:  # looked at without the lock, too: who sets a connection up on another thread asks
            with self._opening:
                if self._engine is None:
                    self._engine = self._make_engine()
        return self._engine

    def _make_engine(self) -> Any:
        sa = sqlalchemy()
        from sqlalchemy.pool import NullPool, StaticPool

        url, secret = self.url, reveal(self.password)
        if secret is not None:
            url = url.set(password=secret)
        family, _, driver = url.drivername.partition("+")
        self.shared = family == "sqlite" and is_memory(url)
        arguments = self.dialect.connect_args(driver, self.timeout, self.busy_timeout)
        for name in url.query:
            arguments.pop(name, None)  # what the URL says, counts
        try:
            return sa.create_engine(
                url,
                poolclass=StaticPool if self.shared else NullPool,
                connect_args=arguments,
                isolation_level="AUTOCOMMIT",
                hide_parameters=True,
            )
        except ModuleNotFoundError as error:
            extra = EXTRAS[family]
            why = f'the driver {error.name!r} is not installed: pip install "omnistorage[{extra}]"'
            raise MissingExtra(why, extra=extra) from error
        except (sa.exc.SQLAlchemyError, TypeError) as error:
            raise ConfigError(f"sqlalchemy does not take this URL: {type(error).__name__}") from None

    def _after_fork(self) -> None:
        """In a child: what the parent opened stays untouched, and nothing of it is used."""
        _FORSAKEN.append((self._idle, self._engine))
        if self.shared and self._engine is not None:
            raise StorageError("a :memory: database lives in the process that made it", backend=self.name)
        self._idle, self._opening, self._pid = [], threading.RLock(), getpid()
        if self._engine is not None and self.borrowed:
            _FORSAKEN.append(self._engine.pool)
            self._engine.dispose(close=False)
        elif self._engine is not None:
            self._engine = None

    def take(self) -> Link:
        """A connection for this thread alone, until ``give`` or ``throw_away``."""
        if self._pid != getpid():
            self._after_fork()
        if self._closed:
            raise BackendClosed("the backend is closed", backend=self.name)
        if self._engine is None:
            self.engine()
        if self.shared:
            self._hold()
        try:
            try:
                link = self._idle.pop()
            except IndexError:
                link = self._open()
            if not self._ready:
                self._set_up(link)
        except BaseException:
            if self.shared:
                self._opening.release()
            raise
        return link

    def _hold(self) -> None:
        """Take ``_opening``, for which cancellation and the deadline end the waiting."""
        while not self._opening.acquire(timeout=SLICE):
            check()

    def _open(self) -> Link:
        lend = abandonable(self._engine.raw_connection, _invalidate)
        try:
            if self.borrowed:
                self._engine.dialect.set_isolation_level(lend.dbapi_connection, "AUTOCOMMIT")
            link = Link(lend, lend.dbapi_connection, self.dialect, self._engine.raw_connection)
            if self.dialect.family == "sqlite" and not self.borrowed:
                self._tune(link)
        except BaseException:
            lend.invalidate()
            raise
        return link

    def _tune(self, link: Link) -> None:
        try:
            self.limited(link, lambda: link.one("PRAGMA journal_mode=WAL"))
            link.execute("PRAGMA synchronous=NORMAL")
        except Exception as error:
            if self.dialect.verdict(error) != "denied":  # a database that can only be read stays as it is
                raise

    def _set_up(self, link: Link) -> None:
        try:
            self._hold()
            try:
                if not self._ready:
                    self.limited(link, lambda: self.dialect.check_session(link))
                    self.limited(link, lambda: self.setup(link))
                    self._ready = True
                    self._plain = not self.shared and not self.borrowed and not self._closed
            finally:
                self._opening.release()
        except BaseException:
            if self.shared:
                self._idle.append(link)
            else:
                link.close(broken=True)
            raise

    def give(self, link: Link) -> None:
        """Back from a call that left no transaction open."""
        if self.borrowed and not self.shared:
            try:
                self._engine.dialect.reset_isolation_level(link.connection)
            finally:
                link.close()
        elif (len(self._idle) < IDLE or self.shared) and not self._closed:
            self._idle.append(link)
        else:
            link.close()
        if self.shared:
            self._opening.release()

    def throw_away(self, link: Link, *, all_idle: bool = False) -> None:
        """The connection cannot be trusted any more; nor can the others if the server is gone."""
        if self.shared:  # it is the database itself
            self.give(link)
            return
        link.close(broken=True)
        if all_idle:
            while self._idle:
                self._idle.pop().close(broken=True)

    def close(self) -> None:
        self._closed, self._plain = True, False
        if self._pid != getpid():
            return
        while self._idle:
            self._idle.pop().close()
        if self._engine is not None and not self.borrowed:
            self._engine.dispose()

    # -- calls ---------------------------------------------------------------------------------------------------------

    def run(self, op: str, path: str | None, work: Callable[..., T], *given: Any) -> T:
        """What ``work(link, *given)`` returns, through the policy. It may run again after an error that may pass."""
        return self.policy.run(op, partial(self._attempt, op, path, work, *given), path=path)

    def settle(self, op: str, path: str | None, work: Callable[[Link, bool], T]) -> T:
        """The same for a change whose outcome matters: ``work(link, lost)`` is told whether an earlier answer was lost,
        and then looks whether that attempt did it. What cannot be found out ends as ``OutcomeUnknown``."""
        lost = begun = False

        def begin(link: Link) -> T:
            nonlocal begun
            begun = True
            return work(link, lost)

        def call() -> T:
            nonlocal lost, begun
            begun = False
            try:
                return self._attempt(op, path, begin)
            except (Lost, Cancelled):
                lost = lost or begun
                raise

        try:
            return self.policy.run(op, call, path=path)
        except OutcomeUnknown:
            raise
        except StorageError as error:
            if not lost:
                raise
            raise OutcomeUnknown(
                f"the answer was lost: {error.args[0]}", op=op, path=path, backend=self.name
            ) from error

    def _attempt(self, op: str, path: str | None, work: Callable[..., T], *given: Any) -> T:
        try:
            try:  # one that waits in the list, where no more needs to be looked at
                link = self._idle.pop() if self._plain and self._pid == getpid() else self.take()
            except IndexError:
                link = self.take()
        except StorageError as error:
            self._place(error, op, path)
            raise
        except Exception as error:
            raise self.translated(error, op, path, connecting=True) from error
        try:
            while self.garbage:
                self.tidy(link, self.garbage.popleft())
            result = self.limited(link, partial(work, link, *given)) if is_limited() else work(link, *given)
        except StorageError as error:
            self._place(error, op, path)
            self.throw_away(link) if link.was_cut else self.give(link)
            raise
        except Exception as error:
            ours = self.translated(error, op, path, connection=link.connection)
            if isinstance(ours, Lost):
                self.throw_away(link, all_idle=True)
            else:
                self.give(link)
            raise ours from error
        except BaseException:
            self.throw_away(link)
            raise
        if self._plain and len(self._idle) < IDLE:
            self._idle.append(link)
        else:
            self.give(link)
        return result

    def limited(self, link: Link, call: Callable[[], T]) -> T:
        """What ``call`` does with ``link``, which is cut off when its time is over. SQLite waits for the lock of
        another process without hearing of that, so it is left alone."""
        if self.dialect.family != "sqlite" or self.shared:
            with watched(link.cancel if self.shared else link.cut):  # what is shared is needed by others
                return call()
        try:
            return abandonable(partial(link.alone, call))
        except Cancelled:
            link.cut()
            raise

    def _place(self, error: StorageError, op: str, path: str | None) -> None:
        error.op = error.op or op
        error.backend = error.backend or self.name
        if error.path is None:
            error.path = path

    def translated(
        self, error: BaseException, op: str, path: str | None, *, connecting: bool = False, connection: Any = None
    ) -> StorageError:
        """Ours for a native error: the one place."""
        native = getattr(error, "orig", None) or error
        where: dict[str, Any] = {"path": path, "op": op, "backend": self.name}
        what = f"{type(native).__name__}: {mask_url(str(native)).strip()[:500]}"
        if isinstance(error, UnicodeEncodeError):
            return InvalidPath("the database holds only valid Unicode as keys", **where)
        if type(error).__module__ == "sqlalchemy.exc" and type(error).__name__ == "TimeoutError":
            return BackendUnavailable("no connection of the pool came free", **where)
        word = self.dialect.verdict(native)
        if word in ("other", "lost") and connecting and self._is_native(native):
            word = "unavailable"
        elif word == "other" and self._is_native(native) and self._is_disconnect(native, connection):
            word = "lost"
        if word == "missing":
            return NotFound(f"the database or table is not there: {what}", **where)
        if word == "denied":
            return PermissionDenied(what, **where)
        if word == "corrupt":
            return CorruptData(what, **where)
        if word == "lost":
            return Lost(f"the connection broke: {what}", **where)
        if word in ("busy", "unavailable"):
            return BackendUnavailable(what, **where)
        return StorageError(what, **where)

    def _is_native(self, error: BaseException) -> bool:
        return self._engine is not None and isinstance(error, self._engine.dialect.loaded_dbapi.Error)

    def _is_disconnect(self, error: BaseException, connection: Any) -> bool:
        return bool(self._engine.dialect.is_disconnect(error, connection, None))

    def is_duplicate(self, error: BaseException) -> bool:
        return self.dialect.verdict(error) == "duplicate"
