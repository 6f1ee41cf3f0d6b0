"""A double of an Azure account with a hierarchical namespace: OUR OWN WORK, AND NO PROOF OF WHAT AZURE DOES.

No emulator has one (Azurite 3.37.0 answers 400 to all of it). This is written from the public REST reference: Path
(create, rename by ``x-ms-rename-source``, append, flush, delete, list, properties) below ``/dfs/account``, and below
``/account`` the calls of the Blob service that ``AzureBackend`` makes, as they are described for such accounts: a
folder is a blob of length 0 with the metadata ``hdi_isfolder``. Everything is in memory; signatures are not looked at.

    python -P dfs_double.py PORT    (-P: the folder of this file holds an http.py, which is not that of Python)
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

_etags = itertools.count(0x8DC000000000001)


class Say(Exception):
    """An answer that ends a request early."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


@dataclass
class Node:
    folder: bool = False
    data: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)  # what comes back with it
    etag: str = ""
    modified: str = ""
    staged: bytes = b""

    def touched(self) -> Node:
        self.etag, self.modified = f'"0x{next(_etags):X}"', formatdate(time.time(), usegmt=True)
        return self


class Tree:
    """Paths to nodes; a path's folders are there whenever it is."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.blocks: dict[str, dict[str, bytes]] = {}

    def above(self, path: str) -> list[str]:
        parts = path.split("/")
        return ["/".join(parts[:n]) for n in range(1, len(parts))]

    def below(self, path: str) -> list[str]:
        return [one for one in self.nodes if one.startswith(f"{path}/" if path else "")]

    def put(self, path: str, node: Node) -> Node:
        old = self.nodes.get(path)
        if old is not None and old.folder != node.folder:
            raise Say(409, "ResourceTypeMismatch")
        for folder in self.above(path):
            there = self.nodes.setdefault(folder, Node(folder=True).touched())
            if not there.folder:
                raise Say(409, "PathConflict")
        self.nodes[path] = node
        self.blocks.pop(path, None)
        return node.touched()

    def rename(self, src: str, dst: str) -> None:
        moved = {path: self.nodes.pop(path) for path in [src, *self.below(src)]}
        for path, node in moved.items():
            self.nodes[dst + path[len(src) :]] = node


TREES: dict[str, Tree] = {}
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        dfs = parts.path.startswith("/dfs/")
        _, _, rest = parts.path.removeprefix("/dfs").lstrip("/").partition("/")
        container, _, path = rest.partition("/")
        path = unquote(path).rstrip("/") if dfs else unquote(path)
        try:
            with LOCK:
                if self.query.get("restype") == "account":
                    self.say(200, {"x-ms-is-hns-enabled": "true"})
                elif self.query.get("restype") == "container" and self.command == "PUT":
                    TREES.setdefault(container, Tree())
                    self.say(201)
                elif container not in TREES:
                    raise Say(404, "FilesystemNotFound" if dfs else "ContainerNotFound")
                else:
                    self.tree = TREES[container]
                    getattr(self, f"{'dfs' if dfs else 'blob'}_{self.command.lower()}")(path)
        except Say as error:
            text = f"<Error><Code>{error.code}</Code><Message>the double says so</Message></Error>".encode()
            self.say(error.status, {"x-ms-error-code": error.code}, b"" if error.status == 304 else text)

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_POST = do_GET

    def say(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", size: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("x-ms-request-id", "1")
        for name, value in {"Content-Length": str(len(body) if size is None else size), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # -- what both services share --------------------------------------------------------------------------------------

    def check(self, node: Node | None, taken: str, prefix: str = "") -> None:
        """The conditional headers, for a write to what is there."""
        wanted, unless = self.headers.get(f"{prefix}if-match"), self.headers.get(f"{prefix}if-none-match")
        since = self.headers.get(f"{prefix}if-unmodified-since")
        code = "SourceConditionNotMet" if prefix else "ConditionNotMet"
        if wanted is not None and (node is None or wanted not in ("*", node.etag)):
            raise Say(412, code)
        if unless is not None and node is not None and unless in ("*", node.etag):
            raise Say(409, taken) if unless == "*" else Say(412, code)
        if since is not None and node is not None and _seconds(node.modified) > _seconds(since):
            raise Say(412, code)

    def found(self, path: str, code: str) -> Node:
        if path not in self.tree.nodes:
            raise Say(404, code)
        return self.tree.nodes[path]

    def written(self, node: Node, **more: str) -> None:
        self.say(201, {"ETag": node.etag, "Last-Modified": node.modified, **more})

    def described(self) -> dict[str, str]:
        """The headers of a write that come back when it is read."""
        kept = {"Content-Type": self.headers.get("x-ms-blob-content-type", "application/octet-stream")}
        for name, value in self.headers.items():
            if name.lower().startswith("x-ms-meta-"):
                kept[name.lower()] = value
        return kept

    # -- the Blob service ----------------------------------------------------------------------------------------------

    def blob_put(self, path: str) -> None:
        md5 = base64.b64encode(hashlib.md5(self.body).digest()).decode()
        if self.headers.get("Content-MD5", md5) != md5:
            raise Say(400, "Md5Mismatch")
        if self.query.get("comp") == "block":
            self.tree.blocks.setdefault(path, {})[self.query["blockid"]] = self.body
            self.say(201)
            return
        old = self.tree.nodes.get(path)
        self.check(old, "BlobAlreadyExists")
        if "x-ms-copy-source" in self.headers:
            self.blob_copy(path)
        elif self.query.get("comp") == "blocklist":
            blocks = self.tree.blocks.get(path, {})
            names = re.findall(rb"<Latest>([^<]+)</Latest>", self.body)
            if any(name.decode() not in blocks for name in names):
                raise Say(400, "InvalidBlockList")
            data = b"".join(blocks[name.decode()] for name in names)
            kept = self.described()
            if "x-ms-blob-content-md5" in self.headers:
                kept["Content-MD5"] = self.headers["x-ms-blob-content-md5"]
            self.written(self.tree.put(path, Node(data=data, headers=kept)))
        else:
            kept = {**self.described(), "Content-MD5": md5}
            self.written(self.tree.put(path, Node(data=self.body, headers=kept)), **{"Content-MD5": md5})

    def blob_copy(self, path: str) -> None:
        whole = urlsplit(self.headers["x-ms-copy-source"]).path
        source = self.found(unquote(whole.split("/", 3)[3]), "CannotVerifyCopySource")
        self.check(source, "", "x-ms-source-")
        kept, given = dict(source.headers), self.described()
        given.pop("Content-Type")
        if given:
            kept = {name: value for name, value in kept.items() if not name.startswith("x-ms-meta-")} | given
        node = self.tree.put(path, Node(data=source.data, headers=kept))
        self.say(
            202, {"ETag": node.etag, "Last-Modified": node.modified, "x-ms-copy-id": "1", "x-ms-copy-status": "success"}
        )

    def blob_head(self, path: str) -> None:
        node = self.found(path, "BlobNotFound")
        wanted, unless = self.headers.get("If-Match"), self.headers.get("If-None-Match")
        if wanted not in (None, node.etag):
            raise Say(412, "ConditionNotMet")
        if unless == node.etag:
            raise Say(304, "ConditionNotMet")
        headers = {**node.headers, "ETag": node.etag, "Last-Modified": node.modified}
        if node.folder:
            headers |= {"x-ms-resource-type": "directory", "x-ms-meta-hdi_isfolder": "true"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("x-ms-range", ""))
        if self.command == "HEAD" or asked is None:
            self.say(200, headers, node.data, len(node.data))
            return
        start, end = int(asked[1]), int(asked[2] or len(node.data))
        if start >= len(node.data):
            raise Say(416, "InvalidRange")
        part = node.data[start : end + 1]
        headers["x-ms-blob-content-md5"] = headers.pop("Content-MD5", "")
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(node.data)}"
        self.say(206, headers, part)

    def blob_get(self, path: str) -> None:
        if self.query.get("comp") == "list":
            self.blob_list()
        else:
            self.blob_head(path)

    def blob_list(self) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        rows: dict[tuple[str, ...], str] = {}
        for path, node in self.tree.nodes.items():
            if not path.startswith(prefix):
                continue
            below = path[len(prefix) :]
            if delimiter and ("/" in below or node.folder):
                name = prefix + below.split("/")[0] + "/"
                rows[tuple(name.split("/"))] = f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>"
            else:
                rows[tuple(path.split("/"))] = self.row(path, node)
        limit, after = int(self.query.get("maxresults", 5000)), self.query.get("marker", "")
        keys = sorted(key for key in rows if list(key) > (json.loads(after) if after else []))  # folder by folder
        more = json.dumps(keys[limit - 1]) if len(keys) > limit else ""
        blobs = "".join(rows[key] for key in keys[:limit])
        text = f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{escape(more)}</NextMarker></EnumerationResults>"
        self.say(200, {"Content-Type": "application/xml"}, text.encode())

    def row(self, path: str, node: Node) -> str:
        kind = "directory" if node.folder else "file"
        marks = (
            "<hdi_isfolder>true</hdi_isfolder>" if node.folder and "metadata" in self.query.get("include", "") else ""
        )
        return (
            f"<Blob><Name>{escape(path)}</Name><Properties><Last-Modified>{node.modified}</Last-Modified>"
            f"<Etag>{node.etag.strip(chr(34))}</Etag><ResourceType>{kind}</ResourceType>"
            f"<Content-Length>{len(node.data)}</Content-Length></Properties><Metadata>{marks}</Metadata></Blob>"
        )

    def blob_delete(self, path: str) -> None:
        node = self.found(path, "BlobNotFound")
        self.check(node, "")
        if self.tree.below(path):
            raise Say(409, "DirectoryIsNotEmpty")
        del self.tree.nodes[path]
        self.say(202)

    # -- the Data Lake service -----------------------------------------------------------------------------------------

    def dfs_put(self, path: str) -> None:
        self.check(self.tree.nodes.get(path), "PathAlreadyExists")
        if "x-ms-rename-source" in self.headers:
            self.dfs_rename(path)
        elif self.query.get("resource") == "directory":
            old = self.tree.nodes.get(path)
            self.written(old if old is not None and old.folder else self.tree.put(path, Node(folder=True)))
        elif self.query.get("resource") == "file":
            self.written(self.tree.put(path, Node(headers=self.described())))
        else:
            raise Say(400, "MissingRequiredQueryParameter")

    def dfs_rename(self, path: str) -> None:
        source = unquote(urlsplit(self.headers["x-ms-rename-source"]).path).lstrip("/").partition("/")[2].rstrip("/")
        node = self.found(source, "SourcePathNotFound")
        self.check(node, "", "x-ms-source-")
        parent = path.rpartition("/")[0]
        if parent and parent not in self.tree.nodes:
            raise Say(404, "RenameDestinationParentPathNotFound")
        if parent and not self.tree.nodes[parent].folder:
            raise Say(409, "PathConflict")
        there = self.tree.nodes.get(path)
        if there is not None and there.folder != node.folder:
            raise Say(409, "InvalidSourceOrDestinationResourceType")
        if path.startswith(f"{source}/"):
            raise Say(409, "InvalidRenameSourcePath")
        self.tree.rename(source, path)
        self.tree.blocks.pop(path, None)
        properties = self.headers.get("x-ms-properties")
        if properties is not None:
            pairs = [one.split("=", 1) for one in properties.split(",") if one]
            kept = {name: value for name, value in node.headers.items() if not name.startswith("x-ms-meta-")}
            node.headers = kept | {f"x-ms-meta-{name}": base64.b64decode(value).decode() for name, value in pairs}
        self.written(node.touched())

    def dfs_patch(self, path: str) -> None:
        node, at = self.found(path, "PathNotFound"), int(self.query["position"])
        if self.query["action"] == "append":
            node.staged = node.staged[: at - len(node.data)] + self.body
            self.say(202)
        else:
            self.check(node, "")
            whole = node.data + node.staged
            if at != len(whole):
                raise Say(400, "InvalidFlushPosition")
            node.data, node.staged = whole, b""
            self.written(node.touched())

    def dfs_head(self, path: str) -> None:
        node = self.found(path, "PathNotFound")
        kind = "directory" if node.folder else "file"
        self.say(
            200, {"ETag": node.etag, "Last-Modified": node.modified, "x-ms-resource-type": kind}, b"", len(node.data)
        )

    def dfs_get(self, path: str) -> None:
        if self.query.get("resource") != "filesystem":
            node = self.found(path, "PathNotFound")
            self.say(200, {"ETag": node.etag, "Last-Modified": node.modified}, node.data)
            return
        folder, deep = self.query.get("directory", ""), self.query.get("recursive") == "true"
        if folder:
            self.found(folder, "PathNotFound")
        skip = len(folder) + 1 if folder else 0
        rows = [
            {"name": one, "contentLength": str(len(node.data)), "etag": node.etag, "lastModified": node.modified,
             **({"isDirectory": "true"} if node.folder else {})}
            for one, node in sorted(self.tree.nodes.items())
            if one in self.tree.below(folder) and (deep or "/" not in one[skip:])
        ]  # fmt: skip
        self.say(200, {"Content-Type": "application/json"}, json.dumps({"paths": rows}).encode())

    def dfs_delete(self, path: str) -> None:
        node = self.found(path, "PathNotFound")
        self.check(node, "")
        recursive = self.query.get("recursive")
        if node.folder and recursive is None:
            raise Say(400, "MissingRequiredQueryParameter")
        below = self.tree.below(path)
        if below and recursive != "true":
            raise Say(409, "DirectoryNotEmpty")
        for one in [path, *below]:
            del self.tree.nodes[one]
        self.say(200)


def _seconds(text: str) -> float:
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(text).timestamp()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
