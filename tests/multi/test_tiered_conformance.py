"""Tiers keep every promise of a backend, however they are arranged and read."""

import pytest

from omnistorage import LocalBackend, MemoryBackend, Tier, TieredBackend
from omnistorage.testing import BackendTests, BasicBackend


class Tiered(BackendTests):
    """What tests plant goes into the tier ``planted``; what they peek at is what the first tier has that has it."""

    planted = "b"

    def peek(self, backend, path):
        found = (place.backend.inner if hasattr(place.backend, "inner") else place.backend for place in backend.places)
        return next((data for inner in found if (data := inner.peek(path)) is not None), None)

    def plant(self, backend, path, data):
        inner = backend.tier(self.planted).backend
        getattr(inner, "inner", inner).put_raw(path, data)


@pytest.mark.ci_only
class TestFallthrough(Tiered):
    planted = "a"

    def make(self):
        return TieredBackend([Tier("a", MemoryBackend()), Tier("b", MemoryBackend()), Tier("c", MemoryBackend())])


@pytest.mark.ci_only
class TestFallthroughToTheSecond(Tiered):
    def make(self):
        return TieredBackend(
            [Tier("a", MemoryBackend(dirs=False)), Tier("b", MemoryBackend(dirs=False))], write_tier="b"
        )


@pytest.mark.ci_only
class TestOverABasicTier(Tiered):
    def make(self):
        return TieredBackend([Tier("a", BasicBackend()), Tier("b", MemoryBackend(dirs=False))], write_tier="b")


@pytest.mark.ci_only
class TestMatchOneOfTwo(Tiered):
    def make(self):
        tiers = [Tier("a", MemoryBackend(dirs=False), match="never/**"), Tier("b", MemoryBackend(dirs=False))]
        return TieredBackend(tiers, "match")


@pytest.mark.ci_only
class TestMatchInFolders(Tiered):
    """Half of the names go here, half there."""

    def make(self):
        return TieredBackend(
            [Tier("a", MemoryBackend(), match=["a/**", "d*/**", "z*/**"]), Tier("b", MemoryBackend())], "match"
        )

    def plant(self, backend, path, data):
        backend.owner(path).backend.put_raw(path, data)


class TestWriteThrough(Tiered):
    def make(self):
        return TieredBackend([Tier("a", MemoryBackend()), Tier("b", MemoryBackend())], write_through=True)

    def plant(self, backend, path, data):
        for place in backend.places:
            place.backend.put_raw(path, data)


@pytest.mark.ci_only
class TestRace(TestWriteThrough):
    def make(self):
        return TieredBackend([Tier("a", MemoryBackend()), Tier("b", MemoryBackend())], write_through=True, read="race")


@pytest.mark.ci_only
class TestShadow(TestWriteThrough):
    def make(self):
        return TieredBackend(
            [Tier("a", MemoryBackend()), Tier("b", MemoryBackend())], write_through=True, read="shadow"
        )


@pytest.mark.ci_only
class TestQuorum(TestWriteThrough):
    def make(self):
        tiers = [Tier(name, MemoryBackend()) for name in "abc"]
        return TieredBackend(tiers, write_through=True, read="quorum")


@pytest.mark.ci_only
class TestPromoting(Tiered):
    planted = "a"

    def make(self):
        return TieredBackend([Tier("a", MemoryBackend()), Tier("b", MemoryBackend())], promote_on_read=True)


@pytest.mark.ci_only
class TestOnDisk(Tiered):
    planted = "hot"

    @pytest.fixture
    def backend(self, tmp_path):
        self.folder = tmp_path
        for name in ("hot", "cold"):
            (tmp_path / name).mkdir()
        yield from self.made(self.make())

    def make(self):
        return TieredBackend(
            [Tier(name, LocalBackend(self.folder / name)) for name in ("hot", "cold")], skip_unavailable=True
        )

    def peek(self, backend, path):
        found = (self.folder / name / path for name in ("hot", "cold"))
        return next((file.read_bytes() for file in found if file.is_file()), None)

    def plant(self, backend, path, data):
        file = self.folder / "hot" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
