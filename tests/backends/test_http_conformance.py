"""The HTTP backend keeps the promises of the kit: read-only over two servers, WebDAV over WsgiDAV and nginx.

The default run takes our own server and WsgiDAV.
"""

import pytest

from omnistorage.core import features_of
from omnistorage.paths import sort_key
from omnistorage.testing import BackendTests, backend_machine
from omnistorage.testing._kit import TREE_WITH_FOLDERS, get, keys, put

from ..budget import pick
from ..servers.http import bare
from .http_places import Ours, file_dispose, file_peek, file_plant, on_disk, write_manifest


class TestHttpOnOurServer(BackendTests):
    """A flat store that a manifest lists."""

    read_only = True

    def make(self):
        place = Ours(listing="manifest", listing_path="manifest.auto")
        place.backend.place = place
        return place.backend

    def peek(self, backend, path):
        return backend.place.get(path)

    def plant(self, backend, path, data):
        backend.place.put(path, data)


class OnFiles(BackendTests):
    """Where files are served, an object and a folder cannot share a name, whatever the flags say."""

    def peek(self, backend, path):
        return file_peek(backend, path)

    def plant(self, backend, path, data):
        file_plant(backend, path, data)

    def dispose(self, backend):
        file_dispose(backend)

    def fill(self, backend):
        for path in TREE_WITH_FOLDERS:
            put(backend, path, path.encode())
        return sorted(TREE_WITH_FOLDERS, key=sort_key)

    def test_a_listing_may_be_left_early(self, backend):
        expected = self.fill(backend)
        for _ in range(50):
            listing = backend.list()
            next(listing)
            listing.close()
        assert len(keys(backend)) == len(expected)


class WithIndex:
    """An index page tells names, sizes, and in JSON times: never an etag. What it tells must be true."""

    def test_listing_carries_size_time_and_etag(self, backend):
        put(backend, "folder/x", b"12345")
        (info,) = backend.list()
        stat = backend.stat("folder/x")
        assert (info.path, info.size, info.kind) == ("folder/x", 5, "file")
        assert info.modified_at == (stat.modified_at if "/json/" in backend.url else None)
        assert info.etag is None

    def test_info_is_known_when_the_reader_opens(self, backend):
        put(backend, "folder/x", b"12345")
        with backend.open_reader("folder/x") as reader:
            assert (reader.info.path, reader.info.size) == ("folder/x", 5)
            assert reader.info == backend.stat("folder/x")

    def test_close_stat_and_list_say_the_same(self, backend):
        if features_of(backend).write:
            closed = put(backend, "x", b"12345")
            (listed,) = backend.list()
            assert (closed.path, closed.size) == (listed.path, listed.size) == ("x", 5)

    def test_conditions_on_a_read_are_honoured_or_refused(self, backend):
        put(backend, "x", b"one")
        self.the_etag_of_stat_is_a_condition(backend)

    def the_etag_of_stat_is_a_condition(self, backend):
        import pytest

        from omnistorage.core import ReadOptions
        from omnistorage.errors import PreconditionFailed

        etag = backend.stat("x").etag
        assert get(backend, "x", ReadOptions(if_match=etag)) == b"one"
        assert get(backend, "x", ReadOptions(if_none_match="something else")) == b"one"
        for wrong in (ReadOptions(if_match="something else"), ReadOptions(if_none_match=etag)):
            with pytest.raises(PreconditionFailed):
                get(backend, "x", wrong)


@pytest.mark.ci_only
class TestHttpOnNginxByPages(WithIndex, OnFiles):
    read_only = True

    def make(self):
        return on_disk("nginx", "www/", listing="index")


class TestHttpOnNginxByJson(TestHttpOnNginxByPages):
    def make(self):
        return on_disk("nginx", "json/", listing="index")


@pytest.mark.ci_only
class TestHttpOnNginxByManifest(OnFiles):
    read_only = True
    # nginx merges slashes, and a manifest may name keys with empty segments for servers that do not
    test_an_empty_segment_names_no_other_object = None

    def make(self):
        backend = on_disk("nginx", "www/")
        options = {"listing": "manifest", "listing_path": f"/www/{backend.disk.name}.ndjson"}
        made = type(backend)(backend.url, **options)
        made.disk = backend.disk
        backend.close()
        write_manifest(made)
        return made

    def plant(self, backend, path, data):
        super().plant(backend, path, data)
        write_manifest(backend)


class TestDavOnWsgiDav(BackendTests):
    def make(self):
        return on_disk("wsgidav", "", dav=True)

    def peek(self, backend, path):
        return file_peek(backend, path)

    def plant(self, backend, path, data):
        file_plant(backend, path, data)

    def dispose(self, backend):
        file_dispose(backend)


@pytest.mark.ci_only
class TestDavWithConditions(TestDavOnWsgiDav):
    """One thread of the server does one thing at a time: what it looks at is still so when it acts."""

    def make(self):
        return on_disk("wsgidav_serial", "", dav=True, conditional_writes=True)


@pytest.mark.ci_only
class TestDavOnNginx(WithIndex, OnFiles):
    def make(self):
        return on_disk("nginx", "put/", dav=True, listing="index")


STEPS = pick(default=20, ci=500, soak=50_000)
TestGoal32Dav = backend_machine(
    lambda: on_disk("wsgidav_serial", "", dav=True, conditional_writes=True),
    file_peek,
    file_dispose,
    steps=STEPS,
    length=min(STEPS, 50),
)


def test_the_back_door_is_another_client():
    place = Ours()
    place.put("x", b"1")
    assert bare("GET", place.url("x")) == b"1"
    place.delete("x")
    assert place.get("x") is None
    place.backend.close()
