"""HTTPBackend: listings of servers and of manifests."""

import gzip
import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from omnistorage import ops
from omnistorage.backends.http import HTTPBackend
from omnistorage.backends.http.listing_parsers import index_page, multistatus, sitemap
from omnistorage.backends.http.manifests import manifest
from omnistorage.backends.http.urls import Root
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import HealthCheck, ListOptions, ReadOptions, power
from omnistorage.errors import (
    BackendUnavailable,
    CapabilityNotSupported,
    CorruptData,
    InvalidPath,
    NotFound,
    PermissionDenied,
)

from ..servers import server
from ..waiting import LIMIT
from .http_places import Ours, file_dispose, file_plant, on_disk


@pytest.fixture
def at():
    made = []

    def at(mode="plain", **options):
        made.append(Ours(mode, **options))
        return made[-1]

    yield at
    for place in made:
        place.backend.close()


# -- listings ----------------------------------------------------------------------------------------------------------


ROOT = Root("http", "h", 80, "/a b/")

NGINX = b"""<html><head><title>Index of /x/</title></head><body><h1>Index</h1><hr><pre><a href="../">../</a>
<a href="sub/">sub/</a>                                               21-Nov-2026 16:50                   -
<a href="a%20b.txt">a b.txt</a>                                          21-Nov-2026 16:50               12345
<a href="10%25.csv">10%.csv</a>                                         21-Nov-2026 16:50                   0
</pre><hr></body></html>"""

APACHE = b"""<table><tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
<tr><td><a href="/a%20b/">Parent Directory</a></td><td>&nbsp;</td><td align="right">  - </td></tr>
<tr><td><a href="x&amp;y.gz">x&amp;y.gz</a></td><td align="right">2026-11-21 16:50  </td><td>1.2K</td></tr>
<tr><td><a href="sub/">sub/</a></td><td align="right">2026-11-21 16:50  </td><td align="right">  - </td></tr>
<a href="http://other/a%20b/x/evil">evil</a><a href="//h:81/a%20b/x/port">p</a><a href="../../up">up</a>
<a href="deep/er">deeper</a><a href="%2e%2e/">dots</a><a href="q?x">q</a></table>"""

FOOTER = b"""<h1>Index of /</h1>
<tr><td><a href="x">x</a></td><td>2026-11-21 16:50  </td><td align="right">123 </td><td>&nbsp;</td></tr>
<tr><td><a href="y">y</a></td><td>2026-11-21 16:50  </td><td align="right">1.2K</td><td>version 5</td></tr>
<tr><td><a href="z">z</a></td><td>2026-11-21 16:50  </td><td align="right">7 </td><td>or 8</td></tr></table>
<pre><a href="w">w</a>  2026-11-21 16:50  </pre><address>Apache/2.4.57 (Debian) Server at h Port 80</address>"""


def test_a_size_is_what_stands_in_the_row_and_not_what_else_is_on_the_page():
    found = index_page([FOOTER], "text/html", ROOT, "", "http://h/a%20b/")
    assert [(i.path, i.size) for i in found] == [("x", 123), ("y", None), ("z", None), ("w", None)]


def test_index_pages_of_nginx_and_apache_are_read_and_links_elsewhere_are_not():
    found = index_page([NGINX], "text/html", ROOT, "x", "http://h/a%20b/x/")
    assert [(i.path, i.kind, i.size) for i in found] == [
        ("x/sub", "dir", None), ("x/a b.txt", "file", 12345), ("x/10%.csv", "file", 0),
    ]  # fmt: skip
    found = index_page([APACHE], "text/html;charset=UTF-8", ROOT, "x", "http://h/a%20b/x/")
    assert [(i.path, i.kind, i.size) for i in found] == [("x/x&y.gz", "file", None), ("x/sub", "dir", None)]
    rows = [
        {"name": "d", "type": "directory"},
        {"name": "f", "type": "file", "size": 3, "mtime": "Sat, 21 Nov 2026 16:50:01 GMT"},
    ]
    found = index_page([json.dumps(rows).encode()], "application/json", ROOT, "", "http://h/a%20b/")
    assert found[1][:3] == ("f", 3, datetime(2026, 11, 21, 16, 50, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("page", "kind"),
    [(b"x", "text/plain"), (b"", "text/html"), (b"<title>Sign in</title><a href='x.css'>Index of x</a>", "text/html")]
    + [(text, "application/json") for text in (b"{}", b'[{"name":"../x"}]', b"[", b'[{"name":1}]', b"[" * 100_000)],
)
def test_a_page_that_is_no_index_is_an_error_never_an_empty_folder(page, kind):
    with pytest.raises(CorruptData):
        index_page([page], kind, ROOT, "", "http://h/a%20b/")


def test_a_listing_by_pages_is_in_order_and_skips_what_it_need_not_read():
    backend = on_disk("nginx", "json/", listing="index")
    for path in ("a/1", "a/2", "b/c/1", "b/c/2", "b.x", "z"):
        file_plant(backend, path, b"1")
    assert [info.path for info in backend.list()] == ["a/1", "a/2", "b.x", "b/c/1", "b/c/2", "z"]
    folders = []
    real = backend._index
    backend._index = lambda path: folders.append(path) or real(path)
    assert [info.path for info in backend.list("", ListOptions(start_after="b/c/1"))] == ["b/c/2", "z"]
    assert folders == ["", "b", "b/c"], "what lies before is not read"
    file_dispose(backend)


def test_a_folder_that_cannot_be_listed_is_reported_or_raises_and_a_missing_root_is_not_found():
    backend = on_disk("nginx", "json/", listing="index")
    for path in ("a/1", "b/1"):
        file_plant(backend, path, b"1")
    real = backend._index

    def broken(path):
        if path == "a":
            raise PermissionDenied("no", path=path)
        return real(path)

    backend._index = broken
    with pytest.raises(PermissionDenied):
        list(backend.list())
    told = []
    assert [i.path for i in backend.list("", ListOptions(on_error=told.append))] == ["b/1"]
    assert [error.path for error in told] == ["a"]
    file_dispose(backend)
    for options in ({"listing": "index"}, {"listing": "sitemap"}, {"listing": "manifest", "listing_path": "m"}):
        with HTTPBackend(f"{server('nginx')['url']}/www/no-such-root/", **options) as gone, pytest.raises(NotFound):
            list(gone.list("prefix"))


MANIFESTS = {
    "text": b"a/x\nb y\t12\te1\t2026-11-21T10:00:00Z\r\n\nc/\n",
    "ndjson": b'{"path":"a/x"}\n{"name":"b y","size":12,"etag":"\\"e1\\"",'
    b'"modified":"Sat, 21 Nov 2026 10:00:00 GMT"}\n',
    "json": b'["a/x",\n {"key":"b y","bytes":12,"etag":"e1","modified_at":1795255200}]',
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_is_text_ndjson_or_json(at, kind):
    place = at(listing="manifest", listing_path="m")
    place.put("m", MANIFESTS[kind])
    found = list(place.backend.list())
    assert [info.path for info in found] == ["a/x", "b y"]
    assert found[1][:5] == ("b y", 12, datetime(2026, 11, 21, 10, tzinfo=UTC), "file", "e1")
    assert [(i.path, i.kind) for i in place.backend.list_dir()] == [("a", "dir"), ("b y", "file")]
    assert [i.path for i in place.backend.list("a")] == ["a/x"]
    assert power(place.backend, HealthCheck).check_health() is None


@pytest.mark.parametrize(
    "text", [b'{"path":"x"', b'{"size":1}\n', b"x\tmany\n", b"[1", b"[5]", b'{"path":"x","size":-1}\n']
)
def test_a_damaged_manifest_is_an_error_never_a_shorter_listing(text):
    with pytest.raises(CorruptData):
        list(manifest([text], 1000))
    with pytest.raises(CorruptData, match="more than 1 bytes"):
        list(manifest([text], 1))


def test_a_listed_name_that_no_path_can_have_is_reported_never_left_out(at):
    place = at(listing="manifest", listing_path="m")
    place.put("m", b"a\n../b\nc/./d\ne\ne\n")
    with pytest.raises(InvalidPath):
        list(place.backend.list())
    told = []
    assert [i.path for i in place.backend.list("", ListOptions(on_error=told.append))] == ["a", "e"]
    assert [error.path for error in told] == ["../b", "c/./d"]


def test_sitemaps_may_be_nested_and_packed(at):
    place = at(listing="sitemap", listing_path="index.xml")
    head = '<?xml version="1.0"?><{0} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{1}</{0}>'
    url = place.backend.url
    others = "".join(f"<url><loc>{loc}</loc></url>" for loc in (f"{url}c/", "http://other/x", f"{url}d"))
    first = f"<url><loc>{url}a%20b</loc><lastmod>2026-11-21T10:00:00+00:00</lastmod></url>"
    leaf = head.format("urlset", first + others)
    place.put("leaf.xml.gz", gzip.compress(leaf.encode()))
    top = "".join(f"<sitemap><loc>{url}{name}</loc></sitemap>" for name in ("leaf.xml.gz", "leaf.xml.gz", "index.xml"))
    place.put("index.xml", head.format("sitemapindex", top).encode())
    found = list(place.backend.list())
    assert [info.path for info in found] == ["a b", "d"]
    assert found[0].modified_at == datetime(2026, 11, 21, 10, tzinfo=UTC)
    place.put("leaf.xml.gz", gzip.compress(leaf.encode())[:-9])
    with pytest.raises(CorruptData, match="cut off"):
        list(place.backend.list())
    place.put("index.xml", head.format("sitemapindex", "<sitemap><loc>http://other/s.xml</loc></sitemap>").encode())
    with pytest.raises(CorruptData, match="another server"):
        list(place.backend.list())


BOMB = b"""<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<urlset><url><loc>&b;</loc></url></urlset>"""


@pytest.mark.parametrize(
    "xml",
    [BOMB, b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><urlset/>', b"<a>" * 1000, b"<html></html>", b"<urlset>", b"",
     b"<urlset><url></url></urlset>", b"<urlset><url><loc>" + b"x" * 100_000 + b"</loc></url></urlset>"],
)  # fmt: skip
def test_xml_with_entities_without_an_end_or_of_another_kind_is_refused(xml):
    with pytest.raises(CorruptData):
        list(sitemap([xml], 1 << 20))
    with pytest.raises(CorruptData):
        list(multistatus([xml]))


def test_pain_8_opening_an_object_lists_nothing_and_costs_one_request(at):
    from ..servers.proxy import Proxy

    with Proxy(server("range_server")["port"]) as proxy:
        place = at(port=proxy.port, listing="manifest", listing_path="manifest.auto")
        place.put("x", b"1")
        backend = place.backend
        for call, expected in (
            (lambda: ops.read_bytes(backend, "x"), "GET"),
            (lambda: backend.stat("x"), "HEAD"),
            (lambda: backend.exists("x"), "HEAD"),
            (lambda: list(backend.list()), "GET"),
            (lambda: ops.read_bytes(backend, "x", ReadOptions(0, 1)), "GET"),
        ):
            proxy.forget()
            call()
            assert [line.split()[0] for line in proxy.requests] == [expected]
        assert proxy.connections == 1, "connections are used again"


def test_the_command_line_reads_lists_and_copies_from_urls(tmp_path):
    backend = on_disk("nginx", "www/")
    file_plant(backend, "a b/x.ndjson.gz", gzip.compress(b'{"n":1}\n'))
    file_plant(backend, "y", b"12345")

    def run(*args):
        command = [sys.executable, "-m", "omnistorage", *map(str, args)]
        return subprocess.run(command, capture_output=True, check=True, timeout=LIMIT).stdout

    assert run("cat", f"{backend.url}y") == b"12345"
    assert run("read", f"{backend.url}a%20b/x.ndjson.gz").strip() == b'{"n":1}'
    listed = run("ls", f"{backend.url}#listing=index").decode()
    assert "a b" in listed
    assert "y" in listed
    run("cp", f"{backend.url}y", tmp_path / "z")
    assert (tmp_path / "z").read_bytes() == b"12345"
    file_dispose(backend)


def test_rs_7_7_health_sees_a_root_that_cannot_be_used(at):
    site = at().info["url"]
    sick = {
        "auth": ({}, PermissionDenied),
        "plain ": ({"listing": "manifest", "listing_path": "nothing"}, NotFound),
        "plain": ({"dav": True}, CapabilityNotSupported),
    }
    for mode, (options, kind) in sick.items():
        backend = HTTPBackend(f"{site}/{mode.strip()}/", policy=RequestPolicy(retries=0), **options)
        with backend, pytest.raises(kind):
            power(backend, HealthCheck).check_health()
    with (
        HTTPBackend("http://127.0.0.1:1/", policy=RequestPolicy(retries=0)) as nobody,
        pytest.raises(BackendUnavailable),
    ):
        nobody.check_health()
    with HTTPBackend(f"{server('wsgidav')['url']}/no-such-root/", dav=True) as gone, pytest.raises(NotFound):
        gone.check_health()
    at().backend.check_health()
