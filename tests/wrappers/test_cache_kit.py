"""Cache keeps every promise of what it wraps, whatever it keeps things in, and however that fails."""

import tempfile

import pytest

from omnistorage import BackendUnavailable, Cache, Encrypt, LocalBackend, MemoryBackend
from omnistorage.concurrency.cancellation import Clock
from omnistorage.core import ReadOptions
from omnistorage.testing import BasicBackend, Flaky, WrapperTests
from omnistorage.testing._kit import get, payload, put
from omnistorage.wrappers import Prefix


class Stopped(Clock):
    """Time stands still: within a ttl everything is."""

    def now(self):
        return 0.0


class WarmTests(WrapperTests):
    """What was read once is read again from the cache: the kit reads most things once."""

    def test_what_is_read_twice_is_the_same_twice(self, backend):
        data = payload(300_000)
        put(backend, "folder/x", data)
        for _ in range(3):
            assert get(backend, "folder/x") == data
            with backend.open_reader("folder/x") as reader:
                assert (reader.info.path, reader.info.size) == ("folder/x", len(data))
                if backend.features.range_read:
                    assert get(backend, "folder/x", ReadOptions(1000, 2000)) == data[1000:3000]
                    assert get(backend, "folder/x", ReadOptions(299_990)) == data[299_990:]
                assert reader.read(7) + reader.read() == data


class TestCache(WarmTests):
    def wrap(self, inner):
        return Cache(inner, MemoryBackend())


@pytest.mark.ci_only
class TestCacheWithTtl(WarmTests):
    """Planting goes behind the cache's back, which it need not notice within the ttl."""

    def wrap(self, inner):
        return Cache(inner, MemoryBackend(), ttl=1.0, clock=Stopped())

    def plant(self, backend, path, data):
        super().plant(backend, path, data)
        backend.invalidate(path)


@pytest.mark.ci_only
class TestCacheUnderPrefixInABasicOne(WarmTests):
    def wrap(self, inner):
        return Prefix(Cache(inner, BasicBackend(), max_entries=2), "some/folder")

    def raw(self, backend, path):
        return backend.inner.inner, f"some/folder/{path}"


@pytest.mark.ci_only
class TestCacheInWhatAlwaysFails(WarmTests):
    def wrap(self, inner):
        return Cache(inner, Flaky(MemoryBackend(), at=1, sticky=True, error=lambda: BackendUnavailable("gone")))


@pytest.mark.ci_only
class TestEncryptedCacheInFiles(WarmTests):
    def wrap(self, inner):
        folder = tempfile.TemporaryDirectory()
        cache = Cache(inner, Encrypt(LocalBackend(folder.name), bytes(32)), max_bytes=1 << 20)
        cache.folder = folder
        return cache

    def dispose(self, backend):
        super().dispose(backend)
        backend.folder.cleanup()
