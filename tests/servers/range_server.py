"""An HTTP server whose first path segment says how it behaves: ``/plain/key`` well, ``/norange/key`` as if it had never
heard of ranges, and so on. The objects are the same under each. Run with a port."""

import base64
import gzip
import hashlib
import itertools
import json
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

OBJECTS = {}  # key -> (body, time, number)
NUMBERS = itertools.count(1)
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *args):
        pass

    # -- the store ----------------------------------------------------------------------------------------------------

    def do_PUT(self):
        _, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # the client went away: nothing is done for it
            self.close_connection = True
            return
        with LOCK:
            OBJECTS[key] = (body, float(self.headers.get("X-Time", time.time())), next(NUMBERS))
        self.answer(204)

    def do_DELETE(self):
        _, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        with LOCK:
            found = OBJECTS.pop(key, None)
        self.answer(204 if found else 404)

    def answer(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        if status != 204 and "Content-Length" not in dict(headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # -- reading ------------------------------------------------------------------------------------------------------

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path
        mode, _, rest = path.lstrip("/").partition("/")
        key = unquote(rest)
        if mode == "echo":
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(dict(self.headers)).encode())
        if mode == "to":
            code, _, target = rest.partition("/")
            return self.answer(int(code), {"Location": unquote(target)})
        if mode == "loop":
            return self.answer(302, {"Location": self.path + "x"})
        if mode == "auth" and self.headers.get("Authorization") not in ("Bearer right", "Basic bWU6cmlnaHQ="):
            return self.answer(401, {"WWW-Authenticate": "Basic"})
        if mode == "nohead" and self.command == "HEAD":
            return self.answer(405)
        if mode == "head403" and self.command == "HEAD":
            return self.answer(403)
        with LOCK:
            found = self.generated(mode, key) or OBJECTS.get(key)
        if found is None:
            return self.answer(404)
        return self.object(mode, *found)

    def generated(self, mode, key):
        folder, slash, name = key.rpartition("/")
        if name not in ("manifest.auto", "sitemap.auto"):
            return None
        keys = [k for k in OBJECTS if k.startswith(folder + slash)]
        if name == "sitemap.auto":
            from urllib.parse import quote

            site = f"http://{self.headers['Host']}/{mode}/"
            rows = "".join(f"<url><loc>{site}{quote(k)}</loc></url>" for k in keys)
            text = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{rows}</urlset>'
            return text.encode(), 1.0, 0
        rows = []
        for k in keys:
            body, moment, number = OBJECTS[k]
            rows.append({"path": k[len(folder + slash):], "size": len(body), "etag": f'"{etag(body, number)}"',
                         "modified": int(moment)})  # fmt: skip
        return "".join(json.dumps(row) + "\n" for row in rows).encode(), 1.0, 0

    def object(self, mode, body, moment, number):
        headers = {"Content-Type": "application/octet-stream", "Last-Modified": formatdate(int(moment), usegmt=True)}
        tag = f'"{etag(body, number)}"'
        headers["ETag"] = "W/" + tag if mode == "weak" else tag
        if mode in ("noetag", "bare"):
            del headers["ETag"]
        if mode == "bare":
            del headers["Last-Modified"]
        if mode in ("digest", "baddigest"):
            told = hashlib.sha256(body if mode == "digest" else body + b"!").digest()
            headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(told).decode()}:"
        if mode == "gzip":
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        conditions = mode not in ("deaf", "norange", "bare", "noetag")
        if conditions and self.headers.get("If-Match") not in (None, tag):
            return self.answer(412)
        if conditions and self.headers.get("If-None-Match") == tag:
            return self.answer(304, {"ETag": tag})
        wanted = self.headers.get("Range")
        if_range = self.headers.get("If-Range")
        if if_range not in (None, headers.get("ETag"), headers.get("Last-Modified")) and mode != "deaf":
            wanted = None
        if wanted is None or mode == "norange":
            return self.whole(mode, headers, body)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        first, last = int(first), min(int(last or len(body)), len(body) - 1)
        if first >= len(body):
            return self.answer(416, {"Content-Range": f"bytes */{len(body)}"})
        if mode == "short":
            last = min(last, first + 999)
        shift = 1 if mode == "wrongrange" else 0
        headers["Content-Range"] = f"bytes {first + shift}-{last + shift}/{len(body) + shift}"
        return self.whole(mode, headers, body[first : last + 1], 206)

    def whole(self, mode, headers, body, status=200):
        if mode in ("truncate", "cutchunked", "close", "chunked"):
            self.close_connection = True
        if mode == "truncate":
            self.answer(status, {**headers, "Content-Length": str(len(body))}, body[: len(body) // 2])
        elif mode == "close":
            self.send_response(status)
            for name, value in {**headers, "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)
        elif mode in ("chunked", "cutchunked"):
            self.send_response(status)
            for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
            for piece in pieces[: len(pieces) // 2] if mode == "cutchunked" else pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if mode == "chunked":
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.answer(status, headers, body)


def etag(body, number):
    return f"{number}-{hashlib.sha256(body).hexdigest()[:12]}"


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
