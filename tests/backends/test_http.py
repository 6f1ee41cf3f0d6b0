"""HTTP: what it refuses, what it believes, and how URLs and paths go together."""

import gzip
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import tomllib
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest

from omnistorage import BackendConfig, open_backend, open_records, ops
from omnistorage.backends._base import retry_after
from omnistorage.backends._http_answers import content_range, etag_of, hashes_of, time_of
from omnistorage.backends._http_pages import index_page, manifest, multistatus, sitemap
from omnistorage.backends._http_urls import Root
from omnistorage.backends.http import HTTPBackend
from omnistorage.core import HealthCheck, ListOptions, Purge, ReadOptions, ReadRanges, StaleUploads, power
from omnistorage.errors import (
    BackendUnavailable,
    CapabilityNotSupported,
    ConfigError,
    CorruptData,
    InvalidPath,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    StorageError,
)
from omnistorage.policies import RequestPolicy
from omnistorage.registry import locate
from omnistorage.secret import Secret

from ..servers import server
from .http_places import Ours, file_dispose, file_plant, on_disk

DATA = random.Random(7).randbytes(100_000)


@pytest.fixture
def at():
    made = []

    def at(mode="plain", **options):
        made.append(Ours(mode, **options))
        return made[-1]

    yield at
    for place in made:
        place.backend.close()


def read(place, path="x", **options):
    return ops.read_bytes(place.backend, path, ReadOptions(**options))


# -- ranges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["plain", "norange", "short", "noetag", "weak", "chunked", "close", "bare"])
@pytest.mark.parametrize(("offset", "length"), [(0, None), (1, 5), (99_990, 50), (500, 60_000), (100_000, 3), (0, 100)])
def test_a_range_is_those_bytes_whatever_the_server_makes_of_it(at, mode, offset, length):
    place = at(mode)
    place.put("x", DATA)
    assert read(place, offset=offset, length=length) == DATA[offset:][:length]


def test_a_range_of_other_bytes_than_asked_is_refused(at):
    place = at("wrongrange")
    place.put("x", DATA)
    with pytest.raises(CorruptData, match="another range"):
        read(place, offset=10, length=5)


def test_what_is_too_far_to_be_skipped_is_refused_and_says_so(at, monkeypatch):
    monkeypatch.setattr("omnistorage.backends._http_client.MAX_SKIP", 1000)
    place = at("norange")
    place.put("x", DATA)
    assert read(place, offset=1000, length=2) == DATA[1000:1002]
    with pytest.raises(CapabilityNotSupported, match="no ranges"):
        read(place, offset=1001)


def test_ranges_of_several_places_are_of_one_version(at):
    place = at()
    place.put("x", DATA)
    wanted = [(5, 10), (0, 1), (99_999, 5)]
    assert power(place.backend, ReadRanges).read_ranges("x", wanted) == [DATA[o:][:n] for o, n in wanted]


def test_go_f6_a_range_past_the_end_is_short_or_empty_and_nginx_says_so_too(at):
    backend = on_disk("nginx", "www/")
    file_plant(backend, "x", b"12345")
    for options, expected in (((5, None), b""), ((100, 5), b""), ((3, 100), b"45"), ((0, 0), b"")):
        assert ops.read_bytes(backend, "x", ReadOptions(*options)) == expected
    file_plant(backend, "empty", b"")
    assert ops.read_bytes(backend, "empty", ReadOptions(0, 10)) == b""
    file_dispose(backend)


def test_nginx_without_ranges_is_read_all_the_same():
    backend = on_disk("nginx", "norange/")
    file_plant(backend, "x", DATA)
    assert ops.read_bytes(backend, "x", ReadOptions(70_000, 10)) == DATA[70_000:70_010]
    file_dispose(backend)


# -- what a body must be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["truncate", "cutchunked"])
def test_rs_7_1_5_a_body_that_ends_too_early_is_an_error_never_a_clean_end(at, mode):
    place = at(mode, policy=RequestPolicy(retries=0))
    place.put("x", DATA)
    with pytest.raises((BackendUnavailable, CorruptData)) as caught:
        read(place)
    assert caught.value.path == "x"


def test_pain_5_bytes_in_a_coding_nobody_asked_for_are_never_decoded_in_silence(at):
    place = at("gzip")
    place.put("x.csv", b"a,b\n" * 100)
    with pytest.raises(CapabilityNotSupported, match="encoded='raw'"):
        read(place, "x.csv")
    assert place.backend.stat("x.csv").size is None, "the length is that of other bytes"
    place.put("x.csv.gz", b"a,b\n" * 100)
    assert gzip.decompress(read(place, "x.csv.gz")) == b"a,b\n" * 100, "the name says the same: the file's own bytes"
    raw = HTTPBackend(place.backend.url, encoded="raw")
    assert gzip.decompress(ops.read_bytes(raw, "x.csv")) == b"a,b\n" * 100
    raw.close()


def test_pain_5_nothing_is_asked_to_be_compressed():
    backend = on_disk("nginx", "zip/")
    file_plant(backend, "x.txt", b"text " * 1000)
    with backend.open_reader("x.txt") as reader:
        assert reader.info.size == 5000
        assert reader.read() == b"text " * 1000
    file_dispose(backend)


def test_goal_28_a_digest_that_the_server_sends_is_held_against_the_body(at):
    good, bad = at("digest"), at("baddigest")
    for place in (good, bad):
        place.put("x", DATA)
    assert good.backend.stat("x").hash("sha256") == hashlib.sha256(DATA).hexdigest()
    assert read(good) == DATA
    with bad.backend.open_reader("x") as reader:
        for _ in range(2):
            with pytest.raises(CorruptData, match="digest"):
                reader.read()
    assert read(bad, offset=1) == DATA[1:], "of a part no digest is known"


@pytest.mark.parametrize("mode", ["nohead", "head403"])
def test_where_head_is_refused_the_head_of_a_get_serves(at, mode):
    place = at(mode)
    place.put("x", DATA)
    place.put("empty", b"")
    info = place.backend.stat("x")
    assert (info.size, info.etag is None, info.modified_at is None) == (100_000, False, False)
    assert place.backend.stat("empty").size == 0
    assert place.backend.exists("x")
    assert not place.backend.exists("y")
    with pytest.raises(NotFound):
        place.backend.stat("y")


@pytest.mark.parametrize("mode", ["plain", "deaf"])
def test_conditions_hold_whether_the_server_knows_them_or_not(at, mode):
    place = at(mode)
    place.put("x", b"one")
    etag = place.backend.stat("x").etag
    assert read(place, if_match=etag) == read(place, if_none_match="other") == b"one"
    for options in ({"if_match": "other"}, {"if_none_match": etag}, {"if_match": "other", "length": 0}):
        with pytest.raises(PreconditionFailed):
            read(place, **options)
    bare = at("bare")
    bare.put("x", b"1")
    with pytest.raises(CapabilityNotSupported, match="no etag"):
        read(bare, if_match="e")


def test_a_weak_etag_is_a_condition_here_and_not_sent(at):
    place = at("weak")
    place.put("x", b"one")
    etag = place.backend.stat("x").etag
    assert etag.startswith('W/"')
    assert read(place, if_match=etag) == b"one"


# -- redirects and credentials -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed(at, code):
    place = at()
    place.put("x", DATA)
    with HTTPBackend(f"{place.info['url']}/to/{code}/") as backend:
        assert ops.read_bytes(backend, f"{place.backend.url}x", ReadOptions(5, 5)) == DATA[5:10]
        assert backend.stat(f"{place.backend.url}x").size == len(DATA)


def test_redirects_keep_odd_names_and_end_somewhere(at):
    moved = on_disk("nginx", "moved/")
    file_plant(moved, "a b", b"there")
    assert ops.read_bytes(moved, "a b") == b"there"
    file_dispose(moved)
    with HTTPBackend(f"{at().info['url']}/loop/") as loop, pytest.raises(StorageError, match="more than 5 redirects"):
        loop.stat("x")


def test_a_folder_is_no_object_though_a_page_may_be_shown_for_it():
    backend = on_disk("nginx", "www/")
    file_plant(backend, "folder/x", b"1")
    assert not backend.exists("folder")
    for call in (backend.stat, backend.open_reader):
        with pytest.raises(NotFound, match="folder"):
            call("folder")
    with pytest.raises(InvalidPath, match="slash"):
        backend.open_reader("folder/")
    file_dispose(backend)


@pytest.mark.parametrize("options", [{"user": "me", "password": "right"}, {"token": "right"}])
def test_who_we_are_is_told_and_a_wrong_word_is_refused(at, options):
    place = at("auth", **options)
    place.put("x", b"1")
    assert read(place) == b"1"
    wrong = at("auth", **{**options, next(reversed(options)): "wrong"})
    with pytest.raises(PermissionDenied) as caught:
        read(wrong)
    assert caught.value.status == 401


def test_headers_and_a_query_go_with_each_request(at):
    place = at()
    backend = HTTPBackend(f"{place.info['url']}/echo/?sig=abc", headers={"X-Key": "v"}, token="t")
    told = json.loads(ops.read_bytes(backend, "x"))
    assert (told["X-Key"], told["Authorization"], told["Accept-Encoding"]) == ("v", "Bearer t", "identity")
    backend.close()


# -- goal 41: secrets --------------------------------------------------------------------------------------------------


def test_goal_41_rs_7_7_secrets_are_shown_nowhere_and_errors_tell_the_status(at, caplog):
    caplog.set_level("DEBUG")
    secret = "canary-" + "secret"
    site = at().info["url"]
    configs = [
        {"user": "me", "password": secret},
        {"token": secret},
        {"headers": {"Authorization": secret, "X-Api-Key": secret}},
        {"signature": f"sig={secret}"},
        {"proxy": f"http://me:{secret}@127.0.0.1:9"},
    ]
    shown = []
    for options in configs:
        backend = HTTPBackend(f"{site}/auth/", policy=RequestPolicy(retries=0), **options)
        shown += [repr(backend), str(vars(backend)), backend.url, repr(backend._settings)]
        shown += [repr(BackendConfig("http", {"root": site, **options}))]
        with pytest.raises(ConfigError) as refused:
            pickle.dumps(backend)
        with pytest.raises((PermissionDenied, BackendUnavailable)) as failed:
            backend.stat("x")
        if "proxy" not in options:
            assert failed.value.status == 401
        for error in (refused, failed):
            shown += [str(error.value), "".join(traceback.format_exception(error.value))]
        backend.close()
    backend = HTTPBackend(f"http://me:{secret}@127.0.0.1:9/", policy=RequestPolicy(retries=0))
    with pytest.raises(BackendUnavailable) as failed:
        backend.stat("x")
    shown += [backend.url, repr(backend), "".join(traceback.format_exception(failed.value))]
    backend.close()
    broken = HTTPBackend(f"{site}/plain/", token=Secret(f"{secret}\r\nX: 1"))
    with pytest.raises(ConfigError, match="line end") as failed:
        broken.stat("x")
    shown += ["".join(traceback.format_exception(failed.value))]
    assert not [text for text in shown if secret in text]
    ours = [record for record in caplog.records if record.name.startswith("omnistorage")]
    assert not [record for record in ours if secret in record.getMessage()]


def test_secrets_by_reference_travel_and_are_looked_up_each_time(at, monkeypatch):
    monkeypatch.setenv("HTTP_TOKEN", "right")
    place = at("auth", token=Secret.env("HTTP_TOKEN"), policy=None)
    place.put("x", b"1")
    with pickle.loads(pickle.dumps(place.backend)) as twin:
        assert ops.read_bytes(twin, "x") == b"1"
        monkeypatch.setenv("HTTP_TOKEN", "wrong")
        with pytest.raises(PermissionDenied):
            twin.stat("x")


# -- paths and URLs ----------------------------------------------------------------------------------------------------

ODD = (
    "a b",
    "100%",
    "%41",
    "q?x=1&y",
    "a#b",
    "ü/ñ",
    "日本",
    "a+b",
    "a;b=c",
    "a\\b",
    "(x)!*'",
    "é",
    "a:b",
    "@at",
    "~t",
    "a//b",
)


@pytest.mark.parametrize("path", ODD)
def test_any_name_is_percent_encoded_both_ways(at, path):
    place = at(listing="manifest", listing_path="manifest.auto")
    place.put(path, path.encode())
    assert read(place, path) == path.encode()
    assert [info.path for info in place.backend.list()] == [path]
    mapped = HTTPBackend(place.backend.url, listing="sitemap", listing_path="sitemap.auto")
    assert [info.path for info in mapped.list()] == [path]
    mapped.close()


@pytest.mark.parametrize("path", ["../x", "a/../x", "..", "a/..", "a\0b", ""])
def test_go_f2_no_path_reaches_beyond_the_root(at, path):
    place = at()
    for call in (place.backend.open_reader, place.backend.stat, place.backend.exists):
        with pytest.raises(InvalidPath):
            call(path)


ESCAPES = [
    head + dots + tail
    for head in ("", "a/", "a/b/", "./", "//")
    for dots in ("..", "%2e%2e", "..%2f", "%2e.", ".%2e", "..\\", "%252e%252e", "..;", "\u2025", "\uff0e\uff0e")
    for tail in ("", "/x", "/../x")
]


def test_goal_40_no_payload_escapes_and_only_our_errors_come_out(at):
    """150 names that some server might take for a way up: what is asked for lies below the root, or is refused."""
    place = at()
    assert len(ESCAPES) >= 150
    root = place.backend.root
    for path in ESCAPES:
        try:
            place.backend.stat(path)
        except InvalidPath:
            continue
        except NotFound:
            pass
        url = root.of(path)
        assert url.startswith(root.url)
        assert not {".", ".."} & set(url[len(root.url) :].lower().replace("%2e", ".").split("/")[:-1]) or "%25" in url
    with pytest.raises(InvalidPath, match=r"'\.' segment"):
        place.backend.stat("a/./b")


def test_a_url_names_a_root_or_an_object_and_keeps_its_query(at):
    place = at()
    place.put("a b.ndjson", b'{"n":1}\n')
    url = place.url("a b.ndjson")
    with open_records(url, "r") as reader:
        assert list(reader) == [{"n": 1}]
    backend, path = locate("https://me:pw@host:8443/x/y%20z.csv?sig=1&b=2#read_timeout=5&untrusted=true")
    assert (backend.url, path, backend.name) == ("https://host:8443/x/", "y z.csv", "http")
    given = backend._options
    assert (given["user"], given["password"].reveal(), given["signature"].reveal()) == ("me", "pw", "sig=1&b=2")
    assert (given["read_timeout"], given["untrusted"]) == (5.0, True)
    backend.close()
    folder = open_backend("http://host/x/#dav=true")
    assert (folder.url, folder.features.write) == ("http://host/x/", True)
    for wrong in ("http://host/a%2Fb", "http://host/x/../y", "ftp://host/", "http:///x", "http://host:port/x"):
        with pytest.raises(ConfigError):
            locate(wrong)
    with pytest.raises(ConfigError, match="no option 'davv'"):
        open_backend("http://host/#davv=true")


def test_go_f13_wrong_options_are_refused_when_they_are_given():
    for options in (
        {"root": "host"}, {"root": "file:///x"}, {"root": "http://h/../x"}, {"root": "http://h/#x"}, {"root": 5},
        {"listing": "html"}, {"listing": "manifest"}, {"listing_path": "x"}, {"dav": True, "listing": "sitemap"},
        {"conditional_writes": True}, {"encoded": "gzip"}, {"user": "u", "token": "t"}, {"password": "p"},
        {"user": "a:b"}, {"proxy": "http://p:1", "untrusted": True}, {"max_redirects": -1}, {"connections": 0},
        {"read_timeout": 0}, {"headers": {"Host": "x"}}, {"headers": {"a b": "x"}}, {"headers": {"X": 1}},
        {"headers": {"Authorization": "x"}, "token": "t"}, {"headers": {"Range": "x"}},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            HTTPBackend(**{"root": "http://host/", **options})


def test_what_is_off_says_what_would_turn_it_on():
    backend = HTTPBackend("http://127.0.0.1:9/")
    for call, word in ((lambda: list(backend.list()), "listing="), (lambda: backend.open_writer("x"), "dav=True")):
        with pytest.raises(CapabilityNotSupported, match=word):
            call()
    assert (power(backend, Purge), power(backend, StaleUploads)) == (None, None)
    assert power(backend, HealthCheck) is backend
    assert "verify=False" in repr(HTTPBackend("https://h/", verify=False))
    backend.close()


def test_pain_10_the_extra_is_urllib3_alone():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert [each.partition(">")[0] for each in project["optional-dependencies"]["http"]] == ["urllib3"]


def test_a_missing_library_names_the_command():
    code = (
        "import sys; sys.modules['urllib3'] = None\n"
        "from omnistorage import HTTPBackend, MissingExtra\n"
        "try: HTTPBackend('http://h/').exists('x')\n"
        "except MissingExtra as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "omnistorage[http]"' in done.stdout


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


FOOTER = b"""<tr><td><a href="x">x</a></td><td>2026-11-21 16:50  </td><td align="right">123 </td><td>&nbsp;</td></tr>
<tr><td><a href="y">y</a></td><td>2026-11-21 16:50  </td><td align="right">1.2K</td><td>version 5</td></tr>
<tr><td><a href="z">z</a></td><td>2026-11-21 16:50  </td><td align="right">7 </td><td>or 8</td></tr></table>
<pre><a href="w">w</a>  2026-11-21 16:50  </pre><address>Apache/2.4.57 (Debian) Server at h Port 80</address>"""


def test_a_size_is_what_stands_in_the_row_and_not_what_else_is_on_the_page():
    found = index_page(FOOTER, "text/html", ROOT, "", "http://h/a%20b/")
    assert [(i.path, i.size) for i in found] == [("x", 123), ("y", None), ("z", None), ("w", None)]


def test_index_pages_of_nginx_and_apache_are_read_and_links_elsewhere_are_not():
    found = index_page(NGINX, "text/html", ROOT, "x", "http://h/a%20b/x/")
    assert [(i.path, i.kind, i.size) for i in found] == [
        ("x/sub", "dir", None), ("x/a b.txt", "file", 12345), ("x/10%.csv", "file", 0),
    ]  # fmt: skip
    found = index_page(APACHE, "text/html;charset=UTF-8", ROOT, "x", "http://h/a%20b/x/")
    assert [(i.path, i.kind, i.size) for i in found] == [("x/x&y.gz", "file", None), ("x/sub", "dir", None)]
    rows = [
        {"name": "d", "type": "directory"},
        {"name": "f", "type": "file", "size": 3, "mtime": "Sat, 21 Nov 2026 16:50:01 GMT"},
    ]
    found = index_page(json.dumps(rows).encode(), "application/json", ROOT, "", "http://h/a%20b/")
    assert found[1][:3] == ("f", 3, datetime(2026, 11, 21, 16, 50, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("page", "kind"),
    [(b"x", "text/plain")]
    + [(text, "application/json") for text in (b"{}", b'[{"name":"../x"}]', b"[", b'[{"name":1}]', b"[" * 100_000)],
)
def test_a_page_that_is_no_index_is_an_error_never_an_empty_folder(page, kind):
    with pytest.raises(CorruptData):
        index_page(page, kind, ROOT, "", "http://h/a%20b/")


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
        multistatus(xml)


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
        return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout

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


# -- processes, floors, heads ------------------------------------------------------------------------------------------


def _stat(pickled, sent):
    with pickle.loads(pickled) as backend:
        sent.send(backend.stat("x").size)


def test_pain_9_it_works_in_another_process_and_in_a_forked_child(at):
    place = at(policy=None)
    place.put("x", DATA)
    backend = place.backend
    reader = backend.open_reader("x")
    reader.read(10)
    for method in ("spawn", "fork"):
        context = multiprocessing.get_context(method)
        mine, theirs = context.Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads; the child does little
            child = context.Process(target=_stat, args=(pickle.dumps(backend), theirs))
            child.start()
        assert mine.recv() == len(DATA)
        child.join()
        mine.close()
        theirs.close()
        child.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        verdict = 1
        try:
            verdict = 0 if backend.stat("x").size == len(DATA) else 2
            try:
                reader.read(1)
                verdict = 3
            except Exception as error:
                verdict = verdict if type(error).__name__ == "ReaderClosed" else 4
        finally:
            os._exit(verdict)
    assert os.waitpid(pid, 0)[1] == 0
    assert reader.read() == DATA[10:]
    reader.close()


def test_heads_are_read_as_rfc_9110_writes_them():
    assert (etag_of('"a"'), etag_of('W/"a"'), etag_of("a"), etag_of(None)) == ("a", 'W/"a"', None, None)
    assert content_range("bytes 0-4/10") == (0, 4, 10)
    assert content_range("bytes */10") == (-1, -1, 10)
    assert [content_range(text) for text in ("bytes 5-4/10", "bytes 0-10/10", "0-4/10", "", None)] == [None] * 5
    assert retry_after("7") == 7
    assert retry_after("Sat, 21 Nov 2026 10:00:30 GMT", time_of("Sat, 21 Nov 2026 10:00:00 GMT")) == 30
    assert retry_after("soon") is None
    told = hashes_of({"x-goog-hash": "crc32c=AAAAAA==,md5=1B2M2Y8AsgTpgAmY7PhCfg==", "Repr-Digest": "sha-256=:AAAA:"})
    assert told == {"crc32c": "00000000", "md5": hashlib.md5(b"").hexdigest()}
