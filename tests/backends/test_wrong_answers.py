"""An answer without the service's own marks is no answer: each call of each networked backend meets each wrong one."""

import gc
import itertools
from contextlib import ExitStack
from dataclasses import replace

import pytest

from omnistorage import ops
from omnistorage.core import CopyOptions, ReadOptions, WriteOptions
from omnistorage.errors import StorageError

from ..budget import FULL
from ..servers import server
from ..servers.gcs import Double
from ..servers.proxy import Proxy, Without
from . import azure_places, gcs_places, test_s3
from .http_places import file_dispose, file_plant, on_disk
from .test_gcs_obstore import by as by_obstore
from .wrong_answers import Call, answers, believed, elsewhere, once_more

_numbers = itertools.count()


def write(data=b"data", path="new", **options):
    def run(backend):
        with backend.open_writer(path, WriteOptions(**options)) as writer:
            writer.write(data if data is not None else b"1" * (backend.part_size + 1))
        return writer.result

    return run


def write_long():
    """More than one part."""
    return write(None)


COMMON = [
    Call("list", "GET", lambda b: list(b.list())),
    Call("list_dir", "GET", lambda b: list(b.list_dir())),
    Call("list_dir of a folder", "GET", lambda b: list(b.list_dir("f"))),
    Call("purge", "GET", lambda b: b.purge("f")),
    Call("check_health", "GET", lambda b: b.check_health()),
    Call("read", "GET", lambda b: ops.read_bytes(b, "x")),
    Call("read a range", "GET", lambda b: ops.read_bytes(b, "x", ReadOptions(2, 3))),
    Call("read ranges", "GET", lambda b: b.read_ranges("x", [(0, 2), (3, 2)])),
    Call("exists", "HEAD", lambda b: b.exists("x")),
    Call("exists of nothing", "HEAD", lambda b: b.exists("absent")),
    Call("stat", "HEAD", lambda b: b.stat("x")),
    Call("read nothing", "HEAD", lambda b: ops.read_bytes(b, "x", ReadOptions(2, 0))),
    Call("write", "PUT", write()),
    Call("create", "PUT", write(overwrite=False)),
    Call("delete", "DELETE", lambda b: b.delete("x")),
    Call("copy", "PUT", lambda b: b.copy("x", "y")),
    Call("move", "DELETE", lambda b: b.move("x", "y")),
]
S3 = [
    *COMMON,
    Call("replace", "PUT", lambda b: write(path="x", if_match=b.stat("x").etag)(b)),
    Call("begin an upload", "?uploads", write_long()),
    Call("send a part", "partNumber=2", write_long()),
    Call("end an upload", "POST /bucket/{prefix}/new?uploadId=", write_long()),
    Call("delete_many", "?delete", lambda b: [e for _, e in b.delete_many(["x"])]),
    Call("purge, its deletes", "?delete", lambda b: b.purge("f")),
    Call("copy under a condition", "PUT", lambda b: b.copy("x", "y", CopyOptions(overwrite=False))),
    Call("copy, its look", "HEAD", lambda b: b.copy("x", "y", CopyOptions(user_metadata={"a": "b"}))),
    Call("delete what is expected", "DELETE", lambda b: b.delete("x", if_match=b.stat("x").etag)),
    Call("versions", "GET", lambda b: list(b.versions("x"))),
    Call("stale_uploads", "GET", lambda b: list(b.stale_uploads())),
]


@pytest.fixture(scope="module")
def away():
    with elsewhere() as server:
        yield server


AZURE = [
    *COMMON,
    Call("replace", "PUT", lambda b: write(path="x", if_match=b.stat("x").etag)(b)),
    Call("send a block", "comp=block&", write_long()),
    Call("commit the blocks", "comp=blocklist", write_long()),
    Call("delete_many", "POST", lambda b: [e for _, e in b.delete_many(["x"])]),
    Call("copy under a condition", "PUT", lambda b: b.copy("x", "y", CopyOptions(overwrite=False))),
    Call("copy, its look", "HEAD", lambda b: b.copy("x", "y", CopyOptions(user_metadata={"a": "b"}))),
    Call("delete what is expected", "DELETE", lambda b: b.delete("x", if_match=b.stat("x").etag)),
    Call("is_hierarchical", "GET", lambda b: b.is_hierarchical()),
]
FOLDERS = [
    Call("delete", "DELETE", lambda b: b.delete("x")),
    Call("purge", "DELETE", lambda b: b.purge("f")),
    Call("mkdir", "PUT", lambda b: b.mkdir("new")),
    Call("rename", "PUT", lambda b: b.move("x", "y")),
    Call("list", "GET", lambda b: list(b.list())),
]


GCS = [
    *[Call(c.name, {"PUT": "POST", "HEAD": "GET"}.get(c.when, c.when), c.run) for c in COMMON if c.name != "purge"],
    Call("replace", "POST", lambda b: write(path="x", if_match=b.stat("x").etag)(b)),
    Call("begin an upload", "uploadType=resumable", write_long()),
    Call("send a chunk", "PUT /session", write_long()),
    Call("delete_many", "POST /batch", lambda b: [e for _, e in b.delete_many(["x"])]),
    Call("copy, its look", "GET", lambda b: b.copy("x", "y", CopyOptions(user_metadata={"a": "b"}))),
    Call("delete what is expected", "DELETE", lambda b: b.delete("x", if_match=b.stat("x").etag)),
    Call("versions", "GET", lambda b: list(b.versions("x"))),
]


def emptied(backend):
    (backend.disk / "e").mkdir(exist_ok=True)
    backend.rmdir("e")


WEBDAV = [
    Call("list", "PROPFIND", lambda b: list(b.list())),
    Call("list_dir", "PROPFIND", lambda b: list(b.list_dir())),
    Call("list_dir of a folder", "PROPFIND", lambda b: list(b.list_dir("f"))),
    Call("exists", "PROPFIND", lambda b: b.exists("x")),
    Call("exists of nothing", "PROPFIND", lambda b: b.exists("absent")),
    Call("stat", "PROPFIND", lambda b: b.stat("x")),
    Call("read", "GET", lambda b: ops.read_bytes(b, "x")),
    Call("read a range", "GET", lambda b: ops.read_bytes(b, "x", ReadOptions(2, 3))),
    Call("read ranges", "GET", lambda b: b.read_ranges("x", [(0, 2), (3, 2)])),
    Call("write", "PUT", write()),
    Call("write a folder deep", "MKCOL", write(path="new/folder/x")),
    Call("publish", "MOVE", write()),
    Call("publish over", "MOVE", write(path="x")),
    Call("delete", "DELETE", lambda b: b.delete("x"), (204,)),
    Call("copy", "COPY", lambda b: b.copy("x", "y")),
    Call("copy, its end", "MOVE", lambda b: b.copy("x", "y")),
    Call("move", "MOVE", lambda b: b.move("x", "y")),
    Call("mkdir", "MKCOL", lambda b: b.mkdir("made")),
    Call("rmdir", "MOVE", emptied),
    Call("rmdir, its end", "DELETE", emptied, (204,)),
    Call("purge", "DELETE", lambda b: b.purge("f"), (204,)),
]
HTTP = [  # a server of files has no marks: whatever it gives with 200, or where it sends the client, is the object
    Call("read", "GET", lambda b: ops.read_bytes(b, "x"), trusts=True),
    Call("read a range", "GET", lambda b: ops.read_bytes(b, "x", ReadOptions(2, 3)), trusts=True),
    Call("read ranges", "GET", lambda b: b.read_ranges("x", [(0, 2), (3, 2)]), trusts=True),
    Call("exists", "HEAD", lambda b: b.exists("x"), trusts=True),
    Call("stat", "HEAD", lambda b: b.stat("x"), trusts=True),
    Call("list", "GET", lambda b: list(b.list()), empty=b"[]"),
    Call("list_dir", "GET", lambda b: list(b.list_dir()), empty=b"[]"),
    Call("list_dir of a folder", "GET", lambda b: list(b.list_dir("f")), empty=b"[]"),
]


GCS_OBSTORE = [  # reads and small writes; the SDK does the rest
    Call("read", "GET", lambda b: ops.read_bytes(b, "x")),
    Call("read a range", "GET", lambda b: ops.read_bytes(b, "x", ReadOptions(2, 3))),
    Call("read ranges", "GET", lambda b: b.read_ranges("x", [(0, 2), (3, 2)])),
    Call("write", "bucket", write()),  # the SDK tries again, by POST
    Call("create", "bucket", write(overwrite=False)),
]


class Place:
    """A backend behind a proxy, with the objects that the calls speak of."""

    def __init__(self, proxy, backend, plant, follows=False):
        self.proxy, self.backend, self.follows = proxy, backend, follows
        for path in ("x", "f/y"):
            plant(path, b"0123456789")


@pytest.fixture(scope="module")
def place():
    """Places by name, made when they are wanted."""
    with ExitStack() as stack:
        made = {}

        def place(name):
            if name not in made:
                made[name] = PLACES[name](stack)
            return made[name]

        yield place


def s3(client):
    def make(stack):
        proxy = stack.enter_context(Proxy(server("seaweedfs")["port"]))
        backend = test_s3.fresh("seaweedfs", endpoint=proxy.url, client=client, policy=once_more(), part_size=5 << 20)
        stack.callback(backend.close)
        return Place(proxy, backend, lambda *of: test_s3.plant(backend, *of))

    return make


def azure(client, name="azurite"):
    def make(stack):
        proxy = stack.enter_context(Proxy(server(name)["port"]))
        account = server(name)["account_name"]
        options = {"dfs_endpoint_url": f"{proxy.url}/dfs/{account}"} if name == "dfs" else {}
        there = azure_places.via(proxy, name)
        backend = azure_places.fresh(
            name, endpoint=there, client=client, policy=once_more(), part_size=64 << 10, **options
        )
        stack.callback(backend.close)
        return Place(proxy, backend, lambda *of: azure_places.plant(backend, *of))

    return make


def gcs(make, **options):
    def made(stack):
        double = stack.enter_context(Double())
        proxy = stack.enter_context(Proxy(double.port))
        backend = make(double, endpoint=proxy.url, policy=once_more(), part_size=256 << 10, **options)
        stack.callback(backend.close)
        return Place(proxy, backend, lambda *of: gcs_places.plant(backend, *of))

    return made


def webdav(stack):
    proxy = stack.enter_context(Proxy(server("wsgidav")["port"]))
    backend = on_disk("wsgidav", "", port=proxy.port, dav=True, policy=once_more())
    stack.callback(file_dispose, backend)
    return Place(proxy, backend, lambda *of: file_plant(backend, *of), follows=True)


def http(stack):
    proxy = stack.enter_context(Proxy(server("nginx")["port"]))
    backend = on_disk("nginx", "www/", port=proxy.port, listing="index", policy=once_more())
    stack.callback(file_dispose, backend)
    return Place(proxy, backend, lambda *of: file_plant(backend, *of), follows=True)


PLACES = {
    "webdav": webdav,
    "http": http,
    "gcs sdk": gcs(gcs_places.fresh, client="sdk"),
    "gcs obstore": gcs(by_obstore),
    "s3 sdk": s3("sdk"),
    "s3 obstore": s3("obstore"),
    "azure sdk": azure("sdk"),
    "azure obstore": azure("obstore"),
    "azure folders": azure("sdk", "dfs"),
}
CALLS = {
    "webdav": WEBDAV,
    "http": HTTP,
    "gcs sdk": GCS,
    "gcs obstore": GCS_OBSTORE,
    "s3 sdk": S3,
    "s3 obstore": S3,
    "azure sdk": AZURE,
    "azure obstore": AZURE,
    "azure folders": FOLDERS,
}
ROWS = [(name, call) for name, calls in CALLS.items() for call in calls]


def rows():
    """Of the second clients the default run takes the calls that are their own."""
    own = ("read", "write", "create")
    for name, call in ROWS:
        marks = pytest.mark.ci_only if name.endswith("obstore") and call.name not in own else ()
        yield pytest.param(name, call, id=f"{name}: {call.name}", marks=marks)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # urllib3 keeps the connection of a 303
@pytest.mark.parametrize(("name", "call"), list(rows()))
def test_no_wrong_answer_is_believed(place, away, name, call):
    at = place(name)
    call = replace(call, when=call.when.format(prefix=getattr(at.backend, "_prefix", "").rstrip("/")))
    all_of_them = answers(away.url if at.follows else away.marked)
    first = next(_numbers)
    chosen = all_of_them if FULL else all_of_them[first % 7 :: 7]
    away.requests.clear()
    wrong = {
        what: found
        for what, answer in chosen
        if not call.is_right(answer) and (found := believed(at.proxy, at.backend, call, answer))
    }
    gc.collect()  # what is left open says so here, and not in the next test
    assert wrong == {}
    assert at.follows or away.requests == [], "nobody goes where a redirect leads"


HEADERS = ("etag", "content-length", "content-range", "content-type", "last-modified", "x-amz-request-id")
"""What an answer may lack on its way: then it says the same, or is not believed."""


def content(backend, path, **options):
    with backend.open_reader(path, ReadOptions(**options)) as reader:
        assert reader.info.size in (10, None)
        return reader.read(-1)


TOLD = {
    "read": ("GET", lambda b: content(b, "x"), b"0123456789"),
    "read a range": ("GET", lambda b: content(b, "x", offset=2, length=3), b"234"),
    "exists": ("HEAD", lambda b: b.exists("x"), True),
    "list": ("GET", lambda b: {info.path for info in b.list()} - {"y"}, {"f/y", "x"}),
}


@pytest.mark.parametrize("what", TOLD)
@pytest.mark.parametrize("name", PLACES)
def test_an_answer_without_a_header_says_the_same_or_nothing(place, name, what):
    at = place(name)
    when, call, right = TOLD[what]
    for header in HEADERS:
        at.proxy.forget()
        at.proxy.next(*[Without(when, (header,))] * 24)
        try:
            assert call(at.backend) == right, header
        except StorageError:
            pass
        assert at.proxy.requests, header
    at.proxy.forget()
