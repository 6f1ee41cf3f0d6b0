"""What a hostile server may answer to a listing: refused after a bounded part of it, and never held as a whole."""

import itertools
import json
import struct
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from omnistorage.backends.azure import AzureBackend, transport
from omnistorage.backends.http import listing as http_listing
from omnistorage.backends.http import listing_parsers
from omnistorage.backends.http.listing_parsers import index_page, multistatus, sitemap
from omnistorage.backends.http.manifests import manifest
from omnistorage.backends.http.urls import Root
from omnistorage.backends.object_store.backend import ObjectBackend
from omnistorage.backends.object_store.client import Page
from omnistorage.backends.s3 import S3Backend
from omnistorage.backends.sftp import paths as sftp_tree
from omnistorage.backends.sftp.protocol import EOF, HANDLE, Answer, Attrs, Slot, Status, string
from omnistorage.concurrency.cancellation import Clock, deadline
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import Features, ListOptions, ObjectInfo
from omnistorage.errors import CorruptData, DeadlineExceeded, InvalidPath, StorageError

ROOT = Root("http", "h", 80, "/")
PIECE = 64 * 1024
HTML, JSON = "text/html", "application/json"
MIB = 1 << 20


class Endless:
    """A body of ``unit`` again and again, which counts how much of it was taken."""

    def __init__(self, start, unit, size=64 * MIB):
        self.taken, self._left = 0, size
        self._start, self._piece = start, unit * (PIECE // len(unit))

    def __iter__(self):
        yield self._start
        while self._left > 0:
            self.taken += len(self._piece)
            self._left -= len(self._piece)
            yield self._piece


class Rows(Endless):
    """A body of rows of which each names something new."""

    def __init__(self, start, row):
        super().__init__(start, b"x")
        self._row = row

    def __iter__(self):
        yield self._start
        for number in itertools.count():
            row = self._row % number
            self.taken += len(row)
            yield row


def dav(pieces):
    return list(multistatus(pieces))


def page(kind):
    return lambda pieces: index_page(pieces, kind, ROOT, "", "http://h/")


DAV = b'<?xml version="1.0"?><r:multistatus xmlns:r="DAV:">'
MAP = b'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
HOSTILE = [
    (page(HTML), b"<h1>Index of /</h1>", b"<a href=b>"),
    (page(HTML), b"<h1>Index of /</h1>", b"</a>"),
    (page(HTML), b"<h1>Index of /</h1>", b"< "),
    (page(HTML), b"<h1>Index of /</h1>", b"<!---->"),
    (page(HTML), b"<h1>Index of /</h1>", b"<a "),
    (page(JSON), b"[", b"{},"),
    (page(JSON), b"[", b"[],"),
    (page(JSON), b'[{"name":"x","type":"file","more":[', b"{},"),
    (page(JSON), b'["', b"x"),
    (lambda pieces: list(manifest(pieces, 8 << 30)), b"[", b"{},"),
    (lambda pieces: list(manifest(pieces, 8 << 30)), b'[{"path":"x","more":[', b"{},"),
    (lambda pieces: list(manifest(pieces, 8 << 30)), b'{"path":"x","more":[', b"{},"),
    (dav, DAV, b"<r:x/>"),
    (dav, DAV + b"<r:response>", b"<r:x/>"),
    (dav, DAV, b"<r:response><r:x/></r:response>"),
    (dav, DAV + b'<r:response a="', b"x"),
    (dav, DAV + b"<r:response ", b'a="" '),
    (dav, DAV + b"<x xmlns:n='", b"u"),
    (dav, DAV + b"<n:x xmlns:n='" + b"u" * 300 + b"'>", b"<r:response><r:href>/x</r:href></r:response>"),
    (dav, DAV + b"<n:x xmlns:n='" + b"u" * 6000 + b"'>", b"<n:y/>"),
    (dav, DAV + b"<!--", b"x"),
    (dav, DAV + b"<?x ", b"x"),
    (lambda pieces: list(sitemap(pieces, 50 * MIB)), MAP, b"<x/>"),
    (lambda pieces: list(sitemap(pieces, 50 * MIB)), MAP + b'<url a="', b"x"),
]


@pytest.mark.parametrize(("read", "start", "unit"), HOSTILE)
def test_a_listing_without_entries_is_refused_after_its_first_mebibyte(read, start, unit):
    body = Endless(start, unit)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptData):
            read(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert body.taken <= MIB
    assert peak <= 16 * MIB


@pytest.mark.parametrize(
    "row",
    [
        b"<r:response><r:href>/x</r:href><r:x%d/></r:response>",
        b'<r:response x%d=""><r:href>/x</r:href></r:response>',
        b'<r:response xmlns:x%d="y"><r:href>/x</r:href></r:response>',
    ],
)
def test_a_multistatus_has_a_bounded_number_of_names(row):
    body = Rows(DAV, row)
    with pytest.raises(CorruptData):
        for _ in multistatus(body):
            pass
    assert body.taken <= 4100 * len(row % 4100)


@pytest.mark.parametrize("name", [b"r:x%d" + b"y" * 4000, b"x a%d" + b"y" * 4000 + b'=""', b"x xmlns:n%d" + b"y" * 250])
def test_the_names_of_a_multistatus_have_a_bounded_length_in_all(name):
    ending = b'="u"' if b"xmlns" in name else b""
    body = Rows(DAV, b"<r:response><r:href>/x</r:href><" + name + ending + b"/></r:response>")
    with pytest.raises(CorruptData):
        for _ in multistatus(body):
            pass
    assert body.taken <= 2 * MIB


@pytest.mark.parametrize("uri", [60_000, 8000, 4000])
@pytest.mark.parametrize(
    ("read", "start", "entry"),
    [
        (dav, DAV, b"<r:response><r:href>/x</r:href></r:response>"),
        (lambda pieces: list(sitemap(pieces, 50 * MIB)), MAP, b"<url><loc>http://h/x</loc></url>"),
    ],
)
def test_a_namespace_is_not_copied_into_names_without_a_bound(read, start, entry, uri):
    """The parser puts the URI before each name in it before anybody is asked."""
    tag = b"<x xmlns:n='" + b"u" * uri + b"' " + b" ".join(b"n:a%d=''" % n for n in range(3900)) + b"/>"
    short = (
        b"<x xmlns:n='" + b"u" * uri + b"' " + b" ".join(b"n:a%x=''" % n for n in range((15_000 - uri) // 9)) + b"/>"
    )
    for hostile in (tag, short if uri < 15_000 else tag):
        tracemalloc.start()
        try:
            with pytest.raises(CorruptData):
                read([start, hostile + entry] + [hostile + entry] * 9)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= 32 * MIB


def test_an_address_in_a_sitemap_has_a_bounded_length():
    def one(length):
        url = b"http://h/".ljust(length, b"x")
        return list(sitemap([MAP + b"<url><loc>" + url + b"</loc></url></urlset>"], MIB))

    assert len(one(2048)[0].url) == 2048
    for length in (2049, 65_000):
        with pytest.raises(CorruptData):
            one(length)


@pytest.mark.parametrize(
    ("read", "start", "row"),
    [
        (page(HTML), b"<h1>Index of /</h1>", b"<a href=%d>"),
        (page(JSON), b"[", b'{"name":"%d","type":"file"},'),
        (page(JSON), b"[", b'{"name":"x%.0d","type":"file"},'),
    ],
)
def test_a_page_has_a_bounded_number_of_entries(monkeypatch, read, start, row):
    monkeypatch.setattr(listing_parsers, "MAX_ENTRIES", 1000)
    body = Rows(start, row)
    with pytest.raises(CorruptData):
        read(body)
    assert body.taken <= 1002 * len(row % 1000)


def test_a_long_list_in_json_is_read_without_being_held():
    count = 10_000
    rows = (b'"%060d",' % number for number in range(count))
    tracemalloc.start()
    try:
        pieces = itertools.chain((b"[",), rows, (b'"z"]',))
        found = sum(1 for _ in manifest(pieces, 8 << 30))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == count + 1
    assert peak < MIB


@pytest.mark.parametrize(
    "text", ["[]", " [ ] ", '["a","b"]', '\n["a" ,\n{"path":"é\\n𝄞","size":12}]\n', '["a",5]', "[1.5"]
)
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_a_list_in_json_may_be_cut_anywhere(text, step):
    data = text.encode()
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    if expected is None or 5 in expected:
        with pytest.raises(CorruptData):
            list(manifest(pieces, 1000))
    else:
        paths = [row if isinstance(row, str) else row["path"] for row in expected]
        assert [info.path for info in manifest(pieces, 1000)] == paths


@pytest.mark.parametrize(
    "text", ['["a",]', '[,"a"]', '["a" "b"]', '["a"]]', '["a"]x', '["a"', "[", '["a",', '[{"path":']
)
def test_a_list_that_is_not_json_is_refused(text):
    with pytest.raises(CorruptData):
        list(manifest([text.encode()], 1000))


def test_names_are_remembered_as_far_as_their_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(http_listing, "REMEMBERED", 10_000)
    seen = http_listing.Seen()
    assert seen.is_new("a")
    assert not seen.is_new("a")
    for number in range(1000):
        assert seen.is_new(f"{number:0100}")
    assert not seen.is_new("a")
    assert len(seen._names) < 50


# -- SFTP --------------------------------------------------------------------------------------------------------------


class Folder:
    """A session with a server whose folder has ``count`` names, without an end if there is no count."""

    def __init__(self, count=None, names=100):
        self.asked, self.closing = 0, []
        self._count, self._names = count, names

    def send(self, *args):
        return Slot()

    def answer(self, slot, want):
        if want == HANDLE:
            return Answer(memoryview(string(b"handle")))
        if self._count is not None and self.asked * self._names >= self._count:
            raise Status(EOF, "end")
        self.asked += 1
        rows = (string(b"%09d" % (self.asked * self._names + n)) for n in range(self._names))
        body = b"".join(row + string(b"") + Attrs(size=1, mode=0o100644).packed() for row in rows)
        return Answer(memoryview(struct.pack(">I", self._names) + body))


@pytest.mark.parametrize("names", [100, 0])
def test_a_folder_that_never_ends_is_refused(monkeypatch, names):
    monkeypatch.setattr(sftp_tree, "MAX_FOLDER", 5000)
    monkeypatch.setattr(sftp_tree, "RUN", 100)
    session = Folder(names=names)
    with pytest.raises(CorruptData):
        sftp_tree.in_order(sftp_tree.read_folder(session, b"/"))
    assert session.asked == 5000 // max(names, 1) + 1
    assert session.closing == [b"handle"]


def test_a_long_folder_is_sorted_without_being_held(monkeypatch):
    monkeypatch.setattr(sftp_tree, "RUN", 1000)
    tracemalloc.start()
    try:
        found = sftp_tree.in_order(sftp_tree.read_folder(Folder(20_000), b"/"))
        peak = tracemalloc.get_traced_memory()[1]
        assert sum(1 for _ in found) == 20_000
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB


def test_folders_inside_folders_have_an_end():
    def read(folder):
        return iter([ObjectInfo("f", kind="dir")])

    with pytest.raises(CorruptData):
        list(sftp_tree.walk(read, "", ListOptions(on_error=lambda error: None)))


# -- object stores -----------------------------------------------------------------------------------------------------


class Pages:
    """A client whose bucket has these keys."""

    skip = 0

    def __init__(self, *keys):
        self._keys = keys

    def page(self, prefix, *, folders, after, token, limit):
        below = [key for key in self._keys if key.endswith("/")]
        return Page([ObjectInfo(key, 1) for key in self._keys if key not in below], below if folders else [], None)

    def cutter(self):
        return lambda: None

    def translate(self, error):
        return None


class Bucket(ObjectBackend):
    name = "bucket"
    features = Features(list=True, sorted_list=True, dirs=True)

    def __init__(self, *keys):
        super().__init__("", RequestPolicy(retries=0), part_size=1, concurrency=1, least_part=1)
        self._keys = keys

    def _make_client(self):
        return Pages(*self._keys)


@pytest.mark.parametrize("key", ["../x", "a/../x", "..", "a\0b"])
def test_a_key_that_no_path_can_have_is_reported_or_raises(key):
    told = []
    assert [info.path for info in Bucket("a", key, "z").list("", ListOptions(on_error=told.append))] == ["a", "z"]
    assert [(type(error), error.path) for error in told] == [(InvalidPath, key)]
    with pytest.raises(InvalidPath):
        list(Bucket("a", key).list())


@pytest.mark.parametrize("key", ["../", "..", "a\0b"])
def test_a_folder_that_no_path_can_have_is_not_listed_and_the_rest_is(key):
    listed = Bucket("a", key, "z").list_dir()
    assert [next(listed).path, next(listed).path] == ["a", "z"]
    with pytest.raises(InvalidPath):
        next(listed)


class Ticks(Clock):
    """A second passes with each look at it."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        self.seconds += 1.0
        return self.seconds

    def wait(self, seconds, wake):
        self.seconds += seconds


def test_pages_without_an_end_are_followed_until_a_deadline():
    clock, asked = Ticks(), itertools.count(1)
    bucket = Bucket()
    bucket.client.page = lambda prefix, **options: Page([], [], f"token {next(asked)}")
    with pytest.raises(DeadlineExceeded), deadline(100, clock):
        list(bucket.list())
    assert next(asked) <= 102


def test_a_page_that_comes_again_is_an_error():
    bucket = Bucket()
    bucket.client.page = lambda prefix, **options: Page([], [], "token")
    with pytest.raises(StorageError):
        list(bucket.list())


class Says(BaseHTTPRequestHandler):
    """Answers each GET with the body of its server."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.send_response(200)
        for name in ("x-amz-request-id", "x-ms-request-id"):
            self.send_header(name, "1")
        self.send_header("Content-Type", "application/xml")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in self.server.body:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True


@pytest.fixture
def says():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Says)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def s3(server):
    options = {"access_key": "a", "secret_key": "s", "region": "us-east-1", "policy": RequestPolicy(retries=0)}
    return S3Backend("b", endpoint_url=f"http://127.0.0.1:{server.server_port}", **options)


@pytest.mark.parametrize("missing", ["LastModified", "Size", "ETag"])
def test_an_entry_of_s3_that_lacks_a_field_is_an_error_of_ours(says, missing):
    fields = {"Key": "x", "Size": "1", "LastModified": "2020-01-01T00:00:00Z", "ETag": '"e"'}
    entry = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items() if name != missing)
    whole = f"<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated><Contents>{entry}</Contents>"
    says.body = [f"{whole}</ListBucketResult>".encode()]
    with s3(says) as store, pytest.raises(StorageError):
        list(store.list())


BOMB = "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(8))


@pytest.mark.parametrize(
    ("entities", "name"),
    [(f'<!ENTITY a "aaaaaaaaaa">{BOMB}', "&i;"), ('<!ENTITY a SYSTEM "file:///etc/hostname">', "&a;")],
)
def test_a_page_of_s3_with_entities_is_an_error_of_ours(says, entities, name):
    entry = f"<Contents><Key>{name}</Key><Size>1</Size><LastModified>2020-01-01T00:00:00Z</LastModified><ETag>e</ETag>"
    whole = f"<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>{entry}</Contents></ListBucketResult>"
    says.body = [f"<!DOCTYPE l [{entities}]>{whole}".encode()]
    with s3(says) as store, pytest.raises(StorageError):
        list(store.list())


def test_a_page_of_azure_has_a_bounded_length(says, monkeypatch):
    monkeypatch.setattr(transport, "MAX_PAGE", MIB)
    body = Endless(b"<EnumerationResults>", b" ")
    says.body = body
    options = {"account_name": "a", "account_key": "YQ==", "policy": RequestPolicy(retries=0), "client": "sdk"}
    with (
        AzureBackend("b", endpoint_url=f"http://127.0.0.1:{says.server_port}/a", **options) as store,
        pytest.raises(CorruptData),
    ):
        list(store.list())
    assert body.taken < 32 * MIB, "what the sockets hold is taken, too"


@pytest.mark.parametrize("size", [10**18, 10**400])
def test_no_size_is_believed_that_nothing_can_have(size):
    page = json.dumps([{"name": "a", "type": "file", "size": size}, {"name": "b", "type": "file", "size": 1}]).encode()
    assert [info.size for info in index_page([page], JSON, ROOT, "", "http://h/")] == [None, 1]
    with pytest.raises(CorruptData):
        list(manifest([json.dumps([{"path": "a", "size": size}]).encode()], MIB))


@pytest.mark.parametrize("kind", [5, {"a": 1}, ["text/plain"], "text/plain\r\nX-More: 1", "a\0", "t\x9b", ""])
def test_no_content_type_is_believed_that_is_none(kind):
    rows = [{"path": "a", "content_type": kind}, {"path": "b", "content_type": "text/plain"}]
    assert [info.content_type for info in manifest([json.dumps(rows).encode()], MIB)] == [None, "text/plain"]
