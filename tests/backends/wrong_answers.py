"""Answers that are not the store's, for every request of every client: a login page, an empty success, a redirect.

    run(proxy, call, answer)

sends ``call`` while the proxy gives ``answer`` to each request that ``call.when`` names, and demands one of our errors,
a bounded number of requests, and that nobody went where a redirect led.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from omnistorage.concurrency.cancellation import Clock
from omnistorage.concurrency.retry import RequestPolicy, RetryBudget
from omnistorage.errors import StorageError

from ..servers.proxy import Answer

HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>login</body></html>"
PAGE = {"Content-Type": "text/html"}
XML = {"Content-Type": "application/xml"}
JSON = {"Content-Type": "application/json"}
MOST = 12
"""So many requests one call may send when it gets nothing but wrong answers, with one retry."""


@dataclass(frozen=True)
class Call:
    """``when`` is what the first line of the request holds; ``run`` gets the backend; ``documented`` are the statuses
    that alone, without a header or a body, are a right answer in the protocol; ``trusts`` is for calls of which every
    200, and what a redirect leads to, is a right answer; ``empty`` is the body that says that there is nothing."""

    name: str
    when: str
    run: Callable[[Any], Any]
    documented: tuple[int, ...] = ()
    trusts: bool = False
    empty: bytes | None = None

    def is_right(self, answer: Answer) -> bool:
        """Whether the protocol makes it a right answer, so that it is to be believed."""
        if self.trusts and (answer.status == 200 or "Location" in answer.headers):
            return True
        if self.empty is not None and answer.body == self.empty:
            return True
        return answer.status in self.documented and not answer.headers


class NoWait(Clock):
    def wait(self, seconds: float, wake: Any) -> None:
        pass


def once_more() -> RequestPolicy:
    """A policy with one retry that does not wait."""
    return RequestPolicy(retries=1, clock=NoWait(), budget=RetryBudget(reserve=1 << 30))


def answers(elsewhere: str) -> list[tuple[str, Answer]]:
    """All wrong answers by name; redirects lead to ``elsewhere``."""
    found = [(f"{status} empty", Answer(status=status)) for status in (200, 201, 202, 204, 206)]
    found += [(f"{status} page", Answer(status=status, body=HTML, headers=PAGE)) for status in (200, 201, 202, 206)]
    found += [(f"{status} page of no kind", Answer(status=status, body=HTML)) for status in (200, 206)]
    for name, body in (("xml", b"<?xml version='1.0'?><Foo/>"), ("cut xml", b"<?xml version='1.0'?><List")):
        found.append((f"200 {name}", Answer(status=200, body=body, headers=XML)))
    for root in ("ListBucketResult", "EnumerationResults", "CopyObjectResult", "DeleteResult", "multistatus"):
        found.append((f"200 {root}", Answer(status=200, body=f"<{root}/>".encode(), headers=XML)))
    for name, body in (("object", b"{}"), ("list", b"[]"), ("null", b"null"), ("kind", b'{"kind": "foo"}')):
        found.append((f"200 json {name}", Answer(status=200, body=body, headers=JSON)))
    for status in (300, 301, 302, 303, 304, 305, 307, 308):
        found.append((f"{status} elsewhere", Answer(status=status, headers={"Location": elsewhere})))
        found.append((f"{status} nowhere", Answer(status=status)))
    return found


MARKS = {
    "ETag": f'"{"0" * 32}"',
    "Last-Modified": "Wed, 25 Nov 2026 00:00:00 GMT",
    "x-amz-request-id": "1",
    "x-ms-request-id": "1",
    "x-ms-blob-type": "BlockBlob",
    "x-goog-generation": "1",
}


class Elsewhere:
    """Another server, which answers everything with an object and counts; at ``marked`` with the marks of an object
    store, too."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def answer(self) -> None:
                requests.append(self.command)
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(200)
                for name, value in MARKS.items() if self.path.endswith("/marked") else ():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0" if self.command == "HEAD" else "4")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(b"evil")

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PROPFIND = do_MOVE = do_COPY = do_MKCOL = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self._server.server_address[1]}/elsewhere"
        self.marked = f"{self.url}/marked"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def elsewhere() -> Any:
    server = Elsewhere()
    try:
        yield server
    finally:
        server.close()


def believed(proxy: Any, backend: Any, call: Call, answer: Answer) -> str:
    """What is wrong with what ``backend`` makes of ``answer``; nothing if it is not believed."""
    proxy.forget()
    proxy.next(*[Answer(call.when, answer.status, answer.body, answer.headers) for _ in range(4 * MOST)])
    try:
        result = call.run(backend)
    except StorageError as error:
        found = ""
        if re.search(r"omnistorage-access|Signature=", str(error)):
            found = f"a secret in {error}"
    except BaseException as error:
        found = f"native {type(error).__name__}: {error}"
    else:
        found = f"believed: {result!r}"
    asked = proxy.count(call.when)
    if not asked:
        found = found or "was never asked"
    if asked > MOST:
        found = found or f"{asked} requests"
    proxy.forget()
    return found
