"""Connections of urllib3 that another thread can end.

A thread that waits for an answer cannot be reached but through its socket. So the pools made here note which connection
each thread uses, and connect on a thread that can be left alone: nothing ends the search for a host name.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial
from threading import get_ident
from typing import Any

from omnistorage.concurrency.in_flight import abandonable
from omnistorage.errors import Cancelled


class Connections:
    """Which connection each thread of a client uses."""

    def __init__(self) -> None:
        self._in_use: dict[int, Any] = {}

    def cutter(self) -> Callable[[], None]:
        """What breaks off, from any thread, the request that this thread sends next."""
        thread = get_ident()
        self._in_use.pop(thread, None)
        return partial(self.cut, thread)

    def cut(self, thread: int) -> None:
        """Break off the request that ``thread`` waits for."""
        connection = self._in_use.get(thread)
        if connection is None:
            return
        # A connection that the server closes after its answer forgets its socket before the body is read.
        sock = connection.sock or connection.last_sock
        while sock is not None and not isinstance(sock, socket.socket):  # TLS inside of TLS, behind a proxy
            sock = getattr(sock, "socket", None)
        try:
            if sock is not None:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:  # it ended by itself meanwhile
            pass

    def follow(self, manager: Any, methods: Mapping[str, Any] | None = None) -> Any:
        """``manager``, of which all new pools note their connections here.

        Args:
            manager: A pool manager of urllib3.
            methods: What its connections do otherwise, by name.
        """
        manager.pool_classes_by_scheme = self.followed(manager.pool_classes_by_scheme, methods or {})
        return manager

    def followed(self, pools: Mapping[str, Any], methods: Mapping[str, Any]) -> dict[str, Any]:
        """Classes of pools like ``pools``, by scheme."""
        return {scheme: _followed(pool, self._in_use, methods) for scheme, pool in pools.items()}

    def follow_adapter(self, adapter: Any) -> Any:
        """``adapter``, of requests, whose connections are noted here."""
        plain = adapter.proxy_manager_for

        def proxy_manager_for(*args: Any, **options: Any) -> Any:
            return self.follow(plain(*args, **options))

        self.follow(adapter.poolmanager)
        adapter.proxy_manager_for = proxy_manager_for
        return adapter


def _followed(pool: Any, in_use: dict[int, Any], methods: Mapping[str, Any]) -> Any:
    plain = type("Plain", (pool.ConnectionCls,), dict(methods))

    class Connection(plain):  # type: ignore[misc, valid-type]
        last_sock: Any = None

        def connect(self) -> None:
            try:
                abandonable(super().connect, lambda _: self.close())
            except Cancelled as error:  # in the words of urllib3, by which all above know that nothing was sent
                from urllib3.exceptions import NewConnectionError

                raise NewConnectionError(self, str(error)) from error
            self.last_sock = self.sock

    class Pool(pool):  # type: ignore[misc]
        ConnectionCls = Connection

        def _get_conn(self, timeout: float | None = None) -> Any:
            connection = in_use[get_ident()] = super()._get_conn(timeout)
            return connection

        def _put_conn(self, connection: Any) -> None:
            if in_use.get(get_ident()) is connection:
                in_use.pop(get_ident(), None)
            super()._put_conn(connection)

    return Pool
