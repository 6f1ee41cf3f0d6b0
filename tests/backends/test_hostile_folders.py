"""Folders inside of folders without an end, and names that were made to be long: refused in bounded memory."""

import errno
import io
import itertools
import tempfile
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest

from omnistorage import CorruptData, MemoryBackend, ops
from omnistorage.backends.azure.client import AzureClient, _known_time, _time
from omnistorage.backends.base import BackendBase
from omnistorage.backends.http import HTTPBackend
from omnistorage.backends.http import listing as http_listing
from omnistorage.backends.http.webdav_collections import Folders as HTTPFolders
from omnistorage.backends.sftp import directories
from omnistorage.backends.sftp import paths as sftp_tree
from omnistorage.backends.sftp.directories import Folders as SFTPFolders
from omnistorage.concurrency.retry import RequestPolicy
from omnistorage.core import Features, ListOptions, ObjectInfo
from omnistorage.errors import StorageError
from omnistorage.paths import sort_key
from omnistorage.sync import Filter
from omnistorage.sync.checking.sum_file import SumFile
from omnistorage.sync.endpoint import Side

MIB = 1 << 20
HOUR = timedelta(hours=1)


def peak_of(call):
    """What ``call`` takes at most, in bytes, until it raises ``CorruptData``."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptData):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Deep(BackendBase):
    """Each of its folders holds one folder, whose name is long."""

    name = "deep"
    features = Features(list=True, sorted_list=True, dirs=True)

    def __init__(self):
        self.asked = itertools.count()

    def _list_dir(self, path):
        next(self.asked)
        yield ObjectInfo(f"{path}/{'n' * 1000}".lstrip("/"), kind="dir")


def walk_with(folders):
    return lambda store: list(ops.walk(store, folders=folders, descend=lambda folder: True))


def side_of(store):
    side = Side(store, "source")
    return list(side.entries(Filter.parse(exclude_if_present="none"), folders=True))


@pytest.mark.parametrize("read", [walk_with(True), walk_with(False), side_of])
def test_a_walk_does_not_follow_folders_without_an_end(read):
    store = Deep()
    assert peak_of(lambda: read(store)) < 4 * MIB
    assert next(store.asked) < 20


def test_a_walk_reports_what_it_does_not_follow_and_goes_on():
    told = []
    assert list(ops.walk(Deep(), descend=lambda folder: True, on_error=told.append)) == []
    assert [type(error) for error in told] == [CorruptData]
    assert len(told[0].path) < 300


class Session:
    closing = ()

    def send(self, *parts):
        return None

    def call(self, *parts, **more):
        raise AssertionError("nothing is removed")


class Placed:
    def demand(self, *given):
        pass


@pytest.fixture
def endless_sftp(monkeypatch):
    asked = itertools.count()

    def read_folder(session, folder):
        next(asked)
        yield ObjectInfo("n" * 1000, kind="dir")

    monkeypatch.setattr(directories, "read_folder", read_folder)
    monkeypatch.setattr(directories, "real_path", lambda session, slot: b"/")
    backend = object.__new__(SFTPFolders)
    backend._place = Placed()
    monkeypatch.setattr(SFTPFolders, "_folder", lambda self, path, op, **more: read_folder(None, path))
    monkeypatch.setattr(SFTPFolders, "_ask", lambda self, op, path, run: 1.7e9)
    return backend, asked


def test_sftp_purges_no_folders_without_an_end(endless_sftp):
    backend, asked = endless_sftp
    assert peak_of(lambda: backend._empty(Session(), b"/top", "top")) < 70 * MIB
    assert next(asked) <= directories.MAX_DEPTH


def test_sftp_looks_for_temporaries_in_no_folders_without_an_end(endless_sftp):
    backend, asked = endless_sftp
    assert peak_of(lambda: list(backend._stale("", HOUR, remove=False))) < 70 * MIB
    assert next(asked) <= directories.MAX_DEPTH


@pytest.fixture
def temporary(monkeypatch):
    """The temporary files that were made."""
    made = []
    make = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda *given, **more: made.append(make(*given, **more)) or made[-1])
    monkeypatch.setattr(sftp_tree, "RUN", 20)
    yield made
    assert all(file.closed for file in made)


def nested(levels, count=200):
    """Reads the folders of a tree in which each folder holds ``count`` files around the next folder."""

    def read(folder):
        depth = folder.count("/")
        names = [ObjectInfo(f"{n:04}", 1) for n in range(count)]
        return sftp_tree.in_order(itertools.chain(names, [ObjectInfo("0050d", kind="dir")] * (depth < levels)))

    return read


def test_folders_that_wait_for_those_below_them_have_one_file_open(temporary):
    found, most = [], 0
    for info in sftp_tree.walk(nested(12), "", ListOptions()):
        found.append(sort_key(info.path))
        most = max(most, sum(not file.closed for file in temporary))
    assert len(found) == 13 * 200
    assert found == sorted(found)
    assert most <= 12 + 200 // 20


def test_a_listing_goes_on_behind_a_key_in_folders_that_wait(temporary):
    every = [info.path for info in sftp_tree.walk(nested(3), "", ListOptions())]
    for after in (every[60], every[400], "0050d/0050d/", "0051"):
        wanted = [path for path in every if sort_key(path) > sort_key(after)]
        assert [info.path for info in sftp_tree.walk(nested(3), "", ListOptions(start_after=after))] == wanted


def test_folders_that_wait_are_not_held_in_memory():
    tracemalloc.start()
    try:
        found = sftp_tree.walk(nested(5, 3000), "", ListOptions())
        assert sum(1 for _ in itertools.islice(found, 400)) == 400  # so the last folder is reached
        assert tracemalloc.get_traced_memory()[0] < 2 * MIB
        found.close()
    finally:
        tracemalloc.stop()


def test_purge_has_one_file_open_for_each_folder_that_waits(temporary, monkeypatch):
    most, removed = [], []
    read = nested(10)
    monkeypatch.setattr(directories, "read_folder", lambda session, folder: read("/" * (folder.count(b"/") - 1)))
    monkeypatch.setattr(directories, "real_path", lambda session, slot: b"/")
    monkeypatch.setattr(SFTPFolders, "_swapped", lambda *given: None)
    backend = object.__new__(SFTPFolders)
    backend._place = Placed()

    def remove(self, session, doomed, then=None, path=""):
        removed.extend(name for _, name in doomed)
        doomed.clear()
        most.append(sum(not file.closed for file in temporary))

    monkeypatch.setattr(SFTPFolders, "_remove", remove)
    backend._empty(Session(), b"/top", "top")
    assert len(removed) == len(set(removed)) == 11 * 201
    assert max(most) <= 10 + 2 * (200 // 20)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOSPC])
def test_a_temporary_file_that_cannot_be_made_is_an_error_of_ours(monkeypatch, code):
    def refuse(*given, **more):
        raise OSError(code, "no")

    monkeypatch.setattr(sftp_tree, "RUN", 20)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(StorageError) as caught:
        list(sftp_tree.walk(nested(1), "", ListOptions()))
    assert caught.value.errno == code


def test_webdav_looks_for_temporaries_in_no_folders_without_an_end(monkeypatch):
    asked = itertools.count()

    def folder(self, path, op):
        next(asked)
        return [ObjectInfo(f"{path}/{'n' * 100}", kind="dir")]

    monkeypatch.setattr(HTTPFolders, "_folder", folder)
    monkeypatch.setattr(HTTPFolders, "run", lambda self, op, path, call: datetime(2026, 1, 1, tzinfo=UTC))
    backend = HTTPBackend("http://127.0.0.1:1/", dav=True)
    with pytest.raises(CorruptData):
        list(backend._stale("", HOUR))
    assert next(asked) <= http_listing.DEEPEST + 1


def test_sitemaps_lead_to_a_bounded_number_of_sitemaps(monkeypatch):
    def pieces(self, url, place):
        yield b"<sitemapindex>"
        for number in itertools.count():
            yield b"<sitemap><loc>http://127.0.0.1:1/%d</loc></sitemap>" % number

    monkeypatch.setattr(http_listing, "MAX_SITEMAPS", 100)
    monkeypatch.setattr(HTTPBackend, "_pieces", pieces)
    backend = HTTPBackend("http://127.0.0.1:1/", listing="sitemap", policy=RequestPolicy(retries=0))
    with pytest.raises(CorruptData):
        list(backend.list())


def sums(*names):
    text = b"".join(b"0" * 64 + b"  " + name.encode() + b"\n" for name in names)
    return SumFile(lambda: io.BytesIO(text), "SHA256SUMS")


def test_a_sum_file_of_long_names_takes_no_memory_by_their_square():
    file = sums(*(f"{number}/{'a/' * 30_000}x" for number in range(4)))
    assert peak_of(lambda: list(ops.walk(file, descend=lambda folder: True))) < 8 * MIB


def test_a_sorted_listing_does_not_keep_the_folders_behind_it():
    file = sums(*(f"{number:03d}/{'a/' * 500}x" for number in range(200)))
    tracemalloc.start()
    try:
        found = list(ops.walk(file, descend=lambda folder: not folder.startswith("003")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 199
    assert peak < 8 * MIB, "100,000 folders of 500 characters each"


def test_each_folder_of_a_flat_listing_is_shown_once():
    file = sums("a/b/x", "a/b/y", "a/x", "a-b/x", "b/c/d/x", "x")
    shown = [info.path for info in ops.walk(file, folders=True)]
    assert sorted(shown) == sorted(["a", "a/b", "a/b/x", "a/b/y", "a/x", "a-b", "a-b/x", "b", "b/c", "b/c/d",
                                    "b/c/d/x", "x"])  # fmt: skip


def test_long_names_in_files_from_take_no_memory_by_their_square():
    name = "a/" * 20_000 + "x"
    wanted = Filter.parse(files_from_raw=[[name, "b/c/x"]])
    tracemalloc.start()
    try:
        descends = [wanted.descends(folder) for folder in ("", "a", "a/a", "b", "b/c", "b/c/x", "c", "aa", "b/")]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert descends == [True, True, True, True, True, False, False, False, False]
    assert peak < MIB


class Wire:
    def __init__(self, blobs, head=b""):
        self._page = head + b"<EnumerationResults><Blobs>" + blobs + b"</Blobs><NextMarker/></EnumerationResults>"

    def document(self, query):
        return self._page


def azure_page(wire):
    client = object.__new__(AzureClient)
    client.skip, client.wire, client._hierarchical = 0, wire, False
    return client.page("", folders=False, after=None, token=None, limit=None)


def test_a_page_of_azure_has_no_entities():
    text = b'<!DOCTYPE x [<!ENTITY a "' + b"x" * 100_000 + b'">]>'
    blob = b"<Blob><Name>" + b"&a;" * 90 + b"</Name><Properties/></Blob>"
    assert peak_of(lambda: azure_page(Wire(blob, text))) < 2 * MIB
    assert [info.path for info in azure_page(Wire(blob.replace(b"&a;", b"a"))).objects] == ["a" * 90]


def test_long_times_of_azure_are_none_and_are_not_kept():
    before = _known_time.cache_info().currsize
    assert _time("x" * 65) is None
    assert _known_time.cache_info().currsize == before
    assert _time("Mon, 01 Jan 2024 00:00:00 GMT") == datetime(2024, 1, 1, tzinfo=UTC)


def test_a_memory_store_walks_as_before():
    store = MemoryBackend()
    for path in ("a/b/c", "a/d", "e"):
        store.put_raw(path, b"1")
    assert [info.path for info in ops.walk(store, folders=True)] == ["a", "a/b", "a/b/c", "a/d", "e"]
