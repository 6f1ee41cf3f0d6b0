"""Objects by their URLs: records of a compressed file on a web server, in order, without storing it anywhere."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from omnistorage import HTTPBackend, NotFound, ReadOptions, open_records, ops

BODY = gzip.compress("".join(json.dumps({"n": n}) + "\n" for n in range(10_000)).encode())
INDEX = b'<a href="../">up</a>\n<a href="events.ndjson.gz">events.ndjson.gz</a> 21-Nov-2026 10:00 %d\n' % len(BODY)


class Site(BaseHTTPRequestHandler):
    """One file, with ranges and an etag, and the page of its folder."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        wanted = self.headers.get("Range", "")
        if self.path == "/logs/":
            self.answer(200, INDEX, {"Content-Type": "text/html"})
        elif self.path != "/logs/events.ndjson.gz":
            self.answer(404, b"", {})
        elif wanted:
            first, last = (int(n) if n else len(BODY) - 1 for n in wanted.removeprefix("bytes=").split("-"))
            self.answer(206, BODY[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(BODY)}"})
        else:
            self.answer(200, BODY, {})

    do_HEAD = do_GET

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {"ETag": '"v1"', "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def main(site: str) -> None:
    # Format and compression follow the name in the URL; a connection that breaks is taken up where it broke.
    with open_records(f"{site}/logs/events.ndjson.gz", "r") as records:
        total = sum(record["n"] for record in records)
    print("sum:", total)
    assert total == sum(range(10_000))

    # A backend for all that lies below a URL. HTTP itself lists nothing: here the page of a folder does.
    with HTTPBackend(f"{site}/logs/", listing="index", read_timeout=10) as logs:
        print("listed:", [(found.path, found.size == len(BODY)) for found in logs.list()])
        print("a range:", ops.read_bytes(logs, "events.ndjson.gz", ReadOptions(offset=0, length=2)).hex())
        try:
            logs.stat("nothing")
        except NotFound as error:
            print("missing:", error.path)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        main(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
