"""HTTP servers that answer strangely, each made by a function of its own: what is believed and what is refused."""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from omnistorage import ops
from omnistorage.backends.http import HTTPBackend
from omnistorage.backends.http.listing_parsers import index_page
from omnistorage.backends.http.manifests import manifest
from omnistorage.backends.http.network import why_blocked
from omnistorage.backends.http.responses import hashes_of
from omnistorage.backends.http.urls import parse_root
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import ListOptions, ReadOptions, WriteOptions
from omnistorage.errors import (
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    NotFound,
    PermissionDenied,
    ReaderClosed,
    WriterClosed,
)

from ..waiting import LIMIT
from .http_places import patient

FOUND = "<D:propstat><D:prop>{}</D:prop><D:status>HTTP/1.1 {}</D:status></D:propstat>"
FOLDER = FOUND.format("<D:resourcetype><D:collection/></D:resourcetype>", "200 OK")
FILE = FOUND.format("<D:resourcetype/><D:getcontentlength>3</D:getcontentlength>", "200 OK")
DENIED = FOUND.format("<D:resourcetype/><D:getcontentlength/>", "403 Forbidden")


def multistatus(*rows):
    body = "".join(f"<D:response><D:href>{href}</D:href>{rest}</D:response>" for href, rest in rows)
    return f'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">{body}</D:multistatus>'.encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or the body waits until the client has confirmed the head

    def log_message(self, *args):
        pass

    def serve(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(f"{self.command} {self.path}")
        self.server.answer(self)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_MOVE = do_COPY = do_PROPFIND = do_MKCOL = do_OPTIONS = serve

    def say(self, status, headers=(), body=b"", *, framed=True):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        if framed and "Content-Length" not in dict(headers) and "Transfer-Encoding" not in dict(headers):
            self.send_header("Content-Length", str(len(body)))
        self.close_connection = self.close_connection or not framed
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args):
        """The client went away."""


@pytest.fixture
def at():
    made = []

    def at(answer, **options):
        server = Server(("127.0.0.1", 0), Handler)
        server.answer, server.asked = answer, []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        store = HTTPBackend(f"http://127.0.0.1:{server.server_port}/", **{"policy": patient(retries=2), **options})
        store.asked = server.asked
        made.append((store, server))
        return store

    yield at
    for store, server in made:
        store.close()
        server.shutdown()
        server.server_close()


def read(store, *options, **conditions):
    return ops.read_bytes(store, "x", ReadOptions(*options, **conditions))


def first_of(handler):
    return int(handler.headers["Range"].removeprefix("bytes=").partition("-")[0])


# -- ranges of objects whose size nobody tells -------------------------------------------------------------------------


def test_a_framed_end_is_the_end_where_no_size_is_known(at):
    def answer(h):
        h.say(200, {"ETag": '"a"', "Transfer-Encoding": "chunked"}, b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n")

    assert read(at(answer), 50, 100) == b"x" * 50


@pytest.mark.parametrize("options", [(50, 100), (50, None), (0, 300), (50, 20)])
def test_parts_of_an_unknown_whole_are_asked_for_until_there_is_no_more(at, options):
    data = bytes(range(100))

    def answer(h):
        first = first_of(h) if "Range" in h.headers else 0
        if first >= 100:
            h.say(416)
        else:
            h.say(206, {"ETag": '"a"', "Content-Range": f"bytes {first}-{first + 9}/*"}, data[first : first + 10])

    offset, length = options
    assert read(at(answer), *options) == data[offset:][:length]


def test_several_ranges_are_of_one_version_or_refused(at):
    count = []

    def answer(h):
        count.append(1)
        new = len(count) > 1
        tag = {"weak": 'W/"same"', "strong": f'"{new}"'}[kind]
        if "If-Range" in h.headers and new:
            h.say(200, {"ETag": tag}, b"B" * 10)
        else:
            part = f"bytes {first_of(h)}-{first_of(h) + 3}/10"
            h.say(206, {"ETag": tag, "Content-Range": part}, (b"B" if new else b"A") * 4)

    kind = "weak"
    with pytest.raises(CapabilityNotSupported, match="strong etag"):
        at(answer).read_ranges("x", [(0, 4), (4, 4)])
    kind, count = "strong", []
    with pytest.raises(CorruptData, match="changed"):
        at(answer).read_ranges("x", [(0, 4), (4, 4)])


# -- listings ----------------------------------------------------------------------------------------------------------


def test_members_under_another_name_of_the_server_are_an_error_and_never_left_out(at):
    def answer(h):
        rows = [(h.path, FOLDER)]
        if h.headers.get("Depth") == "1":
            rows.append((f"http://inner.example:8080{h.path}precious", FILE))
        h.say(207, {}, multistatus(*rows))

    store = at(answer, dav=True)
    with pytest.raises(CorruptData, match="own name"):
        list(store.list())
    with pytest.raises(CorruptData, match="own name"):
        store.rmdir("d")
    assert all(line.startswith("PROPFIND") for line in store.asked)


def test_a_folder_whose_properties_are_denied_is_no_file(at):
    store = at(lambda h: h.say(207, {}, multistatus((h.path, FOLDER), (h.path + "sub/", DENIED))), dav=True)
    with pytest.raises(PermissionDenied, match="folder"):
        list(store.list())


@pytest.mark.parametrize("options", [{"listing": "index"}, {"listing": "manifest", "listing_path": "m.txt"}])
def test_a_listing_without_length_or_framing_may_have_been_cut_and_is_refused(at, options):
    store = at(
        lambda h: h.say(200, {"Content-Type": "text/html"}, b'<a href="f1">\n<a href="f', framed=False), **options
    )
    with pytest.raises(CorruptData, match="whole"):
        list(store.list())


def test_an_encoded_slash_in_a_link_is_an_error_and_never_left_out(at):
    page = b'<h1>Index of /</h1><a href="a%2Fb">x</a>'
    store = at(lambda h: h.say(200, {"Content-Type": "text/html"}, page), listing="index")
    with pytest.raises(InvalidPath, match="slash"):
        list(store.list())


def test_what_a_sitemap_names_and_nobody_can_read_is_reported_and_never_invented(at):
    def answer(h):
        host = h.headers["Host"]
        links = [f"http://{host}/a", f"http://{host}/p?id=1", f"http://{host}/a%2Fb", f"https://{host}/s"]
        links += ["http://other/x", f"http://{host}/b"]
        h.say(200, {}, ("<urlset>" + "".join(f"<url><loc>{x}</loc></url>" for x in links) + "</urlset>").encode())

    store, reported = at(answer, listing="sitemap"), []
    assert [info.path for info in store.list("", ListOptions(on_error=reported.append))] == ["a", "b"]
    assert [type(error) for error in reported] == [InvalidPath] * 3
    with pytest.raises(InvalidPath):
        list(store.list())


@pytest.mark.parametrize(
    "text", ['\ufeff{"path":"a"}\n{"path":"b"}', '\n \n{"path":"a"}\n{"path":"b"}', '\n["a",\n"b"]']
)
@pytest.mark.parametrize("step", [1, 1000])
def test_a_manifest_may_begin_with_a_mark_or_blank_lines(text, step):
    data = text.encode()
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    assert [info.path for info in manifest(pieces, 1000)] == ["a", "b"]


@pytest.mark.parametrize("again", ["", "a"])
def test_a_multistatus_that_names_the_same_again_and_again_is_refused(at, again):
    def answer(h):
        h.say(207, {}, multistatus((h.path, FOLDER), ("/a", FILE), *[(h.path + again, FILE)] * times))

    store, times = at(answer, dav=True), 100
    assert [info.path for info in store.list()] == ["a"]
    times = 101
    with pytest.raises(CorruptData):
        list(store.list())


@pytest.mark.parametrize("text", [b"<a ", b"<!--", b"</a ", b"<a href='", b"<![CDATA[", b"<!", b"<script>"])
def test_a_page_with_a_tag_that_never_ends_takes_no_time(text):
    began = time.process_time()
    try:
        index_page([text * (200_000 // len(text))], "text/html", parse_root("http://h/")[0], "", "http://h/")
    except CorruptData:
        pass
    assert time.process_time() - began < 3


# -- only our errors come out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["\xb2", "9" * 5000])
def test_a_length_that_is_no_number_is_none(at, length):
    store = at(lambda h: h.say(200, {"Content-Length": length, "Connection": "close"}, b"ab", framed=False))
    assert store.stat("x").size is None


def test_numbers_beyond_all_reason_are_errors_of_ours(at):
    store = at(lambda h: h.say(206, {"Content-Range": "bytes 1-2/" + "9" * 5000}, b"ab"))
    with pytest.raises(CorruptData):
        read(store, 1, 2)
    with pytest.raises(BackendUnavailable):
        read(at(lambda h: h.say(503, {"Retry-After": "\xb2"})))
    with pytest.raises(CorruptData):
        list(manifest(["a\t\xb2".encode()], 1000))
    assert next(manifest([b'{"path":"a","modified":"0001-01-01T00:00:00+23:59"}'], 1000)).modified_at is None
    with pytest.raises(CorruptData):
        index_page(
            [b'[{"name":"a\\ud800","type":"file"}]'], "application/json", parse_root("http://h/")[0], "", "http://h/"
        )
    page = [b'[{"name":"a","type":"file","mtime":5}]']
    rows = index_page(page, "application/json", parse_root("http://h/")[0], "", "")
    assert rows[0].path == "a"


def test_conditions_and_types_that_no_header_can_hold_are_refused_by_us(at):
    store = at(lambda h: h.say(200, {"ETag": '"a"'}, b"hello"), dav=True)
    with pytest.raises(ConfigError):
        read(store, if_match="a\nb")
    for kind in ("text/plain\nX: y", "text/plain\r\n X: y"):
        with pytest.raises(ConfigError, match="content_type"):
            store.open_writer("x", WriteOptions(content_type=kind))


def test_a_full_disk_under_the_spool_is_an_error_of_ours(at):
    writer = at(lambda h: h.say(404), dav=True).open_writer("x")

    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    writer._file.close()
    writer._file = Full()
    with pytest.raises(BackendUnavailable, match="No space"):
        writer.write(b"1")
    writer.abort()


@pytest.mark.parametrize("url", ["http://me:can/ary@host/", "http://me:canary\uff03@host/", "http://me:canary@[bad/"])
def test_a_root_that_is_no_url_shows_no_password_even_by_its_cause(url):
    with pytest.raises(ConfigError) as caught:
        HTTPBackend(url)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "can" not in str(caught.value)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [("a~b", "a%7Eb"), ("a;b", "a%3Bb"), ("\xe9", "%C3%A9"), ("a%2fb", "a%2Fb")])
def test_a_root_written_in_two_ways_is_one_root(one, other):
    assert HTTPBackend(f"http://h/{one}/").url == HTTPBackend(f"http://h/{other}/").url


def test_a_redirect_that_adds_a_slash_means_a_folder_however_it_is_encoded(at):
    def answer(h):
        if h.path.endswith("/"):
            h.say(200, {}, b"a page")
        else:
            h.say(301, {"Location": h.path.replace(";", "%3B") + "/"})

    store = at(answer)
    assert not store.exists("dir;x")
    with pytest.raises(NotFound, match="folder"):
        store.open_reader("dir;x")


def test_googles_digest_of_the_stored_bytes_is_not_held_against_others():
    told = {"x-goog-hash": "crc32c=AAAAAA==", "x-goog-stored-content-encoding": "gzip"}
    assert hashes_of(told) == {}
    assert hashes_of({**told, "Content-Encoding": "gzip"}) == {"crc32c": "00000000"}
    assert hashes_of({**told, "x-goog-stored-content-encoding": "identity"}) == {"crc32c": "00000000"}


def test_googles_digest_is_left_alone_where_its_library_is_missing(at, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    assert read(at(lambda h: h.say(200, {"x-goog-hash": "crc32c=AAAAAA=="}, b"hello"))) == b"hello"
    with pytest.raises(CorruptData, match="digest"):
        read(at(lambda h: h.say(200, {"x-goog-hash": "crc32c=AAAAAA==,md5=" + "A" * 22 + "=="}, b"hello")))


@pytest.mark.parametrize("address", ["168.63.129.16", "3fff::1", "192.88.99.1", "::ffff:168.63.129.16"])
def test_addresses_of_clouds_relays_and_documentation_are_blocked(address):
    assert why_blocked(address) is not None


# -- close and abort from another thread -------------------------------------------------------------------------------


def stopped(call, asked, stop, over):
    """Return what ``call`` raises in a thread if ``stop`` runs after the server was ``asked`` and before it answers.

    Sets ``over`` at the end, also if an assertion fails, so that the server answers.
    """
    failed = []

    def run():
        try:
            call()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert asked.wait(LIMIT)
        stop()
        thread.join(LIMIT)
        assert not thread.is_alive()
    finally:
        over.set()
    return failed[0]


NEVER = 100 * LIMIT


@pytest.mark.parametrize("retries", [0, 5])
def test_an_abort_ends_an_upload_that_waits_for_its_answer(at, retries):
    asked, over = threading.Event(), threading.Event()

    def answer(h):
        if h.command == "PUT":
            asked.set()
            over.wait()
        h.say(404)

    writer = at(answer, dav=True, read_timeout=NEVER, policy=RequestPolicy(retries=retries)).open_writer("x")
    writer.write(b"1")
    assert isinstance(stopped(writer.close, asked, writer.abort, over), WriterClosed)


@pytest.mark.parametrize("retries", [1, 5])
def test_a_close_ends_a_read_that_asks_again_and_waits(at, retries):
    asked, over = threading.Event(), threading.Event()

    def answer(h):
        if "Range" in h.headers:
            asked.set()
            over.wait()
            h.say(500)
        else:
            h.say(200, {"ETag": '"a"', "Content-Length": "100000"}, b"x" * 1000, framed=False)

    reader = at(answer, read_timeout=NEVER, policy=RequestPolicy(retries=retries)).open_reader("x")
    assert reader.read(1000) == b"x" * 1000
    assert isinstance(stopped(lambda: reader.read(10), asked, reader.close, over), ReaderClosed)
