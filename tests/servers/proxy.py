"""A proxy between a client and an HTTP server, in this process: it notes every request, and does harm when told to.

    with Proxy(server_port) as proxy:
        proxy.next(Reset(after=1000))        # of the next answer's body
        ...
        assert proxy.requests == ["GET /bucket/key", "GET /bucket/key"]

A fault waits for the next request (``when`` chooses among them: a text that its first line must hold).
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """What happens to one request."""

    when: str = ""


@dataclass
class Reset(Fault):
    """The connection is torn down after so many bytes of the answer's body; -1: before its head."""

    after: int = -1


@dataclass
class Truncate(Fault):
    """The connection ends, as if all were well, after so many bytes of the answer's body."""

    after: int = 0


@dataclass
class Stall(Fault):
    """Nothing more comes after so many bytes of the answer's body."""

    after: int = 0


@dataclass
class Lost(Fault):
    """The server does what it was asked; its answer never arrives."""


@dataclass
class Unsent(Fault):
    """The connection is torn down after so many bytes of the request's body, which never arrives whole."""

    after: int = 0


@dataclass
class Flip(Fault):
    """One bit of the body changes on its way: of the request (``up``) or of the answer."""

    at: int = 0
    up: bool = False
    bit: int = 0


@dataclass
class Answer(Fault):
    """The server never hears of it; this is the answer."""

    status: int = 503
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None  # a Content-Length that is not the body's


@dataclass
class Without(Fault):
    """The answer comes without these headers (in lower case). A body without its length comes in chunks."""

    names: tuple[str, ...] = ()


class _Torn(Exception):
    """This connection ends here."""


class Proxy:
    """Listens on ``port``; forwards to ``target`` on the loopback."""

    def __init__(self, target: int) -> None:
        self.requests: list[str] = []
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.stalled = threading.Event()
        """Set once a ``Stall`` has begun."""
        self._faults: list[Fault] = []
        self._target = target
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next(self, *faults: Fault) -> None:
        """These happen to the next requests, one each."""
        with self._lock:
            self._faults.extend(faults)

    def forget(self) -> None:
        """Start counting anew."""
        with self._lock:
            self.requests.clear()
            self.heads.clear()
            self.bodies.clear()
            self.stalled.clear()
            self._faults.clear()

    @property
    def waiting(self) -> int:
        """So many faults have not happened yet."""
        with self._lock:
            return len(self._faults)

    def count(self, text: str) -> int:
        return sum(text in line for line in self.requests)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        for one in [self._listener, *self._sockets]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.add(client)
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = None
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.add(server)
            client_in, server_in = client.makefile("rb"), server.makefile("rb")
            while self._exchange(client, client_in, server, server_in):
                pass
        except _Torn as error:
            if error.args[0] == "reset":  # the other side sees a reset, not an end
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:  # a clean end: what the client still sends is read, or the system would reset it after all
                with suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
                    client.settimeout(10)
                    while client.recv(65536):
                        pass
        except (OSError, ValueError):
            pass
        finally:
            for one in (client, server):
                if one is not None:
                    self._sockets.discard(one)
                    with suppress(OSError):
                        if client is not one:
                            one.shutdown(socket.SHUT_RDWR)
                    one.close()
            with suppress(Exception):
                client_in.close()
                server_in.close()

    def _exchange(self, client: socket.socket, client_in: Any, server: socket.socket, server_in: Any) -> bool:
        head = _head(client_in)
        if not head:
            return False
        line = head.split(b"\r\n", 1)[0].decode()
        method, target, _ = line.split(" ")
        fault = self._noted(f"{method} {target}", head)
        length = int(_value(head, b"content-length") or 0)
        if isinstance(fault, Answer):
            self._answer(client, client_in, head, length, fault)
            return True
        if b"100-continue" in head.lower():  # not every server answers that, so we do
            head = b"".join(line for line in head.splitlines(True) if not line.lower().startswith(b"expect:"))
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        server.sendall(head)
        body = b""
        if isinstance(fault, Unsent):
            server.sendall(client_in.read(min(fault.after, length)))
            raise _Torn("reset")
        if length:
            body = client_in.read(length)
            if isinstance(fault, Flip) and fault.up and body:
                body = _flipped(body, fault.at, fault.bit)
            server.sendall(body)
        elif b"chunked" in (_value(head, b"transfer-encoding") or b"").lower():
            while chunk := _chunk(client_in):
                server.sendall(chunk)
                if chunk.startswith(b"0\r\n"):
                    break
            else:
                return False
        self.bodies.append(body[:65536])
        if len(body) < length:  # the client is gone: the server hears it from us, not from its own clock
            return False
        return self._respond(client, server_in, method, fault)

    def _noted(self, line: str, head: bytes) -> Fault | None:
        with self._lock:
            self.requests.append(line)
            self.heads.append(head)
            for fault in self._faults:
                if fault.when in line:
                    self._faults.remove(fault)
                    return fault
        return None

    def _answer(self, client: socket.socket, client_in: Any, head: bytes, length: int, fault: Answer) -> None:
        if b"100-continue" not in head.lower():
            client_in.read(length)
        lines = [f"HTTP/1.1 {fault.status} X", *(f"{name}: {value}" for name, value in fault.headers.items())]
        lines.append(f"Content-Length: {len(fault.body) if fault.length is None else fault.length}")
        bare = head.startswith(b"HEAD ") or fault.status in (204, 304)
        client.sendall("\r\n".join([*lines, "", ""]).encode() + (b"" if bare else fault.body))
        if fault.length is not None:
            raise _Torn("end")

    def _respond(self, client: socket.socket, server_in: Any, method: str, fault: Fault | None) -> bool:
        head = _head(server_in)
        if not head:
            return False
        status = int(head.split(b" ", 2)[1])
        length = _value(head, b"content-length")
        chunked = b"chunked" in (_value(head, b"transfer-encoding") or b"").lower()
        bare = method == "HEAD" or status in (204, 304)
        if isinstance(fault, Lost):
            if not bare and length:
                server_in.read(int(length))
            raise _Torn("reset")
        if isinstance(fault, Reset) and fault.after < 0:
            raise _Torn("reset")
        if isinstance(fault, Without) and not chunked:
            return self._send_without(client, server_in, head, fault, b"" if bare else length)
        client.sendall(head)
        if bare:
            return True
        if chunked:
            while chunk := _chunk(server_in):
                client.sendall(chunk)
                if chunk.startswith(b"0\r\n"):
                    break
            return True
        left, sent = int(length or 0), 0
        while left:
            data = server_in.read1(min(left, 65536))
            if not data:
                return False
            self._pass(client, data, sent, fault)
            left -= len(data)
            sent += len(data)
        return b"close" not in (_value(head, b"connection") or b"").lower()

    def _send_without(
        self, client: socket.socket, server_in: Any, head: bytes, fault: Without, length: bytes | None
    ) -> bool:
        names = tuple(name.encode() for name in fault.names)
        kept = [line for line in head.split(b"\r\n") if line.partition(b":")[0].strip().lower() not in names]
        if "content-length" not in fault.names or not length:
            client.sendall(b"\r\n".join(kept) + server_in.read(int(length or 0)))
            return True
        kept[1:1] = [b"Transfer-Encoding: chunked"]
        client.sendall(b"\r\n".join(kept))
        left = int(length)
        while left:
            data = server_in.read1(min(left, 65536))
            client.sendall(b"%x\r\n%s\r\n" % (len(data), data))
            left -= len(data)
        client.sendall(b"0\r\n\r\n")
        return True

    def _pass(self, client: socket.socket, data: bytes, sent: int, fault: Fault | None) -> None:
        """A piece of the body, which has ``sent`` bytes before it."""
        if isinstance(fault, Reset | Truncate | Stall) and sent + len(data) > fault.after:
            client.sendall(data[: fault.after - sent])
            if isinstance(fault, Stall):
                self.stalled.set()
                client.recv(1)  # until the client gives up
            raise _Torn("end" if isinstance(fault, Truncate) else "reset")
        if isinstance(fault, Flip) and not fault.up and sent <= fault.at < sent + len(data):
            data = _flipped(data, fault.at - sent, fault.bit)
        client.sendall(data)


def _head(stream: Any) -> bytes:
    """Up to the empty line."""
    lines = []
    while line := stream.readline(65536):
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _value(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None


def _chunk(stream: Any) -> bytes:
    """One chunk of a chunked body, with its frame (RFC 9112, section 7.1)."""
    line = stream.readline(65536)
    size = int(line.split(b";")[0], 16) if line.strip() else 0
    data = stream.read(size)
    end = stream.readline(65536)
    return bytes(line + data + end)


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at % len(data)] ^= 1 << bit
    return bytes(changed)
