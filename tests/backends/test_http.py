"""HTTPBackend: ranges, bodies, redirects and credentials, paths and URLs."""

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
from pathlib import Path

import pytest

from omnistorage import BackendConfig, open_backend, open_records, ops
from omnistorage.backends.base import retry_after
from omnistorage.backends.http import HTTPBackend
from omnistorage.backends.http.responses import content_range, etag_of, hashes_of, time_of
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.config import locate
from omnistorage.core import HealthCheck, Purge, ReadOptions, ReadRanges, StaleUploads, power
from omnistorage.core.secret import Secret
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

from .http_places import Ours, file_dispose, file_plant, on_disk, read

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
    monkeypatch.setattr("omnistorage.backends.http.client.MAX_SKIP", 1000)
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
    backend, path = locate(
        "https://me:pw@host:8443/x/y%20z.csv?sig=1&b=2#read_timeout=5&untrusted=true", trusted_url=True
    )
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
        {"root": "http://other.example\\.h/"}, {"root": "http://h%5C/"},
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
