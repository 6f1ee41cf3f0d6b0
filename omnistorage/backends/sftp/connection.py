"""How the SFTP backend reaches its server: authentication, jump hosts, forks."""

from __future__ import annotations

import io
import os.path
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from os import getpid, register_at_fork
from typing import Any

from omnistorage.concurrency.cancellation import is_over
from omnistorage.errors import BackendUnavailable, ConfigError, StorageError

from .known_hosts import check_host_key, prefer_known_kinds, refusal
from .protocol import Lost, Session
from .settings import NAME, Settings, load_paramiko, with_config

DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_WINDOW = (1 << 31) - 1  # never full: what is under way is bounded by what was asked for, not by the channel


# --- who we are -------------------------------------------------------------------------------------------------------


def _load_key(settings: Settings, paramiko: Any, *, name: str = "", text: str = "") -> Any:
    passphrase = settings.passphrase.reveal() if settings.passphrase is not None else None
    what = f"the key file {name!r}" if name else "the private key"
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            if text:
                return kind.from_private_key(io.StringIO(text), passphrase)
            key = kind.from_private_key_file(name, passphrase)
        except paramiko.PasswordRequiredException:
            raise refusal(f"{what} needs the option passphrase") from None
        except OSError as error:
            raise ConfigError(f"{what} cannot be read: {error.strerror}", backend=NAME) from error
        except Exception:  # noqa: S112  (each kind has its own way to say that it is another kind, or the passphrase)
            continue
        if os.path.isfile(name + "-cert.pub"):
            key.load_certificate(name + "-cert.pub")
        return key
    raise refusal(f"{what} is not a private key that can be read, or the passphrase is wrong") from None


def _keys(settings: Settings, paramiko: Any) -> Iterator[tuple[str, Any]]:
    """The keys to offer in turn, with a word for each."""
    if settings.key is not None:
        yield "key", _load_key(settings, paramiko, text=settings.key.reveal())
    for name in settings.key_files:
        full = os.path.expanduser(name)
        yield f"key file {name!r}", _load_key(settings, paramiko, name=full)
    explicit = bool(settings.key or settings.key_files)
    if settings.agent or (settings.agent is None and not explicit and settings.password is None):
        agent = paramiko.Agent()
        try:
            for key in agent.get_keys():
                yield "agent", key
        finally:
            agent.close()
    if not explicit and settings.password is None:
        for name in DEFAULT_KEYS:
            if os.path.isfile(os.path.expanduser(name)):
                yield f"key file {name!r}", _load_key(settings, paramiko, name=os.path.expanduser(name))


def authenticate(transport: Any, settings: Settings, paramiko: Any) -> None:
    """Offer what there is; raise ``PermissionDenied`` if the server takes nothing of it."""
    tried: list[str] = []
    user = settings.user
    try:
        for word, key in _keys(settings, paramiko):
            tried.append(word)
            try:
                if not transport.auth_publickey(user, key):
                    return
            except paramiko.AuthenticationException:
                continue
        if settings.password is not None:
            tried.append("password")
            if not transport.auth_password(user, settings.password.reveal()):
                return
    except paramiko.AuthenticationException:
        pass
    except paramiko.SSHException as error:
        if transport.is_active():
            raise
        raise refusal(f"the server ended the connection after {', '.join(tried)} for user {user!r}") from error
    offered = ", ".join(tried) or "nothing: give key_file, key, password or an agent"
    raise refusal(f"the server at {settings.place} did not let in user {user!r}; tried {offered}")


# --- the connection ---------------------------------------------------------------------------------------------------


class _PatientSocket(socket.socket):
    """A socket whose ``send`` gives up once nothing could be sent for ``patience`` seconds, or once it is time for the
    call to stop: paramiko tries for ever."""

    patience = 30.0
    eager = hasattr(socket, "TCP_QUICKACK")
    _stuck: float | None = None

    def send(self, data: Any, flags: int = 0, /) -> int:
        try:
            count = super().send(data, flags)
        except TimeoutError:
            now = time.monotonic()
            self._stuck = self._stuck or now
            if now - self._stuck > self.patience or is_over():  # on the thread of whoever asks
                raise ConnectionAbortedError("the peer takes no more") from None
            raise
        self._stuck = None
        return count

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if self.eager:  # until a session is there sshd leaves Nagle's algorithm on, and a late ACK would cost 40 ms
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data


def _dial(settings: Settings) -> _PatientSocket:
    try:
        plain = socket.create_connection((settings.host, settings.port or 22), settings.connect_timeout)
    except (OSError, UnicodeError) as error:
        raise BackendUnavailable(
            f"no connection to {settings.place}: {getattr(error, 'strerror', None) or error}",
            backend=NAME,
            op="connect",
        ) from error
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    patient = _PatientSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
    patient.patience = settings.timeout
    return patient


def open_transport(settings: Settings, paramiko: Any, sock: Any = None) -> Any:
    """An authenticated paramiko transport. The host key is looked at before anything is said about the user."""
    transport = paramiko.Transport(_dial(settings) if sock is None else sock)
    transport.daemon = True
    transport.banner_timeout = transport.handshake_timeout = settings.connect_timeout
    transport.auth_timeout = transport.channel_timeout = settings.connect_timeout
    try:
        prefer_known_kinds(transport, settings, paramiko)
        transport.start_client(timeout=settings.connect_timeout)
        check_host_key(transport.get_remote_server_key(), settings, paramiko)
        authenticate(transport, settings, paramiko)
        if settings.keepalive:
            transport.set_keepalive(max(1, round(settings.keepalive)))
    except StorageError:
        _end(transport)
        raise
    except Exception as error:
        _end(transport)
        raise BackendUnavailable(
            f"the SSH handshake with {settings.place} failed: {str(error) or type(error).__name__}",
            backend=NAME,
            op="connect",
        ) from error
    return transport


def _end(transport: Any) -> None:
    transport.close()
    transport.sock.close()  # which the transport leaves open if it was never started


def _jumps(settings: Settings, paramiko: Any) -> Iterator[Settings]:
    """The settings of each jump host on the way, in order. None of them is ever told the password."""
    for part in (settings.jump or "").split(","):
        where = part.strip()
        if not where:
            continue
        user, _, place = where.rpartition("@")
        host, _, port = place.rpartition(":") if place.rpartition(":")[2].isdigit() else (place, "", "")
        hop = replace(
            settings, host=host.strip("[]"), port=int(port) if port else None, user=user or settings.user,
            password=None, host_key=None, jump="",
        )  # fmt: skip
        yield with_config(hop, paramiko)


class Link:
    """One SSH connection with one SFTP session on it, for any number of threads."""

    def __init__(self, settings: Settings) -> None:
        paramiko = load_paramiko()
        final = with_config(settings, paramiko)
        self.pid = getpid()
        self.users: set[object] = set()  # who is at work on it; a set, because finalisers leave it, too
        self._transports: list[Any] = []
        self._channel: Any = None
        self.session: Session | None = None
        _LINKS.add(self)
        try:
            self._connect(final, paramiko)
        except BaseException:
            self.close()
            raise

    def _connect(self, settings: Settings, paramiko: Any) -> None:
        sock: Any = None
        for hop in (*_jumps(settings, paramiko), settings):
            if self._transports:
                sock = self._through(self._transports[-1], hop)
            self._transports.append(open_transport(hop, paramiko, sock))
        try:
            channel = self._transports[-1].open_session(window_size=_WINDOW, timeout=settings.connect_timeout)
            self._channel = channel
            channel.settimeout(settings.connect_timeout)
            channel.invoke_subsystem("sftp")
            self.session = Session(channel, settings.timeout, self.close)
            for transport in self._transports:
                transport.sock.eager = False
        except (Lost, OSError, EOFError, paramiko.SSHException) as error:
            raise BackendUnavailable(
                f"the server at {settings.place} opened no SFTP session: {str(error) or type(error).__name__}",
                backend=NAME, op="connect",
            ) from error  # fmt: skip

    @staticmethod
    def _through(transport: Any, to: Settings) -> Any:
        try:
            return transport.open_channel(
                "direct-tcpip", (to.host, to.port or 22), ("127.0.0.1", 0), timeout=to.connect_timeout
            )
        except Exception as error:
            raise BackendUnavailable(
                f"the jump host does not reach {to.place}: {str(error) or type(error).__name__}",
                backend=NAME,
                op="connect",
            ) from error

    @property
    def sftp(self) -> Session:
        """Its session. Raises ``Lost`` where there is none any more."""
        if self.session is None:
            raise Lost("the connection is closed")
        return self.session

    @property
    def alive(self) -> bool:
        return (
            self.session is not None
            and self.session.lost is None
            and self.pid == getpid()
            and all(transport.is_active() for transport in self._transports)
        )

    def close(self) -> None:
        """Hang up, without waiting for anybody."""
        if self.pid == getpid():
            for transport in reversed(self._transports):
                transport.close()

    def disown(self) -> None:
        """In a forked child: let go of the parent's connection without a byte on the wire. paramiko's channels say
        good-bye when they are collected, so this one loses all it knows."""
        if self.session is not None:
            self.session.lost = Lost("the connection belongs to the parent process")
            self.session._sending = threading.Lock()
            self.session._state = threading.Condition(threading.Lock())
        for transport in self._transports:
            transport.active = False
            for channel in list(transport._channels.values()):
                channel.__dict__.clear()
            sock = transport.sock
            if isinstance(sock, socket.socket):
                sock.close()
        if self._channel is not None:
            self._channel.__dict__.clear()


_LINKS: weakref.WeakSet[Link] = weakref.WeakSet()


def _disown_all() -> None:
    for link in list(_LINKS):
        link.disown()


register_at_fork(after_in_child=_disown_all)
