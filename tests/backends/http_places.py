"""Fresh places on the HTTP servers of the tests, and the back doors to them."""

import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

from omnistorage import ops
from omnistorage.backends.http import HTTPBackend
from omnistorage.concurrency.cancellation import Clock
from omnistorage.concurrency.retry import RequestPolicy, RetryBudget
from omnistorage.core import ReadOptions

from ..servers import server
from ..servers.http import bare

_numbers = itertools.count()


class NoWait(Clock):
    """Notes the waits and does not wait."""

    def __init__(self):
        self.waits = []

    def wait(self, seconds, wake):
        self.waits.append(seconds)


def patient(**options):
    return RequestPolicy(clock=NoWait(), budget=RetryBudget(reserve=1000), **options)


def on_disk(name, location, *, port=None, **options):
    """A backend over a fresh folder of a server that serves files."""
    info = server(name)
    folder = Path(tempfile.mkdtemp(prefix="t-", dir=info["root"]))
    folder.chmod(0o777)
    site = info["url"] if port is None else f"http://127.0.0.1:{port}"
    backend = HTTPBackend(f"{site}/{location}{folder.name}/", **options)
    backend.disk = folder
    return backend


def file_peek(backend, path):
    try:
        return (backend.disk / path).read_bytes()
    except OSError:
        return None


def file_plant(backend, path, data):
    target = backend.disk / path
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = backend.disk.parent / f"{backend.disk.name}-new"
    fresh.write_bytes(data)
    fresh.replace(target)


def write_manifest(backend):
    """What nginx would say of each file."""
    rows = []
    for file in sorted(backend.disk.rglob("*")):
        if file.is_file() and file.name != "manifest.ndjson":
            stat = file.stat()
            name, etag = str(file.relative_to(backend.disk)), f"{int(stat.st_mtime):x}-{stat.st_size:x}"
            rows.append({"path": name, "size": stat.st_size, "etag": etag, "modified": int(stat.st_mtime)})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (backend.disk.parent / f"{backend.disk.name}.ndjson").write_text(text)


def file_dispose(backend):
    backend.close()
    shutil.rmtree(backend.disk, ignore_errors=True)


class Ours:
    """A place on the range server."""

    def __init__(self, mode="plain", *, port=None, **options):
        self.info = server("range_server")
        self.prefix = f"t{os.getpid()}-{next(_numbers)}/"
        site = self.info["url"] if port is None else f"http://127.0.0.1:{port}"
        self.backend = HTTPBackend(f"{site}/{mode}/{self.prefix}", **{"policy": patient(), **options})

    def url(self, path):
        return f"{self.info['url']}/plain/{self.prefix}{quote(path)}"

    def put(self, path, data, **headers):
        bare("PUT", self.url(path), data, headers)

    def get(self, path):
        return bare("GET", self.url(path))

    def delete(self, path):
        bare("DELETE", self.url(path))


def read(place, path="x", **options):
    return ops.read_bytes(place.backend, path, ReadOptions(**options))
